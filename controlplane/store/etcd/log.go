package etcd

import (
	"os"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// quieter is log with etcd's lines one level lower: what etcd calls information is of use only to who debugs, and what it
// warns of (a slow disk, mostly) is information. Its errors are warnings, because the call that failed reports its own. Its
// debug lines, several for each write, are dropped. What it ends the process with is written to standard error where log takes nothing.
func quieter(log *zap.Logger) *zap.Logger {
	return log.Named("etcd").WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		if !c.Enabled(zapcore.FatalLevel) {
			c = zapcore.NewCore(zapcore.NewConsoleEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(os.Stderr), zapcore.FatalLevel)
		}
		return lower{c}
	}))
}

type lower struct{ zapcore.Core }

func lowered(l zapcore.Level) zapcore.Level {
	switch l {
	case zapcore.InfoLevel:
		return zapcore.DebugLevel
	case zapcore.WarnLevel:
		return zapcore.InfoLevel
	case zapcore.ErrorLevel:
		return zapcore.WarnLevel
	}
	return l
}

func (c lower) Enabled(l zapcore.Level) bool {
	return l > zapcore.DebugLevel && c.Core.Enabled(lowered(l))
}

func (c lower) With(fields []zapcore.Field) zapcore.Core { return lower{c.Core.With(fields)} }

func (c lower) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return to.AddCore(e, c)
	}
	return to
}

// usual are what etcd complains of at every start of a new directory or without listeners.
var usual = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true,
	"simple token is not cryptographically signed":                                         true,
	"Failed to detect schema version":                                                      true,
	"failed to update storage version":                                                     true,
}

func (c lower) Write(e zapcore.Entry, fields []zapcore.Field) error {
	e.Level = lowered(e.Level)
	if usual[e.Message] {
		e.Level = zapcore.DebugLevel
		if !c.Core.Enabled(e.Level) {
			return nil
		}
	}
	return c.Core.Write(e, fields)
}
