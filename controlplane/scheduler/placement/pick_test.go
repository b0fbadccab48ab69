package placement

import (
	"fmt"
	"hash/fnv"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// byHash orders hosts that are equal otherwise, in the same way each time.
func byHash(h *Host) uint64 {
	f := fnv.New64a()
	_, _ = f.Write([]byte(h.Instance.ID))
	return f.Sum64()
}

// all picks to the end, and tells what was picked and refused.
func (p *Picker) all() (picked, refused []string) {
	for len(picked) < 200 {
		h, _ := p.Pick()
		if h == nil {
			break
		}
		picked = append(picked, h.Instance.ID)
	}
	for _, r := range p.Refusals() {
		refused = append(refused, r.Host.Instance.ID+" "+r.Reason+" "+r.Detail)
	}
	slices.Sort(refused)
	return picked, refused
}

func TestAPickerThatIsKeptPicksAsOneThatIsMadeAnew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts, req, strategies := aCluster(t), aRequest(t), someStrategies(t)
		kept := NewPicker(hosts, req, strategies, Options{Tie: byHash})
		for range rapid.IntRange(0, 8).Draw(t, "changes") {
			others := aCluster(t) // some of the same names, in another state
			switch n := len(others); rapid.SampledFrom([]string{"put", "put", "drop", "pick"}).Draw(t, "change") {
			case "put":
				for _, h := range others[:rapid.IntRange(0, n).Draw(t, "n")] {
					i := slices.IndexFunc(hosts, func(o *Host) bool { return o.Instance.ID == h.Instance.ID })
					if i < 0 {
						hosts = append(hosts, h)
					} else {
						hosts = slices.Clone(hosts)
						hosts[i] = h
					}
					kept.Put(h)
				}
			case "drop":
				id := fmt.Sprint("h", rapid.IntRange(0, 6).Draw(t, "id"))
				hosts = slices.DeleteFunc(slices.Clone(hosts), func(h *Host) bool { return h.Instance.ID == id })
				kept.Drop(id)
			case "pick": // what is picked and not placed is put back
				h, _ := kept.Pick()
				for _, o := range hosts {
					if h != nil && o.Instance.ID == h.Instance.ID {
						kept.Put(o)
					}
				}
			}
		}
		picked, refused := kept.all()
		wants, refusals := NewPicker(hosts, req, strategies, Options{Tie: byHash}).all()
		if !slices.Equal(picked, wants) {
			t.Fatalf("it picks %v, and one that is made anew %v", picked, wants)
		}
		if !slices.Equal(refused, refusals) {
			t.Fatalf("it refuses %v, and one that is made anew %v", refused, refusals)
		}
	})
}
