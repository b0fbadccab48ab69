package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestARangeOfPortsIsItsPortsOneByOne(t *testing.T) {
	single := NetworkBinding{BindIP: "0.0.0.0", ContainerPort: 80, HostPort: 32768, Protocol: "tcp"}
	for _, c := range []struct{ give, want []NetworkBinding }{
		{[]NetworkBinding{single}, []NetworkBinding{single}},
		{[]NetworkBinding{{BindIP: "::", Protocol: "udp", ContainerPortRange: "8000-8001", HostPortRange: "33000-33001"}},
			[]NetworkBinding{{BindIP: "::", Protocol: "udp", ContainerPort: 8000, HostPort: 33000}, {BindIP: "::", Protocol: "udp", ContainerPort: 8001, HostPort: 33001}}},
		{[]NetworkBinding{{ContainerPortRange: "1-2", HostPortRange: "1-3"}, {ContainerPortRange: "2-1", HostPortRange: "2-1"}, {ContainerPortRange: "1-99999", HostPortRange: "1-99999"}}, nil},
	} {
		var got []NetworkBinding
		for _, b := range c.give {
			got = append(got, b.Ports()...)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Error(d)
		}
	}
}
