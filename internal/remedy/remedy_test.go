package remedy

import (
	"strings"
	"testing"
)

func TestEveryPartIsFoundAndHasACauseAndARemedy(t *testing.T) {
	for _, e := range table {
		if e.Means == "" || e.Do == "" || len(e.parts) == 0 {
			t.Errorf("%+v is not whole", e)
		}
		for _, part := range e.parts {
			if r, ok := Known(strings.ToUpper(part)); !ok || r != e.Remedy {
				t.Errorf("%q is taken for %q, not for %q", part, r.Means, e.Means)
			}
		}
	}
	if r, ok := Known(""); ok || r.Do != "" {
		t.Errorf("no message has the remedy %+v", r)
	}
	if r := Of("something new"); r.Means != "" || !strings.Contains(r.Do, "explain") {
		t.Errorf("%+v", r)
	}
	if r := Of(Exited("web", 3)); !strings.Contains(r.Means, "essential container") {
		t.Errorf("%+v", r)
	}
}
