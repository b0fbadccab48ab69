package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/gpu"
	"github.com/longshore-project/longshore/agent/secrets"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/volume"
	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/protocol/awsapi"
)

// newRuntime makes the Runtime of the configured engine; nothing is asked of it yet.
func (a *Agent) newRuntime() (engine.Runtime, error) {
	if a.opt.Runtime != nil {
		return a.opt.Runtime, nil
	}
	if err := a.openBridge(); err != nil {
		return nil, fmt.Errorf("the bridge for containers: %w", err)
	}
	r, err := openEngine(a.cfg, a.bridge, a.log)
	if err != nil {
		return nil, &TerminalError{err}
	}
	return timed{r, a.metrics}, nil
}

// newSecrets makes what fetches the values, files and registry credentials that tasks name; host are this host's own.
func (a *Agent) newSecrets(host aws.CredentialsProvider) *secrets.Resolver {
	client := awsapi.New(awsapi.Config{Endpoints: a.cfg.Endpoints, HTTPClient: a.client, UserAgent: a.userAgent()})
	return secrets.New(secrets.Config{AWS: client, Roles: a.roles, Host: host, Region: a.cfg.Region, Log: a.log})
}

// newEngine joins the engine to its parts.
func (a *Agent) newEngine() (*engine.Engine, error) {
	cache, err := a.newCache()
	if err != nil {
		return nil, err
	}
	a.cache, a.preloads = cache, a.newPreloads()
	a.preparer = a.newPreparer()
	groups, err := a.newGroups()
	if err != nil {
		return nil, err
	}
	a.guard = a.newGuard()
	ports := a.host.Ephemeral
	if p := a.cfg.DynamicPorts; p.First != 0 {
		ports = [2]int32{int32(p.First), int32(p.Last)}
	}
	c := engine.Config{
		Runtime: a.runtime, Images: images{cache}, Volumes: volume.New(volume.Options{CreateAsUser: a.cfg.HostVolumeCreateAsUser}),
		State: a.state, Secrets: a.secrets, Groups: groups, Policy: a.guard, Prepare: a.prepares(), Ready: a.ready, Log: a.log, Changed: a.changed, Stepped: a.metrics.Step, Looked: a.looks.Beat,
		Host: engine.Host{
			Cluster: a.cfg.ClusterOrDefault(), InstanceArn: a.savedArn(), Region: a.cfg.Region, CPU: a.host.CPU, Memory: a.host.Memory,
			ReservedTCP: widen(a.cfg.ReservedPorts), ReservedUDP: widen(a.cfg.ReservedPortsUDP), DynamicPorts: ports,
			DisablePrivileged: a.cfg.PrivilegedDisabled, VolumeCheck: a.cfg.HostVolumeCheck, PropagateMemory: a.cfg.PropagateTaskMemory && a.info.Load().CgroupVersion == 2,
			FirelensDir: filepath.Join(a.cfg.DataDir, "firelens"), FirelensAsync: a.cfg.FirelensAsync, PauseLabels: a.cfg.PauseLabels,
			MatchSharedVolumes: a.cfg.MatchSharedVolumes, EFSPlugin: slices.Contains(a.cfg.VolumePlugin, "efsAuth"), GPUs: a.gpus,
		},
		BootID: a.host.BootID, ResumeDaemons: a.cfg.ResumeOnBoot == "daemons",
		CleanupJitter: a.cfg.TaskCleanupJitter, KeepPerFamily: int(a.cfg.StoppedTasksKept), OrphanPolicy: a.cfg.OrphanPolicy, Disowned: a.disowned,
		DiskPressure: a.diskShort,
		NoLogCopy:    !a.cfg.ContainerLogCopy,
		LogMaxSize:   a.cfg.ContainerLogMaxSize, LogMaxFiles: int(a.cfg.ContainerLogMaxFiles),
		StopTimeout: a.cfg.ContainerStopTimeout, CleanupWait: a.cfg.TaskCleanupWait, CreateTimeout: a.cfg.ContainerCreateTimeout,
		StartTimeout: a.cfg.ContainerStartTimeout, PullTimeout: a.cfg.ImagePullTimeout,
	}
	if a.networking, err = a.newNetworking(); err != nil {
		return nil, err
	}
	if a.networking != nil {
		c.Networks = a.networking
	}
	if a.opt.Engine != nil {
		a.opt.Engine(&c)
	}
	return engine.New(c)
}

func (a *Agent) savedArn() string {
	if a.identity == nil {
		return ""
	}
	return a.identity.ContainerInstanceArn
}

func widen(ports []uint16) []int32 {
	out := make([]int32, len(ports))
	for i, p := range ports {
		out[i] = int32(p)
	}
	return out
}

// puller is the engine as the image cache asks it.
type puller struct{ engine.Runtime }

// Pull pulls an image.
func (p puller) Pull(ctx context.Context, ref string, c *imagecache.Credentials, f func(imagecache.Progress)) (engine.Image, error) {
	var auth *engine.RegistryAuth
	if c != nil {
		auth = &engine.RegistryAuth{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, ServerAddress: c.ServerAddress}
	}
	return p.Runtime.Pull(ctx, ref, auth, func(p engine.Progress) { f(imagecache.Progress(p)) })
}

// Layers are those of the engine's images; none where it does not say.
func (p puller) Layers(ctx context.Context) ([]string, error) {
	if l, ok := p.Runtime.(engine.Layered); ok {
		return l.Layers(ctx)
	}
	return nil, nil
}

// Identity is an image's id and digest.
func (puller) Identity(i engine.Image) (id, digest string) { return i.ID, i.Digest }

// images is the image cache as the engine asks it.
type images struct {
	cache *imagecache.Cache[engine.Image]
}

// Ensure makes an image local and holds it.
func (i images) Ensure(ctx context.Context, req engine.ImageRequest) (engine.Image, func(), error) {
	return i.cache.Ensure(ctx, imagecache.Request{
		TaskArn: req.TaskArn, Container: req.Container, Ref: req.Ref, Priority: req.Priority, Auth: req.Auth,
		Progress: func(p imagecache.Progress) {
			if req.Progress != nil {
				req.Progress(engine.Progress(p))
			}
		},
		Note: req.Note,
	})
}

// pulledName is the file of the image references that were pulled, for ECS_IMAGE_PULL_BEHAVIOR=once.
const pulledName = "pulled-images.json"

// pulled remembers them: a JSON list that is replaced as a whole.
type pulled struct {
	path string
	mu   sync.Mutex
	refs []string
}

func newPulled(dir string, log *zap.Logger) *pulled {
	p := &pulled{path: filepath.Join(dir, pulledName)}
	data, err := os.ReadFile(p.path)
	if err == nil {
		err = json.Unmarshal(data, &p.refs)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("The list of pulled images can't be read; with ECS_IMAGE_PULL_BEHAVIOR=once they are pulled once more", zap.String("path", p.path), zap.Error(err))
		p.refs = nil
	}
	return p
}

// Pulled says whether a reference was pulled by this agent.
func (p *pulled) Pulled(ref string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.refs, ref)
}

// SetPulled remembers a reference.
func (p *pulled) SetPulled(ref string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Contains(p.refs, ref) {
		return nil
	}
	data, err := json.Marshal(append(p.refs, ref))
	if err != nil {
		return err
	}
	if err := writeDurably(p.path, data); err != nil {
		return err
	}
	p.refs = append(p.refs, ref)
	return nil
}

// tokenName is the file of the client token of a registration whose answer is not known to be saved.
const tokenName = "registration-token"

// keptToken is the token of the registration that is under way in dir, or of a new one. It is durable before the call, so
// that an agent which is killed between the answer and saving it registers the same container instance again, not another.
func keptToken(dir string) (string, error) {
	name := filepath.Join(dir, tokenName)
	if data, err := os.ReadFile(name); err == nil {
		if id, err := uuid.Parse(string(data)); err == nil {
			return id.String(), nil
		}
	}
	token := uuid.NewString()
	if err := writeDurably(name, []byte(token)); err != nil {
		return "", fmt.Errorf("keep the registration's token: %w", err)
	}
	return token, nil
}

// dropToken ends the registration that is under way.
func dropToken(dir string) { _ = os.Remove(filepath.Join(dir, tokenName)) }

// writeDurably replaces a file as a whole; the data is on the disk when it returns nil.
func writeDurably(name string, data []byte) error { return durable.Write(name, data, 0o600) }

// findGPUs looks for the host's GPUs where they are to be offered.
func (a *Agent) findGPUs() {
	if !a.cfg.GPUs {
		return
	}
	var warnings []string
	a.gpus, warnings = gpu.Discover(a.cfg.CDIDirs, engineNamed(a.cfg) == config.EngineContainerd)
	for _, w := range warnings {
		a.log.Warn(w)
	}
	ids := slices.Sorted(maps.Keys(a.gpus))
	if len(ids) == 0 {
		a.log.Warn("ECS_ENABLE_GPU_SUPPORT is set, and no CDI specification names a GPU; nvidia-ctk cdi generate writes one", zap.Strings("directories", a.cfg.CDIDirs))
		return
	}
	a.log.Info("The host's GPUs are offered to tasks", zap.Strings("gpus", ids))
}
