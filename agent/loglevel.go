package agent

import (
	"encoding/json"
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/agent/logging"
)

// logLevel is what is logged now.
func (a *Agent) logLevel() *local.LogLevel {
	journal, file := a.level.Names()
	return &local.LogLevel{File: file, Journal: journal}
}

// setLogLevel changes it, until the configuration is read again.
func (a *Agent) setLogLevel(w http.ResponseWriter, r *http.Request) {
	var in struct{ Level string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || !logging.Named(in.Level) {
		local.Refuse(w, http.StatusBadRequest, fmt.Errorf("%.20q is no level: crit, error, warn, info, debug or none", in.Level))
		return
	}
	a.log.Info("The level of the log is changed until the configuration is read again", zap.String("level", in.Level), zap.String("by", local.Peer(r)))
	a.level.Set(in.Level, "")
	local.Answer(w, a.logLevel())
}
