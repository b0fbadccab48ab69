package agent

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/agent/local"
)

func TestWhatIsWrongInTheConfigurationIsInTheStatusWithFileAndLineAndTheLogsLevelChangesWhileTheAgentRuns(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	opt := h.options()
	opt.Reload = make(chan struct{})
	writeFile(t, opt.Config.File, "# a comment\nECS_CLUSTR=typo\nECS_IMAGE_CLEANUP_INTERVAL=soon\n")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, opt) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	c.expect("connected " + first)
	ask := local.Client{Dir: h.dir}
	var s local.Status
	if err := ask.Call(ctx, http.MethodGet, "/v1/status", nil, &s); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := s.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"unknown setting ECS_CLUSTR in " + opt.Config.File + " line 2 is ignored; did you mean ECS_CLUSTER?", "ECS_IMAGE_CLEANUP_INTERVAL (" + opt.Config.File + " line 3): \"soon\" is not a duration"} {
		if !strings.Contains(out.String(), want) || !strings.Contains(h.log(), "Configuration: ") {
			t.Errorf("the status does not say %s:\n%s", want, out.String())
		}
	}

	var level local.LogLevel
	set := func(to string) error {
		return ask.Call(ctx, http.MethodPost, "/v1/log-level", map[string]string{"level": to}, &level)
	}
	if err := set("loud"); err == nil || !strings.Contains(err.Error(), "is no level") {
		t.Error(err)
	}
	if err := set("error"); err != nil || level.File != "error" || level.Journal != "error" {
		t.Fatal(level, err)
	}
	before := h.log()
	c.send(first, task1, "RUNNING")
	c.expect("submit " + task1 + " RUNNING")
	if now := h.log(); now != before {
		t.Errorf("with level error it logs %s", now[len(before):])
	}
	if err := set("info"); err != nil {
		t.Fatal(err)
	}
	c.send(first, task1, "STOPPED")
	c.expect("submit " + task1 + " STOPPED")
	if h.log() == before {
		t.Error("with level info it logs nothing")
	}
	if err := ask.Call(ctx, http.MethodGet, "/v1/log-level", nil, &level); err != nil || level.File != "info" {
		t.Error(level, err)
	}
}
