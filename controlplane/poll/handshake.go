package poll

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/coder/websocket"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/limits"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/arn"
)

// refusal is an answer to a handshake that fails: a status and an exception that agents know.
type refusal struct {
	status int
	acs.Exception
}

func refuse(status int, exception, message string) *refusal {
	return &refusal{status, acs.Exception{Type: exception, Message: message}}
}

// handshake checks who wants to open a socket and for which instance, and opens it. clusterKey and instanceKey are the
// names of the query's keys. It answers the request itself when it returns nil.
func (s *Server) handshake(w http.ResponseWriter, r *http.Request, clusterKey, instanceKey string) (*socket, place) {
	at, identity, refused := s.admit(r, r.URL.Query().Get(clusterKey), r.URL.Query().Get(instanceKey))
	if refused != nil {
		s.log.Info("an agent's connection was refused", zap.String("path", r.URL.Path), zap.String("remote", r.RemoteAddr),
			zap.String("containerInstance", r.URL.Query().Get(instanceKey)), zap.Int("status", refused.status), zap.Error(&refused.Exception))
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Amzn-ErrorType", refused.Type)
		w.WriteHeader(refused.status)
		_, _ = w.Write(acs.EncodeBare(&refused.Exception)) // an agent that is gone misses nothing
		return nil, place{}
	}
	if !identity.Expires.IsZero() {
		w.Header().Set(agentapi.KeyExpiresHeader, identity.Expires.UTC().Format(time.RFC3339))
	}
	up := &upgrading{ResponseWriter: w, timeout: s.cfg.WriteTimeout}
	conn, err := websocket.Accept(up, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		s.log.Info("a request for a web socket is not one", zap.String("path", r.URL.Path), zap.String("remote", r.RemoteAddr), zap.Error(err))
		return nil, place{}
	}
	at = place{strings.Clone(at.cluster), strings.Clone(at.id)} // the request they are parts of need not be kept
	return newSocket(conn, up.wire, &s.cfg, at, r.RemoteAddr, identity), at
}

// admit finds the instance that a request speaks for, and checks that it may.
func (s *Server) admit(r *http.Request, clusterRef, instanceRef string) (place, *auth.Identity, *refusal) {
	if r.Method != http.MethodGet {
		return place{}, nil, refuse(http.StatusMethodNotAllowed, acs.BadRequestException, "A web socket is opened with GET.")
	}
	identity, err := s.cfg.Verifier.VerifyUpgrade(r)
	var denied *auth.Error
	switch {
	case errors.As(err, &denied) && denied.Code == limits.CodeThrottled:
		return place{}, nil, refuse(http.StatusTooManyRequests, denied.Code, denied.Message)
	case errors.As(err, &denied):
		return place{}, nil, refuse(http.StatusForbidden, acs.AccessDeniedException, denied.Code+": "+denied.Message)
	case err != nil:
		s.log.Error("a signature could not be verified", zap.Error(err))
		return place{}, nil, refuse(http.StatusInternalServerError, acs.ServerException, "The signature could not be verified: the control plane's store does not answer.")
	}
	at, refused := locate(clusterRef, instanceRef)
	if refused != nil {
		return at, nil, refused
	}
	if _, err := s.lease(); err != nil {
		return at, nil, refuse(http.StatusServiceUnavailable, acs.ServerException, "The control plane is not ready. Try again.")
	}
	return at, identity, s.mayConnect(r, identity, at)
}

// locate reads the cluster, a name or ARN, and the instance's ARN, long or short, of a query.
func locate(clusterRef, instanceRef string) (at place, refused *refusal) {
	cluster := clusterRef
	if arn.Is(clusterRef) {
		a, err := arn.Parse(clusterRef)
		if err != nil || a.Type != arn.TypeCluster {
			return at, refuse(http.StatusBadRequest, acs.InvalidClusterException, "The cluster's ARN is invalid.")
		}
		cluster = a.ID()
	}
	id := instanceRef
	if arn.Is(instanceRef) {
		a, err := arn.Parse(instanceRef)
		if err != nil || a.Type != arn.TypeContainerInstance || len(a.Path) > 2 {
			return at, refuse(http.StatusBadRequest, acs.InvalidInstanceException, "The container instance's ARN is invalid.")
		}
		id = a.ID()
		if len(a.Path) == 2 {
			if cluster != "" && cluster != a.Path[0] {
				return at, refuse(http.StatusBadRequest, acs.InvalidClusterException, "The container instance is not of the cluster "+clip(cluster)+".")
			}
			cluster = a.Path[0]
		}
	}
	if cluster == "" {
		cluster = arn.DefaultCluster
	}
	id, ok := arn.NormalID(id)
	if !ok {
		return at, refuse(http.StatusBadRequest, acs.InvalidInstanceException, "The container instance's identifier is invalid.")
	}
	return place{cluster, id}, nil
}

func clip(s string) string {
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return s
}

// mayConnect checks that the instance is registered, that the identity may speak for it, and that no other machine does. An
// instance that the store has forgotten is made again: Longshore's agents register for that, the others don't.
func (s *Server) mayConnect(r *http.Request, identity *auth.Identity, at place) *refusal {
	var instance *store.Instance
	var cluster *store.Cluster
	var forgotten, departed bool
	var conn *store.Connection
	var other string
	boot, lists := bootOf(r), listsTasks(r)
	err := s.cfg.Store.Read(r.Context(), func(v *store.View) error {
		cluster, instance = v.Cluster(at.cluster), v.Instance(at.cluster, at.id)
		departed = v.Departed(at.cluster, at.id) != nil
		forgotten = task.Forgotten(v, at.cluster, at.id) && identity.MayClaim(v, s.cfg.Owner.ContainerInstance(at.cluster, at.id))
		conn = v.Connection(at.cluster, at.id)
		other = s.otherMachine(instance, conn, boot, time.Now())
		return nil
	})
	const bad = http.StatusBadRequest
	switch {
	case err != nil:
		s.log.Error("a container instance could not be looked up", zap.Stringer("containerInstance", at), zap.Error(err))
		return refuse(http.StatusInternalServerError, acs.ServerException, "The control plane's store does not answer. Try again.")
	case identity.Role != store.RoleHost && identity.Role != store.RoleAdmin:
		return refuse(http.StatusForbidden, acs.AccessDeniedException, "The access key has the role "+string(identity.Role)+", which cannot speak for a container instance.")
	case forgotten && !lists && s.cfg.Owner.Account != "" && s.ownARN(r):
		return s.revive(r.Context(), identity, at)
	case departed:
		return refuse(bad, acs.InactiveInstanceException, "The container instance "+at.id+" has been deregistered.")
	case cluster == nil:
		return refuse(bad, acs.InvalidClusterException, "Cluster not found.")
	case instance == nil:
		return refuse(bad, acs.InvalidInstanceException, "The container instance "+at.id+" is not registered in the cluster "+at.cluster+".")
	case !identity.SpeaksFor(instance):
		return refuse(http.StatusForbidden, acs.AccessDeniedException, "The container instance "+at.id+" was registered with another access key.")
	case !registered(instance):
		return refuse(bad, acs.InactiveInstanceException, "The container instance "+at.id+" has been deregistered.")
	case other != "":
		connected := ""
		if conn != nil {
			connected = conn.Address
		}
		s.rivalled(r.Context(), at, connected, r.RemoteAddr, zap.String("refusedBoot", boot), zap.String("connectedBoot", other))
		return refuse(http.StatusConflict, acs.AccessDeniedException, task.OtherMachine(at.id, other))
	case conn != nil && (boot == "" || conn.Boot == "") && isACS(r):
		return s.alone(r, at)
	}
	return nil
}

// isACS tells whether a request is for the ACS socket, of which an instance's one agent has one.
func isACS(r *http.Request) bool {
	return strings.HasSuffix(strings.TrimSuffix(r.URL.Path, "/"), "/acs/ws")
}

// alone refuses an agent while the connection of another one stands for the same instance. One of the two does not say in which boot
// its machine is.
func (s *Server) alone(r *http.Request, at place) *refusal {
	other, err := task.Outlives(r.Context(), s.cfg.Store, at.cluster, at.id, s.cfg.Overlap)
	if err != nil {
		s.log.Error("an agent's connection could not be looked up", zap.Stringer("containerInstance", at), zap.Error(err))
		return refuse(http.StatusInternalServerError, acs.ServerException, "The control plane's store does not answer. Try again.")
	}
	if other == nil {
		return nil
	}
	s.rivalled(r.Context(), at, other.Address, r.RemoteAddr)
	return refuse(http.StatusConflict, acs.AccessDeniedException, task.OtherAgent(at.id, other.Address, task.AddressOf(r.RemoteAddr)))
}

// rivalled tells in the log, and in what describes the instance, that somebody else wanted to be it.
func (s *Server) rivalled(ctx context.Context, at place, connected, refused string, more ...zap.Field) {
	s.log.Warn("two machines have the identity of one container instance; the second one is refused: give it an identity of its own", append([]zap.Field{
		zap.Stringer("containerInstance", at), zap.String("connected", connected), zap.String("refused", refused)}, more...)...)
	err := s.changeInstance(ctx, at, func(i *store.Instance) bool {
		n := task.Rivalled(i, connected, task.AddressOf(refused), time.Now())
		if n != nil {
			*i = *n
		}
		return n != nil
	})
	if err != nil {
		s.log.Warn("that could not be noted at the container instance", zap.Stringer("containerInstance", at), zap.Error(err))
	}
}

// otherMachine is the boot in which another machine runs as this instance: the one that is connected, or that was until a moment
// ago and is still expected back. Empty: there is none, or an agent does not say in which boot it is.
func (s *Server) otherMachine(i *store.Instance, c *store.Connection, boot string, now time.Time) string {
	switch {
	case i == nil || boot == "":
	case c != nil && c.Boot != "" && c.Boot != boot:
		return c.Boot
	case c == nil && i.Boot != "" && i.Boot != boot && (now.Sub(i.DisconnectedSince) < s.cfg.RebootTakes || now.Sub(s.started) < s.cfg.RebootTakes):
		return i.Boot
	}
	return ""
}

// listsTasks tells whether the agent is one of Longshore's, which says in which boot it is.
func listsTasks(r *http.Request) bool { return len(r.Header.Values(acs.BootHeader)) > 0 }

// ownARN tells whether the instance was named by an ARN of this control plane's region and account.
func (s *Server) ownARN(r *http.Request) bool {
	for _, key := range []string{"containerInstanceArn", "containerInstance"} {
		a, err := arn.Parse(r.URL.Query().Get(key))
		if err == nil && a.Region == s.cfg.Owner.Region && a.Account == s.cfg.Owner.Account {
			return true
		}
	}
	return false
}

// revive makes the record of a forgotten instance whose agent connects without registering.
func (s *Server) revive(ctx context.Context, identity *auth.Identity, at place) *refusal {
	err := store.Retry(ctx, func() error {
		txn := s.cfg.Store.Txn()
		err := s.cfg.Store.Read(ctx, func(v *store.View) error {
			if !task.Forgotten(v, at.cluster, at.id) {
				return nil
			}
			task.Revive(txn, v, s.cfg.Owner, task.Connecting(s.cfg.Owner, at.cluster, at.id, identity.AccessKeyID, time.Now()))
			return identity.Take(v, txn, s.cfg.Owner.ContainerInstance(at.cluster, at.id), time.Now())
		})
		if err != nil || txn.Len() == 0 {
			return err
		}
		return txn.Commit(ctx)
	})
	if denied := new(auth.Error); errors.As(err, &denied) {
		return refuse(http.StatusForbidden, acs.AccessDeniedException, denied.Code+": "+denied.Message)
	}
	if err != nil {
		s.log.Error("the record of a forgotten container instance could not be made", zap.Stringer("containerInstance", at), zap.Error(err))
		return refuse(http.StatusInternalServerError, acs.ServerException, "The control plane's store does not answer. Try again.")
	}
	s.log.Warn("a container instance that this control plane does not know connected; its record is made anew under the same ARN, and nothing is placed there until its agent registers: restart the agent, its tasks keep running",
		zap.Stringer("containerInstance", at))
	return nil
}

// registered tells whether the instance takes part in its cluster.
func registered(i *store.Instance) bool {
	switch aws.ToString(i.Object.Status) {
	case "INACTIVE", "DEREGISTERING", "":
		return false
	}
	return true
}

func clusterName(c *store.Cluster) string { return aws.ToString(c.Object.ClusterName) }

// wasConnected tells whether the instance ever was connected: numbers were given out for it.
func wasConnected(i *store.Instance) bool { return i.SequenceNumber > 0 }

// bootOf is the boot that an agent says its machine is in, empty when it does not say.
func bootOf(r *http.Request) string {
	if boot := r.Header.Get(acs.BootHeader); len(boot) <= 64 {
		return strings.Clone(boot)
	}
	return ""
}
