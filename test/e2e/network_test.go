package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/test/images"
)

// netWorld is three hosts on one LAN whose tasks have networks of their own: those of hosts 1 and 2 by macvlan, those of host 3
// on a bridge with an uplink.
type netWorld struct {
	*Lab
	file string // the control plane's subnets and security groups
}

const meshPort = "80" // which stays the containers' own, though they ask the agent at that port of one address

// rules are the file with a port open to the group's members, or without.
func (w *netWorld) rules(open bool) {
	w.t.Helper()
	ingress := `{"protocol":"icmp","cidrs":["0.0.0.0/0"]},{"protocol":"tcp","fromPort":9000,"toPort":9000,"groups":["mesh"]}`
	if open {
		ingress += `,{"protocol":"tcp","fromPort":` + meshPort + `,"toPort":` + meshPort + `,"groups":["mesh"]}`
	}
	doc := fmt.Sprintf(`{"subnets":{"lan":{"cidrBlock":"10.93.9.0/24","ipv6CidrBlock":"fd00:93:9::/64","domainName":["mesh.internal"],"domainNameServers":["10.93.9.2"]},
		"tiny":{"cidrBlock":"10.93.10.0/30"}},"securityGroups":{"mesh":{"ingress":[%s]}}}`, ingress)
	if err := os.WriteFile(w.file+".new", []byte(doc), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(w.file+".new", w.file); err != nil {
		w.t.Fatal(err)
	}
}

// cable gives host i a second cable to the LAN: one end is a port of the LAN's bridge, the other the interface name in the host.
func (w *netWorld) cable(i int, name, mac string) {
	w.t.Helper()
	port := "x" + strconv.Itoa(i) + name
	link := []string{"ip", "link", "add", port, "type", "veth", "peer", "name", name}
	if mac != "" {
		link = append(link, "address", mac)
	}
	for _, argv := range [][]string{append(link, "netns", w.init(i)), {"ip", "link", "set", port, "master", "br0", "up"}} {
		if out, err := w.Farm.Command(w.t.Context(), append([]string{"lan"}, argv...)...).CombinedOutput(); err != nil {
			w.t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
}

// member is a task's container on a host, with its addresses.
type member struct {
	host       int
	id, arn    string
	ip4, ip6   string
	pid, pause int
}

// attached are the members of ECS's answer about a task that speak of its interface.
type attached struct {
	TaskArn, LastStatus, HealthStatus string
	Attachments                       []struct {
		ID, Type, Status string
		Details          []struct{ Name, Value string }
	}
	Containers []struct {
		Name, RuntimeID   string
		NetworkInterfaces []struct{ AttachmentID, PrivateIpv4Address, Ipv6Address string }
		NetworkBindings   []any
	}
}

func (w *netWorld) described(arns ...string) []attached {
	w.t.Helper()
	return Ask[struct{ Tasks []attached }](w.Lab, "describe-tasks", append([]string{"--cluster", cluster, "--tasks"}, arns...)...).Tasks
}

// members are the tasks of a family on hosts 1 to n, each with its container.
func (w *netWorld) members(family string, n int) (all []member) {
	w.t.Helper()
	for i := 1; i <= n; i++ {
		of := map[string]*member{}
		for _, c := range w.Running(i, family) {
			arn := c.Labels["com.amazonaws.ecs.task-arn"]
			if of[arn] == nil {
				of[arn] = &member{host: i, arn: arn}
			}
			info, err := w.Seen(i).Inspect(w.t.Context(), c.ID)
			if err != nil {
				w.t.Fatal(err)
			}
			if c.Labels["com.amazonaws.ecs.container-name"] == "~internal~ecs~pause" {
				of[arn].pause = info.State.Pid
			} else {
				of[arn].id, of[arn].pid = c.ID, info.State.Pid
			}
		}
		for _, m := range of {
			d := w.described(m.arn)[0]
			for _, a := range d.Attachments {
				if a.Type != "ElasticNetworkInterface" || a.Status != "ATTACHED" || len(d.Containers[0].NetworkInterfaces) != 1 || d.Containers[0].NetworkInterfaces[0].AttachmentID != a.ID {
					w.t.Errorf("%+v", d)
				}
				for _, v := range a.Details {
					switch v.Name {
					case "privateIPv4Address":
						m.ip4 = v.Value
					case "ipv6Address":
						m.ip6 = v.Value
					}
				}
			}
			all = append(all, *m)
		}
	}
	return all
}

// fetches has one member ask another for its page. A short time-out is enough for a port that is open.
func (w *netWorld) fetches(from, to member, address string) error {
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	out, err := w.in(from.host, from.id, "timeout 1 wget -q -O - http://"+address+":"+meshPort+"/")
	if err == nil && strings.TrimSpace(out) != to.ip4 {
		err = fmt.Errorf("%s answers %q", address, out)
	}
	return err
}

// TestTasksHaveNetworksOfTheirOwnOnThreeHosts walks through awsvpc as a person uses it.
func TestTasksHaveNetworksOfTheirOwnOnThreeHosts(t *testing.T) {
	onEachEngine(t, networksOfTheirOwn)
}

func networksOfTheirOwn(t *testing.T, engine string) {
	w := &netWorld{file: filepath.Join(t.TempDir(), "network.json")}
	roles := filepath.Join(t.TempDir(), "roles.json")
	if err := os.WriteFile(roles, []byte(`{"roles":{"`+roleApp+`":{"accessKeyId":"AKAPP","secretAccessKey":"planted","sessionToken":"t","expiration":"2099-01-01T00:00:00Z"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Lab = &Lab{t: t}
	w.rules(true)
	w.Lab = NewLabOn(t, engine, "vpc"+engine[:1], 93, 3, "--network", w.file, "--role-credentials", roles)
	image := w.Push("mesh:1", images.Spec{Cmd: []string{"sh", "-c", "mkdir -p /www; ip -4 -o addr show eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/' >/www/index.html; exec httpd -f -p " + meshPort + " -h /www"}})
	w.cable(3, "eth1", "")
	if out, err := w.OnHost(3, "ip", "link", "set", "eth1", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	step := func(name string, f func(t *testing.T)) {
		t.Helper()
		if !t.Run(name, func(t *testing.T) { saved := w.t; w.t = t; defer func() { w.t = saved }(); f(t) }) {
			t.FailNow()
		}
	}
	kind := map[int]string{1: "auto", 2: "macvlan:eth0", 3: "bridge,uplink=eth1"}
	before := map[int]string{}
	step("three hosts join", func(t *testing.T) {
		w.Do("ecs", "create-cluster", "--cluster-name", cluster)
		for i := 1; i <= 3; i++ {
			before[i] = w.links(i)
			w.StartAgent(i, "ECS_TASK_NETWORK="+kind[i])
		}
		for i := 1; i <= 3; i++ {
			w.InstanceOf(i)
		}
	})
	var mesh []member
	step("a DAEMON service has an address of its own on each", func(t *testing.T) {
		w.Do("ecs", "register-task-definition", "--cli-input-json", fmt.Sprintf(`{"family":"mesh","networkMode":"awsvpc","taskRoleArn":%q,"containerDefinitions":[
			{"name":"main","image":%q,"memory":64,"stopTimeout":2,"portMappings":[{"containerPort":%s}]}]}`, roleApp, image, meshPort))
		w.Do("ecs", "create-service", "--cluster", cluster, "--service-name", "mesh", "--scheduling-strategy", "DAEMON", "--task-definition", "mesh",
			"--network-configuration", "awsvpcConfiguration={subnets=[lan],securityGroups=[mesh]}")
		w.Steady("mesh", 3)
		mesh = w.members("mesh", 3)
		if len(mesh) != 3 || mesh[0].ip4 == mesh[1].ip4 || mesh[1].ip4 == mesh[2].ip4 || mesh[0].ip6 == "" {
			t.Fatalf("%+v", mesh)
		}
	})
	step("they reach each other by address, on whatever host", func(t *testing.T) { w.all(mesh, true) })
	step("a container is told who it is", func(t *testing.T) { w.told(mesh) })
	step("a security group opens and closes a port while they run", func(t *testing.T) {
		w.rules(false)
		w.all(mesh, false)
		w.rules(true)
		w.all(mesh, true)
	})
	step("agents that end and agents that are killed change nothing", func(t *testing.T) { w.agents(mesh, kind) })
	step("rules that somebody flushed are written again", func(t *testing.T) {
		m := mesh[1]
		if out, err := w.inside(m, "nft", "flush", "ruleset"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		w.Until(30*time.Second, "the rules are there again", func() error {
			out, err := w.inside(m, "nft", "list", "ruleset")
			if err == nil {
				err = has(out, "table inet longshore", "policy drop")
			}
			return err
		})
		w.all(mesh, true)
	})
	step("an uplink that is down is named, and used when it is up again", func(t *testing.T) { w.parentDown(mesh) })
	step("a REPLICA service's tasks have addresses that nobody else has", func(t *testing.T) { w.replicas() })
	step("when all is stopped nothing is left", func(t *testing.T) { w.nothingLeft(before) })
}

// links are the interfaces of host i, by name, without the engine's own.
func (w *netWorld) links(i int) string {
	w.t.Helper()
	out, err := w.OnHost(i, "ip", "-j", "link").Output()
	if err != nil {
		w.t.Fatal(err)
	}
	var all []struct{ IfName string }
	if err := json.Unmarshal(out, &all); err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, l := range all {
		names = append(names, l.IfName)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// inside runs a command in a member's network.
func (w *netWorld) inside(m member, argv ...string) (string, error) {
	out, err := w.OnHost(m.host, append([]string{"nsenter", "-t", strconv.Itoa(m.pause), "-n"}, argv...)...).CombinedOutput()
	return string(out), err
}

// all has each ask every other one, by both addresses.
func (w *netWorld) all(mesh []member, open bool) {
	w.t.Helper()
	for n, from := range mesh {
		for k, to := range mesh {
			if n == k || !open && k != (n+1)%len(mesh) { // each closed port costs a time-out: one look from each is enough
				continue
			}
			for _, address := range []string{to.ip4, to.ip6} {
				w.Until(30*time.Second, fmt.Sprintf("host %d's task reaches host %d's at %s: %t", from.host, to.host, address, open), func() error {
					err := w.fetches(from, to, address)
					if (err == nil) != open {
						return fmt.Errorf("open %t: %w", open, err)
					}
					return nil
				})
			}
		}
	}
}

// told asks for what a container with a network of its own is told: metadata in all versions, credentials, names and DNS.
func (w *netWorld) told(mesh []member) {
	t := w.t
	for n, m := range mesh {
		other := mesh[(n+1)%len(mesh)] // itself, if it is the only one
		for command, want := range map[string][]string{
			"wget -q -O - $ECS_CONTAINER_METADATA_URI_V4":                              {`"NetworkMode":"awsvpc"`, `"IPv4Addresses":["` + m.ip4 + `"]`, `"IPv6Addresses":["` + m.ip6 + `"]`, `"AttachmentIndex":0`, `"IPv4SubnetCIDRBlock":"10.93.9.0/24"`},
			"wget -q -O - $ECS_CONTAINER_METADATA_URI/task":                            {m.arn},
			"wget -q -O - http://169.254.170.2/v2/metadata":                            {m.arn}, // who asks is known by the socket
			"wget -q -O - http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": {`"AccessKeyId":"AKAPP"`, `"RoleArn":"` + roleApp + `"`},
			"cat /etc/resolv.conf":                                                     {"nameserver 10.93.9.2", "search mesh.internal"},
			"cat /etc/hosts":                                                           {m.ip4},
		} {
			w.Until(30*time.Second, fmt.Sprintf("host %d: %s", m.host, command), func() error {
				out, err := w.in(m.host, m.id, command)
				if err == nil {
					err = has(out, want...)
				}
				return err
			})
		}
		id, err := w.in(other.host, other.id, "echo -n $AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := w.in(m.host, m.id, "wget -q -O - http://169.254.170.2"+id); (err == nil) != (other.id == m.id) {
			t.Errorf("host %d's task has another one's credentials: %s", m.host, out)
		}
		d := w.described(m.arn)[0]
		if len(d.Containers[0].NetworkBindings) != 0 || d.Containers[0].NetworkInterfaces[0].PrivateIpv4Address != m.ip4 {
			t.Errorf("%+v", d)
		}
	}
}

// agents ends agents while a connection between two tasks stands, and compares what there was with what there is.
func (w *netWorld) agents(mesh []member, kind map[int]string) {
	t := w.t
	a, b := mesh[0], mesh[2]
	if _, err := w.in(b.host, b.id, "(sleep 600 | nc -l -p 9000 >/tmp/got) >/dev/null 2>&1 & sleep 0.2"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.in(a.host, a.id, "mkfifo /tmp/line; exec 3<>/tmp/line; nc "+b.ip4+" 9000 <&3 >/dev/null 2>&1 & echo before >/tmp/line"); err != nil {
		t.Fatal(err)
	}
	got := func(want string) {
		w.Until(30*time.Second, "the connection has carried "+want, func() error {
			out, err := w.in(b.host, b.id, "cat /tmp/got")
			if err == nil {
				err = has(out, want)
			}
			return err
		})
	}
	got("before")
	for _, i := range []int{a.host, b.host} {
		w.KillAgent(i)
	}
	w.StopAgent(2)
	for i := 1; i <= 3; i++ {
		w.StartAgent(i, "ECS_TASK_NETWORK="+kind[i])
	}
	w.Connected(3)
	w.told(mesh[:1])
	w.told(mesh[2:])
	if _, err := w.in(a.host, a.id, "timeout 10 sh -c 'echo after >>/tmp/line'"); err != nil {
		t.Fatal(err)
	}
	got("after")
	now := w.members("mesh", 3)
	if fmt.Sprintf("%+v", now) != fmt.Sprintf("%+v", mesh) {
		t.Errorf("before %+v\nafter  %+v", mesh, now)
	}
}

// parentDown takes host 3's uplink down.
func (w *netWorld) parentDown(mesh []member) {
	set := func(state string) {
		if out, err := w.OnHost(3, "ip", "link", "set", "eth1", state).CombinedOutput(); err != nil {
			w.t.Fatalf("%v: %s", err, out)
		}
	}
	explains := func(what string, ok func(string) error) {
		w.Until(30*time.Second, what, func() error {
			out, err := w.tells(3, "explain", mesh[2].arn)
			if err == nil {
				err = ok(out)
			}
			return err
		})
	}
	set("down")
	explains("the agent says so", func(out string) error { return has(out, "ParentDown", "eth1") })
	if s := w.Service("mesh"); s.RunningCount != 3 {
		w.t.Errorf("%+v", s)
	}
	set("up")
	explains("the agent says that it is well", func(out string) error {
		if _, after, _ := strings.Cut(out, "ParentDown"); !strings.Contains(after, "is right") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	w.all(mesh, true)
}

// replicas runs a service in a subnet that has one address only, and one in the other.
func (w *netWorld) replicas() {
	t := w.t
	w.Do("ecs", "create-service", "--cluster", cluster, "--service-name", "pair", "--task-definition", "mesh", "--desired-count", "4",
		"--network-configuration", "awsvpcConfiguration={subnets=[lan],securityGroups=[mesh]}")
	w.Steady("pair", 4)
	seen := map[string]bool{}
	for _, m := range w.members("mesh", 3) {
		if a, err := netip.ParseAddr(m.ip4); err != nil || seen[m.ip4] || !netip.MustParsePrefix("10.93.9.0/24").Contains(a) {
			t.Errorf("%+v", m)
		}
		seen[m.ip4] = true
	}
	if len(seen) != 7 {
		t.Errorf("%d addresses", len(seen))
	}
	out := AWS[struct {
		Tasks    []Task
		Failures []Failure
	}](w.Lab, "ecs", "run-task", "--cluster", cluster, "--task-definition", "mesh", "--count", "2", "--network-configuration", "awsvpcConfiguration={subnets=[tiny]}")
	if len(out.Tasks) != 1 || len(out.Failures) == 0 || out.Failures[0].Reason != "RESOURCE:ENI" || !strings.Contains(out.Failures[0].Detail, "subnet tiny (10.93.10.0/30) is exhausted") {
		t.Errorf("%+v", out)
	}
	for _, task := range out.Tasks {
		w.Do("ecs", "stop-task", "--cluster", cluster, "--task", task.TaskArn)
	}
}

// nothingLeft stops everything, and looks for what is left of it.
func (w *netWorld) nothingLeft(before map[int]string) {
	for _, name := range []string{"pair", "mesh"} {
		w.Do("ecs", "delete-service", "--cluster", cluster, "--service", name, "--force")
	}
	w.Until(60*time.Second, "every task has stopped", func() error {
		if tasks := w.Tasks(); len(tasks) > 0 {
			return fmt.Errorf("%+v", tasks)
		}
		return nil
	})
	for i := 1; i <= 3; i++ {
		want := before[i]
		w.Until(30*time.Second, fmt.Sprintf("host %d has the interfaces that it had", i), func() error {
			if got := strings.Join(slices.DeleteFunc(strings.Fields(w.links(i)), func(n string) bool { return n == "longshore-task" || n == "longshore0" }), " "); got != want {
				return fmt.Errorf("%s, want %s", got, want)
			}
			return nil
		})
		if out, err := w.tells(i, "doctor"); err != nil && !strings.Contains(out, "task networks") {
			w.t.Logf("%v", err)
		}
	}
}
