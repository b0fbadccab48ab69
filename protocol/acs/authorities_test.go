package acs

import (
	"slices"
	"strings"
	"testing"
)

func FuzzParseTrusts(f *testing.F) {
	f.Add("-")
	f.Add("")
	f.Add(strings.Repeat("ab", 32) + "," + strings.Repeat("cd", 32))
	f.Fuzz(func(t *testing.T, header string) {
		all := ParseTrusts(header)
		if all == nil {
			return
		}
		if len(all) > maxAuthorities || !slices.Equal(ParseTrusts(Trusts(all)), all) {
			t.Errorf("%q is %q", header, all)
		}
	})
}

func FuzzFingerprints(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, certificates []byte) {
		if all, err := Fingerprints(certificates); err == nil && (len(all) == 0 || len(all) > maxAuthorities) {
			t.Errorf("%d certificates", len(all))
		}
	})
}
