package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/longshore-project/longshore/agent/endpoints/audit"
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

// asked is what containers ask of this agent, at 169.254.170.2. It is nil on a host where that can't be served.
type asked struct {
	server   *taskserver.Server
	callers  *caller.Finder
	ids      *ids.IDs
	audit    *audit.Log
	link     netns.LinkLocal
	kept     bool // link is ours to keep up
	listener net.Listener
	hostMode error // why containers in the host network mode can't be told apart; nil: they can
	engine   bool  // the container engine can be told from others
}

// openAsked takes the address at which containers ask. What keeps it from that is no reason not to run: it is told, and
// this host then offers no task roles.
func (a *Agent) openAsked() error {
	if a.cfg.TaskEndpointsOff {
		a.log.Info("Containers get neither credentials nor metadata from this agent: ECS_DISABLE_TASK_ENDPOINTS is set")
		return nil
	}
	key, err := ids.Open(a.cfg.DataDir)
	if err != nil {
		return err
	}
	s := &asked{ids: key, link: linkLocal(), hostMode: caller.Supported()}
	if s.listener, err = a.listenAsked(s); err != nil {
		a.log.Error("Containers on this host get neither credentials nor metadata, and it offers no task roles", zap.String("address", taskserver.Address), zap.Error(err))
		return nil
	}
	if !a.cfg.AuditOff {
		if s.audit, err = audit.Open(a.cfg.AuditFile, a.instance); err != nil {
			_ = s.listener.Close()
			return fmt.Errorf("the audit log (ECS_AUDIT_LOGFILE): %w", err)
		}
	}
	socket, local := strings.CutPrefix(a.cfg.DockerEndpoint, "unix://")
	s.engine = local && a.info.Load().Name == "docker"
	if !s.engine {
		socket = ""
	}
	s.callers = caller.New(caller.Config{Tasks: a.tasks, Inspect: a.runtime.Inspect, EngineSocket: socket})
	s.server = taskserver.New(taskserver.Config{Log: a.log, Audit: s.audit, Rate: int(a.cfg.MetadataRate), Burst: int(a.cfg.MetadataBurst)})
	a.asked = s
	return nil
}

func linkLocal() netns.LinkLocal {
	return netns.LinkLocal{Address: netip.MustParseAddr(taskserver.Address), Port: taskserver.Port, Published: 80}
}

// listenAsked listens where containers ask, and makes that address.
func (a *Agent) listenAsked(s *asked) (net.Listener, error) {
	if a.opt.AskedAt != "" {
		return net.Listen("tcp4", a.opt.AskedAt)
	}
	if _, err := s.link.EnsureAddress(); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp4", fmt.Sprintf("%s:%d", taskserver.Address, taskserver.Port))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: another container agent seems to run on this host; find it with: ss -ltnp 'sport = :%d'", err, taskserver.Port)
	}
	if err != nil {
		return nil, err
	}
	if _, err := s.link.EnsureRules(); err != nil {
		_ = l.Close()
		return nil, err
	}
	s.kept = true
	return l, nil
}

// tasks are the engine's.
func (a *Agent) tasks() []engine.TaskStatus { return a.engine.Tasks() }

// serveAsked mounts the handlers of what containers ask and serves them until ctx ends. There is an engine by now.
func (a *Agent) serveAsked(ctx context.Context) error {
	s := a.asked
	if s == nil {
		return nil
	}
	defer func() { _ = s.audit.Close() }()
	credentials.Mount(s.server, credentials.Config{Held: a.roles, Callers: s.callers, Tasks: a.tasks, Audit: s.audit, Log: a.log})
	a.mountMetadata(s)
	protection.Mount(s.server, protection.Config{
		Tasks: a.tasks, Container: s.ids.Find, Caller: s.callers.Is, Role: a.roles.Task, Cluster: a.cfg.ClusterOrDefault(), Log: a.log,
		API: func(signer aws.CredentialsProvider) (protection.API, error) {
			return agentapi.New(agentapi.Config{Endpoint: a.cfg.APIEndpoint, Region: a.instanceRegion(), Credentials: signer, HTTPClient: a.client, UserAgent: a.userAgent(), MaxAttempts: 1})
		},
	})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.server.Serve(ctx, s.listener) })
	if s.kept {
		group.Go(func() error { return s.link.Keep(ctx, a.log) })
	}
	return group.Wait()
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

// refuseRoles refuses what can't be had where nothing is served to containers.
func refuseRoles(t *acs.Task, container string, _ *engine.Spec) error {
	if t.RoleCredentials != nil {
		return errors.New("the task has a taskRoleArn, and this agent serves no credentials to containers: its log says why")
	}
	if logsByRole(t, container) {
		return errors.New("the awslogs driver is to have the execution role's credentials, and this agent serves none: its log says why")
	}
	return nil
}

// addCredentials says where the credentials of the task's role are.
func (s *asked) addCredentials(t *acs.Task, _ string, spec *engine.Spec) error {
	if c := t.RoleCredentials; c != nil {
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
	if !s.engine || s.hostMode != nil {
		return errors.New("the awslogs driver is to have the execution role's credentials, and the container engine can't be told from other processes of this host: DOCKER_HOST must be a local socket of Docker")
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
	link := linkLocal()
	client := http.Client{Timeout: 2 * time.Second}
	if response, err := client.Do(request); err == nil {
		_ = response.Body.Close()
		return fmt.Errorf("an agent serves containers at %s: stop it first", address)
	}
	removed, err := link.Remove()
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
	if s := a.asked; s != nil {
		can.taskRoles = a.cfg.TaskRoles
		can.hostTaskRoles = a.cfg.HostTaskRoles && s.hostMode == nil
		can.roleLogs = a.cfg.RoleLogs && s.engine && s.hostMode == nil
	}
	return can
}
