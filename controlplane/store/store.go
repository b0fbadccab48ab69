// Package store keeps everything the control plane knows: typed records in etcd, the only store, and a view of them in
// memory that serves every read.
//
// # Model
//
// A record (a [Cluster], a [Task], …) is one etcd key. Its value is a schema version, the AWS SDK's own object as clients
// see it, and fields of our own that never leak into an answer; it is encoded by protocol/awsjson. Its [Meta] carries the
// etcd revision at which it was last written.
//
// A value that can't be read (damaged, or of a newer schema) is logged and left out of the view, see [View.Quarantined]; it
// is neither changed nor deleted, and nothing else is affected.
//
//	write   Store.Txn collects conditions and writes; Commit applies all of them or none (ErrConflict). Every write of an
//	        existing record is a compare-and-swap on its revision. Commit returns after the view has caught up, so a
//	        caller reads what it wrote, on this replica.
//	read    Store.Read waits until the view holds everything that was committed anywhere before the call (a ReadIndex
//	        shared by all waiting readers) and then calls the function with the [View]. Where nobody else writes, the
//	        view always does ([Config].Alone).
//	        What is ready at the same time shares one request to etcd (group.go); each has its own outcome.
//	watch   Store.OnChange calls back after each applied revision. A callback is a hint to look again: it must return at
//	        once and must not read the store.
//
// Near etcd's quota only deletes and transactions marked with [Txn.StateChange] are accepted, the others get [ErrFull];
// [Store.Purge] deletes what need not be kept, and an embedded etcd is compacted and defragmented, which ends that state.
//
// Records in the view are shared and immutable: replace, never modify. [View] accessors return nil for "no such record".
//
// # Keys
//
//	<prefix>/cluster/<name>                              Cluster
//	<prefix>/family/<family>                             Family, the revision counter
//	<prefix>/taskdef/<family>/<revision, 10 digits>      TaskDefinition
//	<prefix>/service/<cluster>/<name>                    Service ACTIVE or DRAINING
//	<prefix>/service-gone/<cluster>/<name>/<time>        Service that is INACTIVE: Update moves it here, so that a new one of
//	                                                     its name can be created while the old one stays describable
//	<prefix>/instance/<cluster>/<id>                     Instance: attributes, status, registration
//	<prefix>/allocation/<cluster>/<instance id>          Allocation: what is taken on an instance, apart from the instance
//	<prefix>/departed/<cluster>/<id>                     Departed: an instance that was deregistered and purged
//	<prefix>/task/<cluster>/<id>                         Task
//	<prefix>/daemonslot/<cluster>/<service>/<instance>   DaemonSlot: held until its task is STOPPED, so no second one can exist
//	<prefix>/connection/<cluster>/<instance>             Connection, under the lease of the replica that holds the socket
//	<prefix>/event/<cluster>/<service>/<time>-<id>       ServiceEvent
//	<prefix>/service-deployment/<cluster>/<service>/<id> ServiceDeployment: the history of a deployment
//	<prefix>/service-revision/<cluster>/<service>/<id>   ServiceRevision: what it runs
//	<prefix>/key/<access key id>                         Key
//	<prefix>/secret/<name>                               Secret: the control plane's own CA
//	<prefix>/replica/<name>                              Replica: a process of the control plane, under its lease
//	<prefix>/setting/<name>/<principal>                  AccountSetting (principal "default": the account; an ARN is escaped)
//	<prefix>/leader/<name>                               leadership of a reconciler, under a replica's lease
//
// Heartbeats, metrics and log lines are never stored.
package store
