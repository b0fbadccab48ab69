package imagecache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
)

// A registry is asked by the cache itself only for what the engine does not tell: how large an image is before it is pulled,
// and how long a registry that limits the rate wants to be left alone. What it can't find out so, because the engine reaches
// the registry by a mirror, a proxy or certificates of its own, it does without.
//
// Source: OCI distribution specification v1.1 (manifests), its token authentication as of distribution/distribution.

const (
	maxManifest = 4 << 20
	maxToken    = 1 << 20
	askTime     = 5 * time.Second
)

var manifestTypes = strings.Join([]string{
	"application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
}, ", ")

// manifest is the part of an image's manifest, or of an index of them, that says how large it is.
type manifest struct {
	Config struct {
		Digest string `json:"digest"`
	} `json:"config"`
	Layers    []layer `json:"layers"`
	Manifests []struct {
		Digest   string `json:"digest"`
		Platform struct {
			Architecture string `json:"architecture"`
			OS           string `json:"os"`
		} `json:"platform"`
	} `json:"manifests"`
}

type layer struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

// maxLayer is beyond the size of any layer: what says more is not believed.
const maxLayer = 1 << 50

// decodeManifest reads what a registry sent.
func decodeManifest(data []byte) (*manifest, error) {
	if len(data) > maxManifest {
		return nil, fmt.Errorf("the manifest has more than %d bytes", maxManifest)
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("the manifest: %w", err)
	}
	for _, l := range m.Layers {
		if l.Size < 0 || l.Size > maxLayer {
			return nil, fmt.Errorf("the manifest names a layer of %d bytes", l.Size)
		}
	}
	return &m, nil
}

// registry asks for one repository.
type registry struct {
	client *http.Client
	base   string // scheme and host
	path   string // of the repository
	auth   *Credentials
	bearer string
}

// insecure reports whether an engine speaks plain HTTP with a registry by itself: it is on this host.
func insecure(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

func newRegistry(client *http.Client, repository string, auth *Credentials) *registry {
	host, path, _ := strings.Cut(repository, "/")
	scheme := "https"
	if insecure(host) {
		scheme = "http"
	}
	if host == dockerHub {
		host = "registry-1.docker.io"
	}
	return &registry{client: client, base: scheme + "://" + host, path: path, auth: auth}
}

// tag is a reference's tag or digest, as a manifest is asked for.
func tag(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ""
	}
	if d, ok := named.(reference.Digested); ok {
		return d.Digest().String()
	}
	if t, ok := reference.TagNameOnly(named).(reference.Tagged); ok {
		return t.Tag()
	}
	return ""
}

// limitedError is a registry's answer that limits the rate or says that it is not well.
type limitedError struct {
	status int
	after  time.Duration // 0: it does not say
}

func (e *limitedError) Error() string {
	return fmt.Sprintf("the registry answers %d %s", e.status, http.StatusText(e.status))
}

// get asks for something of the repository, "manifests/<tag>" or "blobs/<digest>".
func (r *registry) get(ctx context.Context, method, what string, limit int64) ([]byte, error) {
	for try := 0; ; try++ {
		data, challenge, err := r.once(ctx, method, what, limit)
		if challenge == "" || try > 0 {
			return data, err
		}
		if err := r.logIn(ctx, challenge); err != nil {
			return nil, err
		}
	}
}

func (r *registry) once(ctx context.Context, method, what string, limit int64) (data []byte, challenge string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, r.base+"/v2/"+r.path+"/"+what, nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Accept", manifestTypes)
	switch {
	case r.bearer != "":
		req.Header.Set("Authorization", "Bearer "+r.bearer)
	case r.auth != nil && r.auth.Username != "":
		req.SetBasicAuth(r.auth.Username, r.auth.Password)
	}
	res, err := r.client.Do(req)
	if err != nil {
		return nil, "", r.auth.redact(err)
	}
	defer func() { _ = res.Body.Close() }()
	switch {
	case res.StatusCode == http.StatusOK:
		data, err = io.ReadAll(io.LimitReader(res.Body, limit+1))
		if err == nil && int64(len(data)) > limit {
			err = fmt.Errorf("the registry sends more than %d bytes", limit)
		}
		return data, "", err
	case res.StatusCode == http.StatusUnauthorized:
		return nil, res.Header.Get("WWW-Authenticate"), errors.New("the registry wants other credentials")
	case res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500:
		return nil, "", &limitedError{res.StatusCode, retryAfter(res.Header.Get("Retry-After"), time.Now())}
	}
	return nil, "", fmt.Errorf("the registry answers %s", res.Status)
}

// challengePart is a parameter of a WWW-Authenticate header.
var challengePart = regexp.MustCompile(`([a-z]+)="([^"]*)"`)

// logIn fetches a token where the registry asks for one.
func (r *registry) logIn(ctx context.Context, challenge string) error {
	if !strings.HasPrefix(strings.ToLower(challenge), "bearer ") {
		return errors.New("the registry wants other credentials")
	}
	part := map[string]string{}
	for _, m := range challengePart.FindAllStringSubmatch(challenge, 8) {
		part[m[1]] = m[2]
	}
	realm, err := url.Parse(part["realm"])
	if err != nil || realm.Scheme != "https" && !insecure(realm.Host) || realm.Host == "" {
		return errors.New("the registry names no place for its tokens that credentials may go to")
	}
	q := realm.Query()
	q.Set("service", part["service"])
	q.Set("scope", "repository:"+r.path+":pull")
	realm.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return err
	}
	if r.auth != nil && r.auth.Username != "" {
		req.SetBasicAuth(r.auth.Username, r.auth.Password)
	}
	res, err := r.client.Do(req)
	if err != nil {
		return r.auth.redact(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the registry's token server answers %s", res.Status)
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxToken)).Decode(&answer); err != nil {
		return errors.New("the registry's token server sends no token")
	}
	r.bearer = answer.Token
	if r.bearer == "" {
		r.bearer = answer.AccessToken
	}
	return nil
}

// manifest fetches the manifest for this host's platform.
func (r *registry) manifest(ctx context.Context, tag string) (*manifest, error) {
	for range 2 {
		data, err := r.get(ctx, http.MethodGet, "manifests/"+tag, maxManifest)
		if err != nil {
			return nil, err
		}
		m, err := decodeManifest(data)
		if err != nil || len(m.Manifests) == 0 {
			return m, err
		}
		tag = ""
		for _, one := range m.Manifests {
			if one.Platform.OS == "linux" && one.Platform.Architecture == runtime.GOARCH {
				tag = one.Digest
				break
			}
		}
		if tag == "" {
			return nil, fmt.Errorf("the index has no image for linux/%s", runtime.GOARCH)
		}
	}
	return nil, errors.New("the index names another index")
}

// layerIDs are the digests of an image's layers as they are unpacked, in the order of the manifest's.
func (r *registry) layerIDs(ctx context.Context, m *manifest) []string {
	data, err := r.get(ctx, http.MethodGet, "blobs/"+m.Config.Digest, maxManifest)
	if err != nil {
		return nil
	}
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if json.Unmarshal(data, &config) != nil || len(config.RootFS.DiffIDs) != len(m.Layers) {
		return nil
	}
	return config.RootFS.DiffIDs
}

// longestRetryAfter bounds what a registry may ask for.
const longestRetryAfter = 15 * time.Minute

// retryAfter reads a Retry-After header (RFC 9110 §10.2.3): seconds, or a date. 0: it says nothing.
func retryAfter(text string, now time.Time) time.Duration {
	text = strings.TrimSpace(text)
	if s, err := strconv.ParseInt(text, 10, 32); err == nil && s > 0 {
		return min(time.Duration(s)*time.Second, longestRetryAfter)
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return min(at.Sub(now), longestRetryAfter)
	}
	return 0
}
