package firelens_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/longshore-project/longshore/engine/firelens"
)

const taskArn = "arn:aws:ecs:us-west-2:123456789012:task/c/0123456789abcdef0123456789abcdef"

func task(kind string) firelens.Task {
	name := "Name"
	if kind == firelens.Fluentd {
		name = "@type"
	}
	return firelens.Task{Kind: kind, Bridge: true, Cluster: "c", Arn: taskArn, Definition: "web:3",
		Options: map[string]string{firelens.OptionMetadata: "true", firelens.OptionFileType: "file", firelens.OptionFileValue: "/extra.conf"},
		Sources: []firelens.Source{
			{Name: "app", Index: 1, Options: map[string]string{name: "http", "Host": "logs.example", "exclude-pattern": "^DEBUG", "log-driver-buffer-limit": "1048576"}, Secrets: []string{"token"}},
			{Name: "side", Index: 2, Options: map[string]string{"include-pattern": "important"}},
			{Name: "plain", Index: 3},
		}}
}

// TestTheConfigurationOfARouter compares with testdata; UPDATE=1 writes it anew.
func TestTheConfigurationOfARouter(t *testing.T) {
	bare := func(t firelens.Task) firelens.Task {
		t.Bridge, t.Options = false, map[string]string{firelens.OptionMetadata: "false"}
		return t
	}
	external := func(t firelens.Task) firelens.Task {
		t = bare(t)
		t.Options = map[string]string{firelens.OptionFileType: "s3", firelens.OptionFileValue: "arn:aws:s3:::bucket/logs/extra.conf"}
		return t
	}
	for name, in := range map[string]firelens.Task{
		"fluentbit-s3.conf": external(task(firelens.FluentBit)), "fluentd-s3.conf": external(task(firelens.Fluentd)),
		"fluentbit.conf": task(firelens.FluentBit), "fluentd.conf": task(firelens.Fluentd),
		"fluentbit-host.conf": bare(task(firelens.FluentBit)), "fluentd-host.conf": bare(task(firelens.Fluentd)),
	} {
		r, err := firelens.New(in)
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name)
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(golden, r.Config(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(r.Config())); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestWhatCantBeWrittenIsRefusedByName(t *testing.T) {
	for want, change := range map[string]func(*firelens.Task){
		`the type "logstash"`:              func(t *firelens.Task) { t.Kind = "logstash" },
		`enable-ecs-log-metadata is "si"`:  func(t *firelens.Task) { t.Options[firelens.OptionMetadata] = "si" },
		"with config-file-type s3 it must": func(t *firelens.Task) { t.Options[firelens.OptionFileType] = "s3" },
		"needs config-file-value":          func(t *firelens.Task) { delete(t.Options, firelens.OptionFileValue) },
		"needs config-file-type":           func(t *firelens.Task) { delete(t.Options, firelens.OptionFileType) },
		"must be an absolute path":         func(t *firelens.Task) { t.Options[firelens.OptionFileValue] = "/fluent-bit/etc/fluent-bit.conf" },
		`the option "colour"`:              func(t *firelens.Task) { t.Options["colour"] = "red" },
		`option "Host" can't`:              func(t *firelens.Task) { t.Sources[0].Options["Host"] = "a\n[OUTPUT]" },
		`option "a b" can't`:               func(t *firelens.Task) { t.Sources[0].Options["a b"] = "c" },
		`option "</match>" can't`:          func(t *firelens.Task) { t.Sources[0].Options["</match>"] = "c" },
		`secret option "a b" can't`:        func(t *firelens.Task) { t.Sources[0].Secrets = []string{"a b"} },
		"lack Name":                        func(t *firelens.Task) { t.Sources[2].Options = map[string]string{"Match": "*"} },
		"must be a number of bytes":        func(t *firelens.Task) { t.Sources[0].Options["log-driver-buffer-limit"] = "lots" },
		"the task's ARN":                   func(t *firelens.Task) { t.Arn = "task/.." },
	} {
		in := task(firelens.FluentBit)
		change(&in)
		if _, err := firelens.New(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestAContainersLogDriverSendsIntoTheRoutersSocket(t *testing.T) {
	got, err := firelens.LogOptions("/data/firelens/x", "app", taskArn, map[string]string{"log-driver-buffer-limit": "1048576"}, true)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"fluentd-address": "unix:///data/firelens/x/socket/fluent.sock", "fluentd-async": "true", "fluentd-sub-second-precision": "true",
		"fluentd-buffer-limit": "1048576", "tag": "app-firelens-0123456789abcdef0123456789abcdef"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestARoutersFilesComeAndGo(t *testing.T) {
	root := filepath.Join(t.TempDir(), "firelens")
	dir := firelens.Dir(root, taskArn)
	for range 2 {
		if err := firelens.Prepare(dir, []byte("a"), []byte("b")); err != nil {
			t.Fatal(err)
		}
	}
	for path, mode := range map[string]os.FileMode{root: 0o700, firelens.SocketDir(dir): 0o777, firelens.ConfigPath(dir): 0o644, firelens.ExternalPath(dir): 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", path, info, err)
		}
	}
	for range 2 {
		if err := firelens.Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error(err)
	}
	for _, arn := range []string{"task/..", "task/", "task/a b"} {
		if dir := firelens.Dir(root, arn); dir != "" {
			t.Errorf("%s makes the directory %s", arn, dir)
		}
	}
}

func FuzzTheConfigurationHasTheSectionsItShould(f *testing.F) {
	f.Add("Name", "stdout", "Host", "a")
	f.Add("@INCLUDE", "x", "a]", "[OUTPUT]")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		in := firelens.Task{Kind: firelens.FluentBit, Cluster: "c", Arn: taskArn, Definition: "web:3",
			Sources: []firelens.Source{{Name: "app", Options: map[string]string{"Name": "x", k1: v1, k2: v2}}}}
		r, err := firelens.New(in)
		if err != nil {
			return
		}
		sections := 0
		for line := range strings.Lines(string(r.Config())) {
			if strings.HasPrefix(strings.TrimSpace(line), "[") {
				sections++
			}
		}
		if sections > 7 {
			t.Errorf("%d sections: %s", sections, r.Config())
		}
	})
}
