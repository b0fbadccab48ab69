package agent

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/test/awsfake"
	"github.com/longshore-project/longshore/test/imds"
)

// anotherTask is one of the second container instance.
const anotherTask = "arn:aws:ecs:us-west-2:123456789012:task/daemonset/ffffffffffffffffffffffffffffffff"

// ec2Root is the root of an EC2 instance, whose firmware shows its id unless that is empty.
func ec2Root(t *testing.T, shown string) string {
	t.Helper()
	return hostRoot(t, map[string]string{"sys/class/dmi/id/sys_vendor": "Amazon EC2\n", "sys/class/dmi/id/board_asset_tag": shown + "\n"})
}

// newInstance is an EC2 instance with its metadata.
func newInstance(t *testing.T, c *controlPlane) (*testHost, *imds.Server) {
	t.Helper()
	s, h := imds.New(t, "i-1"), newTestHost(t, c)
	h.asksMetadata(s.URL)
	h.root = ec2Root(t, "")
	return h, s
}

func TestAnInstanceWhoseMetadataComesLateRegistersWhenItIsThere(t *testing.T) {
	t.Parallel()
	c := newControlPlane(t)
	h, s := newInstance(t, c)
	for _, w := range []imds.Weather{imds.Absent, imds.Beyond} {
		s.Is(w)
		leave := h.start()
		h.untilLogged("instance metadata")
		if w == imds.Beyond {
			h.untilLogged("--http-put-response-hop-limit 2")
		}
		if got := c.quiet(); slices.ContainsFunc(got, func(e string) bool { return strings.HasPrefix(e, "register") }) {
			t.Errorf("it did not wait for its metadata: %q", got)
		}
		s.Is(imds.Fair)
		s.Throttle(2, http.StatusServiceUnavailable)
		c.expect("connected " + first)
		if err := leave(); err != nil {
			t.Fatal(err)
		}
		c.quiet()
	}
	in := c.registered()
	if in["instanceIdentityDocument"] != imds.Document("i-1") || in["instanceIdentityDocumentSignature"] != "c2lnbmVk" {
		t.Errorf("registered with %v", in)
	}
	if _, naked := s.Asked(); len(naked) > 0 {
		t.Errorf("asked without a token: %q", naked)
	}
}

func TestTheInstancesRegionIsKnownWithoutItsMetadataFromTheSecondStartOn(t *testing.T) {
	c := newControlPlane(t)
	h, s := newInstance(t, c)
	h.env = slices.DeleteFunc(h.env, func(s string) bool { return strings.HasPrefix(s, "AWS_DEFAULT_REGION") })
	leave := h.start()
	c.expect("connected " + first)
	c.send(first, task1, "RUNNING")
	c.expect("submit " + task1 + " RUNNING")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	s.Is(imds.Absent)
	states, err := h.engine.List(t.Context())
	if err != nil || len(states) != 1 || h.engine.Stop(t.Context(), states[0].ID, 0) != nil {
		t.Fatal(states, err)
	}
	leave = h.start()
	c.expect("submit " + task1 + " STOPPED")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

func TestAnInstanceInAWarmPoolRegistersWhenItIsPutIntoService(t *testing.T) {
	c := newControlPlane(t)
	h, s := newInstance(t, c)
	h.env = append(h.env, "ECS_WARM_POOLS_CHECK=true")
	s.Set("meta-data/autoscaling/target-lifecycle-state", "Warmed:Stopped")
	leave := h.start()
	h.untilLogged("Warmed:Stopped")
	s.Throttle(20, http.StatusTooManyRequests)
	h.untilLogged("throttling")
	if got := c.quiet(); len(got) > 0 {
		t.Errorf("it registered in the warm pool: %q", got)
	}
	s.Throttle(0, 0)
	s.Set("meta-data/autoscaling/target-lifecycle-state", "InService")
	c.expect("register <nil> as "+first, "connected "+first)
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	s.Set("meta-data/autoscaling/target-lifecycle-state", "") // in no group
	leave = h.start()
	c.expect("connected " + first)
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

func TestTheInstancesTagsGoWithItsRegistrationAndTheConfiguredOnesCount(t *testing.T) {
	c, api := newControlPlane(t), newEC2()
	h, s := newInstance(t, c)
	server := httptest.NewServer(api)
	defer server.Close()
	giveRole(s)
	h.env = append(h.env, "ECS_CONTAINER_INSTANCE_PROPAGATE_TAGS_FROM=ec2_instance", `ECS_CONTAINER_INSTANCE_TAGS={"team":"ours","mine":"1"}`, "AWS_ENDPOINT_URL_EC2="+server.URL)
	leave := h.start()
	c.expect("connected " + first)
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.registered()["tags"]); got != "[map[key:mine value:1] map[key:stage value:test] map[key:team value:ours]]" {
		t.Error(got)
	}
}

func TestAnInstanceWhoseUserDataNeverCameDoesNotRegister(t *testing.T) {
	c := newControlPlane(t)
	h, s := newInstance(t, c)
	s.Set("user-data", "#!/bin/sh\n")
	result := filepath.Join(h.root, "run/cloud-init/result.json")
	if err := os.MkdirAll(filepath.Dir(result), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(result, []byte(`{"v1":{"datasource":"DataSourceNone","errors":[]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	leave := h.start()
	h.untilLogged("cloud-init clean --reboot")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if got := c.quiet(); len(got) > 0 {
		t.Errorf("%q", got)
	}
	s.Set("user-data", "")
	leave = h.start()
	c.expect("connected " + first)
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

func TestASpotInstanceThatIsTakenAwayDrainsInOrder(t *testing.T) {
	c := newControlPlane(t)
	h, s := newInstance(t, c)
	h.env = append(h.env, "ECS_ENABLE_SPOT_INSTANCE_DRAINING=true", "ECS_ENABLE_REBALANCE_DRAINING=true", "ECS_CONTAINER_STOP_TIMEOUT=1s") // so that the notice's time is enough for both, one after the other
	leave := h.start()
	c.expect("connected " + first)
	c.sendWith(first, task1, "RUNNING", `"schedulingStrategy":"DAEMON","serviceName":"d",`)
	c.expect("submit " + task1 + " RUNNING")
	c.send(first, anotherTask, "RUNNING")
	c.expect("submit " + anotherTask + " RUNNING")
	s.Throttle(3, http.StatusServiceUnavailable) // which is no notice, and no reason not to see the next one
	s.Set("meta-data/events/recommendations/rebalance", `{"noticeTime":"2026-01-01T08:00:00Z"}`)
	c.expect("state DRAINING")
	h.untilLogged("EC2 recommends to move away")
	if h.engine.Running() != 2 {
		t.Errorf("a recommendation has stopped tasks: %d containers run", h.engine.Running())
	}
	s.Set("meta-data/spot/instance-action", fmt.Sprintf(`{"action":"terminate","time":%q}`, time.Now().Add(10*time.Second).UTC().Format(time.RFC3339)))
	got := c.expect("submit "+task1+" STOPPED", "submit "+anotherTask+" STOPPED")
	replica, daemon := slices.Index(got, "submit "+anotherTask+" STOPPED"), slices.Index(got, "submit "+task1+" STOPPED")
	if daemon < replica {
		t.Errorf("the daemon has stopped before the replica: %q", got)
	}
	h.untilLogged("EC2 is to terminate this spot instance")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

func TestTagsThatAreNotGivenAreNotLeftOut(t *testing.T) {
	api, s := newEC2(), imds.New(t, "i-1")
	api.Refuse = func(awsfake.Call) (int, string) { return http.StatusForbidden, "UnauthorizedOperation" }
	server := httptest.NewServer(api)
	defer server.Close()
	cfg := &config.Config{InstanceMetadataAddress: s.URL, PropagateTagsFrom: config.PropagateFromEC2, InstanceTags: map[string]string{"mine": "1"}}
	cfg.Endpoints.EC2 = server.URL
	a := &Agent{opt: Options{Root: ec2Root(t, "")}, cfg: cfg, log: zap.NewNop(), client: server.Client(), lookout: &lookout{answered: make(chan struct{})}}
	defer a.client.CloseIdleConnections()
	giveRole(s)
	if err := a.lookOut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if tags, err := a.instanceTags(t.Context()); err == nil || !strings.Contains(err.Error(), "allow ec2:DescribeTags to the instance's role") {
		t.Error(tags, err)
	}
	a.lookout.ec2 = nil // an own host has none to propagate
	if tags, err := a.instanceTags(t.Context()); err != nil || len(tags) != 1 {
		t.Error(tags, err)
	}
}

// giveRole gives the instance a role.
func giveRole(s *imds.Server) {
	s.Set("meta-data/iam/security-credentials/", "role")
	s.Set("meta-data/iam/security-credentials/role", `{"Code":"Success","AccessKeyId":"ASIAROLE","SecretAccessKey":"of the role","Token":"t","Expiration":"2099-01-01T00:00:00Z"}`)
}

// newEC2 is the EC2 API, which knows the instance's role.
func newEC2() *awsfake.Server {
	return &awsfake.Server{Keys: []aws.Credentials{{AccessKeyID: "ASIAROLE", SecretAccessKey: "of the role", SessionToken: "t"}}, Tags: map[string]string{"i-1|team": "theirs", "i-1|stage": "test", "i-2|not": "ours"}}
}

func TestACopiedDiskIsNoticedByTheInstanceThatItIsOn(t *testing.T) {
	for name, c := range map[string]struct {
		shown  string // by the firmware
		late   bool   // the metadata tells only when the agent has started
		boot   string
		sooner bool // than the start of the engine of tasks
	}{
		"by the firmware, without the metadata": {shown: "i-2", sooner: true},
		"by the metadata, at a new boot":        {boot: "22222222-2222-2222-2222-222222222222", sooner: true},
		"by the metadata, later":                {},
	} {
		t.Run(name, func(t *testing.T) {
			plane := newControlPlane(t)
			h, s := newInstance(t, plane)
			leave := h.start()
			plane.expect("connected " + first)
			plane.send(first, task1, "RUNNING")
			plane.expect("submit " + task1 + " RUNNING")
			if err := leave(); err != nil {
				t.Fatal(err)
			}
			states, err := h.engine.List(t.Context())
			if err != nil || len(states) != 1 || h.engine.Stop(t.Context(), states[0].ID, 0) != nil { // as by the boot of the copy
				t.Fatal(states, err)
			}
			plane.quiet()
			h.root = ec2Root(t, c.shown)
			if c.boot != "" {
				file := filepath.Join(h.root, "proc/sys/kernel/random/boot_id")
				if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(c.boot+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s.Set("dynamic/instance-identity/document", imds.Document("i-2"))
			if !c.sooner {
				if err := h.run(); !errors.Is(err, ErrReload) {
					t.Fatal(err)
				}
				plane.quiet()
			}
			leave = h.start()
			got := plane.expect("register <nil> as "+second, "connected "+second)
			plane.send(second, anotherTask, "RUNNING")
			got = append(got, plane.expect("submit "+anotherTask+" RUNNING")...)
			if slices.ContainsFunc(got, func(e string) bool { return strings.Contains(e, task1) }) {
				t.Errorf("the other machine's task was reported: %q", got)
			}
			h.untilLogged("it came with this machine's image, from the one that was " + first)
			if err := leave(); err != nil {
				t.Fatal(err)
			}
			leave = h.start() // and for good
			plane.expect("register " + second + " as " + second)
			if err := leave(); err != nil {
				t.Fatal(err)
			}
			if states, err := h.engine.List(t.Context()); err != nil || len(states) != 2 {
				t.Errorf("the other machine's container is not left alone: %v %v", states, err)
			}
			aside, err := filepath.Glob(filepath.Join(h.dir, "*.other-machine-*"))
			if err != nil || len(aside) != 2 {
				t.Errorf("%v %v", aside, err)
			}
		})
	}
}
