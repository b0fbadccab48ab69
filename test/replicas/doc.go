// Package replicas holds several control planes on one etcd cluster to what one alone promises: three real longshore-control
// processes, three real etcd members, each in a network namespace of its own, simulated agents and API clients, and a hand
// that kills processes, stops them for a while and cuts links.
//
//	world     the namespaces, the processes, the links between any two of them
//	balancer  what clients and agents are pointed at: any replica, another one after an end
//	client    API calls whose outcome is one of done, not done, unknown
//	models    what each object may answer, as specifications for porcupine, which looks for an order of the calls in which
//	          every answer is right and nothing is seen after what followed it (linearizability)
//	judge     what must be so beside: no container touched without an order, no daemon twice on a host, no token with two
//	          tasks, no address with two owners
//
// The etcd is the server module's own binary, built from its sources. make test-replicas is the long run (REPLICAS_FOR, 10m);
// without that variable the tests take some seconds.
package replicas
