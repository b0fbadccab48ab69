package logprocess_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/engine/logdriver"
	"github.com/longshore-project/longshore/engine/logdriver/logprocess"
	"github.com/longshore-project/longshore/test/awsfake"
)

// cloud is a stand-in CloudWatch Logs with the group /x, behind real HTTP.
type cloud struct {
	*awsfake.Server
	t       *testing.T
	options map[string]string
	dir     string
}

func newCloud(t *testing.T, more ...string) *cloud {
	t.Parallel()
	c := &cloud{t: t, Server: &awsfake.Server{Keys: []aws.Credentials{logKeys}, Logs: awsfake.NewLogs("/x")}, dir: t.TempDir()}
	server := httptest.NewServer(c.Server)
	t.Cleanup(server.Close)
	c.options = map[string]string{"awslogs-region": "eu-west-1", "awslogs-endpoint": server.URL, "awslogs-group": "/x", "awslogs-stream": "s", "awslogs-force-flush-interval-seconds": "1"}
	for i := 0; i < len(more); i += 2 {
		c.options[more[i]] = more[i+1]
	}
	return c
}

// begin makes the driver and carries output to it; the answers are its input and its end.
func (c *cloud) begin() (*io.PipeWriter, <-chan error) {
	c.t.Helper()
	s := logdriver.Settings{Driver: "awslogs", Dir: c.dir, Options: c.options, Container: container}
	d, err := logprocess.New(s)
	if err != nil {
		c.t.Fatal(err)
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- logprocess.Copy(r, strings.NewReader(""), d, s) }()
	return w, done
}

func (c *cloud) carry(text string) {
	c.t.Helper()
	w, done := c.begin()
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	if err := <-done; err != nil {
		c.t.Error(err)
	}
}

func (c *cloud) messages() (all []string) {
	for _, e := range c.Events("/x", "s") {
		all = append(all, e.Message)
	}
	return all
}

func (c *cloud) status() logdriver.Status {
	s, err := logdriver.ReadStatus(c.dir)
	if err != nil {
		c.t.Error(err)
	}
	return s
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("in vain for " + what)
		}
	}
}

func TestEveryLineArrivesOnceAndInOrderHoweverTheServiceThrottles(t *testing.T) {
	c := newCloud(t)
	var calls atomic.Int32
	c.Refuse = func(call awsfake.Call) (int, string) {
		if call.Operation != "PutLogEvents" {
			return 0, ""
		}
		switch calls.Add(1) % 3 {
		case 1:
			return 400, "ThrottlingException"
		case 2:
			return 503, "ServiceUnavailableException"
		}
		return 0, ""
	}
	var text strings.Builder
	for i := range 25000 {
		fmt.Fprintf(&text, "line %d of many\n", i)
	}
	c.carry(text.String())
	got := c.messages()
	if want := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n"); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%d of %d lines", len(got), len(want))
	}
	if s := c.status(); s.Failed+s.Dropped != 0 {
		t.Errorf("losses are told: %+v", s)
	}
}

func TestWhatIsLargerThanAnEventOrACallIsDividedBetweenCharacters(t *testing.T) {
	c := newCloud(t)
	line := strings.Repeat("ä", 400_000) // 800 kB
	c.carry(line + "\n" + line + "\n\nlast, with a byte that is no character: \xff\n")
	got := c.messages()
	if joined := strings.Join(got, ""); joined != line+line+"last, with a byte that is no character: \uFFFD" {
		t.Errorf("%d events, %d bytes, the last %.80q", len(got), len(joined), got[len(got)-1])
	}
}

func TestTheStreamsDoNotMixWithinALine(t *testing.T) {
	c := newCloud(t)
	s := logdriver.Settings{Driver: "awslogs", Dir: c.dir, Options: c.options, Container: container}
	d, err := logprocess.New(s)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now()
	for _, e := range []logprocess.Entry{
		{Stream: "stdout", Line: []byte("out begins, "), Partial: true, Time: at}, {Stream: "stderr", Line: []byte("an error\n"), Time: at.Add(time.Millisecond)},
		{Stream: "stdout", Line: []byte("and ends\n"), Time: at.Add(time.Second)},
	} {
		if err := d.Write(e); err != nil {
			t.Error(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if got := c.messages(); len(got) != 2 || got[0] != "out begins, and ends" || got[1] != "an error" {
		t.Errorf("%q", got)
	}
}

func TestAContainerWaitsForAServiceThatIsAwayAndLosesNothing(t *testing.T) {
	c := newCloud(t)
	var away atomic.Bool
	away.Store(true)
	var tried atomic.Int32
	c.Refuse = func(call awsfake.Call) (int, string) {
		if call.Operation == "PutLogEvents" && away.Load() {
			tried.Add(1)
			return 503, "ServiceUnavailableException"
		}
		return 0, ""
	}
	w, done := c.begin()
	const lines = 45000 // two calls' worth and more
	wrote := make(chan int, 1)
	var so atomic.Int32
	go func() {
		for i := range lines {
			_, _ = fmt.Fprintf(w, "line %d\n", i)
			so.Add(1)
		}
		_ = w.Close()
		wrote <- lines
	}()
	until(t, "the container to wait", func() bool { return tried.Load() > 0 && so.Load() >= 2*10000 })
	if n := so.Load(); n > 25000 {
		t.Errorf("%d lines were taken while the service was away: they are held in memory", n)
	}
	away.Store(false)
	<-wrote
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := c.messages(); len(got) != lines || got[0] != "line 0" || got[lines-1] != fmt.Sprintf("line %d", lines-1) {
		t.Errorf("%d lines arrived", len(got))
	}
}

func TestWithoutBlockingWhatIsDroppedIsCountedToTheLine(t *testing.T) {
	c := newCloud(t, "mode", "non-blocking", "max-buffer-size", "1k")
	var away atomic.Bool
	away.Store(true)
	c.Refuse = func(call awsfake.Call) (int, string) {
		if call.Operation == "PutLogEvents" && away.Load() {
			return 400, "ThrottlingException"
		}
		return 0, ""
	}
	w, done := c.begin()
	const lines = 60000
	for i := range lines { // this never waits for long: the service is away until it is over
		_, _ = fmt.Fprintf(w, "line %d\n", i)
	}
	away.Store(false)
	_ = w.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got, s := len(c.messages()), c.status(); s.Dropped == 0 || got+int(s.Dropped) != lines || s.Failed != 0 {
		t.Errorf("%d arrived, and of %d the status is %+v", got, lines, s)
	}
}

func TestWhatTheServiceDoesNotTakeIsToldAlthoughTheContainerIsSilent(t *testing.T) {
	c := newCloud(t)
	c.Refuse = func(call awsfake.Call) (int, string) {
		if call.Operation == "PutLogEvents" {
			return 400, "AccessDeniedException"
		}
		return 0, ""
	}
	w, done := c.begin()
	_, _ = io.WriteString(w, "one\ntwo\n")
	until(t, "the status", func() bool { return c.status().Failed == 2 })
	if s := c.status(); !strings.Contains(s.LastError, "AccessDeniedException") || !strings.Contains(s.LastError, "2 of 2 lines for s in log group /x") {
		t.Errorf("%+v", s)
	}
	_ = w.Close()
	<-done
}

func TestAStreamThatSomebodyRemovesIsMadeAgainAndATokenIsSentWhereItIsAskedFor(t *testing.T) {
	c := newCloud(t, "awslogs-create-group", "true")
	c.Logs.Tokens = true
	w, done := c.begin()
	for i := range 3 {
		if i == 2 {
			c.Set(func(s *awsfake.Server) { delete(s.Logs.Groups, "/x") })
		}
		_, _ = fmt.Fprintf(w, "line %d\n", i)
		until(t, "the line", func() bool { m := c.messages(); return len(m) > 0 && m[len(m)-1] == fmt.Sprintf("line %d", i) })
	}
	_ = w.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := c.status(); s.Failed != 0 {
		t.Errorf("%+v", s)
	}
}

func TestAnEventOfSeveralLinesIsNotCutByTheClock(t *testing.T) {
	c := newCloud(t, "awslogs-multiline-pattern", "^BEGIN")
	w, done := c.begin()
	_, _ = io.WriteString(w, "BEGIN a\n  a2\nBEGIN b\n")
	until(t, "the first event", func() bool { return len(c.messages()) > 0 })
	_, _ = io.WriteString(w, "BEGIN c\n  c2\n")
	_ = w.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := strings.Join(c.messages(), "|"); got != "BEGIN a\n  a2\n|BEGIN b\n|BEGIN c\n  c2\n" {
		t.Errorf("%q", got)
	}
}

// Keys that have expired are read again, as often as that happens in a container's life, and no line is lost.
func TestKeysThatExpireWhileAContainerRunsAreReadAgain(t *testing.T) {
	c := newCloud(t)
	file := filepath.Join(t.TempDir(), "credentials")
	renew := func(id string) {
		c.Set(func(s *awsfake.Server) {
			s.Keys = append(s.Keys, aws.Credentials{AccessKeyID: id, SecretAccessKey: "s3cret"})
			s.Refuse = func(call awsfake.Call) (int, string) {
				if call.AccessKeyID != id {
					return http.StatusBadRequest, "ExpiredTokenException"
				}
				return 0, ""
			}
		})
		if err := os.WriteFile(file, []byte("[default]\naws_access_key_id = "+id+"\naws_secret_access_key = s3cret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	renew("AKFIRST")
	p := startProcess(t, logdriver.Settings{Driver: "awslogs", Dir: c.dir, Options: c.options, Container: container}, "AWS_ACCESS_KEY_ID=", "AWS_SHARED_CREDENTIALS_FILE="+file)
	for i, id := range []string{"", "AKSECOND", "AKTHIRD"} {
		if id != "" {
			renew(id)
		}
		_, _ = fmt.Fprintf(p.stdout, "line %d\n", i)
		until(t, "the line", func() bool { return len(c.messages()) == i+1 })
	}
	_, _ = p.stdout.Close(), p.stderr.Close()
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
	if s := c.status(); s.Failed+s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

// The options are those that ECS documents for awslogs (Using the awslogs log driver, "awslogs-format").
func TestLinesInTheEmbeddedMetricFormatAreSaidToBe(t *testing.T) {
	c := newCloud(t, "awslogs-format", "json/emf")
	var said atomic.Pointer[string]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".PutLogEvents") {
			format := r.Header.Get("X-Amzn-Logs-Format")
			said.Store(&format)
		}
		c.ServeHTTP(w, r)
	}))
	defer server.Close()
	c.options["awslogs-endpoint"] = server.URL
	line := `{"_aws":{"Timestamp":1,"CloudWatchMetrics":[{"Namespace":"n","Dimensions":[[]],"Metrics":[{"Name":"m"}]}]},"m":1}`
	c.carry(line + "\n")
	if m := c.messages(); len(m) != 1 || m[0] != line || said.Load() == nil || *said.Load() != "json/emf" {
		t.Errorf("%q, with the format %v", m, said.Load())
	}
	for option, value := range map[string]string{"awslogs-multiline-pattern": "^B", "awslogs-datetime-format": "%Y"} {
		c.options[option] = value
		if _, err := logprocess.New(logdriver.Settings{Driver: "awslogs", Dir: c.dir, Options: c.options, Container: container}); err == nil || !strings.Contains(err.Error(), "awslogs-format excludes") {
			t.Errorf("with %s: %v", option, err)
		}
		delete(c.options, option)
	}
	c.options["awslogs-format"] = "json"
	if _, err := logprocess.New(logdriver.Settings{Driver: "awslogs", Dir: c.dir, Options: c.options, Container: container}); err == nil || !strings.Contains(err.Error(), "must be json/emf") {
		t.Error(err)
	}
}
