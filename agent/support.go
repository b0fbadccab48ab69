package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/bundle"
	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/dropin"
	"github.com/longshore-project/longshore/agent/endpoints/ids"
	"github.com/longshore-project/longshore/agent/hostkey"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/statemgr"
)

// What is in the archive that "longshore-agent bundle" makes, and which secrets of this host its filter knows (package bundle). Nothing here needs an
// agent that runs, or an engine.

// BundleOptions are what the command line says.
type BundleOptions struct {
	Options
	Since time.Duration // how far back logs go
	Out   io.Writer     // the archive
	Name  string        // of the folder in it
}

// The bounds of what there may be many of.
const (
	mostExplained  = 50
	mostNamespaces = 20
	mostLog        = 8 << 20
	smallFile      = 1 << 20
)

// supporter gathers the pieces.
type supporter struct {
	*Agent
	BundleOptions
	client   local.Client
	warnings []string
	refused  error // why an agent would not start with the configuration
	now      time.Time
	filter   bundle.Filter
	records  []*engine.TaskRecord // from a copy of the state, if it can be read
	tasks    local.Tasks          // of the agent that runs
}

// Bundle writes the archive. It returns how many of its files could not be made; the error is of the writer alone.
func Bundle(ctx context.Context, opt BundleOptions) (failed int, err error) {
	opt.Root = cmp.Or(opt.Root, "/")
	s := &supporter{BundleOptions: opt, now: time.Now()}
	cfg, warnings, err := config.Load(opt.Config)
	s.warnings, s.refused = warnings, err
	if err != nil { // what can be had with the defaults
		if cfg, _, err = config.Load(config.Options{Environ: []string{}, File: os.DevNull}); err != nil {
			cfg = &config.Config{DataDir: "/var/lib/ecs/data"}
		}
	}
	s.Agent = &Agent{opt: opt.Options, cfg: cfg, log: zap.NewNop()}
	s.client = local.Client{Dir: cfg.DataDir}
	s.readState()
	quick, cancel := context.WithTimeout(ctx, 5*time.Second)
	_ = s.client.Call(quick, http.MethodGet, "/v1/tasks", nil, &s.tasks)
	cancel()
	s.learn()
	return bundle.Write(ctx, opt.Out, opt.Name, s.pieces(), &s.filter, s.now)
}

// readState reads the tasks on record from a copy of the state file, which may be of a moment at which it was written to.
func (s *supporter) readState() {
	for range 3 {
		f, err := os.Open(filepath.Join(s.cfg.DataDir, statemgr.DatabaseName))
		if err != nil {
			return
		}
		db, err := statemgr.Copy(f)
		_ = f.Close()
		if err != nil {
			continue
		}
		s.records = nil
		err = db.Each("tasks", func(_ string, value []byte) error {
			var rec engine.TaskRecord
			if json.Unmarshal(value, &rec) == nil && rec.Task != nil {
				s.records = append(s.records, &rec)
			}
			return nil
		})
		_ = db.Close()
		if err == nil {
			return
		}
	}
}

// learn tells the filter this host's secrets.
func (s *supporter) learn() {
	f, c := &s.filter, s.cfg
	f.Know(string(c.SecretAccessKey), string(c.SessionToken), string(c.EngineAuthData))
	f.KnowAll([]byte(c.EngineAuthData))
	for _, u := range []string{c.Proxy.HTTP, c.Proxy.HTTPS, c.APIEndpoint, c.DockerEndpoint} {
		f.KnowURL(u)
	}
	environ := s.opt.Config.Environ
	if environ == nil {
		environ = os.Environ()
	}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		f.KnowNamed(name, value)
	}
	if data, err := durable.Read(cmp.Or(s.opt.Config.File, config.DefaultFile), smallFile); err == nil {
		assignments, _ := config.ParseEnvFile(data)
		for _, a := range assignments {
			f.KnowNamed(a.Key, a.Value)
			if strings.HasPrefix(a.Value, "{") || strings.HasPrefix(a.Value, "[") {
				s.learnNamed([]byte(a.Value))
			}
		}
	}
	for _, name := range []string{c.DockerConfigFile(), filepath.Join(c.DataDir, hostkey.FileName)} {
		if data, err := durable.Read(name, smallFile); err == nil {
			f.KnowAll(data)
		}
	}
	if data, err := durable.Read(filepath.Join(c.DataDir, ids.KeyName), smallFile); err == nil {
		f.Know(string(data))
	}
	for _, name := range []string{c.SharedCredentialsFile, "/root/.aws/credentials"} {
		if data, err := durable.Read(name, smallFile); name != "" && err == nil {
			for line := range strings.Lines(string(data)) {
				key, value, _ := strings.Cut(line, "=")
				f.KnowNamed(key, value)
			}
		}
	}
	named := map[string]bool{}
	for _, rec := range s.records {
		s.learnTask(rec.Task, named)
		for _, cr := range rec.Containers {
			f.Know(cr.EndpointID)
		}
	}
	for _, t := range s.tasks.Tasks {
		for _, ct := range t.Containers {
			if ct.PID > 0 {
				f.KnowProcess(filepath.Join(s.opt.Root, "proc"), ct.PID, named)
			}
		}
	}
}

// learnNamed tells the filter the members of a JSON document whose names say that they are secrets.
func (s *supporter) learnNamed(document []byte) {
	var m map[string]any
	if json.Unmarshal(document, &m) != nil {
		return
	}
	for name, v := range m {
		if text, ok := v.(string); ok {
			s.filter.KnowNamed(name, text)
		}
	}
}

// learnTask tells the filter what a task's definition has in clear. named gets the names of variables that are secrets.
func (s *supporter) learnTask(t *acs.Task, named map[string]bool) {
	for _, c := range t.Containers {
		for name, value := range c.Environment {
			s.filter.KnowNamed(name, value)
		}
		for _, secret := range c.Secrets {
			if secret != nil {
				named[secret.Name] = true
			}
		}
		if c.DockerConfig == nil {
			continue
		}
		var conf struct{ Labels map[string]string }
		var host struct {
			LogConfig struct{ Config map[string]string }
		}
		_, _ = json.Unmarshal([]byte(c.DockerConfig.Config), &conf), json.Unmarshal([]byte(c.DockerConfig.HostConfig), &host)
		for _, m := range []map[string]string{conf.Labels, host.LogConfig.Config} {
			for name, value := range m {
				s.filter.KnowNamed(name, value)
			}
		}
	}
}

// pieces are the files of the archive.
func (s *supporter) pieces() []bundle.Piece {
	since, root, c := s.now.Add(-s.Since), s.opt.Root, s.cfg
	pieces := []bundle.Piece{
		{Name: "versions.txt", Make: s.versions},
		{Name: "settings.txt", Make: s.settings},
		{Name: "doctor.txt", Within: 90 * time.Second, Make: s.doctor},
		{Name: "state/status.json", Make: s.asked("/v1/status", &local.Status{})},
		{Name: "state/tasks.json", Make: s.asked("/v1/tasks", &local.Tasks{})},
		{Name: "state/records.json", Most: 16 << 20, Make: s.recorded},
		{Name: "state/files.txt", Make: s.files},
		{Name: "engine/info.json", Make: s.engineInfo},
		{Name: "engine/containers.json", Make: s.containers},
		bundle.Files("kernel/proc.txt", root, "proc/version", "proc/cmdline", "proc/uptime", "proc/loadavg", "proc/meminfo", "proc/cgroups", "proc/self/cgroup", "proc/self/mountinfo", "proc/pressure/*", "etc/os-release", "sys/fs/cgroup/cgroup.controllers", "sys/class/dmi/id/sys_vendor", "sys/class/dmi/id/product_name", "proc/sys/kernel/random/boot_id"),
		bundle.Files("kernel/modules.txt", root, "proc/modules"),
		bundle.Files("kernel/sysctl.txt", root, "proc/sys/net/ipv4/ip_forward", "proc/sys/net/ipv4/ip_local_port_range", "proc/sys/net/ipv4/conf/*/rp_filter", "proc/sys/net/ipv4/conf/*/route_localnet", "proc/sys/net/ipv4/conf/*/forwarding", "proc/sys/net/ipv6/conf/*/forwarding", "proc/sys/net/ipv6/conf/*/accept_ra", "proc/sys/net/ipv6/conf/*/disable_ipv6",
			"proc/sys/net/bridge/*", "proc/sys/fs/file-max", "proc/sys/fs/file-nr", "proc/sys/fs/inotify/*", "proc/sys/kernel/pid_max", "proc/sys/kernel/threads-max", "proc/sys/vm/overcommit_memory", "proc/sys/vm/max_map_count"),
		bundle.Disks("disks.txt", "/", c.DataDir, filepath.Dir(c.Log.File), "/var/lib/docker", "/var/lib/containerd", "/run"),
		bundle.Command("network/links.txt", []string{"ip", "-d", "address"}, []string{"ip", "rule"}, []string{"ip", "route", "show", "table", "all"}, []string{"ip", "-6", "rule"}, []string{"ip", "-6", "route", "show", "table", "all"}, []string{"ip", "neigh"}, []string{"ip", "netns"}),
		bundle.Command("network/nftables.txt", []string{"nft", "list", "ruleset"}),
		bundle.Command("network/iptables.txt", []string{"iptables-save", "-c"}, []string{"ip6tables-save", "-c"}),
		bundle.Command("systemd/units.txt", []string{"systemctl", "show", "longshore-agent.service", "docker.service", "containerd.service", "-p", "Id,LoadState,ActiveState,SubState,Result,StatusText,NRestarts,ExecMainStartTimestamp,ExecMainStatus,MainPID,MemoryCurrent,CPUUsageNSec,TasksCurrent,FragmentPath,DropInPaths,NeedDaemonReload,WatchdogUSec"}),
		bundle.Command("systemd/journal.txt", []string{"journalctl", "--no-pager", "-o", "short-iso", "-n", "5000", "--since", since.UTC().Format("2006-01-02 15:04:05 UTC"), "-u", "longshore-agent.service"}),
	}
	if c.Log.File != "" {
		pieces = append(pieces, bundle.Log("logs/"+filepath.Base(c.Log.File), c.Log.File, since, mostLog))
	}
	if c.AuditFile != "" && !c.AuditOff {
		pieces = append(pieces, bundle.Log("logs/"+filepath.Base(c.AuditFile), c.AuditFile, since, mostLog/4))
	}
	return append(pieces, s.ofTasks()...)
}

// ofTasks are those of single tasks: why they are not RUNNING, and their network.
func (s *supporter) ofTasks() (pieces []bundle.Piece) {
	explained, namespaces := 0, map[string]bool{}
	for _, t := range s.tasks.Tasks {
		if t.KnownStatus != "RUNNING" && explained < mostExplained {
			explained++
			pieces = append(pieces, bundle.Piece{Name: "tasks/" + t.ID + "/explain.txt", Make: s.asked("/v1/explain?"+url.Values{"task": {t.Arn}}.Encode(), &local.Explanation{})})
		}
		for _, ct := range t.Containers {
			space, err := os.Readlink(filepath.Join(s.opt.Root, "proc", strconv.Itoa(ct.PID), "ns/net"))
			if own, _ := os.Readlink(filepath.Join(s.opt.Root, "proc/self/ns/net")); ct.PID == 0 || err != nil || space == own || namespaces[space] || len(namespaces) == mostNamespaces {
				continue
			}
			namespaces[space] = true
			in := []string{"nsenter", "--net=/proc/" + strconv.Itoa(ct.PID) + "/ns/net"}
			with := func(argv ...string) []string { return append(in[:len(in):len(in)], argv...) }
			pieces = append(pieces, bundle.Command("tasks/"+t.ID+"/network-"+ct.Name+".txt", with("ip", "-d", "address"), with("ip", "route", "show", "table", "all"), with("nft", "list", "ruleset")))
		}
	}
	return pieces
}

func (s *supporter) versions(_ context.Context, w io.Writer) error {
	fmt.Fprintf(w, "longshore-agent %s (%s)\n\n", s.opt.Version, s.opt.Hash)
	if info, ok := debug.ReadBuildInfo(); ok {
		fmt.Fprint(w, info)
	}
	return nil
}

func (s *supporter) settings(_ context.Context, w io.Writer) error {
	for _, set := range s.cfg.Settings {
		if set.Source != "default" || set.Note != "" {
			fmt.Fprintf(w, "%s=%s (%s) %s\n", set.Name, set.Value, set.Source, set.Note)
		}
	}
	for _, warning := range s.warnings {
		fmt.Fprintf(w, "\nwarning: %s\n", warning)
	}
	if s.refused != nil {
		fmt.Fprintf(w, "\nAn agent does not start with this configuration; what is in the other files was looked for where the defaults say.\n")
	}
	return s.refused
}

func (s *supporter) doctor(ctx context.Context, w io.Writer) error {
	report, err := Doctor(ctx, s.opt)
	if err != nil {
		return err
	}
	return report.Print(w)
}

// asked makes a piece of what the agent that runs answers.
func (s *supporter) asked(path string, out any) func(context.Context, io.Writer) error {
	return func(ctx context.Context, w io.Writer) error {
		if err := s.client.Call(ctx, http.MethodGet, path, nil, out); err != nil {
			return err
		}
		switch out := out.(type) {
		case *local.Explanation:
			withoutOutput(&out.Task)
			return out.Print(w)
		case *local.Tasks:
			for i := range out.Tasks {
				withoutOutput(&out.Tasks[i])
			}
		}
		return writeJSON(w, out)
	}
}

// withoutOutput takes out what containers have printed, which can be anything.
func withoutOutput(t *local.Task) {
	for i := range t.Containers {
		t.Containers[i].LastOutput, t.Containers[i].HealthSays = "", ""
	}
}

// recorded is what the state file says of tasks, without what their definitions say.
func (s *supporter) recorded(_ context.Context, w io.Writer) error {
	if s.records == nil {
		return errors.New("the state file has no tasks, or can't be read")
	}
	type record struct {
		Arn, Family, Version string
		*engine.TaskRecord
		Task *struct{} `json:"task,omitempty"` // hides the definition
	}
	for _, rec := range s.records {
		for _, cr := range rec.Containers {
			cr.Log = nil // what it has printed
		}
		if err := writeJSON(w, record{Arn: rec.Task.Arn, Family: rec.Task.Family, Version: rec.Task.Version, TaskRecord: rec}); err != nil {
			return err
		}
	}
	return nil
}

// files are the names, sizes and times of what is in the agent's directories, the identity, and what another agent has left.
func (s *supporter) files(_ context.Context, w io.Writer) error {
	for _, dir := range []string{s.cfg.DataDir, filepath.Dir(s.cfg.Log.File), filepath.Dir(config.DefaultFile)} {
		entries, err := os.ReadDir(dir)
		fmt.Fprintf(w, "%s:\n", dir)
		if err != nil {
			fmt.Fprintf(w, "  %v\n", err)
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil {
				fmt.Fprintf(w, "  %s %10d %s %s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.RFC3339), e.Name())
			}
		}
	}
	id, err := statemgr.LoadIdentity(s.cfg.DataDir)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "\nidentity:")
	if err := writeJSON(w, id); err != nil {
		return err
	}
	other, err := dropin.Open(s.cfg.DataDir, filepath.Join(s.opt.Root, "proc"))
	if err != nil || other == nil {
		return err
	}
	defer func() { _ = other.Close() }()
	left, err := other.Read()
	if err == nil && left != nil {
		fmt.Fprintf(w, "\nan amazon-ecs-agent %s has left %s with %d tasks, transaction %d\n", left.AgentVersion, left.InstanceArn, len(left.Tasks), left.Transaction)
	}
	return err
}

func (s *supporter) engineInfo(ctx context.Context, w io.Writer) error {
	info, err := s.lookAtEngine(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", engineAddress(s.cfg), err)
	}
	return writeJSON(w, info)
}

// containers are those with ECS's labels, without the other labels.
func (s *supporter) containers(ctx context.Context, w io.Writer) error {
	r := s.opt.Runtime
	if r == nil {
		made, err := openEngine(s.cfg, nil, s.log)
		if err != nil {
			return err
		}
		defer func() { _ = made.Close() }()
		r = made
	}
	states, err := r.List(ctx)
	if err != nil {
		return err
	}
	for i := range states {
		kept := map[string]string{}
		for _, l := range []string{engine.LabelCluster, engine.LabelTaskArn, engine.LabelContainerName, engine.LabelFamily, engine.LabelVersion} {
			kept[l] = states[i].Labels[l]
		}
		states[i].Labels = kept
	}
	return writeJSON(w, states)
}

func writeJSON(w io.Writer, v any) error {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(out.Bytes())
	return err
}
