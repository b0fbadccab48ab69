package nearest

import "testing"

func TestASlipOfTheKeyboardFindsItsWordAndANewWordFindsNone(t *testing.T) {
	words := []string{"allow", "deny", "warn", "privileged", "host-path"}
	for word, want := range map[string]string{"priviledged": "privileged", "hostpath": "host-path", "dney": "", "denny": "deny", "refuse": "", "": "", "allow": "allow"} {
		if got := Word(word, words); got != want {
			t.Errorf("%q: %q, not %q", word, got, want)
		}
	}
}
