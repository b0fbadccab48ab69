package agent

import (
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/zap"
)

var nopLog = zap.NewNop()

// The AWS SDK's service clients cost 7 to 8 MiB of resident memory, containerd's client 4.5, and the control plane is the other half of the house.
func TestTheAgentLinksNoServiceClientAndNothingOfTheControlPlane(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/longshore-project/longshore/cmd/longshore-agent").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(out)) {
		for _, unwanted := range []string{"github.com/aws/aws-sdk-go-v2/service/", "github.com/aws/aws-sdk-go-v2/config", "github.com/longshore-project/longshore/controlplane", "github.com/longshore-project/longshore/protocol/ecsapi", "go.etcd.io/etcd/", "github.com/containerd/containerd/v2/client", "google.golang.org/grpc"} {
			if strings.HasPrefix(name, unwanted) {
				t.Errorf("the agent links %s", name)
			}
		}
	}
}
