package doctor

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// registriesTime bounds the look at where registry credentials come from: helpers are called.
const registriesTime = 15 * time.Second

// maxEnviron bounds what is read of the agent's environment.
const maxEnviron = 1 << 20

// registries looks at where registry credentials come from. What is found shows nothing of them.
func (e *examination) registries(ctx context.Context) {
	if e.Registries == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, registriesTime)
	defer cancel()
	for _, f := range e.Registries(ctx, e.agentsPath()) {
		verdict := OK
		switch {
		case f.Dead:
			verdict = Fail
		case f.Mend != "":
			verdict = Warn
		}
		mend := f.Mend
		if mend != "" {
			mend = strings.ToUpper(mend[:1]) + mend[1:] + "."
		}
		e.add(verdict, "registries", mend, "%s %s", f.Source, f.Says)
	}
}

// agentsPath is the PATH of the agent that runs, where helpers are looked for; empty if it is not to be found out.
func (e *examination) agentsPath() string {
	if e.status == nil {
		return ""
	}
	f, err := os.Open(filepath.Join(e.Root, "proc", strconv.Itoa(e.status.PID), "environ"))
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return ""
	}
	for v := range strings.SplitSeq(string(data), "\x00") {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			return path
		}
	}
	return ""
}
