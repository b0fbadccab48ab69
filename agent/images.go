package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/internal/durable"
)

// newCache joins the image cache to its parts.
func (a *Agent) newCache() (*imagecache.Cache[engine.Image], error) {
	keyring, err := imagecache.ParseKeyring(a.cfg.EngineAuthType, string(a.cfg.EngineAuthData))
	if err != nil {
		return nil, &TerminalError{fmt.Errorf("ECS_ENGINE_AUTH_DATA: %w", err)}
	}
	c := imagecache.Config{
		Behaviour: imagecache.Behaviour(a.cfg.ImagePullBehavior), Credentials: keyring, DockerConfig: imagecache.NewDockerConfig(a.cfg.DockerConfigFile(), a.cfg.HelperEnvironment()), Authority: a.secrets, Ledger: newPulled(a.cfg.DataDir, a.log),
		Places: int(a.cfg.ImagePulls), PerRegistry: int(a.cfg.ImagePullsPerRegistry), Inactivity: a.cfg.ImagePullInactivity, Manifest: a.cfg.ManifestPullTimeout, Timeout: a.cfg.ImagePullTimeout, Log: a.log,
	}
	if user, ok := a.runtime.(engine.ImageUser); ok {
		c.Collection = imagecache.Collection{
			Store: &imageStore{a: a, user: user}, Journal: &imageJournal{path: filepath.Join(a.cfg.DataDir, imagesName), log: a.log}, Rules: a.imageRules(), Interval: a.cfg.ImageCleanupInterval,
		}
		if foreign, ok := a.runtime.(engine.ForeignContainers); ok {
			c.Collection.Containers = foreignContainers{foreign}
		}
		if a.cfg.ImageSizeCheck {
			c.HTTPClient = a.client
		}
		if a.cfg.ImageCleanupOff || c.Behaviour == imagecache.PreferCached { // as ECS does
			c.Collection.Interval = 0
		}
	}
	return imagecache.New(puller{a.runtime}, c)
}

// alwaysKept are the images that ECS never removes, and the agent's own.
var alwaysKept = []string{"amazon/amazon-ecs-agent:latest", "longshore/pause:*"}

func (a *Agent) imageRules() imagecache.Rules {
	r := imagecache.Rules{
		MinimumAge: a.cfg.ImageCleanupAge, ForeignAge: a.cfg.ForeignImageCleanupAge, PerCycle: int(a.cfg.ImagesPerCleanup), Foreign: a.cfg.ForeignImageCleanup,
		ContainerAge: a.cfg.TaskCleanupWait, ContainersPerCycle: int(a.cfg.ForeignContainersPerCleanup),
		High: a.cfg.ImageHighPercent, Low: min(a.cfg.ImageLowPercent, a.cfg.ImageHighPercent),
	}
	r.Keep = append(append(append(r.Keep, alwaysKept...), a.cfg.ImagesExcluded...), a.cfg.ImagesPinned...)
	return r
}

// imageStore is the engine and the tasks as the collection of images asks about them.
type imageStore struct {
	a    *Agent
	user engine.ImageUser
}

// Images are the engine's.
func (s *imageStore) Images(ctx context.Context) ([]imagecache.Local, error) {
	list, err := s.a.runtime.Images(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]imagecache.Local, 0, len(list))
	for i := range list {
		out = append(out, imagecache.Local{ID: list[i].ID, Names: list[i].Names, Size: list[i].Size, Created: list[i].Created})
	}
	return out, nil
}

// Uses asks the engine for all its containers, and the agent for its tasks. The images of the last task of each daemon stay
// too: its next one is to find them.
func (s *imageStore) Uses(ctx context.Context) (imagecache.Uses, error) {
	u := imagecache.Uses{By: map[string]string{}, Ours: map[string]bool{}, Pins: map[string]string{}}
	select {
	case <-s.a.engine.Ready():
	default:
		return u, errors.New("the containers of this host were not all looked at yet")
	}
	// Tasks first: what one of them creates meanwhile is in the list of containers.
	tasks := s.a.engine.Tasks()
	last := map[string]*engine.TaskStatus{} // by DAEMON service
	for _, list := range [][]engine.TaskStatus{s.a.engine.Past(), tasks} {
		for i := range list {
			t := &list[i]
			if t.Payload == nil || t.Payload.SchedulingStrategy != "DAEMON" || t.Payload.ServiceName == "" {
				continue
			}
			if before := last[t.Payload.ServiceName]; before == nil || t.AcceptedAt.After(before.AcceptedAt) {
				last[t.Payload.ServiceName] = t
			}
		}
	}
	for service, t := range last {
		note(u.Pins, t, fmt.Sprintf("it is of the daemon %s of this host", service))
	}
	s.a.pinPreloaded(u.Pins)
	for i := range tasks {
		if t := &tasks[i]; t.Known != "STOPPED" {
			note(u.By, t, "task "+t.Arn+" needs it")
		}
	}
	containers, err := s.user.ImageUses(ctx)
	if err != nil {
		return u, err
	}
	for _, c := range containers {
		u.By[c.ImageID] = fmt.Sprintf("container %s (%s) was made from it", c.Name, c.Status)
		u.Ours[c.ImageID] = u.Ours[c.ImageID] || c.Ours
	}
	return u, nil
}

func note(m map[string]string, t *engine.TaskStatus, why string) {
	for _, c := range t.Containers {
		m[c.Image] = why
		if c.ImageID != "" {
			m[c.ImageID] = why
		}
	}
}

// Remove removes an image, or one of its names.
func (s *imageStore) Remove(ctx context.Context, ref string) error {
	return s.a.runtime.RemoveImage(ctx, ref)
}

// Disk looks at the engine's data root, unless the engine is on another host.
func (s *imageStore) Disk() imagecache.Disk {
	root := s.a.info.Load().Root
	if e := engineAddress(s.a.cfg); e != "" && !strings.HasPrefix(e, "unix://") || root == "" {
		return imagecache.Disk{}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		return imagecache.Disk{}
	}
	return imagecache.Disk{
		Path: root, Free: imagecache.Room{Bytes: int64(fs.Bavail) * fs.Bsize, Inodes: int64(fs.Ffree)},
		Total: imagecache.Room{Bytes: int64(fs.Blocks) * fs.Bsize, Inodes: int64(fs.Files)},
	}
}

// foreignContainers are the engine's containers that no ECS agent made.
type foreignContainers struct{ engine.ForeignContainers }

// Foreign lists those that do not run.
func (f foreignContainers) Foreign(ctx context.Context, most int) ([]imagecache.Container, error) {
	list, err := f.ForeignContainers.Foreign(ctx, most)
	if err != nil {
		return nil, err
	}
	out := make([]imagecache.Container, 0, len(list))
	for _, s := range list {
		out = append(out, imagecache.Container{ID: s.ID, Name: s.Name, Image: s.Image, Status: string(s.Status), Created: s.CreatedAt, Ended: s.FinishedAt, Seen: s})
	}
	return out, nil
}

// RemoveForeign removes one that is as it was listed.
func (f foreignContainers) RemoveForeign(ctx context.Context, c imagecache.Container) error {
	seen, ok := c.Seen.(engine.State)
	if !ok {
		return errors.New("it was not listed")
	}
	return f.ForeignContainers.RemoveForeign(ctx, seen)
}

// imagesName is the file of what is remembered of images.
const imagesName = "images.json"

// maxImages bounds it.
const maxImages = 16 << 20

// imageJournal is that file: a JSON text that is replaced as a whole.
type imageJournal struct {
	path string
	log  *zap.Logger
}

// Load reads it. One that can't be read is as good as none: images stay longer.
func (j *imageJournal) Load() (t imagecache.Tracks) {
	data, err := durable.Read(j.path, maxImages)
	if errors.Is(err, fs.ErrNotExist) {
		return t
	}
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	if err != nil {
		j.log.Warn("What is remembered of images can't be read; those that no container uses stay until a task has them pulled again", zap.String("path", j.path), zap.Error(err))
		return imagecache.Tracks{}
	}
	return t
}

// Save writes it durably.
func (j *imageJournal) Save(t imagecache.Tracks) error {
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return writeDurably(j.path, data)
}

// collect answers longshore-agent gc.
func (a *Agent) collect(w http.ResponseWriter, r *http.Request, started bool) {
	ctx, cancel := context.WithTimeout(r.Context(), 9*time.Minute)
	defer cancel()
	if !started {
		local.Refuse(w, http.StatusServiceUnavailable, errors.New("the container engine has not answered since the agent's start"))
		return
	}
	report, err := a.cache.Collect(ctx, r.URL.Query().Get("dryRun") == "true")
	if err != nil {
		local.Refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	local.Answer(w, local.CollectionOf(report, time.Now()))
}
