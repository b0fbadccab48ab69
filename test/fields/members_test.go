package fields

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"

	"github.com/longshore-project/longshore/test/e2e"
)

// claim is how a member is shown.
type claim struct {
	scene     string               // proved and kept: the task that shows it
	see       func(s *stage) error // what is to be seen there
	request   string               // refused: the members of a definition with it, or of an override, as JSON
	says      string               // what the refusal says
	unplaced  bool                 // …of running it, because the host lacks an attribute
	elsewhere string               // folder and test, "test/secrets TestX"
}

// wants compares what a stage shows with what it is to show.
func wants(scene string, show func(s *stage) any, want any) claim {
	return claim{scene: scene, see: func(s *stage) error {
		if got := show(s); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("got %v, want %v", got, want)
		}
		return nil
	}}
}

// engine looks at container main's own description.
func engine(scene string, show func(c container.InspectResponse) any, want any) claim {
	return of(scene, "main", show, want)
}

func of(scene, name string, show func(c container.InspectResponse) any, want any) claim {
	return wants(scene, func(s *stage) any {
		c, ok := s.containers[name]
		if !ok {
			return "no container " + name
		}
		return show(c)
	}, want)
}

// says looks for lines of what container main writes.
func says(scene string, lines ...string) claim { return tells(scene, "main", lines...) }

func tells(scene, name string, lines ...string) claim {
	return claim{scene: scene, see: func(s *stage) error {
		for _, line := range lines {
			if !strings.Contains(s.output[name], line) {
				return fmt.Errorf("container %s does not say %q; it says\n%s", name, line, s.output[name])
			}
		}
		return nil
	}}
}

func refused(request, says string) claim { return claim{request: request, says: says} }

// unplaced is a member that only hosts with some attribute can have; this one lacks it.
func unplaced(request, attribute string) claim {
	return claim{request: request, says: attribute, unplaced: true}
}

func elsewhere(test string) claim { return claim{elsewhere: test} }

func TestEveryMemberOfATaskDefinitionIsProvedOrRefused(t *testing.T) {
	members := Members()
	covered := map[string]bool{}
	for _, m := range members {
		if !claimed(m, covered) {
			t.Errorf("the SDK has the member %s, and nothing shows what becomes of it: add it to a scene and to the registry", m)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(registry)) {
		if !covered[path] {
			t.Errorf("the registry has %s, which is no member", path)
		}
	}
	for path, claims := range registry {
		if len(claims) == 0 {
			t.Errorf("nothing is claimed about %s", path)
		}
		for _, c := range claims {
			if c.elsewhere != "" && !exists(c.elsewhere) {
				t.Errorf("%s is said to be proved by %s, which does not exist", path, c.elsewhere)
			}
			if c.scene != "" && scenes[c.scene].definition.ContainerDefinitions == nil {
				t.Errorf("%s is said to be proved in the scene %s, which does not exist", path, c.scene)
			}
		}
	}
}

// claimed finds the claims about a member: its own, or those about a structure it is in.
func claimed(member string, covered map[string]bool) bool {
	for path := member; path != ""; {
		if _, ok := registry[path]; ok {
			covered[path] = true
			return true
		}
		i := strings.LastIndexByte(path, '.')
		if i < 0 {
			break
		}
		path = path[:i]
	}
	return false
}

func TestWhatATaskDefinitionSaysIsSeenInRealContainers(t *testing.T) {
	for _, engine := range []string{e2e.Docker, e2e.Containerd} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel() // most of the time is a minute that a container must have run before it may be restarted
			isSeenInRealContainers(t, engine)
		})
	}
}

func isSeenInRealContainers(t *testing.T, engine string) {
	w := newWorld(t, engine)
	t.Run("what is refused is refused by name", func(t *testing.T) {
		eachClaim(func(path string, c claim) {
			if c.request != "" {
				w.refuses(t, path, c)
			}
		})
	})
	stages := w.play(t.Context(), scenes)
	for name, s := range stages {
		if s.err != nil {
			t.Errorf("scene %s: %v", name, s.err)
		}
	}
	eachClaim(func(path string, c claim) {
		if c.scene == "" || stages[c.scene].err != nil {
			return
		}
		if err := c.see(stages[c.scene]); err != nil {
			t.Errorf("%s, in scene %s: %v", path, c.scene, err)
		}
	})
}

func eachClaim(f func(path string, c claim)) {
	for _, path := range slices.Sorted(maps.Keys(registry)) {
		for _, c := range registry[path] {
			f(path, c)
		}
	}
}
