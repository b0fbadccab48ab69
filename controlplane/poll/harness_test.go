package poll

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/coder/websocket"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/arn"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// patience bounds every wait of a test; it is reached only when the test fails.
const patience = 20 * time.Second

var owner = arn.Owner{Region: "us-west-2", Account: "123456789012"}

const (
	cluster  = "daemonset"
	instance = "e2814b69ab604db2a89dcd0ea8dd1a7b"
)

// world is a control plane's poll endpoint on a real store, with one registered instance.
type world struct {
	testing.TB
	store  *store.Store
	seal   *seal.Key
	server *Server
	url    string
	logs   *observer.ObservedLogs
	stop   func()
}

func newWorld(t testing.TB, change ...func(*Config)) *world {
	t.Helper()
	w := &world{TB: t, store: storetest.New(t), seal: seal.New()}
	w.create(
		w.key("HOST", "host-secret", store.RoleHost),
		w.key("OTHER", "other-secret", store.RoleHost),
		w.key("ADMIN", "admin-secret", store.RoleAdmin),
		w.key("READER", "reader-secret", store.RoleReadOnly),
		&store.Cluster{Object: types.Cluster{ClusterName: aws.String(cluster), ClusterArn: aws.String(owner.Cluster(cluster)), Status: aws.String("ACTIVE")}},
		&store.TaskDefinition{Object: *definition()},
	)
	w.register(instance)
	w.server, w.url, w.stop = w.replica(change...)
	return w
}

// key is an access key as it is stored.
func (w *world) key(id, secret string, role store.Role) *store.Key {
	return &store.Key{AccessKeyID: id, Sealed: w.seal.Seal(id, []byte(secret)), Role: role}
}

// replica starts another server on the world's store.
func (w *world) replica(change ...func(*Config)) (*Server, string, func()) {
	w.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	w.logs = logs
	cfg := Config{Store: w.store, Verifier: auth.NewVerifier(auth.StoredKeys(w.store, w.seal), auth.Options{}), Log: zap.New(core), Keep: 50 * time.Millisecond, AcceptDelay: 10 * time.Millisecond}
	for _, f := range change {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	web := httptest.NewServer(s)
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
		web.Close()
	}
	w.Cleanup(stop)
	w.until("the server has a session", func() bool { _, err := s.lease(); return err == nil })
	return s, web.URL, stop
}

func (w *world) create(records ...store.Record) {
	w.Helper()
	txn := w.store.Txn()
	for _, r := range records {
		txn.Create(r)
	}
	w.commit(txn)
}

func (w *world) commit(txn *store.Txn) {
	w.Helper()
	if err := txn.Commit(w.Context()); err != nil {
		w.Fatal(err)
	}
}

func (w *world) register(id string) {
	w.Helper()
	w.create(&store.Instance{Cluster: cluster, ID: id, RegisteredBy: "HOST", Object: types.ContainerInstance{
		ContainerInstanceArn: aws.String(owner.ContainerInstance(cluster, id)), Status: aws.String("ACTIVE"),
	}}, &store.Allocation{Cluster: cluster, Instance: id})
}

// place places a new task on an instance.
func (w *world) place(id string, change ...func(*types.TaskDefinition)) *store.Task {
	w.Helper()
	def := definition()
	for _, f := range change {
		f(def)
	}
	var i *store.Instance
	var alloc *store.Allocation
	w.store.Peek(func(v *store.View) { i, alloc = v.Instance(cluster, id), v.Allocation(cluster, id) })
	t, err := task.New(task.Params{Cluster: cluster, Definition: def, Instance: i, Now: time.Now()})
	if err != nil {
		w.Fatal(err)
	}
	txn := w.store.Txn()
	task.Place(txn, alloc, false, t)
	w.commit(txn)
	return t
}

// edit changes a copy of a task and writes it, until that succeeds.
func (w *world) edit(id string, change func(v *store.View, t *store.Task) *store.Task) {
	w.Helper()
	err := store.Retry(w.Context(), func() error {
		txn := w.store.Txn()
		err := w.store.Read(w.Context(), func(v *store.View) error {
			task.Finish(txn, v, change(v, v.Task(cluster, id)))
			return nil
		})
		if err != nil {
			return err
		}
		return txn.Commit(w.Context())
	})
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) task(id string) (t *store.Task) {
	w.store.Peek(func(v *store.View) { t = v.Task(cluster, id) })
	return t
}

func (w *world) instance(id string) (i *store.Instance) {
	w.store.Peek(func(v *store.View) { i = v.Instance(cluster, id) })
	return i
}

func (w *world) connected(id string) (connected bool) {
	w.store.Peek(func(v *store.View) { connected = v.Connection(cluster, id) != nil })
	return connected
}

// until waits for a condition on the store: it looks again after each change, and now and then.
func (w *world) until(what string, met func() bool) {
	w.Helper()
	changed := make(chan struct{}, 1)
	cancel := w.store.OnChange(func(int64, []store.Change) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer cancel()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !met() {
		select {
		case <-changed:
		case <-tick.C:
		case <-deadline:
			w.Fatalf("it never happened that %s", what)
		}
	}
}

// definition has one container with a health check and one without.
func definition() *types.TaskDefinition {
	return &types.TaskDefinition{
		Family: aws.String("logging-agent"), Revision: 3, TaskDefinitionArn: aws.String(owner.TaskDefinition("logging-agent", 3)),
		NetworkMode: types.NetworkModeHost,
		ContainerDefinitions: []types.ContainerDefinition{
			{Name: aws.String("web"), Image: aws.String("web:1"), Memory: aws.Int32(64), Essential: aws.Bool(true), HealthCheck: &types.HealthCheck{Command: []string{"CMD", "true"}}},
			{Name: aws.String("helper"), Image: aws.String("helper:1"), Memory: aws.Int32(64), Essential: aws.Bool(false)},
		},
	}
}

// agent is the agent's end of an ACS socket.
type agent struct {
	*world
	conn *websocket.Conn
}

// acsQuery is what an unmodified agent asks with: the cluster is a bare name.
func acsQuery(id string) url.Values {
	return url.Values{"agentHash": {"abcdef01"}, "agentVersion": {"1.105.1"}, "clusterArn": {cluster}, "containerInstanceArn": {owner.ContainerInstance(cluster, id)},
		"dockerVersion": {"DockerVersion: 20.10.24"}, "protocolVersion": {"2"}, "seqNum": {"1"}, "sendCredentials": {"true"}}
}

// request signs a request as an agent does: only the host and the date.
func (w *world) request(base, path string, query url.Values, key string) *http.Request {
	w.Helper()
	r, err := http.NewRequest(http.MethodGet, base+path+"?"+query.Encode(), nil)
	if err != nil {
		w.Fatal(err)
	}
	if key != "" {
		empty := sha256.Sum256(nil)
		credentials := aws.Credentials{AccessKeyID: key, SecretAccessKey: strings.ToLower(key) + "-secret"}
		if err := v4.NewSigner().SignHTTP(w.Context(), credentials, r, hex.EncodeToString(empty[:]), "ecs", "us-west-2", time.Now()); err != nil {
			w.Fatal(err)
		}
	}
	return r
}

// dial opens a socket; header are names and values in turn.
func (w *world) dial(base, path string, query url.Values, key string, header ...string) (*websocket.Conn, *http.Response, error) {
	w.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	w.Cleanup(transport.CloseIdleConnections)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r := w.request(base, path, query, key)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	conn, resp, err := websocket.Dial(ctx, r.URL.String(), &websocket.DialOptions{HTTPHeader: r.Header, HTTPClient: &http.Client{Transport: transport}})
	if err == nil {
		conn.SetReadLimit(acs.MaxFrame)
		w.Cleanup(func() { _ = conn.CloseNow() })
	}
	return conn, resp, err
}

// connect opens the ACS socket of an instance.
func (w *world) connect(id string) *agent { return w.connectTo(w.url, id) }

func (w *world) connectTo(base, id string) *agent {
	w.Helper()
	conn, _, err := w.dial(base, "/acs/ws", acsQuery(id), "HOST")
	if err != nil {
		w.Fatal(err)
	}
	return &agent{w, conn}
}

// read reads the next message; an error means that the socket has ended.
func (a *agent) read() (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, frame, err := a.conn.Read(ctx)
	if err != nil {
		return nil, err
	}
	m, err := acs.Decode(frame)
	if err != nil {
		a.Fatalf("%v: %s", err, frame)
	}
	return m, nil
}

// next reads messages until one is of type M.
func next[M any](a *agent) M {
	a.Helper()
	for {
		m, err := a.read()
		if err != nil {
			a.Fatalf("waiting for a %T: %v", *new(M), err)
		}
		if want, ok := m.(M); ok {
			return want
		}
	}
}

func (a *agent) send(m any) {
	a.Helper()
	frame, err := acs.Encode(m)
	if err != nil {
		a.Fatal(err)
	}
	a.raw(frame)
}

func (a *agent) raw(frame []byte) {
	a.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := a.conn.Write(ctx, websocket.MessageText, frame); err != nil {
		a.Fatal(err)
	}
}

func (a *agent) ack(p *acs.PayloadMessage) {
	a.Helper()
	a.send(&acs.AckRequest{Cluster: p.ClusterArn, ContainerInstance: p.ContainerInstanceArn, MessageID: p.MessageID})
}

// closed reads until the socket ends and returns its close code, -1 for none.
func (a *agent) closed() websocket.StatusCode {
	for {
		if _, err := a.read(); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}
