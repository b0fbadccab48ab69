package containerd_test

import (
	"net"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
)

func TestWhatALogDriverLosesIsToldWithItsContainer(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String() // from now on
	_ = l.Close()
	w.run(enginetest.ScriptServe, nil)
	id := w.run("i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo $i; done; "+enginetest.ScriptServe, func(s *engine.Spec) {
		s.Labels[engine.LabelContainerName] = "web"
		s.HostConfig.LogConfig = &acs.LogConfig{Type: "fluentd", Config: map[string]string{"fluentd-address": nobody, "fluentd-async": "true", "fluentd-buffer-limit": "1"}}
	})
	var all []engine.LogLoss
	w.until("losses", func() bool {
		all, err = w.LogLosses(t.Context())
		return err != nil || len(all) > 0
	})
	if err != nil || len(all) != 1 || all[0].ContainerID != id || all[0].Container != "web" || all[0].TaskArn == "" || all[0].Driver != "fluentd" || all[0].Failed == 0 || all[0].LastError == "" || all[0].Since.IsZero() {
		t.Errorf("%v: %+v", err, all)
	}
	if err := w.Logs(t.Context(), id, engine.LogOptions{}, &strings.Builder{}); err == nil || !strings.Contains(err.Error(), "it is with Fluentd, or the task's log router, at "+nobody) {
		t.Errorf("its output: %v", err)
	}
}
