package storm

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	killsInCI = 200
	perWorld  = 200 // kills in one world
)

// points are the failpoints at which agents are killed, and how often the life of fifty tasks passes each.
func points(t *testing.T, bin string, c *counts) map[string]int {
	t.Helper()
	w, err := newWorld(t, bin, 0, seasons[0], c)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	trace := w.dir + "/trace"
	w.assign()
	if err := w.start("LONGSHORE_FAILPOINT_LOG=" + trace); err != nil {
		t.Fatal(err)
	}
	if err := w.until("tasks that last run", w.lasting); err != nil {
		t.Fatal(err)
	}
	w.kill()
	if err := w.settle(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for name := range strings.FieldsSeq(string(b)) {
		n[name]++
	}
	for _, name := range []string{"engine/stop-before", "engine/stop-after", "engine/remove-before", "engine/remove-after", "engine/forget-before", "engine/forget-after",
		"engine/save-STOPPED-before", "engine/save-STOPPED-after", "state/delete-before", "state/delete-after", "state/accepted-before", "state/accepted-after",
		"poll/manifest-before", "poll/manifest-after", "engine/rebuild-before", "engine/rebuild-after"} {
		n[name] = max(n[name], 10) // which a long life passes
	}
	if n["engine/start-before"] < 20 {
		t.Fatalf("was the agent built with the tag failpoint? It passed %v", n)
	}
	return n
}

// counts counts what was done.
type counts struct {
	mu       sync.Mutex
	bySeason map[string]int
	byPoint  map[string]int
	random   int
	notes    map[string]int
	tasks    int
}

func (c *counts) kill(season, point string, hit bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bySeason[season]++
	if hit {
		name, _, _ := strings.Cut(point, ":")
		c.byPoint[name]++
	} else {
		c.random++
	}
}

func (c *counts) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes[what]++
}

// number is a number from the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil || n == 0 {
		t.Fatalf("%s=%q is not a number above 0", name, v)
	}
	return n
}

func TestAnAgentThatIsKilledWithFiftyTasksOnTheirWayLosesAndDoublesNone(t *testing.T) {
	bin, err := victim()
	if err != nil {
		t.Fatal(err)
	}
	kills, seed, side := int(number(t, "STORM_KILLS", killsInCI)), number(t, "STORM_SEED", rand.Uint64()>>16), int(number(t, "STORM_WORLDS", 8))
	c := &counts{bySeason: map[string]int{}, byPoint: map[string]int{}, notes: map[string]int{}}
	passes := points(t, bin, c)
	each := int(number(t, "STORM_EACH", uint64(min(perWorld, (kills+len(seasons)-1)/len(seasons)))))
	worlds := make(chan uint64)
	var wg sync.WaitGroup
	began := time.Now()
	for range side {
		wg.Go(func() {
			for n := range worlds {
				storm(t, bin, seed+n, seasons[(seed+n)%uint64(len(seasons))], passes, each, c)
			}
		})
	}
	for n := range uint64((kills + each - 1) / each) {
		if !t.Failed() {
			worlds <- n
		}
	}
	close(worlds)
	wg.Wait()
	total := 0
	for _, n := range c.bySeason {
		total += n
	}
	t.Logf("%d kills, %.1f a second, of %d tasks; by season %v; at random instants %d, at failpoints %v; besides %v", total, float64(total)/time.Since(began).Seconds(), c.tasks, c.bySeason, c.random, c.byPoint, c.notes)
}

// storm is one world from its beginning to its end.
func storm(t *testing.T, bin string, seed uint64, s season, passes map[string]int, kills int, c *counts) {
	t.Helper()
	w, err := newWorld(t, bin, seed, s, c)
	if err != nil {
		t.Error(err)
		return
	}
	defer w.close()
	began := time.Now()
	names := slices.Sorted(maps.Keys(passes))
	turn := w.random.IntN(len(names))
	for n := 0; n < kills && err == nil; n++ {
		point := ""
		if w.random.IntN(4) > 0 {
			name := names[(turn+n)%len(names)]
			point = fmt.Sprintf("%s:%d", name, 1+w.random.IntN(1+w.random.IntN(min(passes[name], 12))))
		}
		if err = w.live(point); err == nil {
			err = w.rest()
		}
		if len(w.judge.complaints()) > 0 {
			break
		}
	}
	lived := time.Since(began)
	if err == nil {
		err = w.settle()
	}
	t.Logf("season %q, seed %d: %d lives in %v, %d tasks; settled in %v", s.name, seed, w.lives, lived.Round(time.Millisecond), w.jobs, (time.Since(began) - lived).Round(time.Millisecond))
	c.mu.Lock()
	c.tasks += w.jobs
	c.mu.Unlock()
	wrong := w.judge.complaints()
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	if len(wrong) == 0 {
		return
	}
	t.Errorf("season %q, seed %d (again with STORM_SEED=%d STORM_KILLS=%d STORM_EACH=%d STORM_LOG=info):\n%s\nthe agent's log ends with\n%s", s.name, seed, seed, kills, kills, strings.Join(wrong, "\n"), w.tail("agent.log"))
	for _, line := range wrong {
		if i := strings.Index(line, taskPrefix); i >= 0 {
			arn := line[i : i+len(taskPrefix)+6]
			t.Logf("what the log says of %s:\n%s", arn, w.about(arn))
			return
		}
	}
}
