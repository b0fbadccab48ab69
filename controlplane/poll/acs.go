package poll

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/coder/websocket"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/arn"
)

// acsSession is the ACS connection of one instance. One goroutine reads; all else happens in the turns that it takes in the
// crew, woken by changes of the store, by what the agent says and by time.
type acsSession struct {
	*socket
	seat
	server *Server
	conn   *store.Connection
	number sequence

	known    atomic.Bool // it may take turns
	changed  atomic.Bool // the store says something new
	received chan any    // messages of the agent that a turn must handle
	timer    *time.Timer // of the next turn
	over     bool        // no more turns
	greeted  bool
	beatAt   time.Time // of the next heartbeat
	resendAt time.Time // of the next payload; zero: none is under way

	delivery           *delivery
	manifest           string // message id of the manifest that was sent
	waitsForDefinition atomic.Bool
	nonsense           int                  // frames that were no messages
	unsendable         map[string]string    // what was logged about tasks that have no payload, by task id
	renewals           map[string]time.Time // when the credentials that were sent must be sent again, by task id
	asked              bool                 // the agent asks for the credentials of the tasks it has
	attachments        *delivery            // of the interfaces of tasks that wait for them
	groups             told
	hasGroups          atomic.Bool
	preparing          map[string]*prepared // images that the agent was asked to have, by the name of the preparation
	lists              bool                 // the agent lists its tasks: it is Longshore's
	complete           bool                 // it has said all that it runs
	settleAt           time.Time            // until when tasks are held back, see settle.go; zero: they are not
	unknown            []string             // ids of tasks that the agent runs and the store does not know
	trusts             []string             // fingerprints of the own CAs that the agent has saved; nil: it can't be told
	toldTrust          *trusted             // what it was told to trust, or has
}

func (s *Server) serveACS(w http.ResponseWriter, r *http.Request) {
	lists := listsTasks(r)
	if lists {
		w.Header().Set(acs.TaskListHeader, "1")
	}
	socket, at := s.handshake(w, r, "clusterArn", "containerInstanceArn")
	if socket == nil {
		return
	}
	q := r.URL.Query()
	about := versions{strings.Clone(q.Get("agentVersion")), strings.Clone(q.Get("agentHash")), strings.Clone(q.Get("dockerVersion")), bootOf(r), strings.Clone(task.AddressOf(r.RemoteAddr)), acs.ParseTrusts(r.Header.Get(acs.TrustsHeader))}
	c := &acsSession{
		socket: socket, server: s, received: make(chan any, 4),
		delivery: newDelivery(s.cfg.Resend, s.cfg.ResendMax), attachments: newDelivery(s.cfg.Resend, s.cfg.ResendMax), unsendable: map[string]string{},
		renewals: map[string]time.Time{}, preparing: map[string]*prepared{}, asked: q.Get("sendCredentials") == "true", lists: lists, trusts: about.trusts,
	}
	c.seat.crew, c.seat.turn = &s.crew, c.turn
	session, err := s.lease()
	if err != nil || !add(s, s.acs, at, c) {
		socket.end(statusGoingAway, "the control plane is not ready")
		_ = socket.run(func([]byte) {})
		return
	}
	s.recheck(socket)
	// The server's goroutine, and the request that it holds, end here.
	go func() {
		defer remove(s, s.acs, at, c)
		defer s.takeInterest(c, nil)
		if lists {
			if err := c.hearTasks(); err != nil {
				c.log().Warn("an agent did not say what it runs; it is asked again when it connects again", zap.Error(err))
				socket.end(statusGoingAway, "what the agent runs could not be recorded")
				_ = socket.run(func([]byte) {})
				return
			}
		}
		if c.conn, c.number, err = s.recordConnection(socket.ctx, session, at, about, c.complete); err != nil {
			c.log().Warn("an agent's connection could not be recorded", zap.Error(err))
			socket.end(statusGoingAway, "the connection could not be recorded: "+clip(err.Error()))
			_ = socket.run(func([]byte) {})
			return
		}
		c.settles()
		c.log().Info("agent connected", zap.String("agentVersion", clip(about.agent)), zap.String("dockerVersion", clip(about.docker)), zap.String("replica", s.cfg.Replica))
		c.serve()
	}()
}

func (c *acsSession) common() *socket { return c.socket }

// serve runs the session until its socket ends, and records the end.
func (c *acsSession) serve() {
	start := time.Now()
	c.timer = time.AfterFunc(time.Hour, c.seat.wake)
	c.known.Store(true)
	c.seat.wake()
	err := c.run(c.receive)
	c.timer.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := c.server.recordEnd(ctx, c.conn); err != nil {
		c.log().Warn("the end of an agent's connection was not recorded; it ends with the session in the store", zap.Error(err))
	}
	c.log().Info("agent disconnected", zap.Duration("duration", time.Since(start)), zap.NamedError("reason", err))
}

// notify tells that the store has something new about the instance.
func (c *acsSession) notify() {
	c.changed.Store(true)
	if c.known.Load() { // before, the first turn is still to come
		c.seat.wake()
	}
}

// turn handles what was received and sends what is due: heartbeats by time, payloads by what the store says.
func (c *acsSession) turn() {
	if c.over || c.ctx.Err() != nil {
		c.over = true
		return
	}
	next, ok := c.advance(time.Now())
	if !ok {
		c.over = true
		return
	}
	c.timer.Reset(time.Until(next))
}

// advance tells when the next turn is due; false when the socket has ended.
func (c *acsSession) advance(now time.Time) (next time.Time, ok bool) {
	if !c.greeted {
		if !c.sendHeartbeat() || !c.sendManifest() {
			return next, false
		}
		c.greeted, c.beatAt = true, now.Add(c.heartbeatPause())
		c.changed.Store(true)
	}
	for more := true; more; {
		select {
		case m := <-c.received:
			if !c.handle(m) {
				return next, false
			}
		default:
			more = false
		}
	}
	if !now.Before(c.beatAt) {
		if !c.sendHeartbeat() {
			return next, false
		}
		c.beatAt = now.Add(c.heartbeatPause())
	}
	settle, ok := c.settling(now)
	if !ok {
		return next, false
	}
	if settle.IsZero() && (c.changed.Swap(false) || !c.resendAt.IsZero() && !now.Before(c.resendAt)) {
		if !c.sendAuthorities() {
			return next, false
		}
		if c.resendAt, ok = c.sync(now); !ok {
			return next, false
		}
	}
	next = sooner(c.beatAt, settle)
	if !c.resendAt.IsZero() && c.resendAt.Before(next) {
		next = c.resendAt
	}
	return next, true
}

func (c *acsSession) heartbeatPause() time.Duration {
	d := c.cfg.Heartbeat
	if c.cfg.HeartbeatJitter > 0 {
		d += rand.N(c.cfg.HeartbeatJitter)
	}
	return d
}

func (c *acsSession) sendHeartbeat() bool {
	return c.send(&acs.HeartbeatMessage{MessageID: uuid.NewString(), Healthy: true}) == nil
}

// errTooLarge: the message has no frame, and the socket is as it was.
var errTooLarge = errors.New("the message cannot be encoded")

// send writes a message. Unless the error is errTooLarge it has ended the socket.
func (c *acsSession) send(m any) error {
	frame, err := acs.Encode(m)
	if err != nil {
		return errors.Join(errTooLarge, err)
	}
	return c.crew.aside(func() error { return c.write(frame) })
}

// nextNumber is the next sequence number; false when the socket has ended because there is none.
func (c *acsSession) nextNumber() (int64, bool) {
	if c.number.next > c.number.end {
		more, err := c.server.moreNumbers(c.ctx, c.at)
		if err != nil {
			c.log().Warn("no more sequence numbers: closing the connection", zap.Error(err))
			c.end(statusGoingAway, "no more sequence numbers")
			return 0, false
		}
		c.number = more
	}
	c.number.next++
	return c.number.next - 1, true
}

// job is what an instance's agent must know.
type job struct {
	clusterArn, instanceArn string
	gone                    bool // the instance is not registered any more
	replaced                bool // a newer connection has the instance
	tasks                   []*store.Task
	definitions             map[string]*store.TaskDefinition  // by ARN
	daemons                 map[string]bool                   // by task id: it holds the place of a DAEMON service on the instance
	revisions               map[string]*store.ServiceRevision // by task id: what its service's deployment runs
	preparations            []preparation
	makesInterfaces         bool // the agent makes tasks' interfaces itself, and knows security groups
}

// resumeAttribute is how Longshore's agent says that it brings daemons back after a reboot of its host. Other agents are not
// told which tasks are daemons: no member goes to them that they don't know.
const resumeAttribute = "longshore.resume-on-boot"

func has(i *store.Instance, attribute string) bool {
	return slices.ContainsFunc(i.Object.Attributes, func(a types.Attribute) bool { return aws.ToString(a.Name) == attribute })
}

func resumesDaemons(i *store.Instance) bool {
	return slices.ContainsFunc(i.Object.Attributes, func(a types.Attribute) bool {
		return aws.ToString(a.Name) == resumeAttribute && aws.ToString(a.Value) == "daemons"
	})
}

// look reads the instance's job off the store's view. Tasks that must stop come first, then the oldest.
func (c *acsSession) look() job {
	j := job{definitions: map[string]*store.TaskDefinition{}, daemons: map[string]bool{}, revisions: map[string]*store.ServiceRevision{}}
	c.cfg.Store.Peek(func(v *store.View) {
		i := v.Instance(c.at.cluster, c.at.id)
		if i == nil || !registered(i) {
			j.gone = true
			return
		}
		if now := v.Connection(c.at.cluster, c.at.id); now != nil && now.Revision() > c.conn.Revision() {
			j.replaced = true
			return
		}
		j.instanceArn = aws.ToString(i.Object.ContainerInstanceArn)
		if cluster := v.Cluster(c.at.cluster); cluster != nil {
			j.clusterArn = aws.ToString(cluster.Object.ClusterArn)
		}
		for t := range v.LiveOn(c.at.cluster, c.at.id) {
			j.tasks = append(j.tasks, t)
			if slot := v.DaemonSlot(c.at.cluster, t.Service, c.at.id); slot != nil && slot.Holds(t.ID) && resumesDaemons(i) {
				j.daemons[t.ID] = true
			}
			if r := task.RevisionOf(v, t.Cluster, t.Service, t.Deployment); r != nil {
				j.revisions[t.ID] = r
			}
			ref := aws.ToString(t.Object.TaskDefinitionArn)
			if a, err := arn.Parse(ref); err == nil && j.definitions[ref] == nil {
				if family, revision, err := (arn.Owner{}).ParseTaskDefinition(a.ID()); err == nil {
					j.definitions[ref] = v.TaskDefinition(family, revision)
				}
			}
		}
		j.preparations = preparationsOn(v, i)
		j.makesInterfaces = has(i, acs.CapabilitySecurityGroups)
	})
	slices.SortStableFunc(j.tasks, func(a, b *store.Task) int {
		if x, y := task.Wanted(a), task.Wanted(b); x != y {
			if y {
				return -1
			}
			return 1
		}
		return aws.ToTime(a.Object.CreatedAt).Compare(aws.ToTime(b.Object.CreatedAt))
	})
	return j
}

// ends closes the socket when the instance is not this session's any more.
func (c *acsSession) ends(j job) bool {
	switch {
	case j.gone:
		c.log().Info("the container instance was deregistered: closing its agent's connection")
		c.end(websocket.StatusNormalClosure, "the container instance was deregistered")
	case j.replaced:
		c.end(statusReplaced, "replaced by a newer connection of the same container instance")
	}
	return j.gone || j.replaced
}

// sendManifest tells the agent all its tasks, so that it can ask about those it has besides.
func (c *acsSession) sendManifest() bool {
	j := c.look()
	if c.ends(j) {
		return false
	}
	timeline, ok := c.nextNumber()
	if !ok {
		return false
	}
	m := &acs.TaskManifestMessage{
		MessageID: uuid.NewString(), ClusterArn: j.clusterArn, ContainerInstanceArn: j.instanceArn,
		GeneratedAt: time.Now().UnixMilli(), Timeline: timeline, Tasks: []*acs.TaskIdentifier{},
	}
	for _, t := range j.tasks {
		m.Tasks = append(m.Tasks, identify(t))
	}
	c.manifest = m.MessageID
	return c.send(m) == nil
}

func identify(t *store.Task) *acs.TaskIdentifier {
	return &acs.TaskIdentifier{
		TaskArn: aws.ToString(t.Object.TaskArn), TaskClusterArn: aws.ToString(t.Object.ClusterArn), DesiredStatus: aws.ToString(t.Object.DesiredStatus),
	}
}

// sync sends every payload that is due and tells when the next one is, zero for never.
func (c *acsSession) sync(now time.Time) (next time.Time, ok bool) {
	j := c.look()
	if c.ends(j) {
		return next, false
	}
	wants := make([]want, 0, len(j.tasks))
	byID := make(map[string]*store.Task, len(j.tasks))
	for _, t := range j.tasks {
		wants = append(wants, want{t.ID, aws.ToString(t.Object.DesiredStatus)})
		byID[t.ID] = t
	}
	for id := range c.unsendable {
		if byID[id] == nil {
			delete(c.unsendable, id)
		}
	}
	c.waitsForDefinition.Store(false)
	groups, ok := c.tellGroups(j, now)
	if !ok {
		return next, false
	}
	attach, ok := c.attach(j, now)
	if !ok {
		return next, false
	}
	attempts, next := c.delivery.due(wants, now)
	again, ok := c.renew(j, now)
	if !ok {
		return next, false
	}
	for _, a := range attempts {
		if !c.sendPayload(j, byID[a.id], a) {
			return next, false
		}
		if at := c.renewals[a.id]; !at.IsZero() && (again.IsZero() || at.Before(again)) {
			again = at
		}
	}
	ask, ok := c.prepare(j, now)
	for _, at := range []time.Time{again, ask, groups, attach} {
		next = sooner(next, at)
	}
	return next, ok
}

// sendPayload sends one task; false when the socket has ended.
func (c *acsSession) sendPayload(j job, t *store.Task, a attempt) bool {
	ref := aws.ToString(t.Object.TaskDefinitionArn)
	var def *types.TaskDefinition
	if d := j.definitions[ref]; d != nil {
		def = task.Pinned(&d.Object, j.revisions[t.ID])
	} else {
		c.waitsForDefinition.Store(true)
		if !t.AdoptedAt.IsZero() && task.Wanted(t) { // its agent has it, and nobody has its definition
			c.delivery.acknowledge(a.message)
			return true
		}
	}
	credentials, err := c.cfg.credentialsFor(def, t, c.notify)
	if errors.Is(err, ErrRolePending) {
		c.delivery.postpone(a.id)
		return true
	}
	if err != nil {
		c.withoutRole(t, err)
		if t.AcceptedAt.IsZero() {
			return true
		}
		credentials = Credentials{}
	}
	body, err := Payload(def, t, credentials)
	if err != nil {
		c.cannotSend(t, err)
		return true
	}
	if j.daemons[t.ID] {
		body.SchedulingStrategy = string(types.SchedulingStrategyDaemon)
	}
	number, ok := c.nextNumber()
	if !ok {
		return false
	}
	failpoint.Hit("poll/before-payload")
	err = c.send(&acs.PayloadMessage{
		ClusterArn: j.clusterArn, ContainerInstanceArn: j.instanceArn, MessageID: a.message,
		GeneratedAt: time.Now().UnixMilli(), SeqNum: number, Tasks: []*acs.Task{body},
	})
	failpoint.Hit("poll/after-payload")
	if errors.Is(err, errTooLarge) {
		c.cannotSend(t, err)
		return true
	}
	if err != nil {
		return false
	}
	c.renewals[t.ID] = c.cfg.renewalOf(credentials, time.Now())
	c.server.payloads.Add(1)
	level := zap.DebugLevel
	if a.number > 1 {
		level = zap.WarnLevel
	}
	if c.cfg.Log.Core().Enabled(level) {
		c.log().Log(level, "payload sent", zap.String("task", body.Arn), zap.String("desiredStatus", body.DesiredStatus), zap.Int64("seqNum", number),
			zap.Int("attempt", a.number), zap.String("messageId", a.message))
	}
	return true
}

// cannotSend logs, once per task and reason, that a task has no payload.
func (c *acsSession) cannotSend(t *store.Task, err error) {
	if c.unsendable[t.ID] == err.Error() {
		return
	}
	c.unsendable[t.ID] = err.Error()
	c.log().Error("a task cannot be sent to its agent and stays as it is: stop it, and register a corrected task definition",
		zap.String("task", aws.ToString(t.Object.TaskArn)), zap.String("taskDefinition", aws.ToString(t.Object.TaskDefinitionArn)), zap.Error(err))
}

// receive decodes a frame of the agent, in the socket's reading goroutine, and hands on what a turn must handle.
func (c *acsSession) receive(frame []byte) {
	m, err := acs.Decode(frame)
	if name, unknown := c.server.strange.Message(err); unknown {
		if name != "" {
			c.log().Warn("an agent sent messages of a type that this version does not know; they are ignored", zap.String("type", name))
		}
		return
	}
	if err != nil {
		c.nonsense++
		c.server.nonsense.Add(1)
		if c.nonsense == 1 || c.nonsense == c.cfg.MaxNonsense {
			c.log().Warn("an agent sent what is not a message; it is ignored", zap.Int("bytes", len(frame)), zap.Int("count", c.nonsense), zap.Error(err))
		}
		if c.nonsense >= c.cfg.MaxNonsense {
			c.end(statusNonsense, "too many frames that are not messages")
		}
		return
	}
	switch m := m.(type) {
	case *acs.AckRequest, *acs.NackRequest, *acs.TaskStopVerificationMessage, *acs.ImagesPreparedMessage, *acs.AuthoritiesSavedMessage:
		select {
		case c.received <- m:
			c.seat.wake()
		case <-c.ctx.Done():
		}
	case *acs.HeartbeatAckRequest, *acs.IAMRoleCredentialsAckRequest:
	default:
		c.log().Debug("a message that agents do not send was ignored", zap.String("type", acs.TypeOf(m)))
	}
}

// handle handles a message of the agent; false when the socket has ended.
func (c *acsSession) handle(m any) bool {
	switch m := m.(type) {
	case *acs.AckRequest:
		c.answered(m.MessageID)
		if m.MessageID == c.groups.message {
			c.groups.message = ""
			return true
		}
		a, ok := c.delivery.acknowledge(m.MessageID)
		if !ok { // an interface's, the manifest's, a repeated one, or one of a task that is gone
			c.attachments.acknowledge(m.MessageID)
			return true
		}
		c.server.acknowledged.Add(1)
		c.server.accept(c.at, a)
	case *acs.NackRequest:
		c.log().Warn("the agent refused a message", zap.String("messageId", clip(m.MessageID)), zap.String("reason", clip(m.Reason)))
	case *acs.TaskStopVerificationMessage:
		return c.verify(m)
	case *acs.ImagesPreparedMessage:
		c.imagesPrepared(m)
	case *acs.AuthoritiesSavedMessage:
		c.authoritiesSaved(m)
	}
	return true
}

// verify answers which of the tasks that the manifest did not list should really stop: those that this control plane knows
// as STOPPED (wherever they were placed: a host that was given up and came back is a new instance with old containers), and
// those of this instance that must stop. What it does not know it does not stop.
func (c *acsSession) verify(m *acs.TaskStopVerificationMessage) bool {
	if err := m.Validate(); err != nil || m.MessageID != c.manifest {
		c.log().Warn("a question about tasks to stop was ignored: it does not belong to the manifest of this connection", zap.String("messageId", clip(m.MessageID)), zap.Error(err))
		return true
	}
	answer := &acs.TaskStopVerificationAck{GeneratedAt: time.Now().UnixMilli(), MessageID: m.MessageID, StopTasks: []*acs.TaskIdentifier{}}
	var unknown, forgotten []string
	err := c.cfg.Store.Read(c.ctx, func(v *store.View) error {
		answer.StopTasks, unknown, forgotten = answer.StopTasks[:0], unknown[:0], forgotten[:0]
		for _, candidate := range m.StopCandidates {
			var t *store.Task
			if a, err := arn.Parse(candidate.TaskArn); err == nil && a.Type == arn.TypeTask {
				cluster := c.at.cluster
				if len(a.Path) == 2 {
					cluster = a.Path[0]
				}
				t = v.Task(cluster, a.ID())
			}
			own := t != nil && t.Cluster == c.at.cluster && t.Instance == c.at.id
			switch {
			case t == nil && !c.settleAt.IsZero():
				if id, own := ownTask(v.Instance(c.at.cluster, c.at.id), candidate.TaskArn); own {
					forgotten = append(forgotten, id)
				}
			case t == nil, !own && !task.IsStopped(t):
				unknown = append(unknown, clip(candidate.TaskArn))
			case task.IsStopped(t), !task.Wanted(t):
				answer.StopTasks = append(answer.StopTasks, &acs.TaskIdentifier{
					TaskArn: candidate.TaskArn, TaskClusterArn: candidate.TaskClusterArn, DesiredStatus: acs.StatusStopped,
				})
			}
		}
		return nil
	})
	if err != nil {
		c.log().Warn("a question about tasks to stop cannot be answered; it comes again with the next connection", zap.Error(err))
		return true
	}
	c.asks(forgotten)
	if len(unknown) > 0 {
		c.log().Warn("the agent runs tasks that this control plane does not know as its own; they are left alone: stop them on the host if they are not wanted",
			zap.Int("count", len(unknown)), zap.Strings("tasks", unknown[:min(len(unknown), 10)]))
	}
	return c.send(answer) == nil
}
