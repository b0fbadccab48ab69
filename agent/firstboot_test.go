package agent

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAJoinTokenDoesNotStayOnTheDisk(t *testing.T) {
	root, token := t.TempDir(), "lst1.secret-of-this-token"
	files := map[string]string{
		"etc/ecs/join.token": token + "\n", "var/lib/cloud/instances/i-1/user-data.txt": "#!/bin/sh\njoin --token " + token + "\njoin --token " + token + "\n",
		"var/lib/cloud/instances/i-1/scripts/part-001": token, "run/cloud-init/instance-data-sensitive.json": `{"user_data":"` + token + `"}`,
		"var/lib/cloud/instances/i-1/obj.pkl": "nothing of it",
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	opt := JoinOptions{Options: Options{Root: root}, Token: token, TokenFile: filepath.Join(root, "etc/ecs/join.token"), Out: &out}
	for range 2 { // repeating it does no harm
		if err := forgetToken(opt); err != nil {
			t.Fatal(err)
		}
	}
	if err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), token) {
			t.Errorf("%s has it still", path)
		}
		if name, _ := filepath.Rel(root, path); len(data) != len(files[name]) {
			t.Errorf("%s has %d bytes, and had %d", path, len(data), len(files[name]))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(opt.TokenFile); err == nil {
		t.Error("the file is there still")
	}
	if n := strings.Count(out.String(), "taken out of"); n != 3 || strings.Contains(out.String(), token) {
		t.Errorf("it says:\n%s", out.String())
	}
}
