package roles

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const app = "arn:aws:iam::123456789012:role/app"

func write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name+".new", []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

func document(role, id, rest string) string {
	return fmt.Sprintf(`{"roles":{%q:{"accessKeyId":%q,"secretAccessKey":"planted"%s}}}`, role, id, rest)
}

func TestARolesCredentialsLiveForAWhileAndNoLongerThanTheFileSays(t *testing.T) {
	name := filepath.Join(t.TempDir(), "roles.json")
	now := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	write(t, name, `{"roles":{
		"`+app+`":{"accessKeyId":"A","secretAccessKey":"planted"},
		"arn:aws:iam::123456789012:role/path/soon":{"accessKeyId":"B","secretAccessKey":"planted","sessionToken":"t","expiration":"2026-11-20T08:10:00Z"},
		"arn:aws:iam::123456789012:role/past":{"accessKeyId":"C","secretAccessKey":"planted","expiration":"2026-11-20T07:10:00Z"}}}`, 0o600)
	r, err := Open(name, "123456789012", zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	r.now = func() time.Time { return now }
	for _, ref := range []string{app, "app"} {
		if c, err := r.Get(ref); err != nil || c.AccessKeyID != "A" || c.RoleArn != app || !c.Expiration.Equal(now.Add(Lifetime)) {
			t.Errorf("%s: %v", ref, err)
		} else if s := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(s, "planted") {
			t.Error(s)
		}
	}
	if c, err := r.Get("path/soon"); err != nil || c.SessionToken != "t" || !c.Expiration.Equal(now.Add(10*time.Minute)) {
		t.Error(err)
	}
	if _, err := r.Get("past"); !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), "2026-11-20T07:10:00Z") {
		t.Error(err)
	}
	if _, err := r.Get("other"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), name) {
		t.Error(err)
	}
	var none *Roles
	if _, err := none.Get(app); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "--role-credentials") {
		t.Error(err)
	}
}

func TestAChangedFileCountsAtOnceAndABrokenOneChangesNothing(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	name := filepath.Join(t.TempDir(), "roles.json")
	write(t, name, document(app, "A", ""), 0o600)
	r, err := Open(name, "123456789012", zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	get := func() string {
		t.Helper()
		c, err := r.Get(app)
		if err != nil {
			t.Fatal(err)
		}
		return c.AccessKeyID
	}
	write(t, name, document(app, "B", ""), 0o600)
	if get() != "B" {
		t.Error("the changed file was not read")
	}
	write(t, name, document(app, "C", `"`), 0o600)
	if first, second := get(), get(); first != "B" || second != "B" || logs.Len() != 1 {
		t.Error(get(), logs.All())
	}
	write(t, name, document(app, "D", ""), 0o644)
	if get() != "B" || !strings.Contains(fmt.Sprint(logs.All()[1].ContextMap()), "chmod 600") {
		t.Error("a file that others can read was taken")
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if first, second := get(), get(); first != "B" || second != "B" || logs.Len() != 3 {
		t.Error(get(), logs.Len())
	}
	write(t, name, document(app, "E", ""), 0o600)
	if get() != "E" {
		t.Error("the file that came back was not read")
	}
	for _, l := range logs.All() {
		if strings.Contains(fmt.Sprint(l.ContextMap()), "planted") {
			t.Error(l)
		}
	}
}

func TestAFileThatCanNotBeUsedIsRefusedWithTheReasonAndNothingOfIt(t *testing.T) {
	name := filepath.Join(t.TempDir(), "roles.json")
	for text, want := range map[string]string{
		``:                                      "can't be read",
		`{"roles":{"x`:                          "can't be read",
		`{"roles":planted}`:                     "no JSON from byte",
		`{"roles":{"` + app + `":"planted"}}`:   "is not a",
		document("app", "A", ""):                "is not the ARN of a role",
		document(app, "", ""):                   "needs accessKeyId and secretAccessKey",
		document(app, "A", `,"token":"x"`):      `unknown field "token"`,
		document(app, "A", `,"expiration":"x"`): "2026-12-31T00:00:00Z",
		document(app, "A", "") + "{}":           "more behind",
	} {
		write(t, name, text, 0o600)
		if _, err := Open(name, "1", zap.NewNop()); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v", text, err)
		}
	}
	write(t, name, document(app, "A", ""), 0o640)
	if _, err := Open(name, "1", zap.NewNop()); err == nil || !strings.Contains(err.Error(), "0640") {
		t.Error(err)
	}
	if _, err := Open(name+".absent", "1", zap.NewNop()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func FuzzAFileOfRoles(f *testing.F) {
	f.Add([]byte(document(app, "A", `,"expiration":"2026-12-31T00:00:00Z"`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		roles, err := parse(data)
		for role, k := range roles {
			if err != nil || k.AccessKeyID == "" || !strings.HasPrefix(role, "arn:") {
				t.Errorf("%s %v", role, err)
			}
		}
	})
}
