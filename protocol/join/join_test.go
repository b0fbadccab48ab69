package join

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestATokenIsReadAsItWasPrinted(t *testing.T) {
	for _, want := range []Token{
		{AccessKeyID: "AKIAABCDEFGHIJKLMNOP", SecretAccessKey: "abcdefghijklmnopqrstuvwxyz+/0123456789ab"},
		{AccessKeyID: "AKIAABCDEFGHIJKLMNOP", SecretAccessKey: "abcdefghijklmnopqrstuvwxyz+/0123456789ab", Pin: Pin([]byte("a certificate\nwith a line"))},
	} {
		text := want.String()
		if got, err := Parse(" " + text + "\n"); err != nil || got != want {
			t.Errorf("%s is read as %+v, %v", text, got, err)
		}
		if strings.Contains(fmt.Sprintf("%#v", want), want.SecretAccessKey) {
			t.Error("a dump shows the secret")
		}
	}
}

func TestATokenThatWasChangedOnTheWayIsRefused(t *testing.T) {
	whole := Token{AccessKeyID: "AKIAABCDEFGHIJKLMNOP", SecretAccessKey: "abcdefghijklmnopqrstuvwxyz+/0123456789ab", Pin: Pin([]byte("a"))}.String()
	for i := len(prefix); i < len(whole); i++ {
		if _, err := Parse(whole[:i]); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut at %d: %v", i, err)
		}
		other := byte('A')
		if whole[i] == other {
			other = 'B'
		}
		if _, err := Parse(whole[:i] + string(other) + whole[i+1:]); !errors.Is(err, ErrDamaged) {
			t.Errorf("changed at %d: %v", i, err)
		}
	}
	for _, text := range []string{"", "AKIAABCDEFGHIJKLMNOP", "longshore2.abc", whole[1:]} {
		if _, err := Parse(text); !errors.Is(err, ErrForm) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := Parse(whole[:40] + "\n" + whole[40:]); !errors.Is(err, ErrDamaged) {
		t.Errorf("over two lines: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Token{AccessKeyID: "AKIAABCDEFGHIJKLMNOP", SecretAccessKey: "abcdefghijklmnopqrstuvwxyz+/0123456789ab"}.String())
	f.Add(Token{AccessKeyID: "AKIAABCDEFGHIJKLMNOP", SecretAccessKey: "abcdefghijklmnopqrstuvwxyz+/0123456789ab", Pin: Pin([]byte("a"))}.String())
	f.Add("longshore1.")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := Parse(text)
		if err == nil && got.String() != strings.TrimSpace(text) {
			t.Errorf("%q is read as %q", text, got.String())
		}
	})
}
