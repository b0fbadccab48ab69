package imagecache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The bounds of credential helpers.
const (
	helperDeadline  = 10 * time.Second // for one to answer
	maxHelperAnswer = 64 << 10
	maxAnswers      = 100            // answers that are kept
	answerAge       = 12 * time.Hour // an answer names no end; one that is refused is asked for again
	noneAge         = time.Minute    // the same, of "there are none"
	helperGrace     = time.Second    // for a killed one's pipes to close
)

// helpers run docker-credential-<name>. One runs at a time for a registry; all who want the same share its answer, a failure
// too. A failure is not kept beyond that.
type helpers struct {
	environment []string
	deadline    time.Duration

	mu      sync.Mutex
	answers map[helperKey]*answer
}

type helperKey struct{ name, server string }

// answer is what a helper said; the members count from when done is closed.
type answer struct {
	done        chan struct{}
	credentials *Credentials // nil: it has none
	err         error
	until       time.Time
}

// get returns a helper's credentials for a registry, nil if it has none. An answer is kept unless it is stale, which the
// registry refused.
func (h *helpers) get(ctx context.Context, name, server string, stale *Credentials) (*Credentials, error) {
	a := h.ask(ctx, helperKey{name, server}, stale)
	select {
	case <-a.done:
		return a.credentials, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (h *helpers) ask(ctx context.Context, key helperKey, stale *Credentials) *answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.answers[key]; a != nil && a.serves(stale) {
		return a
	}
	if h.answers == nil || len(h.answers) >= maxAnswers { // who waits for one of them has it
		h.answers = map[helperKey]*answer{}
	}
	a := &answer{done: make(chan struct{})}
	h.answers[key] = a
	go func() { // it outlives who began it, for others may have joined; the deadline bounds it
		defer close(a.done)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.deadline)
		defer cancel()
		a.credentials, a.err = h.run(ctx, key)
		a.until = time.Now().Add(answerAge)
		if a.credentials == nil {
			a.until = time.Now().Add(noneAge)
		}
	}()
	return a
}

// serves reports whether the answer is under way, or good still.
func (a *answer) serves(stale *Credentials) bool {
	select {
	case <-a.done:
		return a.err == nil && time.Now().Before(a.until) && (stale == nil || !stale.same(a.credentials))
	default:
		return true
	}
}

// forget makes the next ones ask again.
func (h *helpers) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers = nil
}

var helperName = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// run asks a helper: the registry's name goes to its standard input, and JSON comes back. The error continues a sentence
// about the helper.
func (h *helpers) run(ctx context.Context, key helperKey) (*Credentials, error) {
	out, err := h.call(ctx, key.name, "get", key.server)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && unknownTo(out.buf.String()):
		return nil, nil
	case err != nil:
		return nil, err
	}
	c, err := parseHelperAnswer(out.buf.Bytes())
	if c != nil {
		c.ServerAddress, c.Source = key.server, "docker-credential-"+key.name
	}
	return c, err
}

// call runs a helper. The error continues a sentence about it; one that it ended with itself has an *exec.ExitError.
func (h *helpers) call(ctx context.Context, name, verb, input string) (*bounded, error) {
	if !helperName.MatchString(name) {
		return nil, errors.New("has a name of other characters than a-z, 0-9 and -, and is not run")
	}
	path, err := h.look("docker-credential-" + name)
	if err != nil {
		return nil, err
	}
	out := &bounded{}
	cmd := exec.CommandContext(ctx, path, verb) //nolint:gosec // the name was checked, and root's own file has it
	cmd.Stdin, cmd.Stdout, cmd.Env, cmd.Dir = strings.NewReader(input), out, h.environment, "/"
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would be the agent's, with its secrets
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with the children that it has
	cmd.WaitDelay = helperGrace
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("did not answer within %s and was killed", h.deadline)
	case out.full:
		return nil, fmt.Errorf("answered more than %d bytes", maxHelperAnswer)
	case err != nil:
		return out, fmt.Errorf("failed (%w)%s", err, said(out.buf.Bytes()))
	}
	return out, nil
}

// look finds a program in the PATH that helpers get.
func (h *helpers) look(program string) (string, error) {
	path := ""
	for _, v := range h.environment {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			path = p
		}
	}
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		file := filepath.Join(dir, program)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("is not in the agent's PATH (%s); install it", path)
}

// unknownTo reports whether a helper says, in the protocol's words, that it has no credentials for a registry.
func unknownTo(text string) bool {
	return strings.Contains(text, "credentials not found in native keychain")
}

// said quotes what a helper said when it failed, unless it looks like an answer.
func said(out []byte) string {
	const most = 200
	line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	if len(line) == 0 || bytes.ContainsAny(out, "{}") {
		return ""
	}
	return fmt.Sprintf(", saying %.*q", most, line)
}

// parseHelperAnswer reads {"ServerURL": …, "Username": …, "Secret": …}; the user <token> says that the secret is an identity
// token. Without user and secret there are no credentials. Its errors show nothing of data.
func parseHelperAnswer(data []byte) (*Credentials, error) {
	if len(data) > maxHelperAnswer {
		return nil, fmt.Errorf("answered more than %d bytes", maxHelperAnswer)
	}
	var a struct{ ServerURL, Username, Secret string }
	switch {
	case json.Unmarshal(data, &a) != nil:
		return nil, errors.New(`did not answer {"ServerURL": "…", "Username": "…", "Secret": "…"}`)
	case a.Username == "" && a.Secret == "":
		return nil, nil
	case a.Username == "" || a.Secret == "":
		return nil, errors.New("answered without a user or without a secret")
	case a.Username == "<token>":
		return &Credentials{IdentityToken: a.Secret}, nil
	}
	return &Credentials{Username: a.Username, Password: a.Secret}, nil
}

// bounded keeps what is written to it up to the bound; more is an error.
type bounded struct {
	buf  bytes.Buffer // not embedded: its ReadFrom knows no bound
	full bool
}

// Write appends p.
func (b *bounded) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > maxHelperAnswer {
		b.full = true
		return 0, errors.New("too much output")
	}
	return b.buf.Write(p)
}
