package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/longshore-project/longshore/controlplane"
)

func TestCredentialsOfSystemdStandInForFlagsThatAreNotGiven(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"seal-key", "tls-cert", "tls-key"} {
		if err := os.WriteFile(filepath.Join(dir, "longshore-control."+name), []byte("x"), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, "longshore-control."+name) }
	for _, c := range []struct {
		what      string
		dir       string
		cfg, want controlplane.Config
	}{
		{"all", dir, controlplane.Config{}, controlplane.Config{SealKeyFile: at("seal-key"), TLSCert: at("tls-cert"), TLSKey: at("tls-key")}},
		{"flags win", dir, controlplane.Config{SealKeyFile: "s", TLSCert: "c", TLSKey: "k"}, controlplane.Config{SealKeyFile: "s", TLSCert: "c", TLSKey: "k"}},
		{"half a flag is not made whole", dir, controlplane.Config{TLSCert: "c"}, controlplane.Config{SealKeyFile: at("seal-key"), TLSCert: "c"}},
		{"none there", t.TempDir(), controlplane.Config{}, controlplane.Config{}},
		{"no systemd", "", controlplane.Config{}, controlplane.Config{}},
	} {
		fromCredentials(&c.cfg, c.dir)
		if c.cfg.SealKeyFile != c.want.SealKeyFile || c.cfg.TLSCert != c.want.TLSCert || c.cfg.TLSKey != c.want.TLSKey {
			t.Errorf("%s: %q %q %q", c.what, c.cfg.SealKeyFile, c.cfg.TLSCert, c.cfg.TLSKey)
		}
	}
}
