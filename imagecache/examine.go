package imagecache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// Finding is what a look at a source of registry credentials found. It shows nothing of them.
type Finding struct {
	Source string // ECS_ENGINE_AUTH_DATA, the path of Docker's file, or docker-credential-<name>
	Says   string
	Mend   string // how to; empty: it is well
	Dead   bool   // pulls that depend on it fail
}

// mostExamined is how many helpers are called by one look.
const mostExamined = 16

// Examine says for which registries the keyring has credentials. A nil Keyring has nothing to say.
func (k *Keyring) Examine() []Finding {
	if k == nil {
		return nil
	}
	var scopes []string
	for _, e := range k.entries {
		scopes = append(scopes, e.scope)
	}
	return []Finding{{Source: "ECS_ENGINE_AUTH_DATA", Says: "has credentials for " + list(scopes)}}
}

// Examine looks at the file and calls each helper that it names, for the list of registries that it knows, which shows no
// secret. A nil DockerConfig has nothing to say.
func (d *DockerConfig) Examine(ctx context.Context) []Finding {
	if d == nil {
		return nil
	}
	info, err := os.Stat(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return []Finding{{Source: d.path, Says: "is not there, so no registry has credentials by it"}}
	}
	var f *dockerFile
	if err == nil {
		f, err = d.load()
	}
	if err != nil {
		return []Finding{{Source: d.path, Says: fmt.Sprintf("can't be read, so every pull that ECS_ENGINE_AUTH_DATA has no credentials for fails: %v", err), Mend: "mend the file or take it away", Dead: true}}
	}
	var scopes []string
	var out []Finding
	for _, e := range f.auths {
		if e.err != nil {
			out = append(out, Finding{Source: d.path, Says: fmt.Sprintf("has credentials for %s that can't be read: %v", e.scope, e.err), Mend: "log in again: docker login " + e.scope, Dead: true})
			continue
		}
		scopes = append(scopes, e.scope)
	}
	own := Finding{Source: d.path, Says: fmt.Sprintf("has credentials for %s, and names %s", list(scopes), list(f.names()))}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && len(f.auths) > 0 {
		own.Says, own.Mend = own.Says+fmt.Sprintf("; others than its owner can use it (mode %#o)", mode), "chmod 600 "+d.path
	}
	return append(append([]Finding{own}, out...), d.callAll(ctx, f)...)
}

// names are the helpers' programs.
func (f *dockerFile) names() (names []string) {
	if f.general != "" {
		names = append(names, "docker-credential-"+f.general)
	}
	for _, h := range f.scoped {
		if n := "docker-credential-" + h.name; !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// callAll calls the helpers side by side.
func (d *DockerConfig) callAll(ctx context.Context, f *dockerFile) []Finding {
	names := f.names()
	out := make([]Finding, min(len(names), mostExamined))
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() { out[i] = d.helpers.examine(ctx, names[i]) })
	}
	wg.Wait()
	if n := len(names) - len(out); n > 0 {
		out = append(out, Finding{Source: d.path, Says: fmt.Sprintf("names %d more helpers, which were not called", n)})
	}
	return out
}

// examine calls one. A helper that refuses to list has answered all the same: not all can.
func (h *helpers) examine(ctx context.Context, program string) Finding {
	name := strings.TrimPrefix(program, "docker-credential-")
	ctx, cancel := context.WithTimeout(ctx, h.deadline)
	defer cancel()
	begun := time.Now()
	_, err := h.call(ctx, name, "list", "")
	took := time.Since(begun).Round(time.Millisecond)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return Finding{Source: program, Says: fmt.Sprintf("answers, in %s", took)}
	case errors.As(err, &exit) && exit.Exited():
		return Finding{Source: program, Says: fmt.Sprintf("answers, in %s; asked for a list it %v", took, err)}
	}
	return Finding{Source: program, Says: err.Error() + "; pulls of its registries fail", Mend: "run it by hand: echo REGISTRY | " + program + " get; or name another source in config.json, or in ECS_ENGINE_AUTH_DATA", Dead: true}
}

func list(names []string) string {
	const most = 20
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
