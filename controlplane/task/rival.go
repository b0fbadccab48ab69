package task

import (
	"context"
	"net"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/store"
)

// Of two machines with one identity (a cloned disk) the second is refused. Longshore's agents say in which boot their machine is.
// Of others it is known only that one agent has one connection, and that a connection whose other end is dead is noticed
// within seconds: a connection that stands that long after somebody else wanted to be the same instance is another agent's.

// Overlap is how long a connection stands at most whose other end is dead: the pings of package poll, or the lease of a replica
// that was killed, which a new leader of etcd prolongs once.
const Overlap = 12 * time.Second

// Outlives waits until an instance's connection ends, for at most patience, and returns the one that has not.
func Outlives(ctx context.Context, st *store.Store, cluster, instance string, patience time.Duration) (*store.Connection, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; {
		var is *store.Connection
		if err := st.Read(ctx, func(v *store.View) error { is = v.Connection(cluster, instance); return nil }); err != nil {
			return nil, err
		}
		if is == nil || !time.Now().Before(end) {
			return is, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// OtherAgent is what an agent is told that wants to be an instance as which another one is connected.
func OtherAgent(instance, connected, refused string) string {
	return "Another agent is connected as the container instance " + instance + ", from " + orUnknown(connected) + "; this one, at " + orUnknown(refused) + ", has a copy of its data directory, or runs beside it. " +
		"To make this machine an instance of its own, stop its agent, remove the agent's data directory (/var/lib/ecs/data), and start the agent again."
}

// rival is how the note of one begins.
const rival = "Another machine, at "

// Alone is what an instance's status says when its agent has registered again: the note of another machine is of the past.
func Alone(reason *string) *string {
	if strings.HasPrefix(aws.ToString(reason), rival) {
		return nil
	}
	return reason
}

// Rivalled is the instance with the note that another machine wanted to be it and was refused; nil when it has that note, or
// another one that is worth more.
func Rivalled(i *store.Instance, connected, refused string, now time.Time) *store.Instance {
	note := rival + orUnknown(refused) + ", has the same identity as this one, at " + orUnknown(connected) + ", and is refused"
	if aws.ToString(i.Object.Status) != "ACTIVE" || strings.HasPrefix(aws.ToString(i.Object.StatusReason), note) {
		return nil
	}
	n := *i
	n.Object.StatusReason = aws.String(note + ", first at " + now.UTC().Format(time.RFC3339) + ". Give it an identity of its own: stop its agent, remove the agent's data directory, and start the agent again.")
	n.Object.Version++
	return &n
}

// AddressOf is the address of host:port.
func AddressOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

func orUnknown(address string) string {
	if address == "" {
		return "an unknown address"
	}
	return address
}
