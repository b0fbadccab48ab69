package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/endpoints/introspection"
	"github.com/longshore-project/longshore/agent/endpoints/metadata"
	"github.com/longshore-project/longshore/agent/metrics"
	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/agent/stats"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/statemgr"
)

// measured is what this agent knows about its containers beside their state: what they use, and the files that tell them
// what they are.
type measured struct {
	stats *stats.Collector
	files *metadata.Files // nil where containers get none
	tags  func(ctx context.Context, arn string) (map[string]string, error)
}

// openMeasured makes it; nothing is asked of the engine yet.
func (a *Agent) openMeasured(api session.API) {
	a.measured = &measured{
		stats: stats.New(stats.Config{
			Engine: engineTasks{a}, Log: a.log, Interval: a.cfg.StatsInterval, Reserved: a.cfg.ReservedMemory,
			Proc: filepath.Join(a.opt.Root, "proc"), Cgroup: a.cfg.CgroupPath,
		}),
		tags: func(ctx context.Context, arn string) (map[string]string, error) { return tagsOf(ctx, api, arn) },
	}
	if a.cfg.MetadataFiles {
		a.measured.files = metadata.NewFiles(metadata.FilesConfig{
			Dir: filepath.Join(a.cfg.DataDir, "metadata"), Tasks: a.tasks, Instance: a.instance, Place: a.place, Address: a.addresses, Log: a.log,
		})
	}
}

// engineTasks asks the engine, which is there when somebody asks.
type engineTasks struct{ a *Agent }

// Tasks are the engine's.
func (e engineTasks) Tasks() []engine.TaskStatus { return e.a.tasks() }

// runMeasured measures, and keeps the files, until ctx ends.
func (a *Agent) runMeasured(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.measured.stats.Run(ctx) })
	if a.measured.files != nil {
		group.Go(func() error { return a.measured.files.Run(ctx) })
	}
	if a.cfg.Prometheus {
		group.Go(func() error { return a.serveMetrics(ctx) })
	}
	return group.Wait()
}

// metricsPort is where Prometheus metrics are served, to those whom introspection is.
const metricsPort = 51680

// serveMetrics serves Prometheus metrics until ctx ends. A port that is taken is no reason not to run.
func (a *Agent) serveMetrics(ctx context.Context) error {
	reach, err := introspection.NewReach(metricsPort, a.log)
	if err != nil {
		a.log.Error("Prometheus metrics are not served", zap.Int("port", metricsPort), zap.Error(err))
		return nil
	}
	server := &http.Server{
		Handler: a.metrics.Handler(a.metricsNow), ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		ErrorLog: zap.NewStdLog(a.log.With(zap.String("source", "metrics"))),
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return reach.Watch(ctx) })
	group.Go(func() error {
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		return server.Serve(reach)
	})
	return group.Wait()
}

// metricsNow is what is looked at when somebody asks for metrics.
func (a *Agent) metricsNow() metrics.Now {
	now := metrics.Now{Tasks: a.tasks(), Health: a.engine.Health(), Uses: a.measured.stats.Uses(), Outside: a.measured.stats.Outside(), Losses: a.logLosses(), Disks: map[string]string{"state": a.cfg.DataDir}}
	if root := a.engineInfo().Root; root != "" {
		now.Disks["engine"] = root
	}
	return now
}

// mountMetadata adds the task metadata endpoints to what containers ask.
func (a *Agent) mountMetadata(s *asked) {
	metadata.New(metadata.Config{
		Tasks: a.tasks, Find: s.ids.Find, Known: s.ids.Known, Task: a.task, Stats: a.measured.stats.Docker, Tags: a.measured.tags, Instance: a.instance, Place: a.place,
		Log: a.log,
		Caller: func(r *http.Request) (string, error) {
			c, err := s.callers.Find(r)
			if err != nil || c.TaskArn == "" {
				host, _, _ := net.SplitHostPort(r.RemoteAddr)
				return "", fmt.Errorf("unable to associate '%s' with task", host)
			}
			return c.TaskArn, nil
		},
	}).Register(s.server.Handle)
}

// tagsOf asks the control plane for the tags of a task or of this instance.
func tagsOf(ctx context.Context, api session.API, arn string) (map[string]string, error) {
	var out agentapi.ListTagsForResourceOutput
	if err := api.Call(ctx, "ListTagsForResource", &agentapi.ListTagsForResourceInput{ResourceArn: &arn}, &out); err != nil {
		return nil, err
	}
	tags := map[string]string{}
	for _, t := range out.Tags {
		if t.Key != nil && t.Value != nil {
			tags[*t.Key] = *t.Value
		}
	}
	return tags, nil
}

// place is where this host is, as containers are told. In the agent's first moments it waits for the instance metadata service.
func (a *Agent) place() metadata.Place {
	p := metadata.Place{Zone: a.cfg.AvailabilityZone}
	ctx, cancel := context.WithTimeout(context.Background(), metadataProbe)
	defer cancel()
	if ec2, _ := a.lookout.wait(ctx); ec2 != nil {
		p.Zone = ec2.AvailabilityZone
	}
	if a.cfg.MetadataWithoutZone {
		p.Zone = ""
	}
	return p
}

// addresses are this host's, as containers are told. Which of them others know is not known.
func (a *Agent) addresses() (private, public, ipv6 string) {
	address, err := netip.ParseAddr(a.host.Address)
	switch {
	case err != nil:
		return "", "", ""
	case address.Is6():
		return "", "", a.host.Address
	}
	return a.host.Address, "", ""
}

// listenIntrospection takes the port of introspection: one address in tests, else the host's and its containers' own side of it.
// The function that it returns keeps that up until ctx ends.
func (a *Agent) listenIntrospection() (net.Listener, func(ctx context.Context) error, error) {
	if a.opt.Introspect != "" {
		l, err := introspection.Listen(a.opt.Introspect)
		return l, func(context.Context) error { return nil }, err
	}
	r, err := introspection.NewReach(introspection.Port, a.log)
	if err != nil {
		return nil, nil, err
	}
	return r, r.Watch, nil
}

// reservedName is the file of the memory that ECS_RESERVED_MEMORY=auto keeps from tasks.
const reservedName = "reserved-memory"

// reservedMemory is what is in it. What was measured once holds for the host: a container instance does not change its memory.
type reservedMemory struct {
	Machine string `json:"machine"` // the hashed id of the machine
	MiB     int64  `json:"mib"`
}

// settleReserve finds out how much memory to keep from tasks where it is to be measured.
func (a *Agent) settleReserve() error {
	if !a.cfg.ReservedMemoryAuto {
		return nil
	}
	name := filepath.Join(a.cfg.DataDir, reservedName)
	machine := machineID(filepath.Join(a.opt.Root, "etc/machine-id"))
	var kept reservedMemory
	data, err := os.ReadFile(name)
	if err == nil && json.Unmarshal(data, &kept) == nil && kept.Machine == machine && kept.MiB > 0 {
		a.cfg.ReservedMemory = kept.MiB
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the memory that is kept from tasks: %w", err)
	}
	_, registered := os.Stat(filepath.Join(a.cfg.DataDir, statemgr.IdentityName)) // then tasks may run already
	used, err := stats.Measure(filepath.Join(a.opt.Root, "proc"), a.cfg.CgroupPath, registered == nil)
	if err != nil {
		return fmt.Errorf("ECS_RESERVED_MEMORY=auto: %w; set it to a number of MiB", err)
	}
	kept = reservedMemory{Machine: machine, MiB: stats.Reserve(used)}
	if data, err = json.Marshal(kept); err != nil {
		return err
	}
	if err = os.MkdirAll(a.cfg.DataDir, 0o700); err == nil {
		err = writeDurably(name, data)
	}
	if err != nil {
		return fmt.Errorf("the memory that is kept from tasks: %w", err)
	}
	a.cfg.ReservedMemory = kept.MiB
	a.log.Info("Memory is kept from tasks for what the host itself uses; remove the file to have it measured anew", zap.Int64("reservedMiB", kept.MiB), zap.Uint64("usedMiB", used), zap.String("file", name), zap.String("setting", "ECS_RESERVED_MEMORY=auto in "+config.DefaultFile))
	return nil
}
