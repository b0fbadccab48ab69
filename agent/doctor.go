package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/doctor"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/statemgr"
)

// Doctor looks at what an agent with this configuration needs of this host, whether one runs or not. It changes nothing. The
// error is for a configuration that can't be read; what is not well is in the report.
func Doctor(ctx context.Context, opt Options) (*doctor.Report, error) {
	cfg, warnings, err := config.Load(opt.Config)
	if err != nil {
		return nil, &TerminalError{fmt.Errorf("the configuration: %w", err)}
	}
	opt.Root = cmp.Or(opt.Root, "/")
	a := &Agent{opt: opt, cfg: cfg, log: zap.NewNop()}
	var transport http.Transport
	var astray error
	if a.client, astray = httpClient(cfg, opt.AnyTLS); astray == nil {
		defer a.client.CloseIdleConnections()
		made, ok := a.client.Transport.(*clocked)
		if !ok {
			return nil, fmt.Errorf("the control plane is reached by a %T", a.client.Transport)
		}
		transport.TLSClientConfig, transport.Proxy = made.current.Load().TLSClientConfig, made.current.Load().Proxy
	}
	p := &doctor.Patient{
		Config: cfg, File: cmp.Or(opt.Config.File, config.DefaultFile), Warnings: warnings, Root: opt.Root, Now: time.Now,
		Ask: func(ctx context.Context) (*local.Status, error) {
			var s local.Status
			return &s, local.Client{Dir: cfg.DataDir}.Call(ctx, http.MethodGet, "/v1/status", nil, &s)
		},
		Registries: func(ctx context.Context, path string) []imagecache.Finding {
			return lookAtRegistries(ctx, cfg, cmp.Or(opt.Config.File, config.DefaultFile), path)
		},
		Engine: a.lookAtEngine, TLS: transport.TLSClientConfig, Proxy: transport.Proxy, Sign: a.signedCall,
		Introspection: cmp.Or(opt.Introspect, cfg.HealthcheckHost+":51678"), Credentials: "169.254.170.2:80",
	}
	var nowhere error
	if p.Endpoint, nowhere = endpointURL(cfg); nowhere != nil { // an EC2 instance knows its region
		if a.settle(ctx) == nil {
			p.Endpoint, nowhere = endpointURL(cfg)
		}
	}
	p.Astray = errors.Join(astray, nowhere)
	return p.Examine(ctx), nil
}

// lookAtRegistries looks at where the host's registry credentials come from. path is the PATH of the agent that runs, if any.
func lookAtRegistries(ctx context.Context, cfg *config.Config, file, path string) []imagecache.Finding {
	environment := cfg.HelperEnvironment()
	for i, v := range environment {
		if path != "" && strings.HasPrefix(v, "PATH=") {
			environment[i] = "PATH=" + path
		}
	}
	var out []imagecache.Finding
	keyring, err := imagecache.ParseKeyring(cfg.EngineAuthType, string(cfg.EngineAuthData))
	if err != nil {
		out = append(out, imagecache.Finding{Source: "ECS_ENGINE_AUTH_DATA", Says: "can't be used, and the agent does not start with it: " + err.Error(), Mend: "correct it in " + file, Dead: true})
	}
	return append(append(out, keyring.Examine()...), imagecache.NewDockerConfig(cfg.DockerConfigFile(), environment).Examine(ctx)...)
}

// endpointURL is the URL of the ECS API.
func endpointURL(cfg *config.Config) (string, error) {
	if cfg.APIEndpoint != "" {
		return cfg.APIEndpoint, nil
	}
	if cfg.Region == "" {
		return "", fmt.Errorf("neither ECS_BACKEND_HOST nor AWS_DEFAULT_REGION is set: where is the control plane?")
	}
	return (&url.URL{Scheme: "https", Host: "ecs." + cfg.Region + ".amazonaws.com"}).String(), nil
}

// lookAtEngine asks the container engine about itself.
func (a *Agent) lookAtEngine(ctx context.Context) (engine.Info, error) {
	r := a.opt.Runtime
	if r == nil {
		made, err := openEngine(a.cfg, nil, a.log)
		if err != nil {
			return engine.Info{}, err
		}
		defer func() { _ = made.Close() }()
		r = made
	}
	return r.Info(ctx)
}

// signedCall asks where to poll, which changes nothing.
func (a *Agent) signedCall(ctx context.Context) error {
	if err := a.settle(ctx); err != nil {
		return err
	}
	api, err := a.api(a.credentials(), 1)
	if err != nil {
		return err
	}
	cluster, none := a.cfg.ClusterOrDefault(), ""
	in := &agentapi.DiscoverPollEndpointInput{Cluster: &cluster, ZoneId: &none}
	if a.identity != nil {
		in.ContainerInstance = &a.identity.ContainerInstanceArn
	}
	return api.Call(ctx, "DiscoverPollEndpoint", in, &agentapi.DiscoverPollEndpointOutput{})
}

// settle finds out who this host is and in which region.
func (a *Agent) settle(ctx context.Context) (err error) {
	if a.identity, err = statemgr.LoadIdentity(a.cfg.DataDir); err != nil {
		return err
	}
	a.lookout = &lookout{answered: make(chan struct{})}
	ctx, cancel := context.WithTimeout(ctx, metadataSure)
	defer cancel()
	if err := a.lookOut(ctx); err != nil {
		return err
	}
	return a.settleRegion(ctx)
}
