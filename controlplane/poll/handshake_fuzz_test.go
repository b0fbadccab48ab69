package poll

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/acs"
)

// anybody takes every signature for that of a host that registered the world's instance.
type anybody struct{}

func (anybody) VerifyUpgrade(*http.Request) (*auth.Identity, error) {
	return &auth.Identity{AccessKeyID: "OTHER", Role: store.RoleHost}, nil
}

// Whoever has a host's key may send any request to the sockets' paths: it is answered with an error, here where no connection
// can be taken over, and never with another instance's socket.
func FuzzHandshake(f *testing.F) {
	w := newWorld(f, func(c *Config) { c.Verifier, c.Log = anybody{}, zap.NewNop() })
	f.Cleanup(w.stop)
	for _, query := range []string{"", "clusterArn=daemonset&containerInstanceArn=" + instance + "&agentVersion=1.105.1&seqNum=1&sendCredentials=true",
		"clusterArn=" + url.QueryEscape(owner.Cluster(cluster)) + "&containerInstanceArn=" + url.QueryEscape(owner.ContainerInstance(cluster, instance)),
		"cluster=a%2Fb&containerInstance=%00%ff;;&&==", "containerInstanceArn=arn:aws:ecs:::container-instance/../../x"} {
		f.Add("/acs/ws", query, "websocket", "13", "dGhlIHNhbXBsZSBub25jZQ==")
		f.Add("/tcs/ws", query, "h2c", "", "")
	}
	f.Fuzz(func(t *testing.T, path, query, upgrade, version, key string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.URL = &url.URL{Path: "/" + strings.TrimPrefix(path, "/"), RawQuery: query}
		r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {upgrade}, "Sec-Websocket-Version": {version}, "Sec-Websocket-Key": {key},
			acs.BootHeader: {query}, "User-Agent": {upgrade}}
		answer := httptest.NewRecorder()
		w.server.ServeHTTP(answer, r)
		if answer.Code < 400 || answer.Code > 599 {
			t.Errorf("%s?%q is answered %d", path, query, answer.Code)
		}
	})
}
