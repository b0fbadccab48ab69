package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/limits"
	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/poll"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/controlplane/telemetry"
	"github.com/longshore-project/longshore/internal/version"
	"github.com/longshore-project/longshore/protocol/ecsapi"
)

// figures are this replica's own, for Prometheus. Their labels are bounded: operations that ECS has, classes of status
// codes, clusters, states.
type figures struct {
	registry *prometheus.Registry
	calls    *prometheus.HistogramVec
	store    *prometheus.HistogramVec
	passes   prometheus.Histogram
}

func newFigures() *figures {
	f := &figures{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "longshore_api_call_seconds", Help: "Duration of API calls.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2.5, 12)}, []string{"operation", "status"}),
		store: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "longshore_store_seconds", Help: "Duration of transactions (commit) and of current reads (read) of the store.",
			Buckets: prometheus.ExponentialBuckets(0.00005, 3, 12)}, []string{"operation", "outcome"}),
		passes: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "longshore_scheduler_pass_seconds", Help: "Duration of the scheduler's passes over what changed in a cluster.",
			Buckets: prometheus.ExponentialBuckets(0.00005, 3, 12)}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "longshore_control_info", Help: "Always 1.", ConstLabels: prometheus.Labels{"version": version.Version}})
	build.Set(1)
	f.registry.MustRegister(f.calls, f.store, f.passes, build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return f
}

// stored is told how long the store took.
func (f *figures) stored(operation string, took time.Duration, err error) {
	outcome := "ok"
	switch {
	case err == nil:
	case errors.Is(err, store.ErrConflict):
		outcome = "conflict"
	default:
		outcome = "failed"
	}
	f.store.WithLabelValues(operation, outcome).Observe(took.Seconds())
}

// passed is told how long a pass of the scheduler took.
func (f *figures) passed(took time.Duration) { f.passes.Observe(took.Seconds()) }

// timed measures API calls.
func (f *figures) timed(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun, seen := time.Now(), &seenStatus{ResponseWriter: w, status: http.StatusOK}
		api.ServeHTTP(seen, r)
		operation := "unknown"
		if op, err := ecsapi.ByTarget(r.Header.Get("X-Amz-Target")); err == nil {
			operation = op.Name
		}
		f.calls.WithLabelValues(operation, strconv.Itoa(seen.status/100)+"xx").Observe(time.Since(begun).Seconds())
	})
}

// seenStatus remembers the status of an answer.
type seenStatus struct {
	http.ResponseWriter
	status int
}

// WriteHeader writes and remembers it.
func (s *seenStatus) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap lets net/http reach the writer below.
func (s *seenStatus) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// state is what the store and the sockets show now; it is counted at each scrape.
type state struct {
	store   *store.Store
	sockets *poll.Server
	network *network.Network
	limits  *limits.Limits
}

var (
	answers    = prometheus.NewDesc("longshore_store_answers", "0 while etcd does not answer: reads are of before, and nothing is written.", nil, nil)
	pending    = prometheus.NewDesc("longshore_pending_connections", "Connections on which nobody has signed a call.", nil, nil)
	tooMuch    = prometheus.NewDesc("longshore_limited_total", "What was beyond a limit: connections closed for newer ones that nobody had signed on either (pending), bodies of such (body), calls and connections of keys (key).", []string{"limit"}, nil)
	storeSize  = prometheus.NewDesc("longshore_store_size_bytes", "Size of etcd's database.", nil, nil)
	storeQuota = prometheus.NewDesc("longshore_store_quota_bytes", "What it may have.", nil, nil)
	storeFull  = prometheus.NewDesc("longshore_store_full", "1 while it is so full that only what ends is accepted.", nil, nil)
	revision   = prometheus.NewDesc("longshore_store_revision", "Revision of the view that serves reads.", nil, nil)
	sockets    = prometheus.NewDesc("longshore_agent_connections", "Agents' web sockets at this replica.", []string{"channel"}, nil)
	instances  = prometheus.NewDesc("longshore_instances", "Container instances, by status and whether the agent is connected to any replica.", []string{"cluster", "status", "connected"}, nil)
	tasks      = prometheus.NewDesc("longshore_tasks", "Tasks that are not STOPPED, by lastStatus and desiredStatus.", []string{"cluster", "last_status", "desired_status"}, nil)
	oldest     = prometheus.NewDesc("longshore_oldest_pending_task_seconds", "For how long the task has been waiting that has been waiting the longest to become RUNNING.", []string{"cluster"}, nil)
	services   = prometheus.NewDesc("longshore_services", "ACTIVE services.", []string{"cluster", "strategy"}, nil)
	addresses  = prometheus.NewDesc("longshore_subnet_addresses", "Addresses of subnets that tasks can have, by whether one has it.", []string{"subnet", "cidr_block", "state"}, nil)
	payloads   = prometheus.NewDesc("longshore_payloads_total", "Payloads sent to agents by this replica, and acknowledged.", []string{"event"}, nil)
)

// Describe names nothing; see Collect.
func (state) Describe(chan<- *prometheus.Desc) {}

// Collect counts.
func (s state) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	space, stats := s.store.Space(), s.sockets.Stats()
	gauge(storeSize, float64(space.Size))
	gauge(storeQuota, float64(space.Quota))
	gauge(storeFull, map[bool]float64{true: 1}[space.Full])
	gauge(answers, map[bool]float64{true: 1}[s.store.Answers()])
	beyond := s.limits.Stats()
	gauge(pending, float64(beyond.Pending))
	for limit, n := range map[string]int64{"pending": beyond.Evicted, "body": beyond.Bodies, "key": beyond.Throttled} {
		out <- prometheus.MustNewConstMetric(tooMuch, prometheus.CounterValue, float64(n), limit)
	}
	gauge(sockets, float64(stats.Connections), "acs")
	gauge(sockets, float64(stats.Telemetry), "tcs")
	out <- prometheus.MustNewConstMetric(payloads, prometheus.CounterValue, float64(stats.Payloads), "sent")
	out <- prometheus.MustNewConstMetric(payloads, prometheus.CounterValue, float64(stats.Acknowledged), "acknowledged")
	for _, u := range s.network.Usage() {
		gauge(addresses, float64(u.Taken), u.Subnet, u.Prefix.String(), "taken")
		gauge(addresses, float64(u.Usable)-float64(u.Taken), u.Subnet, u.Prefix.String(), "free")
	}
	now := time.Now()
	s.store.Peek(func(v *store.View) {
		gauge(revision, float64(v.Revision()))
		for c := range v.Clusters() {
			collectCluster(v, aws.ToString(c.Object.ClusterName), now, gauge)
		}
	})
}

func collectCluster(v *store.View, cluster string, now time.Time, gauge func(*prometheus.Desc, float64, ...string)) {
	type pair [2]string
	byStatus, byTask, byStrategy := map[pair]int{}, map[pair]int{}, map[string]int{}
	for i := range v.Instances(cluster) {
		byStatus[pair{aws.ToString(i.Object.Status), strconv.FormatBool(v.Connection(cluster, i.ID) != nil)}]++
	}
	waiting := time.Duration(0)
	for t := range v.Tasks(cluster) {
		if task.IsStopped(t) {
			continue
		}
		byTask[pair{task.LastStatus(t), aws.ToString(t.Object.DesiredStatus)}]++
		if task.Wanted(t) && task.LastStatus(t) != task.Running && t.Object.CreatedAt != nil {
			waiting = max(waiting, now.Sub(*t.Object.CreatedAt))
		}
	}
	for s := range v.Services(cluster) {
		if aws.ToString(s.Object.Status) == "ACTIVE" {
			byStrategy[string(s.Object.SchedulingStrategy)]++
		}
	}
	for p, n := range byStatus {
		gauge(instances, float64(n), cluster, p[0], p[1])
	}
	for p, n := range byTask {
		gauge(tasks, float64(n), cluster, p[0], p[1])
	}
	for strategy, n := range byStrategy {
		gauge(services, float64(n), cluster, strategy)
	}
	gauge(oldest, waiting.Seconds(), cluster)
}

// serveMetrics serves GET /metrics on its own listener, if one is configured, until Close.
func (p *ControlPlane) serveMetrics(book *telemetry.Book, sockets *poll.Server) error {
	p.figures.registry.MustRegister(state{p.store, sockets, p.network, p.limits}, book.Collector())
	if p.cfg.MetricsListen == "" {
		return nil
	}
	address := p.cfg.MetricsListen
	listener, err := listen(context.Background(), address)
	if errors.Is(err, syscall.EADDRINUSE) && p.cfg.MetricsOptional {
		p.log.Info("metrics are not served: another process has the address", zap.String("address", address))
		return nil
	}
	if err != nil {
		return fmt.Errorf("--metrics-listen: %w", err)
	}
	p.metricsAddr = listener.Addr()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.figures.registry, promhttp.HandlerOpts{ErrorLog: zap.NewStdLog(p.log.Named("metrics")), MaxRequestsInFlight: 4, Timeout: 30 * time.Second}))
	server, done := p.httpServer(mux), make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(p.secured(listener, address)); err != nil && !errors.Is(err, http.ErrServerClosed) {
			p.fail(fmt.Errorf("serve metrics on %s: %w", address, err))
		}
	}()
	p.onClose("metrics", func() error {
		err := server.Close()
		<-done
		return err
	})
	p.log.Info("metrics are served", zap.Stringer("address", listener.Addr()))
	return nil
}

// MetricsAddr is where metrics are served; nil: nowhere.
func (p *ControlPlane) MetricsAddr() net.Addr { return p.metricsAddr }
