package logprocess_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/tinylib/msgp/msgp"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/engine/logdriver"
	"github.com/longshore-project/longshore/engine/logdriver/logprocess"
	"github.com/longshore-project/longshore/test/awsfake"
)

// logKeys are the host's credentials.
var logKeys = aws.Credentials{AccessKeyID: "AKIDLOGS", SecretAccessKey: "s3cret"}

// programs is a folder that is removed at the end.
var programs string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "logprocess")
	if err = errors.Join(err, os.Setenv("AWS_ACCESS_KEY_ID", logKeys.AccessKeyID), os.Setenv("AWS_SECRET_ACCESS_KEY", logKeys.SecretAccessKey)); err != nil {
		panic(err)
	}
	programs = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

var container = logdriver.Container{
	ContainerID: strings.Repeat("0123456789abcdef", 4), ContainerName: "ecs-web-1-main-ab", Image: "registry.example/web:1", ContainerImageID: "sha256:" + strings.Repeat("c", 64),
	Labels: map[string]string{"team": "a", "other": "b"}, Env: []string{"STAGE=prod", "SECRET=x"},
}

// carry takes output to a driver as longshore-log does.
func carry(t *testing.T, s logdriver.Settings, stdout, stderr string) {
	t.Helper()
	if s.Dir == "" {
		s.Dir = t.TempDir()
	}
	s.Container = container
	d, err := logprocess.New(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := logprocess.Copy(strings.NewReader(stdout), strings.NewReader(stderr), d, s); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir string, lines int) string {
	t.Helper()
	var out bytes.Buffer
	if err := logdriver.Read(t.Context(), dir, logdriver.ReadOptions{Lines: lines}, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestWhatJSONFileWritesIsReadBack(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("x", 40<<10)
	carry(t, logdriver.Settings{Driver: "json-file", Dir: dir, Options: map[string]string{"tag": "{{.Name}}/{{.ID}}", "labels": "team", "env-regex": "^ST"}}, "one\n"+long+"\nlast without newline", "")
	if got := read(t, dir, 0); got != "one\n"+long+"\nlast without newline" {
		t.Errorf("%d bytes came back, %.40q…", len(got), got)
	}
	if got := read(t, dir, 1); got != "last without newline" {
		t.Errorf("the last line is %.40q", got)
	}
	b, err := os.ReadFile(filepath.Join(dir, "container.log"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	var l struct {
		Log, Stream string
		Time        time.Time
		Attrs       map[string]string
	}
	if err := json.Unmarshal([]byte(first), &l); err != nil || l.Log != "one\n" || l.Stream != "stdout" || l.Time.IsZero() || l.Attrs["tag"] != "ecs-web-1-main-ab/0123456789ab" ||
		l.Attrs["team"] != "a" || l.Attrs["STAGE"] != "prod" || l.Attrs["SECRET"] != "" {
		t.Errorf("%v: %s", err, first)
	}
}

func TestJSONFilesAreRotatedAndReadAcross(t *testing.T) {
	dir := t.TempDir()
	var all strings.Builder
	for i := range 200 {
		fmt.Fprintf(&all, "line %03d\n", i)
	}
	carry(t, logdriver.Settings{Driver: "json-file", Dir: dir, Options: map[string]string{"max-size": "4k", "max-file": "3"}}, all.String(), "")
	files, _ := filepath.Glob(filepath.Join(dir, "container.log*"))
	if len(files) != 3 {
		t.Errorf("there are %v", files)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() > 4096 {
			t.Errorf("%s: %v, %d bytes", f, err, info.Size())
		}
	}
	if got := read(t, dir, 2); got != "line 198\nline 199\n" {
		t.Errorf("the last lines are %q", got)
	}
	if got := read(t, dir, 0); !strings.HasSuffix(all.String(), got) || len(got) < 1000 {
		t.Errorf("what is left is not the end: %.60q", got)
	}
	if got := read(t, t.TempDir(), 3); got != "" {
		t.Errorf("of nothing came %q", got)
	}
}

func TestWhatAPowerCutHasCutOffIsLeftOut(t *testing.T) {
	dir := t.TempDir()
	carry(t, logdriver.Settings{Driver: "json-file", Dir: dir}, "whole\n", "")
	f, err := os.OpenFile(filepath.Join(dir, "container.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString(`{"log":"ha`)
	_ = f.Close()
	if got := read(t, dir, 0); got != "whole\n" {
		t.Errorf("got %q", got)
	}
}

func TestWhatThereIsNotIsRefusedByName(t *testing.T) {
	for want, s := range map[string]logdriver.Settings{
		`no log driver "splunk"`:              {Driver: "splunk"},
		`json-file has no option "compress"`:  {Driver: "json-file", Options: map[string]string{"compress": "true"}},
		`option mode is "sometimes"`:          {Driver: "none", Options: map[string]string{"mode": "sometimes"}},
		"max-buffer-size needs mode":          {Driver: "none", Options: map[string]string{"max-buffer-size": "4m"}},
		`max-buffer-size is "much"`:           {Driver: "none", Options: map[string]string{"mode": "non-blocking", "max-buffer-size": "much"}},
		`option max-size "x"`:                 {Driver: "json-file", Options: map[string]string{"max-size": "x"}},
		`option max-file "0"`:                 {Driver: "json-file", Options: map[string]string{"max-file": "0"}},
		`option tag "{{.Nope}}"`:              {Driver: "json-file", Options: map[string]string{"tag": "{{.Nope}}"}},
		`syslog-facility is "x"`:              {Driver: "syslog", Options: map[string]string{"syslog-facility": "x"}},
		`syslog-address is "ftp://x"`:         {Driver: "syslog", Options: map[string]string{"syslog-address": "ftp://x"}},
		`fluentd-address is "ftp://x"`:        {Driver: "fluentd", Options: map[string]string{"fluentd-address": "ftp://x"}},
		`option fluentd-async "perhaps"`:      {Driver: "fluentd", Options: map[string]string{"fluentd-async": "perhaps"}},
		"awslogs-region and awslogs-group":    {Driver: "awslogs"},
		"exclude each other":                  {Driver: "awslogs", Options: map[string]string{"awslogs-region": "r", "awslogs-group": "g", "awslogs-multiline-pattern": "x", "awslogs-datetime-format": "%Y"}},
		`awslogs-create-group is "yes please`: {Driver: "awslogs", Options: map[string]string{"awslogs-region": "r", "awslogs-group": "g", "awslogs-create-group": "yes please"}},
	} {
		s.Dir, s.Container = t.TempDir(), container
		if d, err := logprocess.New(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, %v; want %q", s, d, err, want)
		}
	}
}

// gate is a driver that waits, or fails.
type gate struct {
	open  chan struct{}
	fails error
	mu    sync.Mutex
	got   []string
}

func (g *gate) Write(e logprocess.Entry) error {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	g.got = append(g.got, e.Stream+" "+string(e.Line))
	return g.fails
}
func (g *gate) Close() error { return nil }

func TestInTheNonBlockingModeAContainerNeverWaitsAndWhatIsDroppedIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, dir := &gate{open: make(chan struct{})}, t.TempDir()
		r, w := io.Pipe()
		done := make(chan error)
		go func() {
			done <- logprocess.Copy(r, strings.NewReader(""), g, logdriver.Settings{Dir: dir, Options: map[string]string{"mode": "non-blocking", "max-buffer-size": "100b"}})
		}()
		for range 50 {
			_, _ = io.WriteString(w, "123456789\n") // it would block for ever in the other mode
		}
		synctest.Wait()
		<-time.After(6 * time.Second) // in the bubble's time
		if s, err := logdriver.ReadStatus(dir); err != nil || s.Dropped < 38 || s.Dropped > 40 || s.Since.IsZero() {
			t.Errorf("%v: %+v", err, s)
		}
		close(g.open)
		_ = w.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if s, _ := logdriver.ReadStatus(dir); int(s.Dropped)+len(g.got) != 50 {
			t.Errorf("%d dropped and %d written are not 50", s.Dropped, len(g.got))
		}
	})
}

func TestLinesThatADriverCanNotWriteAreCountedWithTheReason(t *testing.T) {
	g, dir := &gate{open: make(chan struct{}), fails: errors.New("the disk is full")}, t.TempDir()
	close(g.open)
	if err := logprocess.Copy(strings.NewReader("a\nb\n"), strings.NewReader("c\n"), g, logdriver.Settings{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if s, err := logdriver.ReadStatus(dir); err != nil || s.Failed != 3 || s.LastError != "the disk is full" {
		t.Errorf("%v: %+v", err, s)
	}
}

func TestSyslogServersGetEachLineWithItsPriority(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = udp.Close() }()
	carry(t, logdriver.Settings{Driver: "syslog", Options: map[string]string{"syslog-address": "udp://" + udp.LocalAddr().String(), "syslog-facility": "local3", "syslog-format": "rfc5424", "tag": "web"}}, "out\n", "err\n")
	got := map[string]bool{}
	for range 2 {
		buf := make([]byte, 2000)
		_ = udp.SetReadDeadline(time.Now().Add(30 * time.Second))
		n, _, err := udp.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(buf[:n]), " ")
		text := strings.TrimSpace(string(buf[:n]))
		got[head+" "+text[strings.LastIndex(text, " ")+1:]] = true
	}
	if !got["<158>1 out"] || !got["<155>1 err"] { // local3 is 19: 19×8 + 6 and + 3
		t.Errorf("got %v", got)
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	lines := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		line, _ := bufio.NewReader(c).ReadString('\n')
		lines <- line
		_ = c.Close()
	}()
	carry(t, logdriver.Settings{Driver: "syslog", Options: map[string]string{"syslog-address": "unix://" + socket}}, "hello\n", "")
	if line := <-lines; !strings.Contains(line, "0123456789ab") || !strings.Contains(line, "hello") {
		t.Errorf("got %q", line)
	}
}

func TestFluentdGetsRecordsWithDockersMembers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	records := make(chan string, 4)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		r := msgp.NewReader(c)
		for {
			var out bytes.Buffer
			if _, err := r.WriteToJSON(&out); err != nil || out.Len() == 0 {
				close(records)
				return
			}
			records <- out.String()
		}
	}()
	carry(t, logdriver.Settings{Driver: "fluentd", Options: map[string]string{"fluentd-address": l.Addr().String(), "tag": "web.{{.ID}}", "labels": "team"}}, "out\n", "")
	got := <-records
	for _, want := range []string{`"web.0123456789ab"`, `"log":"out"`, `"source":"stdout"`, `"container_name":"/ecs-web-1-main-ab"`, `"container_id":"0123456789abcdef0123`, `"team":"a"`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s lacks %s", got, want)
		}
	}
	for range records {
	}
}

func TestCloudWatchLogsGetsLinesInBatchesAndEventsOfManyLines(t *testing.T) {
	fake := &awsfake.Server{Keys: []aws.Credentials{logKeys}}
	server := httptest.NewServer(fake)
	defer server.Close()
	options := map[string]string{"awslogs-region": "eu-west-1", "awslogs-endpoint": server.URL, "awslogs-group": "/x", "awslogs-stream": "web/main/1", "awslogs-datetime-format": `[%b %d, %Y %H:%M:%S]`}
	var lines strings.Builder
	lines.WriteString("[May 01, 2026 19:00:01] first\n  at a\n  at b\n")
	for i := range 12000 {
		fmt.Fprintf(&lines, "[May 01, 2026 19:00:02] event %d\n", i)
	}
	dir := t.TempDir()
	carry(t, logdriver.Settings{Driver: "awslogs", Dir: dir, Options: options}, lines.String(), "")
	if c := fake.Calls("CreateLogStream"); len(c) != 1 || c[0].Region != "eu-west-1" || !strings.Contains(c[0].Body, `"web/main/1"`) {
		t.Errorf("streams made: %+v", c)
	}
	var events []struct {
		Timestamp int64
		Message   string
	}
	for _, c := range fake.Calls("PutLogEvents") {
		var in struct {
			LogEvents []struct {
				Timestamp int64
				Message   string
			}
		}
		if err := json.Unmarshal([]byte(c.Body), &in); err != nil || len(in.LogEvents) > 10000 || len(c.Body) > 2<<20 {
			t.Fatalf("%v: %d events, %d bytes", err, len(in.LogEvents), len(c.Body))
		}
		events = append(events, in.LogEvents...)
	}
	if len(events) != 12001 || events[0].Message != "[May 01, 2026 19:00:01] first\n  at a\n  at b\n" || events[0].Timestamp == 0 {
		t.Fatalf("%d events, the first %q", len(events), events[0].Message)
	}
	for i := 1; i < len(events); i++ {
		if events[i].Timestamp < events[i-1].Timestamp {
			t.Fatal("events are out of order")
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("%d files were written", len(entries))
	}
}

func TestALogGroupIsMadeWhereThatIsAskedForAndALogThatCanNotBeHadIsAnError(t *testing.T) {
	made := false
	fake := &awsfake.Server{Keys: []aws.Credentials{logKeys}}
	fake.Refuse = func(c awsfake.Call) (int, string) {
		switch {
		case c.Operation == "CreateLogGroup":
			made = true
		case c.Operation == "CreateLogStream" && !made:
			return 400, "ResourceNotFoundException"
		}
		return 0, ""
	}
	server := httptest.NewServer(fake)
	defer server.Close()
	options := func() map[string]string {
		return map[string]string{"awslogs-region": "eu-west-1", "awslogs-endpoint": server.URL, "awslogs-group": "/x", "tag": "{{.Name}}"}
	}
	_, err := logprocess.New(logdriver.Settings{Driver: "awslogs", Options: options(), Container: container})
	if err == nil || !strings.Contains(err.Error(), "create log stream ecs-web-1-main-ab in group /x") {
		t.Errorf("without a group: %v", err)
	}
	o := options()
	o["awslogs-create-group"] = "true"
	carry(t, logdriver.Settings{Driver: "awslogs", Options: o}, "x\n", "")
	if !made || len(fake.Calls("PutLogEvents")) != 1 {
		t.Errorf("group made: %v; %d calls", made, len(fake.Calls("PutLogEvents")))
	}
}
