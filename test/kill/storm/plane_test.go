package storm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/awsjson"
)

const instancePrefix = "arn:aws:ecs:us-west-2:123456789012:container-instance/storm/"

// plane is the control plane of one host. It sends a payload until it is acknowledged, and never again but for a few
// repeats on purpose; what is acknowledged is the agent's to remember.
type plane struct {
	server *httptest.Server
	ctx    context.Context
	end    context.CancelFunc
	judge  *judge

	mu       sync.Mutex
	random   *rand.Rand
	instance string
	number   int64
	orders   map[string]*order
	sent     map[string][]due // by message id: what its acknowledgement is for
	socket   *websocket.Conn
	refuse   int // percent of the submissions that are refused
	cut      int // percent whose answers are lost
}

// order is what is wanted of a task.
type order struct {
	job   *job
	want  string
	acked string // the last wanted status that the agent acknowledged
}

type due struct{ arn, want string }

func newPlane(seed uint64, j *judge) *plane {
	ctx, cancel := context.WithCancel(context.Background())
	p := &plane{ctx: ctx, end: cancel, judge: j, random: rand.New(rand.NewPCG(seed, 2)), number: time.Now().UnixMilli(), orders: map[string]*order{}, sent: map[string][]due{}}
	p.server = httptest.NewServer(p)
	return p
}

func (p *plane) close() {
	p.end()
	p.server.CloseClientConnections()
	p.server.Close()
}

// want says what a task is to be, and sends it.
func (p *plane) want(status string, jobs ...*job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, j := range jobs {
		o := p.orders[j.Arn]
		if o == nil {
			o = &order{job: j}
			p.orders[j.Arn] = o
		}
		if o.want != "STOPPED" {
			o.want = status
		}
	}
	p.push()
}

// push sends what is not acknowledged. The mutex is held.
func (p *plane) push() {
	if p.socket == nil {
		return
	}
	var batch []*acs.Task
	for _, arn := range sorted(p.orders) {
		o := p.orders[arn]
		if p.judge.over(arn) || o.acked == o.want && p.random.IntN(40) != 0 {
			continue
		}
		t := *o.job.Task
		t.DesiredStatus = o.want
		batch = append(batch, &t)
		if p.random.IntN(6) == 0 {
			p.payload(batch)
			batch = nil
		}
	}
	p.payload(batch)
}

func (p *plane) payload(tasks []*acs.Task) {
	if len(tasks) == 0 {
		return
	}
	p.number++
	m := &acs.PayloadMessage{ClusterArn: clusterArn, ContainerInstanceArn: p.instance, MessageID: fmt.Sprint("p", p.number), SeqNum: p.number, Tasks: tasks}
	for _, t := range tasks {
		p.sent[m.MessageID] = append(p.sent[m.MessageID], due{t.Arn, t.DesiredStatus})
	}
	p.write(m)
}

// list sends a manifest of what should be here.
func (p *plane) list() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.socket == nil {
		return
	}
	p.number++
	m := &acs.TaskManifestMessage{ClusterArn: clusterArn, ContainerInstanceArn: p.instance, MessageID: fmt.Sprint("m", p.number), Timeline: p.number, Tasks: []*acs.TaskIdentifier{}}
	for arn, o := range p.orders {
		if !p.judge.over(arn) {
			m.Tasks = append(m.Tasks, &acs.TaskIdentifier{TaskArn: arn, TaskClusterArn: clusterArn, DesiredStatus: o.want})
		}
	}
	p.write(m)
}

func (p *plane) write(m any) {
	frame, err := acs.Encode(m)
	if err != nil {
		p.judge.complain("the control plane can't encode %T: %v", m, err)
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	_ = p.socket.Write(ctx, websocket.MessageText, frame) // what is lost is sent again
}

// drop cuts the web socket.
func (p *plane) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.socket != nil {
		_ = p.socket.CloseNow()
	}
}

// forgetful says that the agent's state was lost: what it acknowledged must be sent again.
func (p *plane) forgetful() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.sent) // an acknowledgement may still be on its way
	for _, o := range p.orders {
		o.acked = ""
	}
}

func (p *plane) trouble(refuse, cut int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse, p.cut = refuse, cut
}

func (p *plane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/acs/ws":
		p.acs(w, r)
	case "/tcs/ws":
		p.tcs(w, r)
	default:
		p.call(w, r)
	}
}

func (p *plane) call(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	w.Header().Set("Content-Type", awsjson.ContentType)
	switch operation {
	case "RegisterContainerInstance":
		p.register(w, body)
	case "DiscoverPollEndpoint":
		answer(w, map[string]any{"endpoint": p.server.URL + "/acs/", "telemetryEndpoint": p.server.URL + "/tcs/"})
	case "SubmitTaskStateChange":
		p.submit(w, r.UserAgent(), body)
	default:
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write(awsjson.EncodeError("UnsupportedFeatureException", operation))
	}
}

func answer(w io.Writer, v any) {
	data, _ := json.Marshal(v)
	_, _ = w.Write(data)
}

// register knows a host by its client token until it says its ARN.
func (p *plane) register(w http.ResponseWriter, body []byte) {
	var in struct {
		ContainerInstanceArn, ClientToken string
		Attributes                        []any
	}
	if err := json.Unmarshal(body, &in); err != nil {
		p.judge.complain("a registration can't be read: %v", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	arn := instancePrefix + in.ClientToken
	if in.ContainerInstanceArn != "" {
		arn = in.ContainerInstanceArn
	}
	if p.instance != "" && p.instance != arn {
		p.judge.complain("the host registered twice, as %s and %s", p.instance, arn)
	}
	p.instance = arn
	answer(w, map[string]any{"containerInstance": map[string]any{"containerInstanceArn": arn, "attributes": in.Attributes}})
}

func (p *plane) submit(w http.ResponseWriter, life string, body []byte) {
	p.mu.Lock()
	refuse, cut := p.random.IntN(100) < p.refuse, p.random.IntN(100) < p.cut
	p.mu.Unlock()
	if refuse {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write(awsjson.EncodeError("ServerException", "not now"))
		return
	}
	p.judge.submitted(life, body, cut)
	if cut {
		panic(http.ErrAbortHandler)
	}
	answer(w, map[string]any{"acknowledgment": "ok"})
}

func (p *plane) acs(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(4 << 20)
	p.mu.Lock()
	p.socket = ws
	p.push()
	listed := p.random.IntN(2) == 0
	p.mu.Unlock()
	if listed {
		p.list()
	}
	for {
		_, frame, err := ws.Read(p.ctx)
		if err != nil {
			break
		}
		p.heard(frame)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.socket == ws {
		p.socket = nil
	}
}

func (p *plane) heard(frame []byte) {
	m, err := acs.Decode(frame)
	if err != nil {
		p.judge.complain("the agent sent what can't be decoded: %v", err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch m := m.(type) {
	case *acs.AckRequest:
		for _, d := range p.sent[m.MessageID] {
			if o := p.orders[d.arn]; o.acked != "STOPPED" {
				o.acked = d.want
			}
		}
		delete(p.sent, m.MessageID)
	case *acs.TaskStopVerificationMessage:
		out := &acs.TaskStopVerificationAck{MessageID: m.MessageID}
		for _, c := range m.StopCandidates {
			o := p.orders[c.TaskArn]
			if o == nil {
				p.judge.complain("the agent has a task that nobody ordered: %s", c.TaskArn)
				continue
			}
			if o.want == "STOPPED" || p.judge.over(c.TaskArn) {
				out.StopTasks = append(out.StopTasks, c)
			}
		}
		if p.socket != nil {
			p.write(out)
		}
	}
}

func (p *plane) tcs(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = ws.CloseNow() }()
	for err == nil {
		_, _, err = ws.Read(p.ctx)
	}
}
