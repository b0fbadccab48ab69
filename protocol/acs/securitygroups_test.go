package acs_test

import (
	"strings"
	"testing"

	"github.com/longshore-project/longshore/protocol/acs"
)

func TestSecurityGroupsAreTakenWholeOrNotAtAll(t *testing.T) {
	rule := func(protocol string, from, to int32) *acs.SecurityGroupRule {
		return &acs.SecurityGroupRule{Protocol: protocol, FromPort: from, ToPort: to, Cidrs: []string{"10.0.0.0/8", "::/0"}, Groups: []string{"sg-b"}}
	}
	for what, c := range map[string]struct {
		change func(m *acs.SecurityGroupsMessage)
		want   string
	}{
		"whole":                  {func(*acs.SecurityGroupsMessage) {}, ""},
		"every protocol":         {func(m *acs.SecurityGroupsMessage) { m.Groups[0].Ingress[0] = rule("-1", -1, -1) }, ""},
		"any ICMP":               {func(m *acs.SecurityGroupsMessage) { m.Groups[0].Ingress[0] = rule("icmp", -1, -1) }, ""},
		"by number":              {func(m *acs.SecurityGroupsMessage) { m.Groups[0].Ingress[0] = rule("50", -1, -1) }, ""},
		"no generation":          {func(m *acs.SecurityGroupsMessage) { m.Generation = 0 }, "generation is 0"},
		"a group twice":          {func(m *acs.SecurityGroupsMessage) { m.Groups[1].GroupID = "sg-a" }, "appears twice"},
		"a group without a name": {func(m *acs.SecurityGroupsMessage) { m.Groups[1].GroupID = "" }, "groups[1].groupId is empty"},
		"an unknown group":       {func(m *acs.SecurityGroupsMessage) { m.Groups = m.Groups[:1] }, `ingress[0].groups has "sg-b"`},
		"no network":             {func(m *acs.SecurityGroupsMessage) { m.Groups[0].Egress[0].Cidrs[0] = "10.0.0.1" }, `group sg-a: egress[0]: cidrs[0] is "10.0.0.1"`},
		"no address":             {func(m *acs.SecurityGroupsMessage) { m.Groups[1].Members[0] = "x" }, `members[0] is "x"`},
		"an unknown protocol":    {func(m *acs.SecurityGroupsMessage) { m.Groups[0].Ingress[0] = rule("sctp", 1, 2) }, `protocol is "sctp"`},
		"ports too high":         {func(m *acs.SecurityGroupsMessage) { m.Groups[0].Ingress[0] = rule("tcp", 1, 70000) }, "not within 0 to 65535"},
		"ports the wrong way":    {func(m *acs.SecurityGroupsMessage) { m.Groups[0].Ingress[0] = rule("udp", 2, 1) }, "port 2 is after 1"},
	} {
		m := &acs.SecurityGroupsMessage{MessageID: "m", ClusterArn: "c", ContainerInstanceArn: "i", Generation: 7, Groups: []*acs.SecurityGroup{
			{GroupID: "sg-a", Ingress: []*acs.SecurityGroupRule{rule("tcp", 80, 443)}, Egress: []*acs.SecurityGroupRule{rule("udp", 53, 53)}},
			{GroupID: "sg-b", Members: []string{"10.0.0.7", "fd00::7"}},
		}}
		c.change(m)
		frame, err := acs.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		back, err := acs.Decode(frame)
		if err != nil {
			t.Fatal(err)
		}
		err = back.(*acs.SecurityGroupsMessage).Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}
