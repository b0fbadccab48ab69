package store

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// The kinds of record: the first part of a key.
const (
	kindCluster        = "cluster"
	kindFamily         = "family"
	kindTaskDefinition = "taskdef"
	kindService        = "service"
	kindServiceGone    = "service-gone"
	kindInstance       = "instance"
	kindAllocation     = "allocation"
	kindTask           = "task"
	kindDaemonSlot     = "daemonslot"
	kindConnection     = "connection"
	kindEvent          = "event"
	kindKey            = "key"
	kindSetting        = "setting"
	kindTaskKey        = "taskkey"
	kindLeader         = "leader"
	kindPreparation    = "preparation"
	kindAddress        = "address"
	kindDeparted       = "departed"
	kindSecret         = "secret"
	kindReplica        = "replica"

	kindServiceDeployment = "service-deployment"
	kindServiceRevision   = "service-revision"
)

// kinds makes an empty record of each kind.
var kinds = map[string]func() Record{
	kindCluster:        func() Record { return new(Cluster) },
	kindFamily:         func() Record { return new(Family) },
	kindTaskDefinition: func() Record { return new(TaskDefinition) },
	kindService:        func() Record { return new(Service) },
	kindServiceGone:    func() Record { return new(Service) },
	kindInstance:       func() Record { return new(Instance) },
	kindAllocation:     func() Record { return new(Allocation) },
	kindTask:           func() Record { return new(Task) },
	kindDaemonSlot:     func() Record { return new(DaemonSlot) },
	kindConnection:     func() Record { return new(Connection) },
	kindEvent:          func() Record { return new(ServiceEvent) },
	kindKey:            func() Record { return new(Key) },
	kindSetting:        func() Record { return new(AccountSetting) },
	kindTaskKey:        func() Record { return new(TaskKey) },
	kindPreparation:    func() Record { return new(Preparation) },
	kindAddress:        func() Record { return new(Address) },
	kindDeparted:       func() Record { return new(Departed) },
	kindSecret:         func() Record { return new(Secret) },
	kindReplica:        func() Record { return new(Replica) },

	kindServiceDeployment: func() Record { return new(ServiceDeployment) },
	kindServiceRevision:   func() Record { return new(ServiceRevision) },
}

func (c *Cluster) key() string { return join(kindCluster, aws.ToString(c.Object.ClusterName)) }

func (f *Family) key() string { return join(kindFamily, f.Name) }

func (d *TaskDefinition) key() string {
	return taskDefinitionKey(aws.ToString(d.Object.Family), d.Object.Revision)
}

func taskDefinitionKey(family string, revision int32) string {
	return join(kindTaskDefinition, family, fmt.Sprintf("%010d", revision))
}

// key moves a service that became INACTIVE out of the way of a new one of its name, once.
func (s *Service) key() string {
	name := aws.ToString(s.Object.ServiceName)
	if aws.ToString(s.Object.Status) != "INACTIVE" {
		return join(kindService, s.Cluster, name)
	}
	if strings.HasPrefix(s.storedAt, kindServiceGone+"/") {
		return s.storedAt
	}
	at := s.InactiveSince.UnixNano()
	if s.InactiveSince.IsZero() {
		at = s.revision
	}
	return join(kindServiceGone, s.Cluster, name, fmt.Sprintf("%020d", at))
}

func (i *Instance) key() string    { return join(kindInstance, i.Cluster, i.ID) }
func (a *Allocation) key() string  { return join(kindAllocation, a.Cluster, a.Instance) }
func (d *Departed) key() string    { return join(kindDeparted, d.Cluster, d.ID) }
func (t *Task) key() string        { return join(kindTask, t.Cluster, t.ID) }
func (d *DaemonSlot) key() string  { return join(kindDaemonSlot, d.Cluster, d.Service, d.Instance) }
func (c *Connection) key() string  { return join(kindConnection, c.Cluster, c.Instance) }
func (p *Preparation) key() string { return join(kindPreparation, p.Cluster, p.Service, p.Instance) }
func (k *Key) key() string         { return join(kindKey, k.AccessKeyID) }
func (k *TaskKey) key() string     { return join(kindTaskKey, k.AccessKeyID) }
func (s *Secret) key() string      { return join(kindSecret, s.Name) }
func (r *Replica) key() string     { return join(kindReplica, r.Name) }

func (d *ServiceDeployment) key() string {
	return join(kindServiceDeployment, d.Cluster, d.Service, d.ID)
}
func (r *ServiceRevision) key() string { return join(kindServiceRevision, r.Cluster, r.Service, r.ID) }

func (a *AccountSetting) key() string { return accountSettingKey(a.Name, a.Principal) }

// accountSettingKey escapes the principal: an ARN has slashes.
func accountSettingKey(name, principal string) string {
	return join(kindSetting, name, url.PathEscape(principal))
}

// key orders the events of a service by time.
func (e *ServiceEvent) key() string {
	if e.storedAt != "" {
		return e.storedAt
	}
	at := aws.ToTime(e.Object.CreatedAt)
	return join(kindEvent, e.Cluster, e.Service, fmt.Sprintf("%020d-%s", at.UnixNano(), aws.ToString(e.Object.Id)))
}

// leader is the key of a candidate for a leadership. It is in the view, so that a loss is seen, but is nobody's record.
type leader struct {
	Meta
}

func (l *leader) key() string { return l.storedAt }

func join(parts ...string) string { return strings.Join(parts, "/") }

// partsOf is how many parts a kind's keys have; 2 of those that are not listed.
var partsOf = map[string]int{
	kindTaskDefinition: 3, kindService: 3, kindServiceGone: 4, kindInstance: 3, kindAllocation: 3, kindTask: 3,
	kindDaemonSlot: 4, kindConnection: 3, kindEvent: 4, kindSetting: 3, kindServiceDeployment: 4, kindServiceRevision: 4, kindPreparation: 4, kindDeparted: 3,
}

// checkKey refuses a key that another record could have, or that would not be found again.
func checkKey(key string) error {
	kind, _, _ := strings.Cut(key, "/")
	if has, want := strings.Count(key, "/")+1, cmp.Or(partsOf[kind], 2); has != want {
		return fmt.Errorf("%w: %q has %d parts, not %d: a name is empty or has a slash", ErrInvalid, key, has, want)
	}
	if strings.HasPrefix(key, "/") || strings.HasSuffix(key, "/") || strings.Contains(key, "//") || strings.Contains(key, sep) {
		return fmt.Errorf("%w: %q has an empty or unprintable part", ErrInvalid, key)
	}
	return nil
}

// place is where a record with this key is in the view. The separator sorts before every letter, so that "web" and all
// below it come before "web-2".
func place(key string) string { return strings.ReplaceAll(key, "/", sep) }

const sep = "\x00"

func placeOf(parts ...string) string { return strings.Join(parts, sep) }

// under is the common beginning of all places below parts.
func under(parts ...string) string { return strings.Join(parts, sep) + sep }

// The view's further indexes; no key begins like these.
const (
	indexLiveOn   = "@live-on"
	indexLiveOf   = "@live-of"
	indexEndedOn  = "@ended-on"
	indexEndedOf  = "@ended-of"
	indexServices = "@services"
	indexPrepare  = "@prepare"
	indexAttached = "@attached"
)

// indexes are the places, besides its own, at which the view holds a record.
func indexes(r Record) []string {
	switch r := r.(type) {
	case *Task:
		if aws.ToString(r.Object.LastStatus) == "STOPPED" {
			at := []string{placeOf(indexEndedOn, r.Cluster, r.Instance, r.ID)}
			if r.Service != "" {
				at = append(at, placeOf(indexEndedOf, r.Cluster, r.Service, fmt.Sprintf("%020d", r.revision), r.ID))
			}
			return at
		}
		at := []string{placeOf(indexLiveOn, r.Cluster, r.Instance, r.ID)}
		if r.Service != "" {
			at = append(at, placeOf(indexLiveOf, r.Cluster, r.Service, r.ID))
		}
		for _, a := range r.Object.Attachments {
			at = append(at, placeOf(indexAttached, r.Cluster, aws.ToString(a.Id)))
		}
		return at
	case *Preparation:
		return []string{placeOf(indexPrepare, r.Cluster, r.Instance, r.Service)}
	case *Service:
		// The one that is there sorts first, then those that are gone, the last one first.
		order := "0"
		if parts := strings.Split(r.storedAt, "/"); parts[0] == kindServiceGone {
			order = "1" + complement(parts[len(parts)-1])
		}
		return []string{placeOf(indexServices, r.Cluster, aws.ToString(r.Object.ServiceName), order)}
	}
	return nil
}

// complement turns the order of numbers of one length around.
func complement(digits string) string {
	b := []byte(digits)
	for i, c := range b {
		if c >= '0' && c <= '9' {
			b[i] = '0' + '9' - c
		}
	}
	return string(b)
}
