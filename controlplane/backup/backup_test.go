package backup

import (
	"bytes"
	"strings"
	"testing"
)

// written is a whole backup without a store.
func written(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	w := newWriter(&out)
	w.end.Records = 1
	for _, err := range []error{
		w.json("backup.json", About{Format: Format}), w.part("records/000001", []byte(`{"k":"family/web","v":"{\"v\":1,\"record\":{\"name\":\"web\",\"latest\":1}}","r":3}`+"\n")),
		w.part("files/tls/ca.pem", []byte("x")), w.close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func TestABackupIsReadOnlyWhole(t *testing.T) {
	whole := written(t)
	b, err := Read(bytes.NewReader(whole))
	if err != nil || b.Records() != 1 || len(b.Files) != 1 || len(b.Check()) != 0 {
		t.Fatalf("%+v %v", b, err)
	}
	for cut := range len(whole) - 1 {
		if _, err := Read(bytes.NewReader(whole[:cut])); err == nil {
			t.Errorf("one that is cut off after %d of %d bytes was taken", cut, len(whole))
		}
	}
}

func TestAFileThatLeavesTheDataDirectoryIsRefused(t *testing.T) {
	for _, name := range []string{"../x", "/etc/passwd", "a//b", "a/../../b", ".", ""} {
		if err := (&Backup{}).take("files/"+name, nil); err == nil || !strings.Contains(err.Error(), "not restored") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(written(f))
	f.Add([]byte("this is none"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		if b, err := Read(bytes.NewReader(data)); err == nil {
			b.Check()
		}
	})
}
