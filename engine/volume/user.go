package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
)

// maxUserFile bounds /etc/passwd and /etc/group of an image.
const maxUserFile = 1 << 20

// identity is the container's user as the container sees it.
type identity struct {
	uid, gid uint32
	groups   []uint32 // supplementary
	spec     string   // as it was written; empty for the default
}

// name is how messages call the user.
func (i identity) name() string {
	if i.spec == "" || i.spec == fmt.Sprint(i.uid) {
		return fmt.Sprintf("uid %d gid %d", i.uid, i.gid)
	}
	return fmt.Sprintf("user %q (uid %d gid %d)", i.spec, i.uid, i.gid)
}

// parseUser resolves user[:group] as container engines do: names in the image's files, numbers as they are, an empty
// string as uid 0. A number that the passwd file does not have gets gid 0 and no supplementary group.
func parseUser(spec string, passwd, group []byte) (identity, error) {
	if strings.ContainsAny(spec, "\x00\n\r") {
		return identity{}, errors.New("the user string has a control character")
	}
	u, err := user.GetExecUser(spec, nil, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return identity{}, err
	}
	id := identity{spec: spec}
	if id.uid, err = id32(u.Uid); err != nil {
		return identity{}, err
	}
	if id.gid, err = id32(u.Gid); err != nil {
		return identity{}, err
	}
	for _, g := range u.Sgids {
		n, err := id32(g)
		if err != nil {
			return identity{}, err
		}
		id.groups = append(id.groups, n)
	}
	slices.Sort(id.groups)
	id.groups = slices.Compact(id.groups)
	return id, nil
}

func id32(n int) (uint32, error) {
	if n < 0 || int64(n) > 0xfffffffe {
		return 0, fmt.Errorf("id %d is out of range", n)
	}
	return uint32(n), nil
}

// userCache remembers users by image and user string, and image paths by image and path: reading a file out of an image
// costs tens of milliseconds, and images never change.
type userCache struct {
	mu    sync.Mutex
	users map[[2]string]identity
	stats map[[2]string]statAnswer
}

type statAnswer struct {
	info    engine.FileInfo
	missing bool
}

// maxCached bounds each map; a full one is begun anew.
const maxCached = 4096

func newUserCache() *userCache {
	return &userCache{users: map[[2]string]identity{}, stats: map[[2]string]statAnswer{}}
}

// errImage is the class of a failure to read the image, which says nothing about the user.
var errImage = errors.New("the image could not be read")

// resolve returns the user of the request. errImage: the engine did not hand out the files.
func (c *userCache) resolve(ctx context.Context, req engine.VolumeRequest) (identity, error) {
	key := [2]string{req.ImageID, req.User}
	c.mu.Lock()
	id, ok := c.users[key]
	c.mu.Unlock()
	if ok {
		return id, nil
	}
	passwd, err := readOptional(ctx, req, "/etc/passwd")
	if err != nil {
		return identity{}, err
	}
	group, err := readOptional(ctx, req, "/etc/group")
	if err != nil {
		return identity{}, err
	}
	id, err = parseUser(req.User, passwd, group)
	if err != nil {
		return identity{}, fmt.Errorf("user %q of the container can't be resolved in the image's /etc/passwd and /etc/group: %w; use a number, or a name that the image has", req.User, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.users) >= maxCached {
		clear(c.users)
	}
	c.users[key] = id
	return id, nil
}

// readOptional reads a file of the image; a missing one is empty.
func readOptional(ctx context.Context, req engine.VolumeRequest, path string) ([]byte, error) {
	b, err := req.Files.ReadFile(ctx, req.ImageID, path, maxUserFile)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s of image %s: %w", errImage, path, req.ImageID, err)
	}
	return b, nil
}

// stat returns a path of the image without following it.
func (c *userCache) stat(ctx context.Context, req engine.VolumeRequest, path string) (statAnswer, error) {
	key := [2]string{req.ImageID, path}
	c.mu.Lock()
	a, ok := c.stats[key]
	c.mu.Unlock()
	if ok {
		return a, nil
	}
	info, err := req.Files.Stat(ctx, req.ImageID, path)
	switch {
	case errdefs.IsNotFound(err):
		a = statAnswer{missing: true}
	case err != nil:
		return statAnswer{}, err
	default:
		a = statAnswer{info: info}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.stats) >= maxCached {
		clear(c.stats)
	}
	c.stats[key] = a
	return a, nil
}

// The capabilities that override file permissions.
const (
	capDacOverride   = uint64(1) << unix.CAP_DAC_OVERRIDE
	capDacReadSearch = uint64(1) << unix.CAP_DAC_READ_SEARCH
)

// capabilities are those of the two that the container's process will have. Engines give capabilities to uid 0 only: another
// uid gets them into its bounding set, where they have no effect on file permissions. CAP_DAC_OVERRIDE is in every engine's
// default set, CAP_DAC_READ_SEARCH in none.
func capabilities(uid uint32, req engine.VolumeRequest) uint64 {
	switch {
	case uid != 0:
		return 0
	case req.Privileged:
		return capDacOverride | capDacReadSearch
	}
	caps := capDacOverride
	for name, bit := range map[string]uint64{"DAC_OVERRIDE": capDacOverride, "DAC_READ_SEARCH": capDacReadSearch} {
		add, addAll := named(req.CapAdd, name)
		drop, dropAll := named(req.CapDrop, name)
		switch {
		case drop && !add, dropAll && !add && !addAll:
			caps &^= bit
		case add, addAll:
			caps |= bit
		}
	}
	return caps
}

// named tells whether a capability list holds name, and whether it holds ALL.
func named(list []string, name string) (has, all bool) {
	for _, c := range list {
		c = strings.TrimPrefix(strings.ToUpper(c), "CAP_")
		has = has || c == name
		all = all || c == "ALL"
	}
	return has, all
}
