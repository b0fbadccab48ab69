package images

import (
	"io/fs"
	"runtime"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
)

// Must builds the image, or ends the test.
func Must(t testing.TB, spec Spec) v1.Image {
	t.Helper()
	img, err := Build(spec)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// Serving runs until SIGTERM, which it obeys at once with exit code 143.
func Serving() Spec {
	return Spec{Cmd: []string{"sh", "-c", "trap 'exit 143' TERM; echo serving; while :; do sleep 3600 & wait $!; done"}}
}

// Stubborn ignores SIGTERM.
func Stubborn() Spec {
	return Spec{Cmd: []string{"sh", "-c", "trap '' TERM; echo stubborn; while :; do sleep 1; done"}}
}

// Crashing writes one line and ends with exit code 3.
func Crashing() Spec {
	return Spec{Cmd: []string{"sh", "-c", "echo crashing >&2; exit 3"}}
}

// Startless names a program that it does not have, so that no container of it ever runs.
func Startless() Spec {
	return Spec{Cmd: []string{"/no-such-program"}}
}

// Healthy runs with a health check that is passed while the file /tmp/sick does not exist.
func Healthy() Spec {
	s := Serving()
	s.Healthcheck = &v1.HealthConfig{
		Test: []string{"CMD-SHELL", "echo checked; test ! -e /tmp/sick"}, Interval: time.Second, Timeout: 5 * time.Second, Retries: 1,
	}
	return s
}

// WithUsers runs as user and has passwd and group files.
func WithUsers(user string) Spec {
	s := Serving()
	s.User = user
	s.Files = []File{Passwd, Group, {Path: "/home/app", Mode: 0o755 | fs.ModeDir, UID: 1000, GID: 1000}}
	return s
}

// LoggingAgent is a small logging agent, to be run as a daemon with a directory of the host mounted at /logs: as user
// 1000 it follows every /logs/*.log and appends what is new, marked with the host's and the file's name, to
// /logs/collected/<host>, and a line of its own each INTERVAL seconds (default 5).
func LoggingAgent() Spec {
	return Spec{
		User:       "1000:1000",
		Entrypoint: []string{"/bin/logging-agent"},
		Env:        []string{"INTERVAL=5", "LOG_DIR=/logs"},
		Files:      []File{Passwd, Group, {Path: "/bin/logging-agent", Mode: 0o755, Data: loggingAgent}},
	}
}

const loggingAgent = `#!/bin/sh
# Follows $LOG_DIR/*.log and collects what is new in $LOG_DIR/collected/<host>.
host=$(hostname)
out=$LOG_DIR/collected/$host
mkdir -p "$LOG_DIR/collected" && : >>"$out" || { echo "logging-agent: can't write $out as $(id)" >&2; exit 1; }
say() { line="$(date -u +%Y-%m-%dT%H:%M:%SZ) logging-agent on $host: $*"; echo "$line"; echo "$line" >>"$out"; }
trap 'say "stopped after $n rounds"; exit 0' TERM INT
say "started as uid $(id -u), following $LOG_DIR/*.log"
n=0
while :; do
	for f in "$LOG_DIR"/*.log; do
		[ -r "$f" ] || continue
		name=$(basename "$f" .log)
		key=$(echo "$name" | tr -c 'a-zA-Z0-9' _)
		eval "seen=\${lines_$key:-0}"
		total=$(wc -l <"$f")
		[ "$total" -ge "$seen" ] || seen=0
		[ "$total" -gt "$seen" ] && tail -n +$((seen + 1)) "$f" | head -n $((total - seen)) | sed "s|^|$host $name: |" >>"$out"
		eval "lines_$key=$total"
	done
	n=$((n + 1))
	say "round $n, user $(id -u)"
	sleep "$INTERVAL" & wait $!
done
`

// MustLayers builds an image that nobody else has, of random layers, or ends the test.
func MustLayers(t testing.TB, layers int) v1.Image {
	t.Helper()
	img, err := random.Image(4096, int64(layers))
	var config *v1.ConfigFile
	if err == nil {
		config, err = img.ConfigFile()
	}
	if err == nil {
		config = config.DeepCopy()
		config.OS, config.Architecture = "linux", runtime.GOARCH
		img, err = mutate.ConfigFile(img, config)
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}
