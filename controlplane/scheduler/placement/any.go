package placement

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

// firstLook is how many hosts [ChooseOf] looks at first when any will do.
const firstLook = 16

// ChooseOf is [Choose] among the hosts of a cluster as [HostsOf] has them; none tells that there are none. Where any host
// that fits will do, no more are looked at than it takes to find them: a call does not cost what a large cluster has.
func (r *Rooms) ChooseOf(v *store.View, cluster string, now time.Time, req *Request, strategies []types.PlacementStrategy, n int) (chosen []*Host, refusals []*Refusal, none bool) {
	if likes(strategies) {
		hosts := r.HostsOf(v, cluster, now)
		chosen, refusals = Choose(hosts, req, strategies, n)
		return chosen, refusals, len(hosts) == 0
	}
	var instances []*store.Instance
	for inst := range v.Instances(cluster) {
		if takesPart(inst) {
			instances = append(instances, inst)
		}
	}
	chosen, refusals = chooseAny(len(instances), func(i, j int) { instances[i], instances[j] = instances[j], instances[i] }, func(from, to int) []*Host {
		hosts := make([]*Host, 0, to-from)
		for _, inst := range instances[from:to] {
			hosts = append(hosts, hostOf(v, inst))
		}
		hosts, _ = DaemonsFirst(v, r.network, cluster, hosts, now)
		return hosts
	}, req, n)
	return chosen, refusals, len(instances) == 0
}

// likes tells whether one of the strategies prefers a host to another.
func likes(strategies []types.PlacementStrategy) bool {
	for _, s := range strategies {
		if s.Type != types.PlacementStrategyTypeRandom {
			return true
		}
	}
	return false
}

// takesPart tells whether an instance is one of its cluster's.
func takesPart(inst *store.Instance) bool {
	return inst.InactiveSince.IsZero() && aws.ToString(inst.Object.Status) != "INACTIVE"
}

// chooseAny is Choose without a strategy among count hosts in random order, which are made when they are looked at: part by
// part, each part twice the one before. swap swaps two that were not made yet, hosts makes those from one to another.
func chooseAny(count int, swap func(i, j int), hosts func(from, to int) []*Host, req *Request, n int) (chosen []*Host, refusals []*Refusal) {
	for from, size := 0, firstLook; from < count && len(chosen) < n; size *= 2 {
		to := min(from+size, count)
		for i := from; i < to; i++ {
			swap(i, i+rand.IntN(count-i))
		}
		picked, refused := Choose(hosts(from, to), req, nil, n-len(chosen))
		chosen, refusals, from = append(chosen, picked...), append(refusals, refused...), to
	}
	if len(chosen) == n {
		return chosen, nil
	}
	slices.SortFunc(refusals, func(a, b *Refusal) int { return strings.Compare(a.Host.Instance.ID, b.Host.Instance.ID) })
	return chosen, refusals
}
