package containerd_test

import (
	"testing"

	"github.com/longshore-project/longshore/engine/containerd"
)

func TestWhereAShimAnswersIsReadAsContainerdWritesIt(t *testing.T) {
	for text, want := range map[string]struct {
		path    string
		version int
	}{
		"unix:///run/containerd/s/abc\n":                                                             {"/run/containerd/s/abc", 2},
		`{"version":2,"address":"unix:///run/containerd/s/abc","protocol":"ttrpc"}`:                  {"/run/containerd/s/abc", 2},
		`{"version":3,"address":"unix:///run/containerd/s/abc","protocol":"ttrpc","future":{"x":1}}`: {"/run/containerd/s/abc", 3},
		`{"version":4,"address":"unix:///run/containerd/s/abc","protocol":"ttrpc"}`:                  {},
		`{"version":3,"address":"unix:///run/containerd/s/abc","protocol":"grpc"}`:                   {},
		`{"version":3,"address":"vsock://3:1024","protocol":"ttrpc"}`:                                {},
		`{"version":`: {},
		"":            {},
	} {
		path, version, err := containerd.ShimAddress([]byte(text))
		if path != want.path || version != want.version || (err == nil) != (want.path != "") {
			t.Errorf("%s: %q, version %d, %v", text, path, version, err)
		}
	}
}

func FuzzWhereAShimAnswers(f *testing.F) {
	f.Add([]byte(`{"version":3,"address":"unix:///run/containerd/s/abc","protocol":"ttrpc"}`))
	f.Add([]byte("unix:///run/containerd/s/abc"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, version, err := containerd.ShimAddress(b); err == nil && version != 2 && version != 3 {
			t.Errorf("version %d", version)
		}
	})
}
