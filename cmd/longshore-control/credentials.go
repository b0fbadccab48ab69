package main

import (
	"os"
	"path/filepath"

	"github.com/longshore-project/longshore/controlplane"
)

// fromCredentials takes the seal key and the certificate that systemd hands over as credentials in dir, where no flag names others.
func fromCredentials(cfg *controlplane.Config, dir string) {
	if dir == "" {
		return
	}
	there := func(name string) string {
		path := filepath.Join(dir, "longshore-control."+name)
		if _, err := os.Stat(path); err != nil {
			return ""
		}
		return path
	}
	if cfg.SealKeyFile == "" {
		cfg.SealKeyFile = there("seal-key")
	}
	if cfg.TLSCert == "" && cfg.TLSKey == "" {
		cfg.TLSCert, cfg.TLSKey = there("tls-cert"), there("tls-key")
	}
}
