package poll

import (
	"errors"
	"fmt"
	"testing"

	"github.com/longshore-project/longshore/protocol/acs"
)

// fakeNetworks takes what it is given, unless it fails.
type fakeNetworks struct {
	err   error
	taken []string
}

func (f *fakeNetworks) AttachTask(m *acs.AttachTaskNetworkInterfacesMessage) error {
	f.taken = append(f.taken, "task "+m.TaskArn)
	return f.err
}
func (f *fakeNetworks) AttachInstance(m *acs.AttachInstanceNetworkInterfacesMessage) error {
	f.taken = append(f.taken, "instance "+m.ElasticNetworkInterfaces[0].MacAddress)
	return f.err
}
func (f *fakeNetworks) SecurityGroups(m *acs.SecurityGroupsMessage) error {
	f.taken = append(f.taken, fmt.Sprint("groups ", m.Generation))
	return f.err
}

func networkFrames(instance string) []string {
	head := func(kind, id string) string {
		return fmt.Sprintf(`{"type":%q,"message":{"messageId":%q,"clusterArn":%q,"containerInstanceArn":%q,`, kind, id, cluster, instance)
	}
	const eni = `"waitTimeoutMs":300000,"elasticNetworkInterfaces":[{"ec2Id":"eni-1","macAddress":"02:00:00:00:00:01","ipv4Addresses":[{"privateAddress":"10.0.0.5"}],"subnetGatewayIpv4Address":"10.0.0.1/24"}]}}`
	return []string{
		head("AttachTaskNetworkInterfacesMessage", "m-1") + `"taskArn":"arn:t",` + eni, head("AttachInstanceNetworkInterfacesMessage", "m-2") + eni,
		head("SecurityGroupsMessage", "m-3") + `"generation":7,"groups":[]}}`,
		head("AttachTaskNetworkInterfacesMessage", "m-4") + eni, // no task
		head("AttachTaskNetworkInterfacesMessage", "m-5") + `"taskArn":"arn:t","waitTimeoutMs":1,"elasticNetworkInterfaces":[null]}}`,
		head("SecurityGroupsMessage", "m-6") + `"generation":0,"groups":[]}}`,
	}
}

func TestMessagesOnNetworksAreAcknowledgedWhenTheyAreDurable(t *testing.T) {
	f := &fakeNetworks{}
	expect(t, func(w *world) { w.networks = f }, networkFrames(instance), []string{ack("m-1"), ack("m-2"), ack("m-3")}, func(*world) {
		if got := fmt.Sprint(f.taken); got != "[task arn:t instance 02:00:00:00:00:01 groups 7]" {
			t.Error(got)
		}
	})
	full := &fakeNetworks{err: errors.New("no space left on device")}
	expect(t, func(w *world) { w.networks = full }, networkFrames(instance), nil, func(*world) {
		if len(full.taken) != 3 {
			t.Error(full.taken)
		}
	})
	foreign := &fakeNetworks{}
	expect(t, func(w *world) { w.networks = foreign }, networkFrames(instance+"4"), nil, func(*world) {
		if len(foreign.taken) != 0 {
			t.Error(foreign.taken)
		}
	})
	expect(t, nil, networkFrames(instance), nil, nil) // a host without networks
}
