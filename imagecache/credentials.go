package imagecache

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Credentials are for one registry. Formatting, logging and marshalling them shows nothing of them.
type Credentials struct {
	Username, Password, IdentityToken, ServerAddress string
	Source                                           string    // where they came from, for people
	Expires                                          time.Time // zero: not known, or never
}

// origin says where they came from and until when they are good; it shows nothing of them.
func (c *Credentials) origin(now time.Time) string {
	switch {
	case c == nil || c.Source == "":
		return ""
	case c.Expires.IsZero():
		return "they came from " + c.Source + ", which names no end of them"
	case c.Expires.Before(now):
		return "they came from " + c.Source + " and expired at " + c.Expires.UTC().Format(time.RFC3339)
	}
	return "they came from " + c.Source + " and expire at " + c.Expires.UTC().Format(time.RFC3339)
}

// source says where they came from, for the log.
func (c *Credentials) source() string {
	switch {
	case c == nil:
		return "none"
	case c.Source == "":
		return "of a source without a name"
	}
	return c.Source
}

// same reports whether a registry would see no difference.
func (c *Credentials) same(other *Credentials) bool { return c.fingerprint() == other.fingerprint() }

// String hides the credentials.
func (Credentials) String() string { return "[credentials]" }

// GoString hides the credentials.
func (Credentials) GoString() string { return "[credentials]" }

// MarshalText hides the credentials.
func (Credentials) MarshalText() ([]byte, error) { return []byte("[credentials]"), nil }

// salt keeps fingerprints from meaning anything outside this process.
var salt = rand.Text()

// fingerprint tells credentials apart.
func (c *Credentials) fingerprint() string {
	if c == nil {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{salt, c.Username, c.Password, c.IdentityToken, c.ServerAddress}, "\x00")))
	return base64.RawStdEncoding.EncodeToString(sum[:])
}

// redact takes the secrets out of an error's text, should a registry have repeated them.
func (c *Credentials) redact(err error) error {
	if c == nil {
		return err
	}
	text, clean := err.Error(), err.Error()
	for _, secret := range []string{c.Password, c.IdentityToken} {
		if len(secret) >= 4 {
			clean = strings.ReplaceAll(clean, secret, "[credentials]")
		}
	}
	if clean == text {
		return err
	}
	return &classed{errdefs.Resolve(err), clean}
}

// Keyring holds the credentials of the host for registries. A nil Keyring holds none. It is immutable.
type Keyring struct{ entries []entry }

type entry struct {
	scope string // registry host, with a path if it is for a part of the registry only
	Credentials
}

const (
	dockerHub   = "docker.io"
	maxAuthData = 1 << 20
)

// hubNames are the names under which credentials for Docker Hub are written.
var hubNames = []string{"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}

// ParseKeyring reads ECS_ENGINE_AUTH_TYPE and ECS_ENGINE_AUTH_DATA. kind "docker" is
// {"<registry>": {"username", "password", "email"}}; "dockercfg" is {"<registry>": {"auth": base64 of user:password, "email"}},
// also below "auths" as in ~/.docker/config.json. Both empty means no credentials. Errors are InvalidArgument and show
// nothing of data.
func ParseKeyring(kind, data string) (*Keyring, error) {
	bad := func(format string, args ...any) (*Keyring, error) {
		return nil, &classed{errdefs.ErrInvalidArgument, "registry credentials: " + fmt.Sprintf(format, args...)}
	}
	switch {
	case kind == "" && data == "":
		return nil, nil
	case kind == "":
		return bad("ECS_ENGINE_AUTH_DATA is set and ECS_ENGINE_AUTH_TYPE is not; set it to docker or dockercfg")
	case kind != "docker" && kind != "dockercfg":
		return bad("ECS_ENGINE_AUTH_TYPE is %q, it must be docker or dockercfg", kind)
	case strings.TrimSpace(data) == "":
		return bad("ECS_ENGINE_AUTH_TYPE is %s and ECS_ENGINE_AUTH_DATA is not set", kind)
	case len(data) > maxAuthData:
		return bad("ECS_ENGINE_AUTH_DATA has %d bytes, more than %d", len(data), maxAuthData)
	}
	registries, err := decodeAuthData(kind, data)
	if err != nil {
		return bad("%v", err)
	}
	k := &Keyring{}
	for registry, a := range registries {
		c, err := a.credentials(kind)
		if err != nil {
			return bad("ECS_ENGINE_AUTH_DATA, registry %q: %v", registry, err)
		}
		if a == (authData{}) { // as docker login leaves them where a credential store has the secret
			continue
		}
		scope := scopeOf(registry)
		if scope == "" {
			return bad("ECS_ENGINE_AUTH_DATA names an empty registry")
		}
		c.ServerAddress, c.Source = registry, "ECS_ENGINE_AUTH_DATA"
		k.entries = append(k.entries, entry{scope, c})
	}
	// The longest scope first; the name decides between two spellings of one registry, so that it is always the same.
	slices.SortFunc(k.entries, func(a, b entry) int {
		if len(a.scope) != len(b.scope) {
			return len(b.scope) - len(a.scope)
		}
		return strings.Compare(a.scope+a.ServerAddress, b.scope+b.ServerAddress)
	})
	return k, nil
}

type authData struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

func decodeAuthData(kind, data string) (map[string]authData, error) {
	var outer struct {
		Auths map[string]authData `json:"auths"`
	}
	if kind == "dockercfg" && json.Unmarshal([]byte(data), &outer) == nil && outer.Auths != nil {
		return outer.Auths, nil
	}
	var registries map[string]authData
	err := json.Unmarshal([]byte(data), &registries)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, fmt.Errorf("ECS_ENGINE_AUTH_DATA is not JSON from byte %d on; quotes lost in a shell or an env file are a usual cause", syntax.Offset)
	case err != nil || registries == nil:
		return nil, fmt.Errorf("ECS_ENGINE_AUTH_DATA is not an object of registries, each with an object of credentials, as type %s wants", kind)
	}
	return registries, nil
}

func (a authData) credentials(kind string) (Credentials, error) {
	c := Credentials{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken}
	if a.Auth == "" {
		if c.Username == "" && c.IdentityToken == "" && a != (authData{}) {
			return c, fmt.Errorf("there is neither a username nor an auth member, as type %s wants", kind)
		}
		return c, nil
	}
	plain, err := base64.StdEncoding.DecodeString(a.Auth)
	if err != nil {
		plain, err = base64.RawStdEncoding.DecodeString(a.Auth)
	}
	user, password, ok := strings.Cut(string(plain), ":")
	if err != nil || !ok || user == "" {
		return c, errors.New("the auth member is not the base64 form of user:password")
	}
	c.Username, c.Password = user, strings.TrimRight(password, "\x00")
	return c, nil
}

// scopeOf brings a registry's name as people write it to the form host[/path].
func scopeOf(registry string) string {
	s := strings.TrimSpace(registry)
	if _, rest, ok := strings.Cut(s, "://"); ok {
		s = rest
	}
	host, path, _ := strings.Cut(strings.Trim(s, "/"), "/")
	if path == "v1" || path == "v2" { // the API's root, not a part of the registry
		path = ""
	}
	host = strings.ToLower(host)
	if slices.Contains(hubNames, host) {
		host = dockerHub
	}
	if path == "" {
		return host
	}
	return host + "/" + path
}

// find returns the credentials whose registry is the longest that a repository (host/path) lies in; nil if there are none.
func (k *Keyring) find(repository string) *Credentials {
	if k == nil {
		return nil
	}
	for _, e := range k.entries {
		if repository == e.scope || strings.HasPrefix(repository, e.scope+"/") {
			c := e.Credentials
			return &c
		}
	}
	return nil
}
