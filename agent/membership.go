package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/endpoints/ids"
	"github.com/longshore-project/longshore/agent/endpoints/introspection"
	"github.com/longshore-project/longshore/agent/hostkey"
	"github.com/longshore-project/longshore/agent/join"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/cgroup"
	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/netns"
	"github.com/longshore-project/longshore/protocol/agentapi"
	wire "github.com/longshore-project/longshore/protocol/join"
	"github.com/longshore-project/longshore/statemgr"
)

// unit is the agent's systemd unit.
const unit = "longshore-agent.service"

// caName is the file of the control plane's CA, beside ecs.config.
const caName = "longshore-ca.pem"

// membershipPoll is how often join and leave look at what they wait for.
const membershipPoll = 500 * time.Millisecond

// JoinOptions are what the command line of join says. The zero values of those with a default are that.
type JoinOptions struct {
	Options
	URL, Token, Cluster string
	TokenFile           string // has the token, and goes when the host has joined
	Proxy               string // for HTTPS; not set: that of the environment
	CA                  string // file with the CA of a reverse proxy; empty: the token's pin
	Force               bool
	NoStart, Foreground bool
	Wait                time.Duration
	Out                 io.Writer
	Ports               []uint16 // those that must be free; introspection's if nil
}

// Join makes this host a container instance, step by step; see package join. With Foreground it then is the agent until ctx ends.
func Join(ctx context.Context, opt JoinOptions) error {
	opt.Root = cmp.Or(opt.Root, "/")
	file := cmp.Or(opt.Config.File, config.DefaultFile)
	cfg, err := settingsSoFar(opt.Config)
	if err != nil {
		return err
	}
	if opt.Runtime == nil {
		if err := becomeContainerd(cfg); err != nil {
			return &join.Failure{Step: "engine", Err: err, Remedy: "Install it, or choose another engine with ECS_ENGINE."}
		}
	}
	if opt.TokenFile != "" {
		data, err := durable.Read(opt.TokenFile, 64<<10)
		if err != nil {
			return &join.Failure{Step: "token", Err: err, Remedy: "Name a file with the line that \"longshore-control token create\" printed after --token-file; it goes when the host has joined."}
		}
		opt.Token = strings.TrimSpace(string(data))
	}
	token, err := wire.Parse(opt.Token)
	if err != nil {
		return &join.Failure{Step: "token", Err: err, Remedy: "Copy the whole line that \"longshore-control token create\" printed, or make another one."}
	}
	var ca []byte
	if opt.CA != "" {
		if ca, err = os.ReadFile(opt.CA); err != nil {
			return &join.Failure{Step: "token", Err: err, Remedy: "Name a file with certificates in PEM form after --ca."}
		}
	}
	if opt.Ports == nil {
		opt.Ports = []uint16{introspection.Port}
	}
	a := &Agent{opt: opt.Options, cfg: cfg, log: zap.NewNop()}
	running := make(chan error, 1)
	j := &join.Joining{
		URL: opt.URL, Token: token, Cluster: cmp.Or(opt.Cluster, "default"), Proxy: opt.Proxy, CA: ca, File: file, CAFile: filepath.Join(filepath.Dir(file), caName), Force: opt.Force,
		Ask: a.askRunning, Identity: a.readIdentity, Learned: filepath.Join(cfg.DataDir, authoritiesName), Leaving: func() bool { return join.LoadMark(cfg.DataDir) != nil }, Ports: opt.Ports, Proc: "/proc",
		Engine: func(ctx context.Context) (string, error) {
			info, err := a.lookAtEngine(ctx)
			return fmt.Sprintf("%s %s answers at %s", info.Name, info.Version, engineAddress(cfg)), err
		},
		Host: func(ctx context.Context, arn string) (*wire.HostOutput, error) {
			return hostOf(ctx, opt.Options, "", arn)
		},
		Wait: opt.Wait, Poll: membershipPoll, Now: time.Now, Out: opt.Out,
	}
	switch {
	case opt.Foreground:
		j.Start = func(context.Context) (string, error) {
			opt.Config = asJoined(opt.Config)
			go func() { running <- Run(ctx, opt.Options) }()
			return "in this process", nil
		}
	case !opt.NoStart && bySystemd() && cloudInitRuns(ctx):
		j.Start, j.Later = startUnitLater, true
	case !opt.NoStart && bySystemd():
		j.Start = startUnit
	}
	if err = j.Run(ctx); err == nil {
		err = forgetToken(opt)
	}
	if !opt.Foreground || j.NotStarted() {
		return err
	}
	if err != nil { // the agent goes on, as the remedy says
		_, _ = fmt.Fprintln(opt.Out, err)
	}
	return <-running
}

// settingsSoFar is the configuration before join has written to it: an ecs.config that is not there yet is empty. What join has written goes
// before the environment.
func settingsSoFar(o config.Options) (*config.Config, error) {
	o = asJoined(o)
	if _, err := os.Stat(o.File); o.File != "" && errors.Is(err, fs.ErrNotExist) {
		o.File = os.DevNull
	}
	cfg, _, err := config.Load(o)
	if err != nil {
		return nil, &TerminalError{fmt.Errorf("the configuration: %w", err)}
	}
	return cfg, nil
}

// asJoined is where to read the configuration, with what join has written before the environment.
func asJoined(o config.Options) config.Options {
	if o.Environ == nil {
		o.Environ = os.Environ()
	}
	o.Environ = join.Environ(cmp.Or(o.File, config.DefaultFile), o.Environ)
	return o
}

// askRunning asks the agent that runs on this host for its status.
func (a *Agent) askRunning(ctx context.Context) (*local.Status, error) {
	var s local.Status
	return &s, local.Client{Dir: a.cfg.DataDir}.Call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// readIdentity is the cluster and container instance that this host is; empty if it is none.
func (a *Agent) readIdentity() (cluster, arn string, err error) {
	id, err := statemgr.LoadIdentity(a.cfg.DataDir)
	if err != nil || id == nil {
		return "", "", err
	}
	return id.Cluster, id.ContainerInstanceArn, nil
}

// own is an agent that only makes calls, with the configuration as it is now, and what ends it. target is that of X-Amz-Target; empty for ECS.
func own(ctx context.Context, opt Options, target string) (*agentapi.Client, *config.Config, func(), error) {
	cfg, err := settingsSoFar(opt.Config)
	if err != nil {
		return nil, nil, nil, err
	}
	a := &Agent{opt: opt, cfg: cfg, log: zap.NewNop()}
	if a.client, err = httpClient(cfg, opt.AnyTLS); err != nil {
		return nil, nil, nil, err
	}
	if err := a.settle(ctx); err != nil {
		return nil, nil, nil, err
	}
	c := agentapi.Config{Endpoint: cfg.APIEndpoint, Region: cfg.Region, Credentials: a.credentials(), HTTPClient: a.client, UserAgent: a.userAgent(), MaxAttempts: 3, MaxDelay: time.Second}
	if target != "" {
		if cfg.APIEndpoint == "" {
			return nil, nil, nil, errors.New("ECS_BACKEND_HOST is not set: this host is not one of a Longshore control plane")
		}
		c.Service, c.Target = "ecs", target
	}
	client, err := agentapi.New(c)
	return client, cfg, a.client.CloseIdleConnections, err
}

// hostOf asks the control plane about an instance, with the key that this host's agent uses. cluster empty is the configured one.
func hostOf(ctx context.Context, opt Options, cluster, arn string) (*wire.HostOutput, error) {
	client, cfg, done, err := own(ctx, opt, agentapi.OwnTarget)
	if err != nil {
		return nil, err
	}
	defer done()
	cluster = cmp.Or(cluster, cfg.ClusterOrDefault())
	var out wire.HostOutput
	return &out, client.Call(ctx, wire.HostOperation, &wire.HostInput{Cluster: &cluster, ContainerInstance: &arn}, &out)
}

// bySystemd says whether systemd runs this host.
func bySystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// startUnit starts the agent now and at each boot.
func startUnit(ctx context.Context) (string, error) {
	for _, args := range [][]string{{"enable", unit}, {"restart", unit}} {
		if err := systemctl(ctx, args...); err != nil {
			return "", &join.Failure{Err: err, Remedy: "Is the package installed? Else start the agent in another way: longshore-agent join --foreground, or longshore-agent run. journalctl -u " + unit + " has its words."}
		}
	}
	return "systemd has started " + unit + ", now and at each boot", nil
}

func systemctl(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// LeaveOptions are what the command line of leave says.
type LeaveOptions struct {
	Options
	Force, Alone bool
	Wait         time.Duration
	Out          io.Writer
}

// Leave takes this host out of its control plane, and away what the agent has made on it; see package join.
func Leave(ctx context.Context, opt LeaveOptions) error {
	opt.Root = cmp.Or(opt.Root, "/")
	cfg, err := settingsSoFar(opt.Config)
	if err != nil {
		return err
	}
	if opt.Runtime == nil {
		if err := becomeContainerd(cfg); err != nil {
			return &TerminalError{err}
		}
	}
	file := cmp.Or(opt.Config.File, config.DefaultFile)
	a := &Agent{opt: opt.Options, cfg: cfg, log: zap.NewNop()}
	l := &join.Leaving{
		Dir: cfg.DataDir, File: file, CAFile: filepath.Join(filepath.Dir(file), caName), Force: opt.Force, Alone: opt.Alone, Identity: a.readIdentity, Ask: a.askRunning,
		Call: func(ctx context.Context, operation string, in, out any) error {
			client, _, done, err := own(ctx, opt.Options, "")
			if err != nil {
				return err
			}
			defer done()
			return client.Call(ctx, operation, in, out)
		},
		Host: func(ctx context.Context, cluster, arn string) (*wire.HostOutput, error) {
			return hostOf(ctx, opt.Options, cluster, arn)
		},
		EndKey: func(ctx context.Context) error {
			client, _, done, err := own(ctx, opt.Options, agentapi.OwnTarget)
			if err != nil {
				return err
			}
			defer done()
			return client.Call(ctx, wire.EndKeyOperation, &struct{}{}, nil)
		},
		Stop:  a.endAgent,
		Parts: []join.Part{{Name: "containers", Remove: a.removeContainers(opt.Force || opt.Alone)}, {Name: "network", Remove: a.removeNetwork}, {Name: "groups", Remove: a.removeGroups}},
		Files: stateFiles, Folders: stateFolders, Left: func(ctx context.Context) []string { return a.whatStays(ctx, file) },
		Wait: opt.Wait, Poll: membershipPoll, Now: time.Now, Out: opt.Out,
	}
	return l.Run(ctx)
}

// instanceFiles are what the agent keeps in its state directory of this container instance: not what an image may have.
var instanceFiles = []string{
	"*.other-machine-*", statemgr.DatabaseName + "*", tokenName + "*", hostkey.FileName + "*", authoritiesName + "*", reserveName + "*", reservedName + "*", ids.KeyName + "*",
	local.SocketName + "*", departureName + "*", copiedName + "*", "firelens", "metadata", statemgr.IdentityName + "*",
}

// stateFiles are all that it keeps there, with what is remembered of the engine's images.
var stateFiles = slices.Concat([]string{pulledName + "*", imagesName + "*", preloadedName + "*", cleaningName}, instanceFiles)

// stateFolders are those of engine/containerd. Its containers take their own folders with them; volumes stay.
var stateFolders = []string{"containerd/containers", "containerd/volumes", "containerd"}

// endAgent ends the agent, which has the process id unless that is 0, and waits until it is gone.
func (a *Agent) endAgent(ctx context.Context, pid int) (string, error) {
	if bySystemd() {
		if _, err := exec.CommandContext(ctx, "systemctl", "cat", unit).Output(); err == nil { // there is such a unit
			if err := systemctl(ctx, "disable", "--now", unit); err != nil {
				return "", err
			}
		}
	}
	if pid == 0 {
		return "none runs", nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return "", fmt.Errorf("end the agent, process %d: %w", pid, err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if _, err := a.askRunning(ctx); errors.As(err, new(*local.NotRunningError)) {
			return "ended; it does not start again here", nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
	}
	return "", fmt.Errorf("the agent, process %d, has not ended within a minute", pid)
}

// removeContainers removes the containers of tasks that have ended, and those that run too if asked to.
func (a *Agent) removeContainers(running bool) func(context.Context, func(string)) error {
	return func(ctx context.Context, say func(string)) error {
		r, done, err := a.anyRuntime()
		if err != nil {
			return err
		}
		defer done()
		all, err := r.List(ctx)
		if err != nil {
			return fmt.Errorf("ask the engine for the tasks' containers: %w", err)
		}
		removed := 0
		for i := range all {
			c := &all[i]
			if c.Status == engine.StatusRunning {
				if !running {
					say("left: " + c.Name + " runs, of a task that the control plane did not know; end it with the engine's own command, or leave with --force")
					continue
				}
				if err := r.Stop(ctx, c.ID, a.cfg.ContainerStopTimeout); err != nil {
					return fmt.Errorf("stop %s: %w", c.Name, err)
				}
			}
			if err := r.Remove(ctx, c.ID); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("remove %s: %w", c.Name, err)
			}
			removed++
		}
		if removed > 0 {
			say(fmt.Sprintf("removed %d of tasks", removed))
		}
		return nil
	}
}

// anyRuntime is a Runtime that is not for running tasks, and what closes it.
func (a *Agent) anyRuntime() (engine.Runtime, func(), error) {
	if a.opt.Runtime != nil {
		return a.opt.Runtime, func() {}, nil
	}
	r, err := openEngine(a.cfg, nil, a.log)
	if err != nil {
		return nil, nil, err
	}
	return r, func() { _ = r.Close() }, nil
}

// removeNetwork removes the agent's rules and addresses from the host's network, and the tasks' interfaces and namespaces.
func (a *Agent) removeNetwork(ctx context.Context, say func(string)) error {
	if err := Cleanup(ctx, say); err != nil {
		return err
	}
	removed, err := netns.Host{Tables: &netns.Tables{}}.Sweep(ctx, nil)
	for _, what := range removed {
		say("removed: " + what)
	}
	files, _ := filepath.Glob(filepath.Join(runFolder, "netns", "*"))
	for _, f := range files {
		if e := netns.RemoveNamespace(f); e != nil {
			err = errors.Join(err, e)
			continue
		}
		say("removed: network namespace " + f)
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(runFolder)
}

// removeGroups removes the tasks' control groups.
func (a *Agent) removeGroups(ctx context.Context, _ func(string)) error {
	owner := cgroup.OwnerOf(a.cfg.DataDir)
	if !a.cfg.TaskLimits || owner == "" {
		return nil
	}
	info, err := a.lookAtEngine(ctx)
	if err != nil {
		return fmt.Errorf("ask the engine for its control groups: %w", err)
	}
	groups, err := cgroup.New(cgroup.Options{Root: a.cfg.CgroupPath, Driver: info.CgroupDriver, Version: info.CgroupVersion, Owner: owner})
	if err != nil {
		return err
	}
	_, err = groups.Sweep(ctx, func(string) bool { return false })
	return err
}

// whatStays says what leave does not touch.
func (a *Agent) whatStays(ctx context.Context, file string) (all []string) {
	if r, done, err := a.anyRuntime(); err == nil {
		defer done()
		if images, err := r.Images(ctx); err == nil && len(images) > 0 {
			all = append(all, fmt.Sprintf("%d images of the engine, and its volumes: they may be somebody else's too", len(images)))
		}
	}
	if volumes, _ := filepath.Glob(filepath.Join(containerdRoot(a.cfg), "volumes", "*")); len(volumes) > 0 {
		all = append(all, fmt.Sprintf("the data of %d volumes in %s", len(volumes), filepath.Join(containerdRoot(a.cfg), "volumes")))
	}
	if a.cfg.Log.File != "" {
		all = append(all, "the logs in "+filepath.Dir(a.cfg.Log.File))
	}
	if info, err := os.Stat(file); err == nil && info.Size() > 0 {
		all = append(all, file+", with what join has not written")
	}
	return all
}
