package imagecache

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/internal/durable"
)

// DockerConfig has the credentials that Docker's own file names (~/.docker/config.json): in "auths", and those that a
// credential helper gives out, for single registries ("credHelpers") or for all ("credsStore"). As with Docker's command,
// the helper of a registry goes before the store of all, and a helper that fails fails the pull: going on without
// credentials would end in a refusal that names the wrong reason, or in a public image of the same name. Where a helper
// knows nothing of a registry, "auths" is looked at, and then the pull goes on without credentials.
//
// The file is read for each pull, so a login counts from the next one on. No file means no credentials; one that can't be
// read fails each pull that depends on it, a member that can't be read only those of its registry.
type DockerConfig struct {
	path    string
	helpers helpers

	mu   sync.Mutex
	sum  [sha256.Size]byte
	file *dockerFile // of the sum
}

// NewDockerConfig reads path, and runs helpers with nothing but this environment; its PATH is where they are looked for.
func NewDockerConfig(path string, environment []string) *DockerConfig {
	return &DockerConfig{path: path, helpers: helpers{environment: environment, deadline: helperDeadline}}
}

const maxDockerConfig = 1 << 20

// hubServer is Docker Hub's name in the file and to helpers.
const hubServer = "https://index.docker.io/v1/"

// find returns the credentials for a repository (host/path); nil if there are none. stale, unless nil, are those that the
// registry refused just now. Its errors are Unauthenticated, or ctx's, and show no secret.
func (d *DockerConfig) find(ctx context.Context, repository string, stale *Credentials) (*Credentials, error) {
	if d == nil {
		return nil, nil
	}
	f, err := d.load()
	if err != nil {
		return nil, errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("the registry credentials in %s can't be read: %v; mend the file or take it away", d.path, err))
	}
	if helper := f.helper(repository); helper != "" {
		server, _, _ := strings.Cut(repository, "/")
		if server == dockerHub {
			server = hubServer
		}
		c, err := d.helpers.get(ctx, helper, server, stale)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf(
				"no credentials for %s, because docker-credential-%s, which %s names, %v; try: echo %s | docker-credential-%[2]s get; or name another source for it there, or in ECS_ENGINE_AUTH_DATA", server, helper, d.path, err, server))
		case c != nil:
			return c, nil
		}
	}
	for _, e := range f.auths {
		if !within(repository, e.scope) {
			continue
		}
		if e.err != nil {
			return nil, errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("the credentials for %s in %s can't be read: %v; log in again", e.scope, d.path, e.err))
		}
		c := e.Credentials
		c.Source = d.path
		return &c, nil
	}
	return nil, nil
}

// load reads the file, and forgets what helpers said when it is another than before.
func (d *DockerConfig) load() (*dockerFile, error) {
	data, err := durable.Read(d.path, maxDockerConfig)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = []byte("{}"), nil
	}
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	sum := sha256.Sum256(data)
	if d.file != nil && d.sum == sum {
		return d.file, nil
	}
	f, err := parseDockerConfig(data)
	if err != nil {
		return nil, err
	}
	d.sum, d.file = sum, f
	d.helpers.forget()
	return f, nil
}

// dockerFile is what the file says, the longest scopes first.
type dockerFile struct {
	auths   []fileEntry
	scoped  []scopedHelper
	general string // the helper for all registries
}

type fileEntry struct {
	entry
	err error // why it can't be read
}

type scopedHelper struct{ scope, name string }

// parseDockerConfig reads the file. Its errors show nothing of it.
func parseDockerConfig(data []byte) (*dockerFile, error) {
	var raw struct {
		Auths       map[string]json.RawMessage `json:"auths"`
		CredHelpers map[string]string          `json:"credHelpers"`
		CredsStore  string                     `json:"credsStore"`
	}
	err := json.Unmarshal(data, &raw)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, fmt.Errorf("it is not JSON from byte %d on", syntax.Offset)
	case err != nil:
		return nil, errors.New("auths must be an object of objects, credHelpers one of strings, and credsStore a string")
	}
	f := &dockerFile{general: raw.CredsStore}
	for registry, member := range raw.Auths {
		var a authData
		if json.Unmarshal(member, &a) != nil {
			f.auths = append(f.auths, fileEntry{entry{scope: scopeOf(registry)}, errors.New("it is not an object of credentials")})
			continue
		}
		if a == (authData{}) { // as docker login leaves them where a credential store has the secret
			continue
		}
		c, err := a.credentials("dockercfg")
		c.ServerAddress = registry
		f.auths = append(f.auths, fileEntry{entry{scopeOf(registry), c}, err})
	}
	slices.SortFunc(f.auths, func(a, b fileEntry) int {
		return longerFirst(a.scope, a.scope+a.ServerAddress, b.scope, b.scope+b.ServerAddress)
	})
	for registry, name := range raw.CredHelpers {
		if name != "" {
			f.scoped = append(f.scoped, scopedHelper{scopeOf(registry), name})
		}
	}
	slices.SortFunc(f.scoped, func(a, b scopedHelper) int { return longerFirst(a.scope, a.scope+a.name, b.scope, b.scope+b.name) })
	return f, nil
}

// longerFirst orders scopes; the names decide between equal ones, so that it is always the same.
func longerFirst(a, nameA, b, nameB string) int {
	if len(a) != len(b) {
		return len(b) - len(a)
	}
	return strings.Compare(nameA, nameB)
}

// helper returns the name of the one to be asked about a repository; empty: none.
func (f *dockerFile) helper(repository string) string {
	for _, h := range f.scoped {
		if within(repository, h.scope) {
			return h.name
		}
	}
	return f.general
}

// within reports whether a repository (host/path) lies in a scope (host[/path]).
func within(repository, scope string) bool {
	return scope != "" && (repository == scope || strings.HasPrefix(repository, scope+"/"))
}
