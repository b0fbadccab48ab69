package fields

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/test/awsfake"
	"github.com/longshore-project/longshore/test/hosts"
	"github.com/longshore-project/longshore/test/images"
)

// Where the host reaches the stand-in for AWS and a registry that wants credentials.
const awsPort, closedPort = "5490", "5491"

const (
	role      = "arn:aws:iam::123456789012:role/execution"
	noRole    = "arn:aws:iam::123456789012:role/unknown"
	secretARN = "arn:aws:secretsmanager:us-west-2:123456789012:secret:db-AbCdEf"
)

// roleFile is the control plane's file of credentials.
func roleFile(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "roles.json")
	if err := os.WriteFile(path, []byte(`{"roles":{"`+role+`":{"accessKeyId":"ROLE","secretAccessKey":"role-secret"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// serveAWS makes the services and a registry that wants credentials reachable for the host.
func (w *world) serveAWS(t *testing.T) {
	fake := httptest.NewServer(&awsfake.Server{
		Keys:       []aws.Credentials{{AccessKeyID: "ROLE", SecretAccessKey: "role-secret"}},
		Parameters: map[string]string{"plain": "from-ssm"},
		Secrets:    map[string]string{secretARN + "||": `{"user":"from-asm"}`, "registry||": `{"username":"me","password":"closed"}`},
		Objects:    map[string]string{"bucket/a.env": "FILED=from-s3\n"},
	})
	t.Cleanup(fake.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	closed, err := images.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = closed.Close() })
	img, err := images.Build(images.Spec{Labels: map[string]string{"closed": "yes"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := closed.Push(t.Context(), "secret:1", img); err != nil {
		t.Fatal(err)
	}
	closed.RequireAuth("me", "closed")
	for port, target := range map[string]string{awsPort: strings.TrimPrefix(fake.URL, "http://"), closedPort: closed.Addr} {
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan error, 1)
		go func() {
			done <- hosts.Forward(ctx, w.lab.Farm.LANNamespace(), net.JoinHostPort(w.lab.Farm.LAN(), port), target)
		}()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	w.lab.PlainRegistry(closedPort)
	w.closed = net.JoinHostPort(w.lab.Farm.LAN(), closedPort) + "/secret:1"
}

func init() {
	fetched := []types.Secret{{Name: aws.String("PARAMETER"), ValueFrom: aws.String("plain")}, {Name: aws.String("SECRET"), ValueFrom: aws.String(secretARN + ":user::")}}
	// What the agent fetches with the execution role.
	scenes["fetched"] = scene{ready: "ready", definition: ecs.RegisterTaskDefinitionInput{ExecutionRoleArn: aws.String(role),
		ContainerDefinitions: []types.ContainerDefinition{with(shell("main", "echo has $PARAMETER $SECRET $FILED; echo ready; "+idle), func(c *types.ContainerDefinition) {
			c.Image = aws.String(closedImage)
			c.Secrets = fetched
			c.EnvironmentFiles = []types.EnvironmentFile{{Type: types.EnvironmentFileTypeS3, Value: aws.String("arn:aws:s3:::bucket/a.env")}}
			c.RepositoryCredentials = &types.RepositoryCredentials{CredentialsParameter: aws.String("registry")}
			c.LogConfiguration = &types.LogConfiguration{LogDriver: types.LogDriverJsonFile, SecretOptions: []types.Secret{{Name: aws.String("tag"), ValueFrom: aws.String("plain")}}}
		})},
	}}
	scenes["otherrole"] = scene{ready: "ready", definition: ecs.RegisterTaskDefinitionInput{ExecutionRoleArn: aws.String(noRole),
		ContainerDefinitions: []types.ContainerDefinition{with(shell("main", "echo has $PARAMETER $SECRET; echo ready; "+idle), func(c *types.ContainerDefinition) { c.Secrets = fetched })},
	}, overrides: &types.TaskOverride{ExecutionRoleArn: aws.String(role), TaskRoleArn: aws.String(role)}}
	for member, claims := range map[string][]claim{
		"ContainerDefinitions[].Secrets[]":                        one(says("fetched", "has from-ssm from-asm ")),
		"ContainerDefinitions[].EnvironmentFiles[]":               one(says("fetched", " from-s3\n")),
		"ContainerDefinitions[].RepositoryCredentials":            one(engine("fetched", func(c inspected) any { return c.Config.Labels["closed"] }, "yes")),
		"ContainerDefinitions[].LogConfiguration.SecretOptions[]": one(engine("fetched", func(c inspected) any { return c.HostConfig.LogConfig.Config["tag"] }, "from-ssm")),
		"ExecutionRoleArn":                                        one(says("fetched", "has from-ssm from-asm ")),
		"Overrides.TaskRoleArn": one(engine("otherrole", func(c inspected) any { // the definition has none
			return slices.ContainsFunc(c.Config.Env, func(e string) bool {
				return strings.HasPrefix(e, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/")
			})
		}, true)),
		"Overrides.ExecutionRoleArn": one(says("otherrole", "has from-ssm from-asm\n")),
	} {
		registry[member] = claims
	}
}

// closedImage stands for the image that needs credentials.
const closedImage = "closed"
