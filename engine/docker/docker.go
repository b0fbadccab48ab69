// Package docker is the engine.Runtime over the Docker Engine API.
//
// One [Runtime] speaks to one engine through github.com/docker/docker/client, in an API version that both know; the
// oldest it can speak is 1.24 (Docker 1.12), and 1.41 (Docker 20.10) is the oldest that is tested. An engine that is replaced is
// asked for its version anew. Nothing else of the program knows Docker's types.
//
//	docker.go      New, Info, Close
//	link.go        the client, in the API version of the engine that answers now
//	container.go   List, Inspect, Create, Start, Stop, Remove
//	output.go      Logs
//	exec.go        Exec
//	spec.go        engine.Spec → Docker's Config and HostConfig
//	state.go       Docker's answers → engine.State
//	events.go      Events
//	image.go       Image, Images, Pull, RemoveImage
//	shared.go      … one request for those who ask the same at the same time
//	files.go       ReadFile, Stat
//	asked.go       what running containers have of the host
//	errors.go      Docker's errors → classes of errdefs
//
// The engine is asked as little as possible. A container that this Runtime has created is known to be ours and not to
// have run, so the usual create and start are two requests; any other container is inspected once before it is touched.
package docker

import (
	"context"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/system"
	"github.com/moby/sys/user"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
)

// Config configures a [Runtime].
type Config struct {
	// Host is the engine's address, such as unix:///var/run/docker.sock. Empty means DOCKER_HOST, and with it
	// DOCKER_API_VERSION, DOCKER_CERT_PATH and DOCKER_TLS_VERIFY, else the default socket.
	Host string
	// Log may be nil.
	Log *zap.Logger
}

// Runtime is a Docker engine. Its zero value is not usable: see New.
type Runtime struct {
	link   *link
	log    *zap.Logger
	remote bool // the engine's files are not this host's
	known  known
	images readers
	asked  shared[image.InspectResponse] // images, by reference
}

var _ engine.Runtime = (*Runtime)(nil)

// New returns a Runtime. It does not speak to the engine, which may be down; Info tells.
func New(cfg Config) (*Runtime, error) {
	l, err := newLink(cfg.Host)
	if err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	r := &Runtime{link: l, log: cfg.Log, remote: l.remote()}
	r.images.init(l, cfg.Log)
	return r, nil
}

// Close removes the helpers that ReadFile and Stat may have left for a while, and closes the connections.
func (r *Runtime) Close() error {
	r.images.close()
	r.link.close()
	return nil
}

// Info asks for the engine's version and description, two requests side by side.
func (r *Runtime) Info(ctx context.Context) (engine.Info, error) {
	var (
		info    system.Info
		infoErr error
		wg      sync.WaitGroup
	)
	wg.Go(func() { info, infoErr = r.link.api(ctx).Info(ctx) })
	version, err := r.link.api(ctx).ServerVersion(ctx)
	wg.Wait()
	if err == nil {
		err = infoErr
	}
	if err != nil {
		return engine.Info{}, classify(ctx, err)
	}
	cgroups, _ := strconv.Atoi(info.CgroupVersion)
	if cgroups == 0 {
		cgroups = 1 // engines before 20.10 do not say, and know no other
	}
	return engine.Info{
		Name:          "docker",
		Version:       version.Version,
		APIVersion:    r.link.version(),
		APIVersions:   apiVersions(version.APIVersion),
		Root:          info.DockerRootDir,
		CgroupVersion: cgroups,
		CgroupDriver:  info.CgroupDriver,
		LogDrivers:    r.logDrivers(info.Plugins.Log),
		LogDriver:     info.LoggingDriver,
		VolumeDrivers: info.Plugins.Volume,
		SecurityOpts:  info.SecurityOptions,
		LiveRestore:   info.LiveRestoreEnabled,
		Runtime:       info.DefaultRuntime,
		UserNS:        userNS(info.SecurityOptions, info.DockerRootDir),
	}, nil
}

// apiVersions lists the versions up to the engine's newest. They begin with 1.17 even where the engine has given up old
// ones, as with Amazon ECS, so that the required attributes of old task definitions go on matching.
func apiVersions(newest string) []string {
	_, minor, _ := strings.Cut(newest, ".")
	last, _ := strconv.Atoi(minor)
	var all []string
	for m := 17; m <= last; m++ {
		all = append(all, "1."+strconv.Itoa(m))
	}
	return all
}

// logDrivers are the engine's, without journald where the host has no journal to write to, and with none, which is
// built in and not listed.
func (r *Runtime) logDrivers(plugins []string) []string {
	drivers := slices.Clone(plugins)
	if !r.remote {
		if _, err := os.Stat("/run/systemd/journal/socket"); err != nil {
			drivers = slices.DeleteFunc(drivers, func(d string) bool { return d == "journald" })
		}
	}
	if !slices.Contains(drivers, "none") {
		drivers = append(drivers, "none")
	}
	slices.Sort(drivers)
	return drivers
}

// userNS reads the remapping from the engine's root, which is <root>/<uid>.<gid> when there is one, and how many ids it
// covers from /etc/subuid and /etc/subgid.
func userNS(security []string, root string) *engine.UserNS {
	if !slices.ContainsFunc(security, func(s string) bool { return s == "name=userns" || strings.HasPrefix(s, "name=userns,") }) {
		return nil
	}
	uid, gid, _ := strings.Cut(path.Base(root), ".")
	u, err1 := strconv.ParseUint(uid, 10, 32)
	g, err2 := strconv.ParseUint(gid, 10, 32)
	if err1 != nil || err2 != nil {
		return nil
	}
	return &engine.UserNS{
		UIDFirst: uint32(u), UIDSize: rangeSize("/etc/subuid", u),
		GIDFirst: uint32(g), GIDSize: rangeSize("/etc/subgid", g),
	}
}

func rangeSize(file string, first uint64) uint32 {
	ranges, err := user.ParseSubIDFileFilter(file, func(s user.SubID) bool { return s.SubID == int64(first) })
	if err != nil || len(ranges) == 0 {
		return 65536
	}
	return uint32(ranges[0].Count)
}
