package secrets

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/firelens"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/awsapi"
)

const (
	maxFile  = 1 << 20 // bytes of a file of variables
	maxCalls = 8       // at the same time, for one task
)

// ECS's words for what went wrong.
const (
	noSecret = "ResourceInitializationError: unable to pull secrets or registry auth: "
	noFile   = "ResourceInitializationError: failed to download env files: "
	noRouter = "ResourceInitializationError: failed to create firelens resource: "
)

// values are the fetched values of a task.
type values struct {
	region, account string
	parameters      map[parameterRef]awsapi.Value
	secrets         map[secretRef]awsapi.Value
	files           map[string]map[string]string // by ARN
	router          []byte                       // the file that the task's log router includes; nil: none
}

// secret is one secret's value out of those that were fetched.
func (v *values) secret(s *acs.Secret) (awsapi.Value, error) {
	if s.Provider != engine.ProviderSecretsManager {
		return v.parameters[parameterOf(s, v.region, v.account)], nil
	}
	ref, key := secretOf(s, v.region)
	value, err := member(v.secrets[ref], key)
	if err != nil {
		return "", fmt.Errorf("%s%s: %w", noSecret, what(s, ref.region), err)
	}
	return value, nil
}

// fetching is the fetch of all that a task names.
type fetching struct {
	r    *Resolver
	task *acs.Task
	role aws.CredentialsProvider
	log  *zap.Logger

	mu  sync.Mutex
	out *values
}

// fetch fetches all values that a task's containers name, each once.
func (r *Resolver) fetch(ctx context.Context, task *acs.Task) (*values, error) {
	f := &fetching{r: r, task: task, log: r.cfg.Log.With(zap.String("task", task.Arn), zap.String("step", "secrets")), out: &values{
		region: r.cfg.Region, account: accountOf(task.Arn), parameters: map[parameterRef]awsapi.Value{}, secrets: map[secretRef]awsapi.Value{}, files: map[string]map[string]string{}}}
	began := r.cfg.Now()
	var err error
	if _, f.role, err = r.role(ctx, task.Arn); err != nil {
		return nil, flat(ctx, noSecret, err)
	}
	group, limited := errgroup.WithContext(ctx)
	group.SetLimit(maxCalls)
	parameters := map[string]map[parameterRef]*acs.Secret{} // by region
	files := map[string]bool{}
	for _, c := range task.Containers {
		for _, s := range c.Secrets {
			f.plan(limited, group, parameters, s)
		}
		if c.FirelensConfiguration != nil {
			if arn, ok := firelens.InS3(c.FirelensConfiguration.Options); ok {
				group.Go(func() error { return f.routerFile(limited, arn) })
			}
		}
		for _, file := range c.EnvironmentFiles {
			if !files[file.Value] {
				files[file.Value] = true
				group.Go(func() error { return f.file(limited, file) })
			}
		}
	}
	for region, wanted := range parameters {
		group.Go(func() error { return f.parameters(limited, region, wanted) })
	}
	if err := group.Wait(); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, ctx.Err()
		}
		return nil, err
	}
	f.log.Info("Fetched the task's secrets", zap.Int("parameters", len(f.out.parameters)), zap.Int("secrets", len(f.out.secrets)),
		zap.Int("files", len(f.out.files)), zap.Duration("duration", r.cfg.Now().Sub(began)))
	return f.out, nil
}

// plan begins the fetch of a secret, or notes a parameter for the calls that fetch many.
func (f *fetching) plan(ctx context.Context, group *errgroup.Group, parameters map[string]map[parameterRef]*acs.Secret, s *acs.Secret) {
	if s.Provider != engine.ProviderSecretsManager {
		ref := parameterOf(s, f.out.region, f.out.account)
		if parameters[ref.region] == nil {
			parameters[ref.region] = map[parameterRef]*acs.Secret{}
		}
		parameters[ref.region][ref] = s
		return
	}
	ref, _ := secretOf(s, f.out.region)
	f.mu.Lock()
	_, begun := f.out.secrets[ref]
	if !begun {
		f.out.secrets[ref] = ""
	}
	f.mu.Unlock()
	if !begun {
		group.Go(func() error { return f.secret(ctx, ref, s) })
	}
}

func (f *fetching) secret(ctx context.Context, ref secretRef, s *acs.Secret) error {
	value, err := f.r.cfg.AWS.GetSecretValue(ctx, awsapi.Caller{Region: ref.region, Credentials: f.role}, ref.id)
	if err != nil {
		return flat(ctx, noSecret+what(s, ref.region)+": ", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out.secrets[ref] = value
	return nil
}

// parameters fetches the parameters of one region.
func (f *fetching) parameters(ctx context.Context, region string, wanted map[parameterRef]*acs.Secret) error {
	names := make([]string, 0, len(wanted))
	for ref := range wanted {
		names = append(names, ref.asked)
	}
	slices.Sort(names)
	found, missing, err := f.r.cfg.AWS.GetParameters(ctx, awsapi.Caller{Region: region, Credentials: f.role}, names)
	if err != nil {
		return flat(ctx, noSecret+"parameters "+strings.Join(names, ", ")+" of SSM Parameter Store in "+region+": ", err)
	}
	got := make(map[string]awsapi.Value, len(found))
	for _, p := range found {
		got[p.Name+p.Selector], got[p.ARN+p.Selector] = p.Value, p.Value
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range names {
		ref := parameterRef{region, name}
		value, ok := got[name]
		switch {
		case ok:
			f.out.parameters[ref] = value
		case slices.Contains(missing, name):
			return errors.New(noSecret + what(wanted[ref], region) + ": there is no such parameter, or no such version of it")
		default:
			return errors.New(noSecret + what(wanted[ref], region) + ": the answer does not have it")
		}
	}
	return nil
}

// object fetches an object of S3.
func (f *fetching) object(ctx context.Context, prefix, arn string) ([]byte, error) {
	ref, err := fileOf(arn)
	if err != nil {
		return nil, fmt.Errorf("%s%s: %w", prefix, arn, err)
	}
	data, err := f.r.cfg.AWS.GetObject(ctx, awsapi.Caller{Region: f.out.region, Credentials: f.role}, ref.bucket, ref.key, maxFile)
	if err != nil {
		return nil, flat(ctx, prefix+arn+" from S3 in "+f.out.region+": ", err)
	}
	return data, nil
}

func (f *fetching) routerFile(ctx context.Context, arn string) error {
	data, err := f.object(ctx, noRouter, arn)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out.router = append([]byte{}, data...)
	return nil
}

func (f *fetching) file(ctx context.Context, file *acs.EnvironmentFile) error {
	data, err := f.object(ctx, noFile, file.Value)
	if err != nil {
		return err
	}
	variables, skipped := parseEnvFile(data)
	if len(skipped) > 0 {
		f.log.Warn("Lines of a file of variables are not VARIABLE=VALUE and are skipped", zap.String("file", file.Value), zap.Ints("lines", skipped))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out.files[file.Value] = variables
	return nil
}

// flat is an error with another one's text behind a prefix and without its class: a service that does not answer says
// nothing about the container engine. A fetch that nobody wants any more ends with ctx's own error.
func flat(ctx context.Context, prefix string, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return errors.New(prefix + err.Error())
}

// accountOf is the account of a task's ARN.
func accountOf(arn string) string {
	if f := strings.SplitN(arn, ":", 6); len(f) == 6 {
		return f[4]
	}
	return ""
}
