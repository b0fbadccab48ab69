//go:build packages

package packages_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestThePackagesAreTheSameBytesWhereverTheyAreBuilt builds what is committed in two folders of different names, for both architectures and in
// both formats.
func TestThePackagesAreTheSameBytesWhereverTheyAreBuilt(t *testing.T) {
	sums := func(folder string) map[string]string {
		source, out := filepath.Join(t.TempDir(), folder), t.TempDir()
		must(t, "sh", "-ec", `mkdir -p "$1"; git -C ../.. archive HEAD | tar -x -C "$1"`, "sh", source)
		must(t, "env", "OUT="+out, "SOURCE_DATE_EPOCH=1700000000", filepath.Join(source, "packaging/build.sh"), "1.2.3")
		found := map[string]string{}
		files, err := filepath.Glob(filepath.Join(out, "*.*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			found[filepath.Base(f)] = fmt.Sprintf("%x", sha256.Sum256(data))
		}
		return found
	}
	one, other := sums("a"), sums("another/place")
	if len(one) != 8 || len(other) != 8 {
		t.Fatalf("eight packages are expected: %v and %v", one, other)
	}
	for name, sum := range one {
		if other[name] != sum {
			t.Errorf("%s is %s and %s", name, sum, other[name])
		}
	}
}
