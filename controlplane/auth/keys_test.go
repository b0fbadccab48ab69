package auth_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

// sealed is the seal key of all tests.
var sealed = seal.New()

func files(t *testing.T, dir string) (contents [2]string) {
	t.Helper()
	for i, name := range []string{auth.AdminFile, auth.HostFile} {
		path := filepath.Join(dir, name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v)", name, info.Mode(), err)
		}
		contents[i] = string(data)
	}
	return contents
}

func ensure(t *testing.T, s *store.Store, dir string) {
	t.Helper()
	if err := auth.EnsureKeys(t.Context(), s, sealed, dir, now); err != nil {
		t.Fatal(err)
	}
}

func TestTheFirstStartMakesKeysAndLaterOnesKeepThem(t *testing.T) {
	s, dir := storetest.New(t), t.TempDir()
	ensure(t, s, dir)
	first := files(t, dir)
	for _, content := range first {
		if !regexp.MustCompile(`^AWS_ACCESS_KEY_ID=AKIA[A-Z2-7]{16}\nAWS_SECRET_ACCESS_KEY=[A-Za-z0-9+/]{40}\n$`).MatchString(content) {
			t.Errorf("a file has %q", content)
		}
	}
	var keys []store.Key
	if err := s.Read(t.Context(), func(v *store.View) error {
		for k := range v.Keys() {
			keys = append(keys, store.Key{Role: k.Role, Enrolment: k.Enrolment})
			if open, err := auth.Unseal(sealed, k); err != nil || !strings.Contains(first[0]+first[1], open.Lines()) || strings.Contains(string(k.Sealed), open.Secret) {
				t.Errorf("the key %s is in no file", k.AccessKeyID)
			}
		}
		return nil
	}); err != nil || len(keys) != 2 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	ensure(t, s, dir)
	if files(t, dir) != first {
		t.Error("the second start changed the files")
	}
	if err := os.Remove(filepath.Join(dir, auth.AdminFile)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, auth.HostFile), 0o644); err != nil {
		t.Fatal(err)
	}
	ensure(t, s, dir)
	if files(t, dir) != first {
		t.Error("a file that was deleted was not written again as it was")
	}
}

func TestANewStoreAdoptsTheKeysOfTheFiles(t *testing.T) {
	dir := t.TempDir()
	ensure(t, storetest.New(t), dir)
	before := files(t, dir)
	s := storetest.New(t)
	ensure(t, s, dir)
	if files(t, dir) != before {
		t.Error("the files changed")
	}
	id := strings.TrimPrefix(strings.Split(before[1], "\n")[0], "AWS_ACCESS_KEY_ID=")
	if k, err := auth.StoredKeys(s, sealed)(t.Context(), id); err != nil || k == nil || k.Role != store.RoleHost || !k.Enrolment {
		t.Errorf("the host's key is %v, %v", k, err)
	}
	if k, err := auth.StoredKeys(s, sealed)(t.Context(), "AKIANOBODY"); k != nil || err != nil {
		t.Errorf("a key that does not exist is %v, %v", k, err)
	}
}

func TestAKeyFileThatIsWrongStopsTheStartAndIsKept(t *testing.T) {
	s, dir := storetest.New(t), t.TempDir()
	ensure(t, s, dir)
	good := files(t, dir)
	path := filepath.Join(dir, auth.AdminFile)
	for name, content := range map[string]string{
		"empty":          "",
		"half":           "AWS_ACCESS_KEY_ID=AKIAAAAAAAAAAAAAAAAA\n",
		"another secret": strings.Split(good[0], "\n")[0] + "\nAWS_SECRET_ACCESS_KEY=" + strings.Repeat("x", 40) + "\n",
		"the host's":     good[1],
		"a deleted key":  "AWS_ACCESS_KEY_ID=AKIADELETEDDELETED00\nAWS_SECRET_ACCESS_KEY=" + strings.Repeat("y", 40) + "\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := auth.EnsureKeys(t.Context(), s, sealed, dir, now)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "delete the file") {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), strings.Repeat("x", 40)) {
			t.Errorf("%s: the error has the secret in it", name)
		}
		if files(t, dir)[0] != content {
			t.Errorf("%s: the file was changed", name)
		}
	}
	quoted := "# mine\nexport AWS_ACCESS_KEY_ID=\"" + strings.TrimPrefix(strings.Split(good[0], "\n")[0], "AWS_ACCESS_KEY_ID=") + "\"\r\n" + strings.Split(good[0], "\n")[1]
	if err := os.WriteFile(path, []byte(quoted), 0o600); err != nil {
		t.Fatal(err)
	}
	ensure(t, s, dir)
}

func TestADirectoryThatCannotBeWrittenIsNamed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	if err := auth.EnsureKeys(t.Context(), storetest.New(t), sealed, dir, now); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("the error is %v", err)
	}
}

func TestReplicasThatAreFirstStartedTogetherHaveOneKeyOfAKind(t *testing.T) {
	client := storetest.Etcd(t)
	const replicas = 4
	var dirs [replicas]string
	var wg sync.WaitGroup
	for i := range replicas {
		dirs[i] = t.TempDir()
		s := storetest.Open(t, client)
		wg.Go(func() {
			if err := auth.EnsureKeys(t.Context(), s, sealed, dirs[i], now); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, dir := range dirs[1:] {
		if files(t, dir) != files(t, dirs[0]) {
			t.Error("two replicas hand out different keys")
		}
	}
}

func TestAFileGetsTheKeyThatReplacesItsOwnAndNotSomebodyElses(t *testing.T) {
	s, dir := storetest.New(t), t.TempDir()
	ensure(t, s, dir)
	first, err := auth.ReadKey(filepath.Join(dir, auth.AdminFile))
	if err != nil {
		t.Fatal(err)
	}
	another := auth.NewKey(sealed, store.Key{Role: store.RoleAdmin, Name: "bob"}, now)
	heir := auth.NewKey(sealed, store.Key{Role: store.RoleAdmin}, now.Add(time.Hour))
	ending := func(v *store.View) *store.Key {
		k := *v.Key(first.AccessKeyID)
		k.Successor, k.Expires = heir.AccessKeyID, now.Add(2*time.Hour)
		return &k
	}
	var old *store.Key
	if err := s.Read(t.Context(), func(v *store.View) error { old = ending(v); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.Txn().Create(another.Key).Create(heir.Key).Update(old).Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	renew := map[string]func() error{
		"at once":           func() error { return auth.RenewFiles(t.Context(), s, sealed, dir, now) },
		"at the next start": func() error { return auth.EnsureKeys(t.Context(), s, sealed, dir, now) },
	}
	for name, renew := range renew {
		if err := os.WriteFile(filepath.Join(dir, auth.AdminFile), []byte(first.Lines()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := renew(); err != nil {
			t.Fatal(err)
		}
		if got, err := auth.ReadKey(filepath.Join(dir, auth.AdminFile)); err != nil || got.Secret != heir.Secret {
			t.Errorf("%s the file has the key %v, %v", name, got, err)
		}
	}
}
