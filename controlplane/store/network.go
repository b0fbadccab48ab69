package store

import (
	"iter"
	"net/netip"
)

// Interface is the network interface of a task in network mode awsvpc, as it was when the task was placed. It does not change.
type Interface struct {
	Attachment  string // id of the attachment
	ID          string // eni-…
	Subnet      string // name
	MAC         string
	IPv4, IPv6  string // addresses; one of them may be empty
	IPv4Gateway string // in CIDR form, with the subnet's length
	IPv6Gateway string
	// SecurityGroups are the names of those that it is in; never empty.
	SecurityGroups    []string
	DomainName        []string
	DomainNameServers []string
	PrivateDNSName    string
}

// Addresses are the interface's, that of IPv4 first.
func (i *Interface) Addresses() (addresses []string) {
	for _, a := range []string{i.IPv4, i.IPv6} {
		if a != "" {
			addresses = append(addresses, a)
		}
	}
	return addresses
}

// Address is the claim of a task on an address of a subnet. It is created in the transaction that creates the task and deleted
// in the one that records it STOPPED. As the address is its key, two tasks can't have it.
type Address struct {
	Meta
	Address string // in its shortest form
	Subnet  string // name
	Cluster string
	Task    string // id
	// SecurityGroups are those that the address is a member of.
	SecurityGroups []string
}

// Addr is the address; the zero one if it can't be read.
func (a *Address) Addr() netip.Addr {
	addr, _ := netip.ParseAddr(a.Address)
	return addr
}

// AddressesOf are the claims of a task on the addresses of its interfaces.
func AddressesOf(t *Task) (claims []*Address) {
	for _, i := range t.Interfaces {
		for _, a := range i.Addresses() {
			claims = append(claims, &Address{Address: a, Subnet: i.Subnet, Cluster: t.Cluster, Task: t.ID, SecurityGroups: i.SecurityGroups})
		}
	}
	return claims
}

func (a *Address) key() string { return join(kindAddress, a.Address) }

// Address returns the claim on an address, nil when no task has it.
func (v *View) Address(address string) *Address {
	return get[*Address](v, placeOf(kindAddress, address))
}

// Addresses are the claims on addresses, in order of their text.
func (v *View) Addresses() iter.Seq[*Address] { return scan[*Address](v, under(kindAddress)) }
