//go:build bench

package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
)

// settled is how long the start of so many containers, or of the agent, is left to come to its end.
const settled = 15 * time.Second

// asked measures what is asked of the agent while CONTAINERS containers run: what their statistics cost, beside the engine's own
// streams of them read by a bare client, and how fast task metadata is answered, beside a bare HTTP server that has the answer
// ready.
func (w *world) asked() {
	d, n := time.Duration(setting("IDLE", 60))*time.Second, setting("CONTAINERS", 100)
	w.agent("prefer-cached", "ECS_POLLING_METRICS_WAIT_DURATION=1m")
	arns := w.run("bridge", n)
	w.reach(arns, "RUNNING")
	still(settled)
	seldom := w.watch(d)
	w.lab.StopAgent(1)
	w.agent("prefer-cached", "ECS_POLLING_METRICS_WAIT_DURATION=1s", "ECS_TASK_METADATA_RPS_LIMIT=100000,100000")
	still(settled)
	often := w.watch(d)
	sample := (often.agent - seldom.agent) / 100 * 1000 // ms of CPU a second, which is a sample
	streams := w.streams(d)
	w.table.add(fmt.Sprintf("CPU of statistics of %d containers, a sample each 10 s; floor: the engine's streams of them", n),
		fmt.Sprintf("agent %.2f %%, engine %+.2f %% (%.1f ms a sample; all of the agent %.2f %% with one a second, %.2f %% with one a minute)", sample/100, often.engine-seldom.engine, sample, often.agent, seldom.agent), fmt.Sprintf("engine %.2f %%", streams-seldom.engine), "", "")
	w.metadata("/task")
	w.metadata("/stats")
	w.stop(arns)
	w.reach(arns, "STOPPED")
	w.empty()
	w.lab.StopAgent(1)
}

// streams is the engine's CPU, in percent, while a bare client reads its statistics of all containers.
func (w *world) streams(d time.Duration) float64 {
	ctx, cancel := context.WithCancel(w.t.Context())
	list, err := w.docker.ContainerList(ctx, container.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, c := range list {
		wg.Go(func() {
			s, err := w.docker.ContainerStats(ctx, c.ID, true)
			if err == nil {
				_, _ = io.Copy(io.Discard, s.Body)
				_ = s.Body.Close()
			}
		})
	}
	still(3 * time.Second)
	before := w.engineCPU()
	still(d)
	out := percent(w.engineCPU()-before, d)
	cancel()
	wg.Wait()
	return out
}

// metadata asks for one path of a container's metadata, by eight clients that keep their connections.
func (w *world) metadata(path string) {
	list, err := w.docker.ContainerList(w.t.Context(), container.ListOptions{Limit: 1})
	if err != nil || len(list) != 1 {
		w.t.Fatal(list, err)
	}
	c, err := w.docker.ContainerInspect(w.t.Context(), list[0].ID)
	if err != nil {
		w.t.Fatal(err)
	}
	url := ""
	for _, e := range c.Config.Env {
		if v, ok := strings.CutPrefix(e, "ECS_CONTAINER_METADATA_URI_V4="); ok {
			url = v + path
		}
	}
	ours, rate, body := hammer(w.dialInside, url)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		_, _ = rw.Write(body)
	}))
	defer server.Close()
	floor, floorRate, _ := hammer((&net.Dialer{}).DialContext, server.URL)
	w.table.add("task metadata, /v4/<id>"+path+"; floor: a bare server with the answer ready", fmt.Sprintf("%.0f requests a second, %s", rate, ours), fmt.Sprintf("%.0f, %s", floorRate, floor), ratio(ours, floor), "")
}

// hammer asks for five seconds; what is not answered with 200 does not count.
func hammer(dial func(ctx context.Context, network, address string) (net.Conn, error), url string) (all series, rate float64, body []byte) {
	const clients = 8
	client := http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: clients}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var wg sync.WaitGroup
	began, problem := time.Now(), ""
	for range clients {
		wg.Go(func() {
			var own series
			for time.Since(began) < 5*time.Second {
				at := time.Now()
				res, err := client.Get(url)
				if err != nil {
					note(&mu, &problem, err.Error())
					continue
				}
				data, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || res.StatusCode != http.StatusOK {
					note(&mu, &problem, fmt.Sprintf("%s: %v: %.200s", res.Status, err, data))
					continue
				}
				own.add(time.Since(at))
				mu.Lock()
				body = data
				mu.Unlock()
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	wg.Wait()
	if problem != "" {
		fmt.Printf("  %s: %s\n", url, problem)
	}
	return all, float64(len(all)) / time.Since(began).Seconds(), body
}

// note keeps the first thing that went wrong.
func note(mu *sync.Mutex, problem *string, text string) {
	mu.Lock()
	defer mu.Unlock()
	if *problem == "" {
		*problem = text
	}
}
