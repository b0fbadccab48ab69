package controlplane_test

import (
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/api"
	"github.com/longshore-project/longshore/controlplane/telemetry"
)

func TestMetricsAreServedOnAListenerOfTheirOwn(t *testing.T) {
	p := start(t, controlplane.Config{MetricsListen: "127.0.0.1:0"})
	client := p.client(p.key(t, "admin.env"), "us-west-2")
	if _, err := client.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String("daemonset")}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.DescribeServices(t.Context(), &ecs.DescribeServicesInput{Cluster: aws.String("nowhere"), Services: []string{"x"}}); err == nil {
		t.Fatal("a cluster that is not there was described")
	}
	status, kind, text := get(t, "GET", "http://"+p.MetricsAddr().String()+"/metrics")
	if status != 200 || !strings.HasPrefix(kind, "text/plain") {
		t.Fatal(status, kind)
	}
	for _, want := range []string{
		`longshore_api_call_seconds_count{operation="CreateCluster",status="2xx"} 1`, `longshore_api_call_seconds_count{operation="DescribeServices",status="4xx"} 1`,
		`longshore_store_seconds_count{operation="commit",outcome="ok"} `, `longshore_store_seconds_count{operation="read",outcome="ok"} `, "longshore_scheduler_pass_seconds_count ",
		`longshore_agent_connections{channel="acs"} 0`, `longshore_oldest_pending_task_seconds{cluster="daemonset"} 0`, "longshore_store_size_bytes ", "longshore_store_full 0", "longshore_store_answers 1", "longshore_pending_connections ", `longshore_limited_total{limit="key"} 0`,
		"longshore_telemetry_dropped_total 0", "longshore_control_info{version=", "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
	if status, _, _ := get(t, "GET", p.url+"/metrics"); status != 404 {
		t.Errorf("the API's listener answers /metrics with %d", status)
	}
}

func TestATakenPortIsAnErrorOnlyWhereMetricsWereAskedFor(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p := start(t, controlplane.Config{MetricsListen: taken.Addr().String(), MetricsOptional: true})
	if p.MetricsAddr() != nil {
		t.Error("metrics are served at", p.MetricsAddr())
	}
	for _, address := range []string{taken.Addr().String(), "nonsense"} {
		if _, err := controlplane.Start(t.Context(), controlplane.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0", MetricsListen: address}); !errors.Is(err, controlplane.ErrConfig) || !strings.Contains(err.Error(), "--metrics-listen") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestSizesAreAskedForAsExplanationsAre(t *testing.T) {
	p := start(t, controlplane.Config{})
	asking := controlplane.Asking{Endpoint: p.url, DataDir: p.dir}
	if _, err := p.client(p.key(t, "admin.env"), "us-west-2").CreateCluster(t.Context(), &ecs.CreateClusterInput{}); err != nil {
		t.Fatal(err)
	}
	answer, err := asking.Sizing(t.Context(), api.SizingInput{})
	var s telemetry.Sizing
	if err != nil || json.Unmarshal(answer, &s) != nil || len(s.Containers) != 0 || !strings.Contains(strings.Join(s.Text, ""), "Nothing was measured yet") {
		t.Errorf("%v %s", err, answer)
	}
	for _, c := range []struct {
		in   api.SizingInput
		want string
	}{{api.SizingInput{Cluster: "nowhere"}, "ClusterNotFoundException"}, {api.SizingInput{Service: "none"}, "ServiceNotFoundException"}} {
		if _, err := asking.Sizing(t.Context(), c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.in, err)
		}
	}
	asking.DataDir = ""
	t.Setenv("AWS_ACCESS_KEY_ID", p.key(t, "host.env").AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", p.key(t, "host.env").SecretAccessKey)
	if _, err := asking.Sizing(t.Context(), api.SizingInput{}); err == nil || !strings.Contains(err.Error(), "AccessDeniedException") {
		t.Errorf("a host's key: %v", err)
	}
}
