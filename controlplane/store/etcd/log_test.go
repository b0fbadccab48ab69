package etcd

import (
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestEtcdNeverEndsTheProcessInSilence(t *testing.T) {
	silent := quieter(zap.NewNop())
	if !silent.Core().Enabled(zapcore.FatalLevel) || silent.Core().Enabled(zapcore.ErrorLevel) {
		t.Error("a logger that takes nothing takes etcd's last word, and only that")
	}
}
