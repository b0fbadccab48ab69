package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/endpoints/caller"
	"github.com/longshore-project/longshore/agent/endpoints/credentials"
	"github.com/longshore-project/longshore/agent/endpoints/ids"
	"github.com/longshore-project/longshore/agent/endpoints/metadata"
	"github.com/longshore-project/longshore/agent/endpoints/protection"
	"github.com/longshore-project/longshore/agent/endpoints/taskserver"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/netns"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/arn"
)

// asked is what containers ask of this agent, at 169.254.170.2. It is nil on a host where that is switched off. Where the address
// or the port can't be had, it is tried again and again.
type asked struct {
	server   *taskserver.Server
	callers  *caller.Finder
	ids      *ids.IDs
	hostMode error        // why containers in the host network mode can't be told apart; nil: they can
	engine   bool         // the container engine can be told from others
	first    net.Listener // as the agent's start got it; nil: it did not

	mu      sync.Mutex
	problem error         // why nobody is answered; nil: they are
	changed chan struct{} // closed when problem comes or goes
}

// state is what is closed at the next change, and why nobody is answered, nil if they are.
func (s *asked) state() (changed <-chan struct{}, problem error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed, s.problem
}

// set notes why nobody is answered, nil for that they are, and says whether that is news.
func (s *asked) set(problem error) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.problem
	s.problem = problem
	if (before == nil) != (problem == nil) && s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return fmt.Sprint(before) != fmt.Sprint(problem)
}

// openAsked takes the address at which containers ask. What keeps it from that is no reason not to run: it is told and tried
// again, and until then this host offers no task roles.
func (a *Agent) openAsked() error {
	if a.cfg.TaskEndpointsOff {
		a.log.Info("Containers get neither credentials nor metadata from this agent: ECS_DISABLE_TASK_ENDPOINTS is set")
		return nil
	}
	key, err := ids.Open(a.cfg.DataDir)
	if err != nil {
		return err
	}
	s := &asked{ids: key, hostMode: caller.Supported()}
	who := caller.Config{Tasks: a.tasks, Inspect: a.runtime.Inspect}
	s.engine = a.engineAsCaller(&who)
	s.callers = caller.New(who)
	s.server = taskserver.New(taskserver.Config{Log: a.log, Audit: a.audit, Rate: int(a.cfg.MetadataRate), Burst: int(a.cfg.MetadataBurst)})
	s.first = a.tryAsked(s)
	a.asked = s
	return nil
}

// engineAsCaller says how the container engine is known when it asks for its log drivers, and whether it can be.
func (a *Agent) engineAsCaller(who *caller.Config) bool {
	if a.info.Load().Name == config.EngineContainerd {
		who.LogProcesses = caller.LogProcesses{Program: logProgram(), Containers: filepath.Join(containerdRoot(a.cfg), "containers")}
		return who.LogProcesses.Program != ""
	}
	socket, local := strings.CutPrefix(a.cfg.DockerEndpoint, "unix://")
	if local = local && a.info.Load().Name == config.EngineDocker; local {
		who.EngineSocket = socket
	}
	return local
}

func linkLocal() netns.LinkLocal {
	return netns.LinkLocal{Address: netip.MustParseAddr(taskserver.Address), Port: taskserver.Port, Published: 80}
}

// hostPieces are what the host's own network has for containers; answered: they are, at the address for that.
func (a *Agent) hostPieces(answered bool) (pieces []netns.Piece) {
	if answered {
		pieces = append(pieces, linkLocal())
	}
	if a.bridge != nil {
		pieces = append(pieces, a.bridge)
	}
	if a.cfg.BridgeBlockIMDS {
		pieces = append(pieces, netns.DenyMetadata{})
	}
	return pieces
}

// listenAsked listens where containers ask, and makes that address.
func (a *Agent) listenAsked(s *asked) (net.Listener, error) {
	if a.opt.AskedAt != "" {
		return s.listen(a.opt.AskedAt)
	}
	if err := a.network.EnsureOnly(linkLocal()); err != nil {
		return nil, err
	}
	l, err := s.listen(fmt.Sprintf("%s:%d", taskserver.Address, taskserver.Port))
	if err != nil {
		return nil, err
	}
	a.network.Set(a.hostPieces(true)...)
	if _, err := a.network.Ensure(); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// listen listens at an IPv4 address and port, and names who has it already.
func (s *asked) listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp4", address)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	at, perr := netip.ParseAddrPort(address)
	if perr != nil {
		return nil, err
	}
	if holder := s.callers.Listener(at.Addr().As4(), at.Port()); holder != "" {
		return nil, fmt.Errorf("%w: %s has the port; end it, for there can be one container agent on a host", err, holder)
	}
	if l, again := net.Listen("tcp4", address); again == nil { // it ended meanwhile
		return l, nil
	}
	return nil, fmt.Errorf("%w: another container agent seems to run on this host; find it with: ss -ltnp 'sport = :%d'", err, at.Port())
}

// tryAsked tries to listen where containers ask; nil when that can't be.
func (a *Agent) tryAsked(s *asked) net.Listener {
	l, err := a.listenAsked(s)
	a.noteAsked(s, err)
	return l
}

// noteAsked notes why nobody is answered, nil for that they are, and says it once.
func (a *Agent) noteAsked(s *asked, problem error) {
	switch news := s.set(problem); {
	case problem != nil && news:
		a.log.Error("Containers on this host get neither credentials nor metadata, and it offers no task roles; this is tried again", zap.String("address", taskserver.Address), zap.Duration("retry", a.opt.AskedRetry), zap.Error(problem))
	case news:
		a.log.Info("Containers get credentials and metadata now", zap.String("address", taskserver.Address))
	}
}

// tasks are the engine's.
func (a *Agent) tasks() []engine.TaskStatus { return a.engine.Tasks() }

// task is one of them.
func (a *Agent) task(arn string) (engine.TaskStatus, bool) { return a.engine.Task(arn) }

// serveAsked mounts the handlers of what containers ask and serves them until ctx ends. There is an engine by now.
func (a *Agent) serveAsked(ctx context.Context) error {
	s := a.asked
	if s == nil {
		return nil
	}
	credentials.Mount(s.server, credentials.Config{Held: a.roles, Callers: s.callers, Tasks: a.tasks, Audit: a.audit, Log: a.log})
	a.mountMetadata(s)
	protection.Mount(s.server, protection.Config{
		Tasks: a.tasks, Container: s.ids.Find, Caller: s.callers.Is, Role: a.roles.Task, Cluster: a.cfg.ClusterOrDefault(), Log: a.log,
		API: func(signer aws.CredentialsProvider) (protection.API, error) {
			return agentapi.New(agentapi.Config{Endpoint: a.cfg.APIEndpoint, Region: a.instanceRegion(), Credentials: signer, HTTPClient: a.client, UserAgent: a.userAgent(), MaxAttempts: 1})
		},
	})
	l := s.first
	for {
		if l != nil {
			err := a.answerContainers(ctx, s, l)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			a.noteAsked(s, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(a.opt.AskedRetry):
		}
		l = a.tryAsked(s)
	}
}

// answerContainers serves on a listener, and keeps the address up, until ctx ends or that can't go on.
func (a *Agent) answerContainers(ctx context.Context, s *asked, l net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.server.Serve(ctx, l) })
	if a.opt.AskedAt == "" && a.bridge == nil {
		group.Go(func() error { return a.network.Keep(ctx, a.log) })
	}
	return group.Wait()
}

// errOffers ends a session so that the host tells what it can do now.
var errOffers = errors.New("this host can serve containers more, or less, than it has registered")

// offersChange waits until what this host can serve to containers is not what it has registered.
func (a *Agent) offersChange(ctx context.Context) error {
	for {
		var changed <-chan struct{}
		if a.asked != nil {
			changed, _ = a.asked.state()
		}
		if now := a.offers(abilitiesOf(a.runtime)); now != a.offered {
			a.log.Info("What this host can serve to containers has changed; it registers again, as the same container instance", zap.Bool("taskRoles", now.taskRoles))
			return errOffers
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// instanceRegion is the region that the control plane has registered this host in, which may not be the one that the agent
// is configured with: keys of tasks are verified for that.
func (a *Agent) instanceRegion() string {
	if p := a.arn.Load(); p != nil {
		if parsed, err := arn.Parse(*p); err == nil && parsed.Region != "" {
			return parsed.Region
		}
	}
	return a.cfg.Region
}

// prepares are what the agent adds to containers.
func (a *Agent) prepares() []engine.Prepare {
	var all []engine.Prepare
	if a.measured.files != nil {
		all = append(all, a.measured.files.Prepare)
	}
	if a.asked == nil {
		return append(all, refuseRoles)
	}
	return append(all, metadata.Environment(a.asked.ids.Of), a.asked.addCredentials, a.asked.addLogCredentials)
}

// ready says what keeps a container from being created for now: nobody answers it for its task's credentials.
func (a *Agent) ready(t *acs.Task, container string) error {
	if a.asked == nil || (t.RoleCredentials == nil || hasNetwork(t)) && !logsByRole(t, container) {
		return nil
	}
	_, problem := a.asked.state()
	if problem == nil {
		return nil
	}
	return fmt.Errorf("the credentials of the task's role can't be served to containers, and this is tried again: %w", problem)
}

// hasNetwork reports whether a task has a network of its own, in which it is answered.
func hasNetwork(t *acs.Task) bool { return len(t.ElasticNetworkInterfaces) > 0 }

// refuseRoles refuses what can't be had where nothing is served to containers.
func refuseRoles(t *acs.Task, container string, _ *engine.Spec) error {
	if t.RoleCredentials != nil {
		return errors.New("the task has a taskRoleArn, and this agent serves no credentials to containers: ECS_DISABLE_TASK_ENDPOINTS is set")
	}
	if logsByRole(t, container) {
		return errors.New("the awslogs driver is to have the execution role's credentials, and this agent serves none: ECS_DISABLE_TASK_ENDPOINTS is set")
	}
	return nil
}

// addCredentials says where the credentials of the task's role are.
func (s *asked) addCredentials(t *acs.Task, _ string, spec *engine.Spec) error {
	if c := t.RoleCredentials; c != nil {
		if _, problem := s.state(); problem != nil && !hasNetwork(t) {
			return fmt.Errorf("the task has a taskRoleArn, and this agent can't serve credentials to containers now: %w: %w", engine.ErrNotReady, problem)
		}
		if s.hostMode != nil && spec.NetworkMode == "host" {
			return fmt.Errorf("the task has a taskRoleArn and the host network mode, and its processes can't be told from others on this host: %w", s.hostMode)
		}
		spec.AddEnv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=" + credentials.Path + c.CredentialsID)
	}
	return nil
}

// addLogCredentials has the awslogs driver ask for the execution role's credentials.
func (s *asked) addLogCredentials(t *acs.Task, container string, spec *engine.Spec) error {
	if !logsByRole(t, container) {
		return nil
	}
	if _, problem := s.state(); problem != nil {
		return fmt.Errorf("the awslogs driver is to have the execution role's credentials, and this agent can't serve them now: %w: %w", engine.ErrNotReady, problem)
	}
	if !s.engine || s.hostMode != nil {
		return errors.New("the awslogs driver is to have the execution role's credentials, and the container engine can't be told from other processes of this host: it must be a Docker behind a local socket (DOCKER_HOST), or containerd, with the program longshore-log beside the agent")
	}
	if t.ExecutionRoleCredentials == nil || spec.HostConfig.LogConfig == nil {
		return errors.New("the awslogs driver is to have the execution role's credentials, and the control plane has sent none")
	}
	l := *spec.HostConfig.LogConfig
	if l.Config = maps.Clone(l.Config); l.Config == nil {
		l.Config = map[string]string{}
	}
	l.Config["awslogs-credentials-endpoint"] = credentials.Path + t.ExecutionRoleCredentials.CredentialsID
	spec.HostConfig.LogConfig = &l
	return nil
}

func logsByRole(t *acs.Task, container string) bool {
	for _, c := range t.Containers {
		if c != nil && c.Name == container {
			return c.LogsAuthStrategy == engine.LogsByExecutionRole
		}
	}
	return false
}

// Cleanup removes what the agent has added to this host's network, and tells what. It refuses while an agent serves there.
func Cleanup(ctx context.Context, say func(string)) error {
	address := fmt.Sprintf("http://%s:%d/", taskserver.Address, taskserver.Port)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	var network netns.HostNetwork
	network.Set(linkLocal())
	if bridge, err := network.OpenBridge(netns.BridgeConfig{Dir: filepath.Join(runFolder, "leases"), Log: zap.NewNop()}); err == nil {
		network.Set(linkLocal(), bridge)
	}
	client := http.Client{Timeout: 2 * time.Second}
	if response, err := client.Do(request); err == nil {
		_ = response.Body.Close()
		return fmt.Errorf("an agent serves containers at %s: stop it first", address)
	}
	removed, err := network.Remove()
	for _, what := range removed {
		say("removed: " + what)
	}
	if err == nil && len(removed) == 0 {
		say("nothing of the agent is in this host's network")
	}
	return err
}

// offers adds what this agent can serve to containers to what its engine can do.
func (a *Agent) offers(can abilities) abilities {
	can.taskNetworks = a.networking != nil
	if s := a.asked; s != nil {
		if _, problem := s.state(); problem != nil {
			return can
		}
		can.taskRoles = a.cfg.TaskRoles
		can.hostTaskRoles = a.cfg.HostTaskRoles && s.hostMode == nil
		can.roleLogs = a.cfg.RoleLogs && s.engine && s.hostMode == nil
	}
	return can
}
