package secrets

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/awsapi"
	"github.com/longshore-project/longshore/test/awsfake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	taskArn = "arn:aws:ecs:us-west-2:123456789012:task/c/1"
	roleArn = "arn:aws:iam::123456789012:role/execution"
	dbArn   = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-AbCdEf"
	logsArn = "arn:aws:secretsmanager:us-west-2:123456789012:secret:logs-AbCdEf"
)

// roles has the credentials of some tasks; others never get any.
type roles map[string]acs.IAMRoleCredentials

func (r roles) Execution(ctx context.Context, taskArn string) (acs.IAMRoleCredentials, error) {
	if held, ok := r[taskArn]; ok {
		return held, nil
	}
	<-ctx.Done()
	return acs.IAMRoleCredentials{}, ctx.Err()
}

// world is a resolver and what it asks.
type world struct {
	*Resolver
	aws  *awsfake.Server
	logs *observer.ObservedLogs
	mu   sync.Mutex
	now  time.Time
}

func newWorld(t *testing.T) *world {
	w := &world{now: time.Now(), aws: &awsfake.Server{
		Keys: []aws.Credentials{{AccessKeyID: "ROLE", SecretAccessKey: "role-secret", SessionToken: "role-token"}, {AccessKeyID: "HOST", SecretAccessKey: "host-secret"}},
		Parameters: map[string]string{
			"plain": "planted-plain", "/a/b": "planted-hierarchy", "plain:3": "planted-third", "arn:aws:ssm:us-west-2:999999999999:parameter/shared": "planted-shared",
		},
		Secrets: map[string]string{
			dbArn + "||": `{"user":"planted-user","port":5432,"nested":{"a":1}}`, dbArn + "|AWSPREVIOUS|": `{"user":"planted-before"}`, dbArn + "||v-1": "planted-version",
			logsArn + "||": "planted-logs", "registry||": `{"username":"me","password":"planted-registry"}`, "broken||": `planted-nonsense`,
		},
		Objects:  map[string]string{"bucket/a.env": "# first\nONE=planted-1\nTWO=from a\nDEFINED=from a\n", "bucket/b.env": "TWO=from b\r\nTHREE=x=y \"z\"\nnonsense\nEMPTY=\n=x\n"},
		Password: "planted-token", Expires: time.Now().Add(12 * time.Hour),
	}}
	server := httptest.NewServer(w.aws)
	transport := &http.Transport{}
	t.Cleanup(func() { server.Close(); transport.CloseIdleConnections() })
	var core, logs = observer.New(zap.DebugLevel)
	w.logs = logs
	w.Resolver = New(Config{
		AWS: awsapi.New(awsapi.Config{Endpoints: awsapi.Endpoints{All: server.URL}, HTTPClient: &http.Client{Transport: transport}, MaxDelay: time.Millisecond}),
		Roles: roles{
			taskArn: {CredentialsID: "c-1", RoleArn: roleArn, AccessKeyID: "ROLE", SecretAccessKey: "role-secret", SessionToken: "role-token"},
			"other": {CredentialsID: "c-2", RoleArn: roleArn, AccessKeyID: "ROLE", SecretAccessKey: "role-secret", SessionToken: "role-token"},
		},
		Host: credentials.NewStaticCredentialsProvider("HOST", "host-secret", ""), Region: "us-west-2", Log: zap.New(core), CredentialsWait: 20 * time.Millisecond,
		Now: func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now },
	})
	t.Cleanup(func() {
		for _, l := range logs.All() {
			if text := fmt.Sprint(l.Message, l.ContextMap()); strings.Contains(text, "planted") || strings.Contains(text, "role-secret") {
				t.Error("the log shows a value: " + text)
			}
		}
	})
	return w
}

func parameter(name, from string) *acs.Secret {
	return &acs.Secret{Name: name, ValueFrom: from, Provider: engine.ProviderSSM, Region: "us-west-2", Type: "ENVIRONMENT_VARIABLE", Target: engine.TargetContainer}
}

func secret(name, from string) *acs.Secret {
	return &acs.Secret{Name: name, ValueFrom: from, Provider: engine.ProviderSecretsManager, Type: "ENVIRONMENT_VARIABLE", Target: engine.TargetContainer}
}

func files(arns ...string) (out []*acs.EnvironmentFile) {
	for _, a := range arns {
		out = append(out, &acs.EnvironmentFile{Value: a, Type: "s3"})
	}
	return out
}

func oneContainer(s ...*acs.Secret) *acs.Task {
	return &acs.Task{Arn: taskArn, Containers: []*acs.Container{{Name: "app", Secrets: s}}}
}

func TestEachContainerGetsItsValuesAndEachValueIsFetchedOnce(t *testing.T) {
	w := newWorld(t)
	log := secret("token", logsArn)
	log.Type, log.Target = "BOOTSTRAP", engine.TargetLogDriver
	task := &acs.Task{Arn: taskArn, Containers: []*acs.Container{
		{Name: "app", EnvironmentFiles: files("arn:aws:s3:::bucket/a.env", "arn:aws:s3:::bucket/b.env"), Secrets: []*acs.Secret{
			parameter("PLAIN", "plain"), parameter("BY_ARN", "arn:aws:ssm:us-west-2:123456789012:parameter/a/b"), parameter("THIRD", "plain:3"),
			parameter("SHARED", "arn:aws:ssm:us-west-2:999999999999:parameter/shared"), secret("WHOLE", dbArn), secret("DB_USER", dbArn+":user::"),
			secret("DB_PORT", dbArn+":port::"), secret("BEFORE", dbArn+":user:AWSPREVIOUS:"), secret("VERSION", dbArn+":::v-1"), log,
		}},
		{Name: "side", EnvironmentFiles: files("arn:aws:s3:::bucket/b.env"), Secrets: []*acs.Secret{parameter("P", "plain"), secret("U", dbArn+":user::")}},
		{Name: "bare"},
	}}
	want := map[string]engine.Resolved{
		"app": {
			FileEnvironment: map[string]string{"ONE": "planted-1", "TWO": "from a", "DEFINED": "from a", "THREE": `x=y "z"`},
			Environment: map[string]string{"PLAIN": "planted-plain", "BY_ARN": "planted-hierarchy", "THIRD": "planted-third", "SHARED": "planted-shared",
				"WHOLE": `{"user":"planted-user","port":5432,"nested":{"a":1}}`, "DB_USER": "planted-user", "DB_PORT": "5432", "BEFORE": "planted-before", "VERSION": "planted-version"},
			LogOptions: map[string]string{"token": "planted-logs"},
		},
		"side": {FileEnvironment: map[string]string{"TWO": "from b", "THREE": `x=y "z"`}, Environment: map[string]string{"P": "planted-plain", "U": "planted-user"}, LogOptions: map[string]string{}},
		"bare": {FileEnvironment: map[string]string{}, Environment: map[string]string{}, LogOptions: map[string]string{}},
	}
	var wg sync.WaitGroup
	for name := range want {
		wg.Go(func() {
			got, err := w.Resolve(t.Context(), task, name)
			if err != nil {
				t.Error(err)
			}
			if d := cmp.Diff(want[name], got); d != "" {
				t.Errorf("%s (-want +got)\n%s", name, d)
			}
			if shown := fmt.Sprintf("%v %+v %#v", got, got, got); strings.Contains(shown, "planted") {
				t.Error(shown)
			}
		})
	}
	wg.Wait()
	if n := len(w.aws.Calls("GetParameters")); n != 1 {
		t.Errorf("%d calls for parameters", n)
	}
	if n := len(w.aws.Calls("GetSecretValue")); n != 4 { // db in three versions, logs
		t.Errorf("%d calls for secrets", n)
	}
	if n := len(w.aws.Calls("GetObject")); n != 2 {
		t.Errorf("%d calls for files", n)
	}
	for _, c := range w.aws.Calls() {
		if c.AccessKeyID != "ROLE" || strings.Contains(c.Body, "db-") != (c.Region == "eu-west-1") {
			t.Errorf("%+v", c)
		}
	}
	w.Release(taskArn)
	if _, err := w.Resolve(t.Context(), task, "side"); err != nil || len(w.aws.Calls("GetParameters")) != 2 {
		t.Error("a released task's values were kept", err)
	}
}

func TestTheFileThatALogRouterIncludesIsTheRoutersAlone(t *testing.T) {
	w := newWorld(t)
	w.aws.Objects["bucket/extra.conf"] = "[FILTER]\n"
	task := &acs.Task{Arn: taskArn, Containers: []*acs.Container{{Name: "app"}, {Name: "router",
		FirelensConfiguration: &acs.FirelensConfiguration{Type: "fluentbit", Options: map[string]string{"config-file-type": "s3", "config-file-value": "arn:aws:s3:::bucket/extra.conf"}}}}}
	for name, want := range map[string]string{"app": "", "router": "[FILTER]\n"} {
		if got, err := w.Resolve(t.Context(), task, name); err != nil || string(got.RouterConfig) != want {
			t.Errorf("%s: %v %q", name, err, got.RouterConfig)
		}
	}
	w.Release(taskArn)
	w.aws.Set(func(s *awsfake.Server) { delete(s.Objects, "bucket/extra.conf") })
	const want = "ResourceInitializationError: failed to create firelens resource: arn:aws:s3:::bucket/extra.conf from S3 in us-west-2: "
	if _, err := w.Resolve(t.Context(), task, "router"); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Error(err)
	}
}

func TestWhatCanNotBeHadIsNamedWithItsPlaceAndCause(t *testing.T) {
	for name, c := range map[string]struct {
		secret *acs.Secret
		file   string
		code   string
		want   []string
	}{
		"a parameter":    {secret: parameter("P", "absent"), want: []string{"unable to pull secrets or registry auth: parameter absent of SSM Parameter Store in us-west-2, for P", "no such parameter"}},
		"a secret":       {secret: secret("S", dbArn+"x"), want: []string{"secret " + dbArn + "x of Secrets Manager in eu-west-1, for S", "ResourceNotFoundException", "HTTP 400", "req-1"}},
		"a key":          {secret: secret("S", dbArn+":nokey::"), want: []string{dbArn + ":nokey::", `no key "nokey"`}},
		"no object":      {secret: secret("S", logsArn+":user::"), want: []string{logsArn, "no JSON object"}},
		"a file":         {file: "arn:aws:s3:::bucket/gone.env", want: []string{"failed to download env files: arn:aws:s3:::bucket/gone.env from S3 in us-west-2", "NoSuchKey", "HTTP 404"}},
		"no file's ARN":  {file: "arn:aws:s3:::bucket", want: []string{"failed to download env files: arn:aws:s3:::bucket: it is not like"}},
		"access":         {secret: parameter("P", "plain"), code: "AccessDeniedException", want: []string{"plain", "us-west-2", "AccessDeniedException"}},
		"a percent sign": {secret: parameter("P", "100%s"), code: "AccessDeniedException", want: []string{"100%s of SSM"}},
		"expired":        {file: "arn:aws:s3:::bucket/a.env", code: "ExpiredToken", want: []string{"a.env", "ExpiredToken"}},
		"a large object": {file: "arn:aws:s3:::bucket/large.env", want: []string{"large.env", "more than the 1048576 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.aws.Objects["bucket/large.env"] = strings.Repeat("A=b\n", 1<<18+1)
			if c.code != "" {
				w.aws.Refuse = func(awsfake.Call) (int, string) { return 400, c.code }
			}
			task := oneContainer()
			if c.secret != nil {
				task.Containers[0].Secrets = []*acs.Secret{c.secret}
			} else {
				task.Containers[0].EnvironmentFiles = files(c.file)
			}
			_, err := w.Resolve(t.Context(), task, "app")
			if err == nil || !strings.HasPrefix(err.Error(), "ResourceInitializationError: ") {
				t.Fatal(err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "planted") {
				t.Error("the error shows a value: " + err.Error())
			}
		})
	}
}

func TestAFailureIsNotRemembered(t *testing.T) {
	w := newWorld(t)
	w.aws.Refuse = func(awsfake.Call) (int, string) { return 400, "AccessDeniedException" }
	task := oneContainer(parameter("P", "plain"))
	if _, err := w.Resolve(t.Context(), task, "app"); err == nil {
		t.Fatal("refused, and no error")
	}
	w.aws.Set(func(s *awsfake.Server) { s.Refuse = nil })
	if got, err := w.Resolve(t.Context(), task, "app"); err != nil || got.Environment["P"] != "planted-plain" {
		t.Error(err)
	}
}

func TestATaskWithoutARoleFailsWithThatAndOneThatEndsIsNoFailure(t *testing.T) {
	w := newWorld(t)
	task := oneContainer(parameter("P", "plain"))
	task.Arn = "without"
	if _, err := w.Resolve(t.Context(), task, "app"); err == nil || !strings.Contains(err.Error(), "no credentials of the task's execution role within 20ms") || !strings.Contains(err.Error(), "executionRoleArn") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Resolve(ctx, task, "app"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func FuzzFilesOfVariables(f *testing.F) {
	f.Add([]byte("# c\nA=b\n\nB=c=d\r\n=x\nC=\n\xff=\x00\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		variables, _ := parseEnvFile(data)
		for k, v := range variables {
			if k == "" || v == "" || strings.ContainsAny(k, "=\n\x00") || strings.ContainsAny(v, "\n\x00") || strings.HasPrefix(k, "#") {
				t.Errorf("%q=%q", k, v)
			}
		}
	})
}
