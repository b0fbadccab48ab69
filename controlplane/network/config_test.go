package network_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/protocol/acs"
)

const example = `{
  "subnets": {
    "subnet-a": {"cidrBlock": "10.20.0.0/28", "gateway": "10.20.0.1", "ipv6CidrBlock": "fd00:20::/64", "reserved": ["10.20.0.2-10.20.0.5", "10.20.0.12/30", "fd00:20::/120"],
      "availabilityZone": "us-west-2a", "domainName": ["tasks.example"], "domainNameServers": ["10.20.0.2"]},
    "subnet-b": {"ipv6CidrBlock": "fd00:21::/120", "memberOf": "attribute:rack == b"}
  },
  "securityGroups": {
    "sg-web": {"description": "from the balancer", "ingress": [{"protocol": "tcp", "fromPort": 80, "groups": ["sg-lb"]}, {"protocol": "icmp", "cidrs": ["0.0.0.0/0"]}]},
    "sg-lb": {"ingress": [{"protocol": "TCP", "fromPort": 443, "toPort": 444, "cidrs": ["0.0.0.0/0", "::/0"]}], "egress": []}
  }
}`

func parse(t testing.TB, text string) *network.Config {
	t.Helper()
	c, err := network.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAFileSaysWhatSubnetsAndGroupsThereAre(t *testing.T) {
	c := parse(t, example)
	a, b := c.Subnets["subnet-a"], c.Subnets["subnet-b"]
	if a.IPv4.Gateway() != "10.20.0.1/28" || a.IPv6.Gateway() != "fd00:20::1/64" || b.IPv4 != nil || b.IPv6.Gateway() != "fd00:21::1/120" {
		t.Error(a.IPv4.Gateway(), a.IPv6.Gateway(), b.IPv6.Gateway())
	}
	if n := a.IPv4.Usable(); n != 6 { // of 16: 0 to 5 and 12 to 15 are not for tasks
		t.Error(n)
	}
	if n := a.IPv6.Usable(); n != 1<<32-256 {
		t.Error(n)
	}
	if n := b.IPv6.Usable(); n != 254 {
		t.Error(n)
	}
	web, lb := c.Group("sg-web"), c.Group("sg-lb")
	if r := web.Ingress[0]; r.FromPort != 80 || r.ToPort != 80 || r.Groups[0] != "sg-lb" {
		t.Errorf("%+v", r)
	}
	if r := web.Ingress[1]; r.FromPort != -1 || r.ToPort != -1 {
		t.Errorf("%+v", r)
	}
	if len(web.Egress) != 1 || web.Egress[0].Protocol != acs.AllProtocols || len(lb.Egress) != 0 || lb.Ingress[0].Protocol != "tcp" {
		t.Errorf("%+v %+v", web.Egress, lb)
	}
	if g := c.Group(network.DefaultGroup); g == nil || g.Ingress[0].Groups[0] != network.DefaultGroup || c.Group("sg-none") != nil {
		t.Errorf("%+v", g)
	}
}

func TestTheDocumentedFileIsOne(t *testing.T) {
	page, err := os.ReadFile("../../docs/networking.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "/etc/longshore/network.json")
	_, rest, _ = strings.Cut(rest, "```json\n")
	text, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("docs/networking.md has no example of the file")
	}
	if c := parse(t, text); len(c.Subnets) < 2 || len(c.Groups) < 2 {
		t.Errorf("%+v", c)
	}
}

func TestABadFileIsRefusedWithTheMemberThatIsWrong(t *testing.T) {
	subnet := func(members string) string { return `{"subnets":{"s":{` + members + `}}}` }
	rule := func(r string) string { return `{"securityGroups":{"g":{"ingress":[` + r + `]}}}` }
	for text, want := range map[string]string{
		`{`:                                 "it ends before",
		`{,`:                                "it is no JSON from byte",
		`{} {}`:                             "there is more behind the JSON object",
		`{"subnet":{}}`:                     `unknown field "subnet"`,
		`{"subnets":[]}`:                    "the member subnets is a JSON array",
		`{"subnets":{"a/b":{}}}`:            `subnet "a/b": a name is`,
		`{"subnets":{"s":null}}`:            `subnet "s": it needs a cidrBlock`,
		subnet(``):                          "it needs a cidrBlock",
		subnet(`"cidrBlock":"10.0.0.1/24"`): `cidrBlock is "10.0.0.1/24", not a network`,
		subnet(`"cidrBlock":"fd00::/64"`):   `cidrBlock is "fd00::/64", not a network of its family`,
		subnet(`"cidrBlock":"10.0.0.0/31"`): "too small or too large",
		subnet(`"cidrBlock":"0.0.0.0/0"`):   "too small or too large",
		subnet(`"cidrBlock":"10.0.0.0/24","gateway":"10.0.1.1"`):                                                        "the gateway 10.0.1.1 is not in 10.0.0.0/24",
		subnet(`"cidrBlock":"10.0.0.0/24","gateway":"x"`):                                                               `gateway is "x", not an address`,
		subnet(`"cidrBlock":"10.0.0.0/24","ipv6Gateway":"fd00::1"`):                                                     "ipv6Gateway is given without ipv6CidrBlock",
		subnet(`"cidrBlock":"10.0.0.0/24","reserved":["10.0.1.0/24"]`):                                                  "reserved: 10.0.1.0 to 10.0.1.255 are not in the subnet",
		subnet(`"cidrBlock":"10.0.0.0/24","reserved":["10.0.0.9-10.0.0.2"]`):                                            "is not an address, a network or a row",
		subnet(`"cidrBlock":"10.0.0.0/30","reserved":["10.0.0.2"]`):                                                     "all addresses of 10.0.0.0/30 are reserved",
		subnet(`"cidrBlock":"10.0.0.0/24","domainNameServers":["ns"]`):                                                  `domainNameServers: "ns" is not an address`,
		subnet(`"cidrBlock":"10.0.0.0/24","memberOf":"attribute:"`):                                                     "memberOf:",
		`{"subnets":{"a":{"cidrBlock":"10.0.0.0/16"},"b":{"cidrBlock":"10.0.9.0/24"}}}`:                                 "subnets a (10.0.0.0/16) and b (10.0.9.0/24) overlap",
		`{"subnets":{"a":{"cidrBlock":"10.0.0.0/16"},"b":{"cidrBlock":"10.0.9.0/24"},"c":{"cidrBlock":"10.0.1.0/24"}}}`: "overlap",
		rule(`{}`):   "ingress[0]: protocol is missing",
		rule(`null`): "ingress[0]: it is null",
		rule(`{"protocol":"tcp","cidrs":["0.0.0.0/0"]}`):                      "needs a fromPort",
		rule(`{"protocol":"tcp","fromPort":80}`):                              "allows nothing without cidrs or groups",
		rule(`{"protocol":"tcp","fromPort":80,"cidrs":["x"]}`):                `cidrs[0] is "x", not a network`,
		rule(`{"protocol":"tcp","fromPort":80,"toPort":70,"cidrs":["::/0"]}`): "port 80 is after 70",
		rule(`{"protocol":"carrier-pigeon","cidrs":["::/0"]}`):                "protocol is",
		rule(`{"protocol":"-1","groups":["sg-x"]}`):                           `there is no security group "sg-x"`,
		`{"securityGroups":{"g":null}}`:                                       `security group "g": it is null`,
	} {
		if _, err := network.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte(`{"subnets":{"s":{"ipv6CidrBlock":"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00/120","reserved":["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := network.Parse(data)
		if err != nil {
			return
		}
		for _, s := range c.Subnets {
			for _, b := range s.Blocks() {
				a, ok := b.Next(netip.Addr{}, func(netip.Addr) bool { return false })
				if !ok || !b.Holds(a) {
					t.Errorf("the first address of %s is %s", b.Prefix(), a)
				}
			}
		}
		for name := range c.Groups {
			for _, r := range append(c.Group(name).Ingress, c.Group(name).Egress...) {
				if err := r.Validate(); err != nil {
					t.Error(err)
				}
			}
		}
	})
}
