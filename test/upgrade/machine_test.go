//go:build upgrade

package upgrade

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/test/hosts"
	"github.com/longshore-project/longshore/test/images"
)

const (
	image     = "longshore-upgrade/serving:1"
	taskLabel = "com.amazonaws.ecs.task-arn"
)

// pair is a control plane and the agent of one simulated host with a Docker engine of its own, whole programs, of any version each. Between
// them is a proxy that notes the state changes that were accepted.
type pair struct {
	*testing.T
	dir, address   string
	farm           *hosts.Farm
	control, agent *program
	engine         *client.Client
	api            *ecs.Client
	noted          *changes
	env            []string // of the agent
	version        string   // of the agent that was started last
}

// program is a process of ours.
type program struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// newPair starts a control plane on an empty data directory, an engine with an image, and no agent. name has at most four letters; subnet is the
// second number of the host's address.
func newPair(t *testing.T, name string, subnet int, control string) *pair {
	t.Helper()
	dir, err := os.MkdirTemp("", "lu"+name) // short: unix sockets lie below
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{T: t, dir: dir, farm: &hosts.Farm{Dir: filepath.Join(dir, "hosts"), Name: "lu" + name, Net: "10." + strconv.Itoa(subnet) + ".8"}, noted: &changes{accepted: map[string]int{}, last: map[string]bool{}}}
	t.Cleanup(p.down)
	if err := p.farm.Up(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	p.engine, err = client.NewClientWithOpts(client.WithHost(p.farm.Engine(1)), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.engine.Close() })
	p.engine.NegotiateAPIVersion(t.Context())
	if err := images.Load(t.Context(), p.engine, image, images.Must(t, images.Spec{Cmd: []string{"sleep", "100000"}, StopSignal: "SIGKILL"})); err != nil {
		t.Fatal(err)
	}
	p.address = freeAddress(t)
	p.forward()
	p.startControl(control)
	p.keys()
	p.must(p.api.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String(cluster),
		Tags: []types.Tag{{Key: aws.String("longshore:daemon-gate"), Value: aws.String("off")}}})) // else tasks wait after each return of the agent
	return p
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// forward makes the control plane reachable for the host, through the proxy.
func (p *pair) forward() {
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	server := &http.Server{Handler: p.noted.proxy(p.address, transport), ReadHeaderTimeout: patience}
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(front) })
	wg.Go(func() {
		if err := hosts.Forward(ctx, p.farm.LANNamespace(), net.JoinHostPort(p.farm.LAN(), "8480"), front.Addr().String()); err != nil {
			p.Error(err)
		}
	})
	p.Cleanup(func() {
		cancel()
		_ = server.Close()
		wg.Wait()
		transport.CloseIdleConnections()
	})
}

// keys reads the keys that the control plane has made.
func (p *pair) keys() {
	p.Helper()
	key := func(file string) *auth.Key {
		k, err := auth.ReadKey(filepath.Join(p.dir, "control", file))
		if err != nil {
			p.Fatal(err)
		}
		return k
	}
	admin, host := key(auth.AdminFile), key(auth.HostFile)
	transport := &http.Transport{}
	p.Cleanup(transport.CloseIdleConnections)
	p.api = ecs.New(ecs.Options{Region: region, BaseEndpoint: aws.String("http://" + p.address), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(admin.AccessKeyID, admin.Secret, "")})
	p.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/root", "ECS_BACKEND_HOST=http://" + net.JoinHostPort(p.farm.LAN(), "8480"), "ECS_CLUSTER=" + cluster,
		"AWS_DEFAULT_REGION=" + region, "AWS_ACCESS_KEY_ID=" + host.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + host.Secret,
		"ECS_DATADIR=/var/lib/ecs/data", "ECS_LOGFILE=/var/log/ecs/ecs-agent.log", "ECS_IMAGE_PULL_BEHAVIOR=prefer-cached"}
}

// must fails the test when a call of the API failed.
func (p *pair) must(_ any, err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *pair) start(name string, cmd *exec.Cmd) *program {
	p.Helper()
	out, err := os.OpenFile(filepath.Join(p.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	cmd.Stdout, cmd.Stderr = out, out
	one := &program{cmd: cmd, ended: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	go func() {
		defer close(one.ended)
		_ = cmd.Wait()
	}()
	return one
}

// startControl starts the control plane from a directory of programs, and waits until it is ready and of this version.
func (p *pair) startControl(bin string) {
	p.Helper()
	p.control = p.start("control", exec.Command(filepath.Join(bin, "longshore-control"), "run", "--data-dir", filepath.Join(p.dir, "control"), "--listen", p.address, "--region", region, "--metrics-listen", ""))
	probe := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	until(p.T, "the control plane is ready", func() error {
		select {
		case <-p.control.ended:
			p.Fatalf("the control plane of %s ended: %v", bin, p.control.cmd.ProcessState)
		default:
		}
		res, err := probe.Get("http://" + p.address + "/healthz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if want := fmt.Sprintf(`"version":%q`, filepath.Base(bin)); err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(text), want) {
			return fmt.Errorf("%s, not %s: %s %w", res.Status, want, text, err)
		}
		return nil
	}, p.logs)
}

// startAgent starts the agent on the host, and waits until it is connected and runs this version.
func (p *pair) startAgent(bin string) {
	p.Helper()
	init, err := os.ReadFile(filepath.Join(p.farm.Dir, "h1", "init.pid"))
	if err != nil {
		p.Fatal(err)
	}
	cmd := exec.Command("nsenter", "-t", strings.TrimSpace(string(init)), "-n", "-m", "-p", "-u", "-i", "--", filepath.Join(bin, "longshore-agent"), "run", "--blackhole-ec2-metadata")
	cmd.Env = p.env
	p.noted.ends(false)
	p.agent = p.start("agent", cmd)
	p.version = filepath.Base(bin)
	p.connected()
}

// connected waits until the one host is, with the agent that was started last.
func (p *pair) connected() {
	p.Helper()
	until(p.T, "the host is connected", func() error {
		listed, err := p.api.ListContainerInstances(p.Context(), &ecs.ListContainerInstancesInput{Cluster: aws.String(cluster)})
		if err != nil || len(listed.ContainerInstanceArns) == 0 {
			return fmt.Errorf("none is listed %w", err)
		}
		found, err := p.api.DescribeContainerInstances(p.Context(), &ecs.DescribeContainerInstancesInput{Cluster: aws.String(cluster), ContainerInstances: listed.ContainerInstanceArns})
		if err != nil {
			return err
		}
		if len(found.ContainerInstances) != 1 || !found.ContainerInstances[0].AgentConnected {
			return fmt.Errorf("%+v", found.ContainerInstances)
		}
		if info := found.ContainerInstances[0].VersionInfo; info == nil || aws.ToString(info.AgentVersion) != p.version {
			return fmt.Errorf("its agent is %+v, not %s", info, p.version)
		}
		return nil
	}, p.logs)
}

// end signals a program and waits for its end. The agent is nsenter's child.
func (p *pair) end(one *program, sig syscall.Signal) {
	if one == nil {
		return
	}
	target := one.cmd.Process.Pid
	if one == p.agent {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", target, target))
		if child, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			target = child
		}
	}
	select {
	case <-one.ended:
		return
	default:
		_ = syscall.Kill(target, sig)
	}
	select {
	case <-one.ended:
	case <-time.After(patience):
		p.Errorf("%s did not end on %v", one.cmd.Path, sig)
		_ = syscall.Kill(target, syscall.SIGKILL)
		<-one.ended
	}
}

// stop ends a program as its service manager does.
func (p *pair) stop(one *program) {
	p.Helper()
	p.noted.ends(one == p.agent)
	p.end(one, syscall.SIGTERM)
	if !one.cmd.ProcessState.Success() {
		p.Errorf("%s ended with %v", one.cmd, one.cmd.ProcessState)
	}
}

func (p *pair) down() {
	p.end(p.agent, syscall.SIGKILL)
	p.end(p.control, syscall.SIGKILL)
	if p.Failed() {
		p.Log(p.logs())
	}
	if err := p.farm.Down(context.WithoutCancel(p.Context())); err != nil {
		p.Error(err)
	}
	if err := os.RemoveAll(p.dir); err != nil {
		p.Error(err)
	}
}

// logs are the last lines that everybody wrote, without those of the waiting test.
func (p *pair) logs() string {
	var all strings.Builder
	for _, path := range []string{filepath.Join(p.dir, "control.log"), filepath.Join(p.dir, "agent.log"), p.farm.Disk(1, "/var/log/ecs/ecs-agent.log")} {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(l string) bool {
			return strings.Contains(l, "Describe") || strings.Contains(l, "List") || strings.Contains(l, "CreateCluster")
		})
		fmt.Fprintf(&all, "---- %s\n%s\n", filepath.Base(path), strings.Join(lines[max(0, len(lines)-60):], "\n"))
	}
	return all.String()
}

// containers are all containers of a task, those that have ended too.
func (p *pair) containers(arn string) []container.InspectResponse {
	p.Helper()
	listed, err := p.engine.ContainerList(p.Context(), container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", taskLabel+"="+arn))})
	if err != nil {
		p.Fatal(err)
	}
	found := make([]container.InspectResponse, len(listed))
	for i, c := range listed {
		if found[i], err = p.engine.ContainerInspect(p.Context(), c.ID); err != nil {
			p.Fatal(err)
		}
	}
	return found
}

// changes are the state changes of tasks that were answered with 200.
type changes struct {
	mu       sync.Mutex
	accepted map[string]int  // by ARN and status
	ending   bool            // the agent was asked to end, and has not been started again
	last     map[string]bool // those that were answered then: the next agent can't know, and may tell them once more
}

// of is how often a change arrived, less the once that it may have been told again.
func (c *changes) of(arn, status string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.accepted[arn+" "+status]
	if n > 1 && c.last[arn+" "+status] {
		n--
	}
	return n
}

func (c *changes) ends(so bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending = so
}

// proxy passes everything on, web sockets too. A target that does not answer is a closed connection, as it is without a proxy.
func (c *changes) proxy(target string, transport http.RoundTripper) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: target})
			r.Out.Host = r.In.Host // it is signed
		},
		Transport:    noting{c, transport},
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
}

type noting struct {
	changes *changes
	next    http.RoundTripper
}

func (n noting) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".SubmitTaskStateChange") {
		return n.next.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var in struct{ Task, Status string }
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	res, err := n.next.RoundTrip(r)
	if err == nil && res.StatusCode == http.StatusOK {
		n.changes.mu.Lock()
		n.changes.accepted[in.Task+" "+in.Status]++
		if n.changes.ending {
			n.changes.last[in.Task+" "+in.Status] = true
		}
		n.changes.mu.Unlock()
	}
	return res, err
}
