//go:build bench

package bench

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	nsfd "github.com/vishvananda/netns"

	"github.com/longshore-project/longshore/netns"
)

// speed measures what two awsvpc tasks on the bridge have of each other, by the number of their security groups' rules, and as the
// floor the same between two namespaces that a veth pair joins, in turn. What is measured is given in durations: of 256 MiB one way, of 1,000
// exchanges of a byte, and of 100 connections, for which alone rules are asked. The rule that lets the client in is the last one.
func (w *netHost) speed(figures *table, rounds int) {
	w.must(w.bridge())
	h := netns.Host{Namespace: int(w.host), Tables: &netns.Tables{}}
	pair := w.pair()
	for _, rules := range []int{0, 1, 100, 1000} {
		tasks := w.tasks(h, rules)
		var ours, floor [3]series
		for i := range rounds + 1 {
			a, b := tasks.measure(w), pair.measure(w)
			if i == 0 {
				continue
			}
			for k := range ours {
				ours[k] = append(ours[k], a[k]...)
				floor[k] = append(floor[k], b[k]...)
			}
		}
		tasks.end()
		with := fmt.Sprintf("%d rules", rules)
		if rules == 0 {
			with = "no groups"
		}
		for k, what := range []string{"256 MiB from task to task", "1,000 exchanges of a byte between tasks", "100 connections between tasks"} {
			figures.add(what+", "+with, ours[k].String(), floor[k].String(), ratio(ours[k], floor[k]), "")
		}
	}
	pair.end()
}

// ends are two namespaces, and a server in the second.
type ends struct {
	client  nsfd.NsHandle
	at      string
	serving sync.WaitGroup
	l       net.Listener
}

// pair joins two namespaces by a veth pair.
func (w *netHost) pair() *ends {
	a, _ := w.namespace()
	b, _ := w.namespace()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags = "eth0", net.FlagUp
	w.must(w.handle(a).LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(b)}))
	for i, ns := range []nsfd.NsHandle{a, b} {
		h := w.handle(ns)
		l, err := h.LinkByName("eth0")
		w.must(err)
		w.must(h.LinkSetUp(l))
		w.must(h.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 8, 0, byte(i+1)), Mask: net.CIDRMask(24, 32)}}))
	}
	return w.ends(a, b, "10.8.0.2:7000")
}

// tasks are two, in a group with so many rules of which the last one lets them reach each other; 0: in none.
func (w *netHost) tasks(h netns.Host, rules int) *ends {
	a, b := w.task("bridge", 2*w.made%200), w.task("bridge", (2*w.made+1)%200)
	group := a.Groups[0]
	group.Ingress = nil
	for i := range rules - 1 {
		group.Ingress = append(group.Ingress, netns.GroupRule{Protocol: 6, From: 1000 + i, To: 1000 + i, Networks: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 32)}})
	}
	group.Ingress = append(group.Ingress, netns.GroupRule{Protocol: 6, From: 7000, To: 7000, Networks: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/24")}})
	var all [2]nsfd.NsHandle
	for i, t := range []*netns.Task{&a, &b} {
		t.Groups, t.Members = []netns.SecurityGroup{group}, nil
		if rules == 0 {
			t.Groups, t.BlockIMDS = nil, false
		}
		w.ensure(h, *t)
		ns, err := nsfd.GetFromPath(t.Namespace)
		w.must(err)
		w.t.Cleanup(func() { _ = ns.Close() })
		all[i] = ns
	}
	return w.ends(all[0], all[1], b.Interfaces[0].Addresses[0].Addr().String()+":7000")
}

// ends starts the server: of each connection the first byte says whether it takes what comes, or gives every byte back.
func (w *netHost) ends(client, server nsfd.NsHandle, at string) *ends {
	e := &ends{client: client, at: at}
	w.within(server, func() (err error) { e.l, err = net.Listen("tcp", at); return err })
	e.serving.Go(func() {
		for {
			c, err := e.l.Accept()
			if err != nil {
				return
			}
			e.serving.Go(func() { serve(c) })
		}
	})
	return e
}

func serve(c net.Conn) {
	defer c.Close()
	b := make([]byte, 1<<20)
	if n, _ := c.Read(b[:1]); n == 0 {
		return
	}
	if b[0] == 'e' {
		for {
			n, err := c.Read(b)
			if _, werr := c.Write(b[:n]); err != nil || werr != nil {
				return
			}
		}
	}
	for n, err := 0, error(nil); err == nil; n, err = c.Read(b) {
		_ = n
	}
	_, _ = c.Write(b[:1])
}

func (e *ends) end() { _ = e.l.Close(); e.serving.Wait() }

// within runs f on a thread in the namespace.
func (w *netHost) within(ns nsfd.NsHandle, f func() error) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := nsfd.Set(ns)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	w.must(<-done)
}

// measure is how long 256 MiB, 1,000 exchanges and 100 connections take.
func (e *ends) measure(w *netHost) (took [3]series) {
	w.within(e.client, func() error {
		dial := func(kind string) net.Conn {
			c, err := net.Dial("tcp", e.at)
			w.must(err)
			_, err = c.Write([]byte(kind))
			w.must(err)
			return c
		}
		c, b := dial("s"), make([]byte, 1<<20)
		took[0].add(timed(func() {
			for range 256 {
				_, err := c.Write(b)
				w.must(err)
			}
			w.must(c.(*net.TCPConn).CloseWrite())
			_, err := io.ReadFull(c, b[:1])
			w.must(err)
		}))
		_ = c.Close()
		c = dial("e")
		took[1].add(timed(func() {
			for range 1000 {
				_, err := c.Write(b[:1])
				w.must(err)
				_, err = io.ReadFull(c, b[:1])
				w.must(err)
			}
		}))
		_ = c.Close()
		took[2].add(timed(func() {
			for range 100 {
				_ = dial("e").Close()
			}
		}))
		return nil
	})
	return took
}
