package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// unpack reads an archive.
func unpack(t *testing.T, archive io.Reader) map[string]string {
	t.Helper()
	zipped, err := gzip.NewReader(archive)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(zipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(data)
	}
}

func say(text string, err error) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error { _, _ = io.WriteString(w, text); return err }
}

func TestAPieceThatHangsFailsOrPanicsKeepsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deaf := make(chan struct{})
		var f Filter
		f.Know("planted")
		var out bytes.Buffer
		failed, err := Write(t.Context(), &out, "b", []Piece{
			{Name: "deaf", Make: func(_ context.Context, w io.Writer) error { _, _ = io.WriteString(w, "so far"); <-deaf; return nil }},
			{Name: "late", Make: func(ctx context.Context, w io.Writer) error { <-ctx.Done(); return errors.New("was at it") }},
			{Name: "failed", Make: say("the beginning", errors.New("with planted in it"))},
			{Name: "panicked", Make: func(context.Context, io.Writer) error { panic("here") }},
			{Name: "large", Most: 10, Make: say(strings.Repeat("x", 100)+"0123456789", nil)},
			{Name: "well", Make: say("well", nil)},
		}, &f, time.Now())
		close(deaf)
		if failed != 4 || err != nil {
			t.Fatal(failed, err)
		}
		files := unpack(t, &out)
		for name, want := range map[string]string{"b/deaf": "so far\nFAILED: no answer within 15s", "b/late": "was at it", "b/failed": "the beginning\nFAILED: with [hidden] in it", "b/panicked": "it panicked: here", "b/large": "0123456789", "b/well": "well",
			"b/contents.txt": "without the 100 bytes before them"} {
			if !strings.Contains(files[name], want) {
				t.Errorf("%s is %q", name, files[name])
			}
		}
		if len(files["b/large"]) != 10 || strings.Contains(files["b/contents.txt"], "planted") {
			t.Errorf("%q", files)
		}
	})
}

func TestAProgramThatIsNotThereIsSaid(t *testing.T) {
	var out bytes.Buffer
	p := Command("c", []string{"no-such-program-at-all"}, []string{"echo", "the next one"})
	if err := p.Make(t.Context(), &out); err == nil || !strings.Contains(out.String(), "the next one") {
		t.Error(err, out.String())
	}
}

func TestALogsLinesAreThoseSinceATimeInAllItsFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.log")
	for name, text := range map[string]string{
		file + ".1": "level=info time=2026-01-01T00:00:00.000Z msg=old\nlevel=info time=2026-01-03T00:00:00Z msg=one\n  and its second line\n",
		file:        "{\"level\":\"info\",\"time\":\"2026-01-04T00:00:00.5Z\",\"msg\":\"two\"}\n2026-01-04T00:00:00+01:00 200 three",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now().Add(-time.Hour)
	if err := os.Chtimes(file+".1", before, before); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Log("l", file, time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), 1<<20).Make(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	want := "level=info time=2026-01-03T00:00:00Z msg=one\n  and its second line\n{\"level\":\"info\",\"time\":\"2026-01-04T00:00:00.5Z\",\"msg\":\"two\"}\n2026-01-04T00:00:00+01:00 200 three"
	if out.String() != want {
		t.Errorf("%s", out.String())
	}
	if err := Log("l", file+"x", time.Time{}, 1<<20).Make(t.Context(), &out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestWhatStandsAroundASecretGivesItAway(t *testing.T) {
	var f Filter
	for text, want := range map[string]string{
		`password=hunter2hunter2 user=a`:                                                            `password=[hidden] user=a`,
		`{"db_password": "a \"b\" c", "port": 1}`:                                                   `{"db_password": [hidden], "port": 1}`,
		`msg="{\"token\":\"abc def\",\"n\":1}"`:                                                     `msg="{\"token\":[hidden],\"n\":1}"`,
		`--api-key 'a b' --port 80`:                                                                 `--api-key [hidden] --port 80`,
		`https://u:p@h/x and https://h:80/y`:                                                        `https://[hidden]@h/x and https://h:80/y`,
		`Authorization: Basic dTpwYXNzd29yZA==`:                                                     `Authorization: [hidden] [hidden]`,
		`GET /v2/credentials/3d6a2f5e-7a51-4d7a-b8a5-6e2a5a3c5f10`:                                  `GET /v2/credentials/[hidden]`,
		`task=arn:aws:ecs:us-west-2:123456789012:task/c/0f37e05e49d2748691533b7cab8cd921 step=pull`: `task=arn:aws:ecs:us-west-2:123456789012:task/c/0f37e05e49d2748691533b7cab8cd921 step=pull`,
		base64.StdEncoding.EncodeToString([]byte(`{"password":"hunter2hunter2"}`)):                  `[hidden]`,
	} {
		if got := string(f.Clean([]byte(text))); got != want {
			t.Errorf("%s\nis      %s\nwant    %s", text, got, want)
		}
	}
}

func TestTheVariablesOfAProcessAreKnown(t *testing.T) {
	proc := t.TempDir()
	if err := os.Mkdir(filepath.Join(proc, "7"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "7", "environ"), []byte("A=plain-value\x00DB_PASSWORD=by-its-name\x00B=as-the-definition-says\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	var f Filter
	f.KnowProcess(proc, 7, map[string]bool{"B": true})
	f.KnowProcess(proc, 8, nil)
	f.KnowNamed("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
	f.KnowNamed("OLDPWD", proc)
	if got := string(f.Clean([]byte("AKIAEXAMPLE " + proc))); got != "AKIAEXAMPLE "+proc {
		t.Error(got)
	}
	if got := string(f.Clean([]byte("plain-value by-its-name as-the-definition-says"))); got != "plain-value [hidden] [hidden]" {
		t.Error(got)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a text with the secret in it", "secret")
	f.Add("password=\"x\\\"y\" dGhlIHNlY3JldA==", "the secret")
	f.Fuzz(func(t *testing.T, text, secret string) {
		var filter Filter
		filter.Know(secret)
		out := string(filter.Clean([]byte(text + secret + text + base64.StdEncoding.EncodeToString([]byte(secret)))))
		if s := strings.TrimSpace(secret); len(s) >= leastSecret && !strings.Contains(hidden, s) && !strings.ContainsAny(s, "[]hiden") && strings.Contains(out, s) {
			t.Errorf("%q is in %q", s, out)
		}
		filter.KnowAll([]byte(text))
		filter.KnowURL(text)
	})
}

func TestADiskThatIsFullIsTheWritersError(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = full.Close() }()
	if _, err := Write(t.Context(), full, "b", []Piece{{Name: "well", Make: say("well", nil)}}, &Filter{}, time.Now()); err == nil {
		t.Error("it was written")
	}
}
