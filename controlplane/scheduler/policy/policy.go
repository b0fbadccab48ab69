// Package policy reads what users decide about scheduling where ECS has no member for it: tags whose keys begin with
// longshore:, which every ECS client can set. A service or container instance is asked first, its cluster after it.
//
//	key                           on                  value                     means
//	longshore:daemon-gate         cluster, service    2m · off                  how long a DAEMON service that does not run yet on an instance that
//	                                                                            joined keeps other tasks off it; off: not at all. Default 2m
//	longshore:daemon-reserve      cluster             on · off                  whether room is kept for daemons that are not placed. Default on
//	longshore:make-room           service             true · false              whether replicas are moved off an instance on which this DAEMON
//	                                                                            service finds no room. Default false
//	longshore:daemon-surge        service             true · false ·            whether a new task of this DAEMON service is started beside the old
//	                                                  writable-volumes          one and that stopped when the new one is healthy; the last: even if
//	                                                                            both write to the same volumes. Default false
//	longshore:second-host         service             true · false              whether an update of this DAEMON service that fails again and again on
//	                                                                            the first instance, where the deployment before runs, is tried on
//	                                                                            one more before it holds. Default false
//	longshore:prepare-images      service             true · false              whether the images of an update of this REPLICA service are made local
//	                                                                            before tasks are replaced; of a DAEMON service they always are.
//	                                                                            Default false
//	longshore:drain-standalone    cluster, instance   wait · stop · 10m         what a drain does with tasks of no service: wait for them, stop them at
//	                                                                            once, or after this time. Default wait, as on ECS
//	longshore:drain-deadline      cluster, instance   1h · off                  how long a drain may take. Default off
//	longshore:drain-at-deadline   cluster, instance   stop · abandon            what happens then: all that is left is stopped, or the instance is
//	                                                                            ACTIVE again. Default stop
//	longshore:lost-host           cluster, service    keep · 5m                 how long a REPLICA service counts on the tasks of an instance whose agent
//	                                                                            is away before it replaces them elsewhere. Default keep
//
// [Check] refuses another key or value when a tag is written, and [Misplaced] a key on what it is not for; a value that slipped
// through counts as absent.
package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// Prefix is how the keys begin.
const Prefix = "longshore:"

// The keys.
const (
	DaemonGate      = Prefix + "daemon-gate"
	DaemonReserve   = Prefix + "daemon-reserve"
	MakeRoom        = Prefix + "make-room"
	DaemonSurge     = Prefix + "daemon-surge"
	SecondHost      = Prefix + "second-host"
	PrepareImages   = Prefix + "prepare-images"
	DrainStandalone = Prefix + "drain-standalone"
	DrainDeadline   = Prefix + "drain-deadline"
	DrainAtDeadline = Prefix + "drain-at-deadline"
	LostHost        = Prefix + "lost-host"
)

// DefaultGate is how long a daemon keeps other tasks off an instance that joined, when nobody says otherwise.
const DefaultGate = 2 * time.Minute

// On is what a resource is that has tags, or several of them.
type On uint8

// The resources that scheduling tags are for.
const (
	OnCluster On = 1 << iota
	OnDaemon     // a service of the scheduling strategy DAEMON
	OnReplica    // a service of the scheduling strategy REPLICA
	OnInstance
)

var names = []struct {
	on   On
	name string
}{{OnCluster, "clusters"}, {OnDaemon, "services of the scheduling strategy DAEMON"}, {OnReplica, "services of the scheduling strategy REPLICA"}, {OnInstance, "container instances"}}

// rule is what a value may be, and on what.
type rule struct {
	words    []string
	duration bool
	on       On
}

var rules = map[string]rule{
	DaemonGate:      {[]string{"off"}, true, OnCluster | OnDaemon},
	DaemonReserve:   {[]string{"on", "off"}, false, OnCluster},
	MakeRoom:        {[]string{"true", "false"}, false, OnDaemon},
	DaemonSurge:     {[]string{"true", "false", "writable-volumes"}, false, OnDaemon},
	SecondHost:      {[]string{"true", "false"}, false, OnDaemon},
	PrepareImages:   {[]string{"true", "false"}, false, OnReplica},
	DrainStandalone: {[]string{"wait", "stop"}, true, OnCluster | OnInstance},
	DrainDeadline:   {[]string{"off"}, true, OnCluster | OnInstance},
	DrainAtDeadline: {[]string{"stop", "abandon"}, false, OnCluster | OnInstance},
	LostHost:        {[]string{"keep"}, true, OnCluster | OnReplica},
}

// Check judges a tag that is being written. Its error is for the client. Tags of other keys are nobody's business.
func Check(key, value string) error {
	if !strings.HasPrefix(key, Prefix) {
		return nil
	}
	r, ok := rules[key]
	if !ok {
		var keys []string
		for k := range rules {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		return fmt.Errorf("the tag %s is none that the scheduler knows; keys that begin with %s are %s", key, Prefix, strings.Join(keys, ", "))
	}
	if r.allows(value) {
		return nil
	}
	words := slices.Clone(r.words)
	if r.duration {
		words = append(words, "a positive duration such as 90s, 5m or 1h")
	}
	return fmt.Errorf("the tag %s has the value %.100q; it may be %s", key, value, strings.Join(words, ", "))
}

// Misplaced refuses a scheduling tag on what it does nothing for, so that nobody relies on it there. The error is for the client.
func Misplaced(tags []types.Tag, on On) error {
	for _, t := range tags {
		key := aws.ToString(t.Key)
		r, ok := rules[key]
		if !ok || r.on&on != 0 {
			continue
		}
		var those, this string
		for _, n := range names {
			if r.on&n.on != 0 {
				those += ", " + n.name
			}
			if on&n.on != 0 {
				this = n.name
			}
		}
		return fmt.Errorf("the tag %s does nothing for %s; it is for %s", key, this, those[2:])
	}
	return nil
}

func (r rule) allows(value string) bool {
	if slices.Contains(r.words, value) {
		return true
	}
	d, err := time.ParseDuration(value)
	return r.duration && err == nil && d > 0
}

// find is the first tag of the key with a value that is allowed; empty when there is none.
func find(key string, of ...[]types.Tag) string {
	for _, tags := range of {
		for _, t := range tags {
			if aws.ToString(t.Key) == key && rules[key].allows(aws.ToString(t.Value)) {
				return aws.ToString(t.Value)
			}
		}
	}
	return ""
}

// Gate is how long at most a DAEMON service keeps other tasks off an instance that joined; 0: not at all. A cluster that
// says off has no gate, whatever its services say.
func Gate(cluster, service []types.Tag) time.Duration {
	if find(DaemonGate, cluster) == "off" {
		return 0
	}
	switch v := find(DaemonGate, service, cluster); v {
	case "":
		return DefaultGate
	case "off":
		return 0
	default:
		d, _ := time.ParseDuration(v) // find has read it
		return d
	}
}

// Reserves tells whether room is kept for daemons that are not placed yet.
func Reserves(cluster []types.Tag) bool { return find(DaemonReserve, cluster) != "off" }

// MakesRoom tells whether replicas may be moved for the service.
func MakesRoom(service []types.Tag) bool { return find(MakeRoom, service) == "true" }

// TriesSecondHost tells whether an update of a DAEMON service that fails on one instance alone is tried on another one.
func TriesSecondHost(service []types.Tag) bool { return find(SecondHost, service) == "true" }

// PreparesImages tells whether the images of an update of a REPLICA service are made local before tasks are replaced.
func PreparesImages(service []types.Tag) bool { return find(PrepareImages, service) == "true" }

// Surge is how a DAEMON service's new tasks come beside the old ones.
type Surge uint8

// The ways.
const (
	NoSurge      Surge = iota // the old one is stopped first
	SurgeApart                // start-first, where both have no writable volume in common
	SurgeSharing              // start-first, whatever volumes they have in common
)

// Surges tells how the service's new tasks come beside the old ones.
func Surges(service []types.Tag) Surge {
	switch find(DaemonSurge, service) {
	case "true":
		return SurgeApart
	case "writable-volumes":
		return SurgeSharing
	}
	return NoSurge
}

// Drain is how an instance is drained.
type Drain struct {
	// Standalone is when tasks of no service are stopped, from the drain's begin; negative: never.
	Standalone time.Duration
	// Deadline is how long the drain may take; 0: as long as it takes.
	Deadline time.Duration
	// Abandon makes the instance ACTIVE again at the deadline; else all that is left there is stopped.
	Abandon bool
}

// Draining is how an instance with these tags is drained.
func Draining(cluster, instance []types.Tag) Drain {
	d := Drain{Standalone: -1}
	switch v := find(DrainStandalone, instance, cluster); v {
	case "", "wait":
	case "stop":
		d.Standalone = 0
	default:
		d.Standalone, _ = time.ParseDuration(v)
	}
	d.Deadline, _ = time.ParseDuration(find(DrainDeadline, instance, cluster))
	d.Abandon = find(DrainAtDeadline, instance, cluster) == "abandon"
	return d
}

// LostAfter is how long a REPLICA service counts on tasks of an instance whose agent is away; 0: for as long as the
// instance is registered.
func LostAfter(cluster, service []types.Tag) time.Duration {
	d, _ := time.ParseDuration(find(LostHost, service, cluster))
	return d
}
