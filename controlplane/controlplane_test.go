package controlplane_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"
	"go.uber.org/zap/zaptest"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// plane is a control plane under test.
type plane struct {
	*controlplane.ControlPlane
	dir string
	url string
}

func start(t *testing.T, cfg controlplane.Config) *plane {
	t.Helper()
	if cfg.DataDir == "" {
		cfg.DataDir = t.TempDir()
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.Log == nil {
		cfg.Log = zaptest.NewLogger(t)
	}
	p, err := controlplane.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		select {
		case err := <-p.Failed():
			t.Errorf("it failed by itself: %v", err)
		default:
		}
	})
	return &plane{ControlPlane: p, dir: cfg.DataDir, url: "http://" + p.Addr().String()}
}

// key reads a key file as a person does.
func (p *plane) key(t *testing.T, file string) aws.Credentials {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, file))
	if err != nil {
		t.Fatal(err)
	}
	var c aws.Credentials
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "AWS_ACCESS_KEY_ID":
			c.AccessKeyID = value
		case "AWS_SECRET_ACCESS_KEY":
			c.SecretAccessKey = value
		}
	}
	return c
}

func (p *plane) client(c aws.Credentials, region string) *ecs.Client {
	return ecs.New(ecs.Options{
		Region:           region,
		BaseEndpoint:     aws.String(p.url),
		Credentials:      credentials.StaticCredentialsProvider{Value: c},
		RetryMaxAttempts: 1,
		HTTPClient:       http.DefaultClient,
	})
}

const definition = `{"family": "logging-agent", "networkMode": "host", "volumes": [{"name": "logs", "host": {"sourcePath": "/var/log/app"}}],
	"containerDefinitions": [{"name": "agent", "image": "127.0.0.1:5480/logging-agent:1", "memory": 64, "user": "1000",
		"mountPoints": [{"sourceVolume": "logs", "containerPath": "/logs"}]}]}`

func TestTheSDKDrivesTheWholeControlPlane(t *testing.T) {
	p := start(t, controlplane.Config{Region: "eu-west-1", AccountID: "123456789012"})
	ctx := t.Context()
	admin := p.client(p.key(t, auth.AdminFile), "us-west-2")

	if _, err := admin.CreateCluster(ctx, &ecs.CreateClusterInput{ClusterName: aws.String("daemonset")}); err != nil {
		t.Fatal(err)
	}
	registered, err := admin.RegisterTaskDefinition(ctx, &ecs.RegisterTaskDefinitionInput{Family: aws.String("logging-agent"),
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("agent"), Image: aws.String("logging-agent:1"), Memory: aws.Int32(64)}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := aws.ToString(registered.TaskDefinition.TaskDefinitionArn), "arn:aws:ecs:eu-west-1:123456789012:task-definition/logging-agent:1"; got != want {
		t.Errorf("the definition is %s, want %s", got, want)
	}
	created, err := admin.CreateService(ctx, &ecs.CreateServiceInput{Cluster: aws.String("daemonset"), ServiceName: aws.String("logging-agent"),
		TaskDefinition: aws.String("logging-agent:1"), SchedulingStrategy: types.SchedulingStrategyDaemon, LaunchType: types.LaunchTypeEc2})
	if err != nil {
		t.Fatal(err)
	}
	if s := created.Service; aws.ToString(s.Status) != "ACTIVE" || s.SchedulingStrategy != types.SchedulingStrategyDaemon || s.DesiredCount != 0 {
		t.Errorf("the service is %s, %s, with %d tasks wanted", aws.ToString(s.Status), s.SchedulingStrategy, s.DesiredCount)
	}
	listed, err := admin.ListServices(ctx, &ecs.ListServicesInput{Cluster: aws.String("daemonset")})
	if err != nil || len(listed.ServiceArns) != 1 {
		t.Errorf("the services are %v, %v", listed, err)
	}
	described, err := admin.DescribeServices(ctx, &ecs.DescribeServicesInput{Cluster: aws.String("daemonset"), Services: []string{"logging-agent", "nobody"}})
	if err != nil || len(described.Services) != 1 || len(described.Failures) != 1 || aws.ToString(described.Failures[0].Reason) != "MISSING" {
		t.Errorf("the description is %v, %v", described, err)
	}

	host := p.client(p.key(t, auth.HostFile), "us-west-2")
	endpoint, err := host.DiscoverPollEndpoint(ctx, &ecs.DiscoverPollEndpointInput{Cluster: aws.String("daemonset")})
	if err != nil {
		t.Fatal(err)
	}
	if got := aws.ToString(endpoint.Endpoint); !strings.HasPrefix(got, p.url) {
		t.Errorf("agents are told to connect to %s, not to %s", got, p.url)
	}
}

// refused checks the code and text of an error answer.
func refused(t *testing.T, err error, code, text string) {
	t.Helper()
	var e smithy.APIError
	if !errors.As(err, &e) || e.ErrorCode() != code || !strings.Contains(e.ErrorMessage(), text) {
		t.Errorf("the error is %v, want %s: …%s…", err, code, text)
	}
}

func TestBadCallsGetAClearErrorAndChangeNothing(t *testing.T) {
	p := start(t, controlplane.Config{})
	admin := p.key(t, auth.AdminFile)
	create := &ecs.CreateServiceInput{ServiceName: aws.String("s"), TaskDefinition: aws.String("x")}

	wrong := admin
	wrong.SecretAccessKey = strings.Repeat("x", 40)
	_, err := p.client(wrong, "us-west-2").CreateCluster(t.Context(), &ecs.CreateClusterInput{})
	refused(t, err, "InvalidSignatureException", "does not match")
	_, err = p.client(aws.Credentials{AccessKeyID: "AKIANOBODY", SecretAccessKey: "x"}, "us-west-2").CreateCluster(t.Context(), &ecs.CreateClusterInput{})
	refused(t, err, "UnrecognizedClientException", "The security token included in the request is invalid.")
	temporary := admin
	temporary.SessionToken = "token"
	_, err = p.client(temporary, "us-west-2").CreateCluster(t.Context(), &ecs.CreateClusterInput{})
	refused(t, err, "UnrecognizedClientException", "issued for a task")
	_, err = p.client(p.key(t, auth.HostFile), "us-west-2").CreateService(t.Context(), create)
	refused(t, err, "AccessDeniedException", "not authorized to perform: ecs:CreateService")
	_, err = p.client(p.key(t, auth.HostFile), "us-west-2").CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String("mine")})
	refused(t, err, "AccessDeniedException", "CreateCluster")

	const target = "AmazonEC2ContainerServiceV20141113."
	for name, c := range map[string]struct {
		target, body string
		at           time.Time
		status       int
		code, text   string
	}{
		"an expired signature": {target + "CreateCluster", "{}", time.Now().Add(-10 * time.Minute), 400, "InvalidSignatureException", "Signature expired: "},
		"malformed JSON":       {target + "CreateCluster", `{"clusterName": "a"`, time.Now(), 400, "SerializationException", ""},
		"a wrong type":         {target + "CreateCluster", `{"clusterName": 7}`, time.Now(), 400, "SerializationException", "clusterName"},
		"an unknown operation": {target + "MakeCoffee", "{}", time.Now(), 400, "UnknownOperationException", "MakeCoffee"},
		"one we don't serve":   {target + "CreateTaskSet", "{}", time.Now(), 400, "UnsupportedFeatureException", "CreateTaskSet"},
		"another service":      {"Logs_20140328.PutLogEvents", "{}", time.Now(), 400, "UnknownOperationException", ""},
		"an oversized body":    {target + "CreateCluster", `{"clusterName": "` + strings.Repeat("a", 9<<20) + `"}`, time.Now(), 413, "RequestEntityTooLargeException", "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/", strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/x-amz-json-1.1")
			r.Header.Set("X-Amz-Target", c.target)
			hash := sha256.Sum256([]byte(c.body))
			if err := v4.NewSigner().SignHTTP(t.Context(), admin, r, hex.EncodeToString(hash[:]), "ecs", "us-west-2", c.at); err != nil {
				t.Fatal(err)
			}
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			var e struct {
				Type    string `json:"__type"`
				Message string `json:"message"`
			}
			if err := json.NewDecoder(answer.Body).Decode(&e); err != nil {
				t.Fatal(err)
			}
			if answer.StatusCode != c.status || e.Type != c.code || !strings.Contains(e.Message, c.text) || e.Message == "" {
				t.Errorf("the answer is %d %s: %s", answer.StatusCode, e.Type, e.Message)
			}
		})
	}
	clusters, err := p.client(admin, "us-west-2").ListClusters(t.Context(), &ecs.ListClustersInput{})
	if err != nil || len(clusters.ClusterArns) != 0 {
		t.Errorf("the clusters are %v, %v", clusters.ClusterArns, err)
	}
}

func get(t *testing.T, method, url string) (status int, contentType, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, answer.Header.Get("Content-Type"), string(data)
}

func TestOnlyTheTwoQuestionsOfHealthNeedNoSignature(t *testing.T) {
	p := start(t, controlplane.Config{})
	for _, c := range []struct {
		method, path string
		status       int
		text         string
	}{
		{"GET", "/", 200, "longshore-control"},
		{"GET", "/healthz", 200, `"status":"ok"`},
		{"HEAD", "/healthz", 200, ""},
		{"POST", "/", 400, "Exception"},
		{"PUT", "/", 404, "POST /"},
		{"GET", "/nothing", 404, "GET /nothing"},
		{"POST", "/healthz", 404, "POST /healthz"},
		{"GET", "/acs", 404, ""},
		{"GET", "//", 404, ""},
	} {
		status, contentType, body := get(t, c.method, p.url+c.path)
		if status != c.status || !strings.Contains(body, c.text) {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
		}
		if c.method != "HEAD" && !json.Valid([]byte(body)) {
			t.Errorf("%s %s answers %s that is no JSON: %q", c.method, c.path, contentType, body)
		}
	}
	for _, socket := range []string{"/acs/ws", "/tcs/ws"} {
		if status, _, body := get(t, "GET", p.url+socket); status < 400 || status >= 500 {
			t.Errorf("GET %s without a signature: %d %s", socket, status, body)
		}
	}
}

func TestTheRealCommandLineDrivesTheWholeControlPlane(t *testing.T) {
	p := start(t, controlplane.Config{})
	admin := p.key(t, auth.AdminFile)
	file := filepath.Join(t.TempDir(), "logging-agent.json")
	if err := os.WriteFile(file, []byte(definition), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("/usr/bin/aws"); err != nil {
		t.Fatal("there is no aws command: apt-get install awscli")
	}
	run := func(arguments ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "/usr/bin/aws", append([]string{"--endpoint-url", p.url, "--region", "us-west-2", "--output", "json", "ecs"}, arguments...)...)
		cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+admin.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+admin.SecretAccessKey, "AWS_SESSION_TOKEN=",
			"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "LC_ALL=C.UTF-8")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, c := range []struct{ line, want string }{
		{"create-cluster --cluster-name daemonset", `"clusterName": "daemonset"`},
		{"register-task-definition --cli-input-json file://" + file, `"taskDefinitionArn": "arn:aws:ecs:us-west-2:000000000000:task-definition/logging-agent:1"`},
		{"create-service --cluster daemonset --service-name logging-agent --launch-type EC2 --scheduling-strategy DAEMON --task-definition logging-agent:1", `"status": "ACTIVE"`},
		{"list-services --cluster daemonset", "service/daemonset/logging-agent"},
		{"describe-services --cluster daemonset --services logging-agent", `"schedulingStrategy": "DAEMON"`},
		{"list-container-instances --cluster daemonset", `"containerInstanceArns": []`},
		{"list-tasks --cluster daemonset", `"taskArns": []`},
	} {
		if out, err := run(strings.Fields(c.line)...); err != nil || !strings.Contains(out, c.want) {
			t.Errorf("aws ecs %s: %v\n%s", c.line, err, out)
		}
	}
	if out, err := run("list-tasks", "--cluster", "nowhere"); err == nil || !strings.Contains(out, "ClusterNotFoundException") {
		t.Errorf("a cluster that does not exist: %v\n%s", err, out)
	}
}

func TestARestartKeepsWhatWasAcknowledged(t *testing.T) {
	dir := t.TempDir()
	var before aws.Credentials
	for i := range 3 {
		func() {
			cfg := controlplane.Config{DataDir: dir, Listen: "127.0.0.1:0", Log: zaptest.NewLogger(t)}
			c, err := controlplane.Start(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			p := &plane{ControlPlane: c, dir: dir, url: "http://" + c.Addr().String()}
			defer func() {
				http.DefaultClient.CloseIdleConnections()
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}()
			key := p.key(t, auth.AdminFile)
			if i > 0 && key != before {
				t.Error("the key changed")
			}
			before = key
			client := p.client(key, "us-west-2")
			clusters, err := client.ListClusters(t.Context(), &ecs.ListClustersInput{})
			if err != nil || len(clusters.ClusterArns) != i {
				t.Errorf("start %d has %v, %v", i, clusters, err)
			}
			if _, err := client.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String(fmt.Sprint("c", i))}); err != nil {
				t.Error(err)
			}
		}()
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := controlplane.Run(ctx, controlplane.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestWhatCanBeRefusedIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	running := start(t, controlplane.Config{})
	for name, c := range map[string]struct {
		cfg  controlplane.Config
		want []string
	}{
		"no data directory":          {controlplane.Config{DataDir: "-"}, []string{"--data-dir"}},
		"a data directory in use":    {controlplane.Config{DataDir: running.dir}, []string{"another longshore-control", fmt.Sprint("pid ", os.Getpid()), running.dir}},
		"a taken port":               {controlplane.Config{Listen: taken.Addr().String()}, []string{"--listen " + taken.Addr().String(), "address already in use"}},
		"TLS and none":               {controlplane.Config{TLS: true, InsecureHTTP: true}, []string{"--insecure-http contradicts"}},
		"a certificate without key":  {controlplane.Config{TLSCert: "x"}, []string{"--tls-cert and --tls-key"}},
		"a certificate that is none": {controlplane.Config{TLSCert: "/dev/null", TLSKey: "/dev/null"}, []string{"--tls-cert", "/dev/null"}},
		"both ways":                  {controlplane.Config{TLSCert: "x", TLSKey: "y", InsecureHTTP: true}, []string{"--insecure-http contradicts"}},
		"no address":                 {controlplane.Config{Listen: "8480"}, []string{"--listen"}},
		"no account":                 {controlplane.Config{AccountID: "12"}, []string{"--account-id", "12 digits"}},
		"no region":                  {controlplane.Config{Region: "us west"}, []string{"--region"}},
		"no roles' file":             {controlplane.Config{RoleCredentials: "/absent/roles.json"}, []string{"--role-credentials", "/absent/roles.json"}},
		"no URL":                     {controlplane.Config{AdvertiseURL: "longshore.example.com"}, []string{"--advertise-url"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.cfg.DataDir == "" {
				c.cfg.DataDir = t.TempDir()
			}
			if c.cfg.DataDir == "-" {
				c.cfg.DataDir = ""
			}
			if c.cfg.Listen == "" {
				c.cfg.Listen = "127.0.0.1:0"
			}
			_, err := controlplane.Start(t.Context(), c.cfg)
			if !errors.Is(err, controlplane.ErrConfig) {
				t.Fatalf("the error is %v", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error %q does not say %q", err, want)
				}
			}
			if c.cfg.DataDir != "" && c.cfg.DataDir != running.dir {
				if _, err := os.Stat(filepath.Join(c.cfg.DataDir, "etcd")); err == nil {
					t.Error("an etcd was made")
				}
			}
		})
	}
}

// certificate makes one for 127.0.0.1.
func certificate(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := errors.Join(os.WriteFile(certFile, certPEM, 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600)); err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, pool
}

func TestWithACertificateTLSIsSpokenAndAgentsAreToldSo(t *testing.T) {
	certFile, keyFile, pool := certificate(t)
	p := start(t, controlplane.Config{TLSCert: certFile, TLSKey: keyFile, Listen: "0.0.0.0:0"})
	_, port, err := net.SplitHostPort(p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p.url = "https://127.0.0.1:" + port
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer transport.CloseIdleConnections()
	client := ecs.New(ecs.Options{Region: "us-west-2", BaseEndpoint: aws.String(p.url), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.StaticCredentialsProvider{Value: p.key(t, auth.HostFile)}})
	endpoint, err := client.DiscoverPollEndpoint(t.Context(), &ecs.DiscoverPollEndpointInput{})
	if err != nil {
		t.Fatal(err)
	}
	if got := aws.ToString(endpoint.Endpoint); !strings.HasPrefix(got, p.url) {
		t.Errorf("agents are told to connect to %s, not to %s", got, p.url)
	}
	status, _, body := get(t, "GET", "http://127.0.0.1:"+port+"/healthz")
	if status != 400 || !strings.Contains(body, "HTTPS server") {
		t.Errorf("plain HTTP to the TLS port: %d %s", status, body)
	}
}

func TestAClientThatSaysNothingIsCutOffAndOthersAreServed(t *testing.T) {
	p := start(t, controlplane.Config{ShutdownGrace: 100 * time.Millisecond})
	silent, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := io.Copy(silent, io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\nHost: x\r\nX-Long: "), bytes.NewReader(bytes.Repeat([]byte("x"), 1<<17)))); err == nil {
		answer, _ := io.ReadAll(silent)
		if !bytes.Contains(answer, []byte("431")) {
			t.Errorf("a header of 128 KiB gets %q", answer)
		}
	}
	slow, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := io.WriteString(slow, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := get(t, "GET", p.url+"/healthz"); status != 200 {
		t.Errorf("the health is %d", status)
	}
	// Closing cuts the slow one off after the grace.
}
