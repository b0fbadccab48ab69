package failures

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/test/awsfake"
	"github.com/longshore-project/longshore/test/e2e"
	"github.com/longshore-project/longshore/test/hosts"
	"github.com/longshore-project/longshore/test/images"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.IgnoreTopFunction("go.etcd.io/etcd/client/pkg/v3/logutil.(*MergeLogger).outputLoop"))
}

const (
	cluster  = "daemonset"
	patience = 2 * time.Minute

	awsPort       = "5490"
	closedPort    = "5491"
	throttledPort = "5492"
	brokenPort    = "5493"
	damagedPort   = "5494"
	nobodyPort    = "5499"
	elsewhere     = "198.51.100.1" // a registry that Docker does not take for an insecure one

	role      = "arn:aws:iam::123456789012:role/execution"
	noRole    = "arn:aws:iam::123456789012:role/nobody-has-it"
	asm       = "arn:aws:secretsmanager:us-west-2:123456789012:secret:"
	ecrDomain = "123456789012.dkr.ecr.us-west-2.amazonaws.com"
)

// world is a control plane with one host on which tasks fail, each in its own way and all at once.
type world struct {
	*testing.T
	lab    *e2e.Lab
	api    *ecs.Client
	engine string
	image  string
}

func newWorld(t *testing.T, engine, name string, subnet int) *world {
	roles := filepath.Join(t.TempDir(), "roles.json")
	if err := os.WriteFile(roles, []byte(`{"roles":{"`+role+`":{"accessKeyId":"ROLE","secretAccessKey":"role-secret"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, engine: engine, lab: e2e.NewLabOn(t, engine, name, subnet, 1, "--role-credentials", roles, "--log-format", "json")}
	url, id, secret := w.lab.API()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	w.api = ecs.New(ecs.Options{BaseEndpoint: &url, Region: "us-west-2", Credentials: credentials.NewStaticCredentialsProvider(id, secret, ""), HTTPClient: &http.Client{Transport: transport}})
	if _, err := w.api.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String(cluster)}); err != nil {
		t.Fatal(err)
	}
	w.image = w.lab.Push("probe:1", images.Spec{Files: []images.File{images.Passwd, images.Group,
		{Path: "/bin/text", Data: "no program", Mode: 0o644}}})
	w.registries()
	w.aws()
	w.onHost(`mkdir -p /tmp/host/private /tmp/host/in && chmod 700 /tmp/host/private && echo x >/tmp/host/in/file
		printf 'deny privileged\n' >/etc/ecs/policy && chmod 600 /etc/ecs/policy`)
	w.lab.StartAgent(1, "AWS_ENDPOINT_URL=http://"+w.lan(awsPort), "ECS_DYNAMIC_HOST_PORT_RANGE=50000-50001", "ECS_IMAGE_PULL_CONCURRENCY=20", "ECS_DISABLE_METRICS=true", `ECS_AVAILABLE_LOGGING_DRIVERS=["json-file","fluentd","syslog"]`, "ECS_LOG_OUTPUT_FORMAT=json")
	w.lab.Connected(1)
	return w
}

func (w *world) lan(port string) string { return net.JoinHostPort(w.lab.Farm.LAN(), port) }

// onHost runs a shell's commands on the host.
func (w *world) onHost(script string) string {
	w.Helper()
	out, err := w.lab.OnHost(1, "sh", "-c", script).CombinedOutput()
	if err != nil {
		w.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

// registry serves a further registry at a port of the LAN.
func (w *world) registry(port string) *images.Registry {
	w.Helper()
	r, err := images.Serve("127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = r.Close() })
	if _, _, err := r.Push(w.Context(), "app:1", imageOf(w, port)); err != nil {
		w.Fatal(err)
	}
	w.lab.PlainRegistry(port)
	w.lab.Forward(port, r.Addr)
	return r
}

// registries are those that each fail in one way.
func (w *world) registries() {
	w.registry(closedPort).RequireAuth("me", "right")
	w.registry(throttledPort).Fault(images.TooManyRequests)
	w.registry(brokenPort).Fault(w.blobs(brokenPort, func(res http.ResponseWriter, blob []byte) {
		_, _ = res.Write(blob[:len(blob)/2])
		_ = http.NewResponseController(res).Flush()
		panic(http.ErrAbortHandler)
	}))
	w.registry(damagedPort).Fault(w.blobs(damagedPort, func(res http.ResponseWriter, blob []byte) {
		_, _ = res.Write(bytes.Repeat([]byte{'x'}, len(blob)))
	}))
	w.lab.PlainRegistry(nobodyPort)
	if err := w.lab.Registry.PushIndex(w.Context(), "other-arch:1", w.forAnotherMachine()); err != nil {
		w.Fatal(err)
	}

	tls := httptest.NewTLSServer(http.NotFoundHandler())
	tls.Config.ErrorLog = nil
	w.Cleanup(tls.Close)
	if out, err := w.lab.Farm.Command(w.Context(), "lan", "ip", "addr", "add", elsewhere+"/32", "dev", "br0").CombinedOutput(); err != nil {
		w.Fatalf("%v: %s", err, out)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.Context()))
	done := make(chan error, 1)
	go func() {
		done <- hosts.Forward(ctx, w.lab.Farm.LANNamespace(), elsewhere+":443", strings.TrimPrefix(tls.URL, "https://"))
	}()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
}

// blobs answers a registry's requests for blobs of its image.
func (w *world) blobs(port string, send func(http.ResponseWriter, []byte)) func(http.ResponseWriter, *http.Request) bool {
	w.Helper()
	img, all := imageOf(w, port), map[string][]byte{}
	layers, err := img.Layers()
	if err != nil {
		w.Fatal(err)
	}
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			w.Fatal(err)
		}
		r, err := l.Compressed()
		if err != nil {
			w.Fatal(err)
		}
		if all[digest.String()], err = io.ReadAll(r); err != nil {
			w.Fatal(err)
		}
	}
	digest, err := img.ConfigName()
	if err != nil {
		w.Fatal(err)
	}
	if all[digest.String()], err = img.RawConfigFile(); err != nil {
		w.Fatal(err)
	}
	return func(res http.ResponseWriter, req *http.Request) bool {
		blob := all[path.Base(req.URL.Path)]
		if images.Kind(req) != "blobs" || req.Method != http.MethodGet || blob == nil {
			return false
		}
		res.Header().Set("Content-Length", strconv.Itoa(len(blob)))
		send(res, blob)
		return true
	}
}

// imageOf is the image of the registry at a port, app:1, of which no other registry has a blob.
func imageOf(t testing.TB, port string) v1.Image {
	t.Helper()
	return images.Must(t, images.Spec{Scratch: true, Files: []images.File{{Path: "/file", Data: port}}})
}

// forAnotherMachine is an index that has an image for a CPU of which no test machine is.
func (w *world) forAnotherMachine() v1.ImageIndex {
	w.Helper()
	arch := map[bool]string{true: "riscv64", false: "s390x"}[runtime.GOARCH == "s390x"]
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.DockerManifestList), mutate.IndexAddendum{Add: images.Must(w, images.Spec{}),
		Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	return index
}

// aws is the stand-in for the services that tasks need.
func (w *world) aws() {
	fake := httptest.NewServer(&awsfake.Server{
		Keys:       []aws.Credentials{{AccessKeyID: "ROLE", SecretAccessKey: "role-secret"}},
		Parameters: map[string]string{"plain": "from-ssm"},
		Secrets:    map[string]string{asm + "json||": `{"user":"me"}`, asm + "registry||": `{"username":"me","password":"wrong"}`},
		Refuse: func(c awsfake.Call) (int, string) {
			if c.Operation == "GetAuthorizationToken" || strings.Contains(c.Body, "denied") {
				return http.StatusBadRequest, "AccessDeniedException"
			}
			return 0, ""
		},
	})
	w.Cleanup(fake.Close)
	w.lab.Forward(awsPort, strings.TrimPrefix(fake.URL, "http://"))
}

func (w *world) agentLog() string { return w.lab.Farm.Disk(1, "/var/log/ecs/ecs-agent.log") }

// explain asks the agent on the host.
func (w *world) explain(task string, into any) error {
	out, err := w.lab.OnHost(1, "env", "ECS_DATADIR=/var/lib/ecs/data", "AWS_DEFAULT_REGION=us-west-2", w.lab.Agent(), "explain", "--json", task).CombinedOutput()
	if err != nil {
		return fmt.Errorf("explain: %w: %s", err, out)
	}
	return json.Unmarshal(out, into)
}
