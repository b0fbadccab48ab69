package netns_test

import (
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	nsfd "github.com/vishvananda/netns"

	"github.com/longshore-project/longshore/netns"
)

// sameAsNft fails unless what the kernel is told is what nft makes of the ruleset's text, and unless what is written is found right.
func sameAsNft(t *testing.T, r netns.Ruleset) {
	t.Helper()
	theirs, ours := newNamespace(t), newNamespace(t)
	in(t, theirs, func() error {
		c := exec.Command("nft", "-f", "-")
		c.Stdin = strings.NewReader(r.String())
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("nft -f: %w: %s (apt-get install -y nftables)\n%s", err, out, r)
		}
		return nil
	})
	var tables netns.Tables
	if changed, err := tables.Ensure(int(ours), r); err != nil || len(changed) != 1 {
		t.Fatalf("the first look changed %q, %v", changed, err)
	}
	for _, k := range []*netns.Tables{&tables, new(netns.Tables)} {
		if changed, err := k.Ensure(int(ours), r); err != nil || len(changed) != 0 {
			t.Errorf("the second look changed %q, %v", changed, err)
		}
	}
	if a, b := listing(t, theirs), listing(t, ours); a != b {
		t.Errorf("of the text nft makes\n%s\nthe kernel was told\n%s", a, b)
	}
}

// elementLines are what nft shows of sets' elements.
var elementLines = regexp.MustCompile(`(?s)elements = \{.*?\}`)

// said is what a command says.
func said(argv ...string) (string, error) {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
	}
	return string(out), err
}

var marks = regexp.MustCompile(` comment "longshore [0-9a-f]{8}( task [^"]*)?"`)

// listing is our table as nft shows it.
func listing(t *testing.T, ns nsfd.NsHandle) (text string) {
	t.Helper()
	in(t, ns, func() error {
		out, err := exec.Command("nft", "-n", "list", "ruleset").CombinedOutput()
		text = marks.ReplaceAllString(string(out), "")
		return err
	})
	return text
}
