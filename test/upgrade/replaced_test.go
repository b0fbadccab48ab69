package upgrade

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
)

// The SDK's client is as it is out of the box: what it gives up on after its own attempts was not acknowledged.
func TestAControlPlaneThatIsReplacedUnderWritesLosesNoneOfThem(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	key := p.key(auth.AdminFile)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	api := ecs.New(ecs.Options{Region: region, BaseEndpoint: aws.String("http://" + p.address), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(key.AccessKeyID, key.SecretAccessKey, "")})
	if status, answer := p.call("http://"+p.address, "CreateCluster", object{"clusterName": cluster, "tags": []object{{"key": "longshore:daemon-gate", "value": "off"}}}); status != http.StatusOK {
		t.Fatalf("%s", answer)
	}
	if status, answer := p.call("http://"+p.address, "RegisterTaskDefinition", object{"family": "job", "networkMode": "host", "containerDefinitions": []object{{"name": "web", "image": "web:1", "memory": 6}}}); status != http.StatusOK {
		t.Fatalf("%s", answer)
	}
	h := newHost(t, "http://"+p.address, p.key(auth.HostFile))
	h.start()

	var mu sync.Mutex
	clusters, tasks := map[string]bool{}, map[string]string{} // that were acknowledged; of tasks the ARN by client token
	refused := 0
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(clusters) + len(tasks)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("w%d-%d", w, i)
				made, err := api.CreateCluster(ctx, &ecs.CreateClusterInput{ClusterName: &name})
				var ran *ecs.RunTaskOutput
				var fail error
				if i%5 == 0 {
					ran, fail = api.RunTask(ctx, &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: aws.String("job"), ClientToken: &name, StartedBy: &name})
				}
				mu.Lock()
				if err == nil {
					clusters[*made.Cluster.ClusterArn] = true
				}
				if ran != nil && fail == nil && len(ran.Tasks) == 1 {
					tasks[name] = *ran.Tasks[0].TaskArn
				}
				if (err != nil || fail != nil) && ctx.Err() == nil {
					refused++
				}
				mu.Unlock()
			}
		})
	}
	for range 3 {
		before := count()
		until(t, "clients write", func() error {
			if n := count(); n < before+30 {
				return fmt.Errorf("%d writes", n-before)
			}
			return nil
		}, h.log)
		p.stop()
		p.start()
	}
	after := count()
	until(t, "clients write again", func() error {
		if count() < after+30 {
			return errors.New("not yet")
		}
		return nil
	})
	cancel()
	writers.Wait()
	t.Logf("%d clusters and %d tasks were acknowledged, %d calls were given up", len(clusters), len(tasks), refused)

	check, end := context.WithTimeout(context.Background(), patience)
	defer end()
	for pages := ecs.NewListClustersPaginator(api, &ecs.ListClustersInput{}); pages.HasMorePages(); {
		page, err := pages.NextPage(check)
		if err != nil {
			t.Fatal(err)
		}
		for _, arn := range page.ClusterArns {
			delete(clusters, arn)
		}
	}
	if len(clusters) > 0 {
		t.Errorf("acknowledged and lost: %v", clusters)
	}
	for token, arn := range tasks {
		until(t, "the task "+arn+" runs", func() error {
			out, err := api.ListTasks(check, &ecs.ListTasksInput{Cluster: aws.String(cluster), StartedBy: &token})
			if err != nil || len(out.TaskArns) != 1 || out.TaskArns[0] != arn {
				return fmt.Errorf("%+v %w", out, err)
			}
			found, err := api.DescribeTasks(check, &ecs.DescribeTasksInput{Cluster: aws.String(cluster), Tasks: []string{arn}})
			if err != nil || len(found.Tasks) != 1 || aws.ToString(found.Tasks[0].LastStatus) != string(types.DesiredStatusRunning) {
				return fmt.Errorf("%+v %w", found, err)
			}
			return nil
		}, h.log)
	}
	if n, running := h.engine.Calls("Start"), h.engine.Running(); n != running || h.engine.Calls("Stop") != 0 {
		t.Errorf("%d containers were started, %d stopped, and %d run", n, h.engine.Calls("Stop"), running)
	}
	if wrong, err := controlplane.CheckRunning(check, p.dir); err != nil || len(wrong) > 0 {
		t.Errorf("the records: %v %v", wrong, err)
	}
}
