package task

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

func TestTheFirstDigestOfADeploymentIsFixedForTheTasksAfterIt(t *testing.T) {
	digest := func(c string) *string { return aws.String("sha256:" + strings.Repeat(c, 64)) }
	def := &types.TaskDefinition{ContainerDefinitions: []types.ContainerDefinition{
		{Name: aws.String("web"), Image: aws.String("registry.example:5000/web:1")},
		{Name: aws.String("any"), Image: aws.String("any:1"), VersionConsistency: types.VersionConsistencyDisabled},
		{Name: aws.String("own"), Image: aws.String("own@" + *digest("c"))},
		{Name: aws.String("plain"), Image: aws.String("registry.example:5000/plain")},
	}}
	r := &store.ServiceRevision{}
	reported := &store.Task{}
	for _, c := range def.ContainerDefinitions {
		r.Object.ContainerImages = append(r.Object.ContainerImages, types.ContainerImage{ContainerName: c.Name, Image: c.Image})
		reported.Object.Containers = append(reported.Object.Containers, types.Container{Name: c.Name, ImageDigest: digest("a")})
	}
	reported.Object.Containers[3].ImageDigest = aws.String("sha256:abc") // no digest
	fixed := FixImages(r, def, reported)
	if fixed == nil || r.Object.ContainerImages[0].ImageDigest != nil {
		t.Fatal("nothing was fixed, or the record of the view was changed")
	}
	var images []string
	for _, c := range Pinned(def, fixed).ContainerDefinitions {
		images = append(images, *c.Image)
	}
	want := "registry.example:5000/web@" + *digest("a") + " any:1 own@" + *digest("c") + " registry.example:5000/plain"
	if got := strings.Join(images, " "); got != want || *def.ContainerDefinitions[0].Image != "registry.example:5000/web:1" {
		t.Errorf("got %s, want %s", got, want)
	}
	later := &store.Task{Object: types.Task{Containers: []types.Container{{Name: aws.String("web"), ImageDigest: digest("b")}}}}
	if again := FixImages(fixed, def, later); again != nil {
		t.Errorf("a second digest replaced the first: %+v", again.Object.ContainerImages)
	}
	if Pinned(def, nil) != def || FixImages(nil, def, reported) != nil {
		t.Error("a task of no service")
	}
}
