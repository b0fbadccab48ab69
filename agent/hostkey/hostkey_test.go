package hostkey

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var configured = credentials.NewStaticCredentialsProvider("JOIN", "join-secret", "")

func open(t *testing.T, dir string) *Ring {
	t.Helper()
	r, err := Open(dir, configured, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// order goes through the keys of a ring, back to the first one.
func order(t *testing.T, r *Ring) string {
	t.Helper()
	var ids []string
	for more := true; more; more = r.Next() {
		c, err := r.Retrieve(t.Context())
		if err != nil || c.SecretAccessKey != strings.ToLower(c.AccessKeyID)+"-secret" {
			t.Errorf("%+v, %v", c, err)
		}
		ids = append(ids, c.AccessKeyID)
	}
	return strings.Join(ids, " ")
}

func keep(t *testing.T, r *Ring, id string) {
	t.Helper()
	if err := r.Keep(Key{id, strings.ToLower(id) + "-secret"}); err != nil {
		t.Fatal(err)
	}
}

func TestTheOwnKeySignsBeforeTheOneBeforeItAndTheConfiguredOne(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	if got := order(t, r); got != "JOIN" || r.Own() {
		t.Errorf("without an own key %s sign", got)
	}
	keep(t, r, "ONE")
	if info, err := os.Stat(filepath.Join(dir, FileName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
	for _, r := range []*Ring{r, open(t, dir)} {
		if got := order(t, r); got != "ONE JOIN" || !r.Own() {
			t.Errorf("with an own key %s sign", got)
		}
	}
	keep(t, r, "TWO")
	keep(t, r, "TWO") // which was given twice
	for _, r := range []*Ring{r, open(t, dir)} {
		if got := order(t, r); got != "TWO ONE JOIN" {
			t.Errorf("after a rotation %s sign", got)
		}
	}
	r = open(t, dir)
	for r.Own() {
		r.Next()
	}
	keep(t, r, "THREE") // in exchange for the configured key
	if got := order(t, open(t, dir)); got != "THREE TWO JOIN" {
		t.Errorf("after another exchange %s sign", got)
	}
}

func TestAKeyThatCannotBeKeptIsNotUsed(t *testing.T) {
	full := errors.New("the disk is full")
	r, err := Open(t.TempDir(), configured, func(func() error) error { return full })
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Keep(Key{"ONE", "one-secret"}); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	if err := r.Keep(Key{AccessKeyID: "ONE"}); err == nil {
		t.Error("half a key was kept")
	}
	if got := order(t, r); got != "JOIN" {
		t.Errorf("%s sign", got)
	}
}

func TestADamagedFileIsToldAndTheConfiguredKeySigns(t *testing.T) {
	for _, content := range []string{"", "{", `{"version":1}`, `{"version":2,"current":{"accessKeyId":"A","secretAccessKey":"s"}}`, strings.Repeat(" ", maxFile+1)} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, FileName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Open(dir, configured, nil)
		if err == nil || !strings.Contains(err.Error(), FileName) {
			t.Errorf("%.20q: %v", content, err)
		}
		if got := order(t, r); got != "JOIN" {
			t.Errorf("%.20q: %s sign", content, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"current":{"accessKeyId":"A","secretAccessKey":"s"},"previous":{"accessKeyId":"B","secretAccessKey":"s"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		own, err := parse(data)
		for i := range own {
			if !own[i].whole() {
				t.Errorf("%q has the key %+v", data, own[i])
			}
		}
		if (err == nil) != (len(own) > 0) {
			t.Errorf("%q: %v, %v", data, own, err)
		}
	})
}
