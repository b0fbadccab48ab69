package agent

import (
	"cmp"
	"sync"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/internal/remedy"
)

// trouble is what keeps this host from its control plane, as the log was told. Each attempt is a warning; what stands in the way is an
// error with its remedy, once until there is a connection, or until something else stands there.
type trouble struct {
	mu    sync.Mutex
	tries int    // in a row
	told  string // the remedy
}

// patientTries is how many attempts in a row may fail before the log has an error: a control plane that is started anew is back by then.
const patientTries = 3

// over notes that there is a connection.
func (t *trouble) over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tries, t.told = 0, ""
}

// news notes a failed attempt, and reports the remedy if it is to be told.
func (t *trouble) news(err error, atOnce bool) (do string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tries++
	if do = remedy.Of(err.Error()).Do; do == t.told || !atOnce && t.tries < patientTries {
		return ""
	}
	t.told = do
	return do
}

// unconnected is told of each attempt to reach the control plane that failed.
func (a *Agent) unconnected(err error) { a.cutOff(err, false) }

// cutOff notes why there is no connection.
func (a *Agent) cutOff(err error, atOnce bool) {
	a.link.failed(err)
	if err == nil || a.link.get().Connected {
		return
	}
	if do := a.trouble.news(err, atOnce); do != "" {
		cluster, arn := a.instance()
		a.log.Error("This host has no connection to its control plane; its containers are looked after, and it is tried again",
			zap.String("step", "connect"), zap.String("instance", cmp.Or(arn, "not registered")), zap.String("cluster", cluster), zap.String("endpoint", orRegion(a.cfg)),
			zap.Error(err), zap.String("remedy", do))
	}
}
