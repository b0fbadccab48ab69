package task

import (
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

// Version consistency, as Amazon ECS has it: all tasks of a service deployment run the same images, whatever becomes of the
// tags. The first task of the deployment whose agent reports the digest of a container's image fixes it for those that come
// after it, in the containerImages of the deployment's service revision. A container whose versionConsistency is disabled, and
// an image that its definition names by a digest, are left alone; so are tasks of no service.

// RevisionOf is what a deployment of a service runs; nil when that is not remembered.
func RevisionOf(v *store.View, cluster, service, deployment string) *store.ServiceRevision {
	if service == "" {
		return nil
	}
	return v.ServiceRevision(cluster, service, strings.TrimPrefix(deployment, "ecs-svc/"))
}

// consistent tells whether the image of a container is fixed.
func consistent(c *types.ContainerDefinition) bool {
	return c.VersionConsistency != types.VersionConsistencyDisabled && !strings.Contains(aws.ToString(c.Image), "@")
}

// Pinned is a definition with the images that a revision has fixed, named by their digests. def itself stays as it is.
func Pinned(def *types.TaskDefinition, r *store.ServiceRevision) *types.TaskDefinition {
	if def == nil || r == nil {
		return def
	}
	out := *def
	for i := range def.ContainerDefinitions {
		c := &def.ContainerDefinitions[i]
		digest := digestIn(r.Object.ContainerImages, aws.ToString(c.Name))
		if digest == "" || !consistent(c) {
			continue
		}
		if &out.ContainerDefinitions[0] == &def.ContainerDefinitions[0] {
			out.ContainerDefinitions = slices.Clone(def.ContainerDefinitions)
		}
		out.ContainerDefinitions[i].Image = aws.String(untagged(aws.ToString(c.Image)) + "@" + digest)
	}
	return &out
}

func digestIn(images []types.ContainerImage, container string) string {
	for _, i := range images {
		if aws.ToString(i.ContainerName) == container {
			return aws.ToString(i.ImageDigest)
		}
	}
	return ""
}

// untagged is a reference without its tag.
func untagged(ref string) string {
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i]
	}
	return ref
}

// FixImages is a revision with the digests that a task's containers report and that it has not fixed yet; nil when there is
// nothing new.
func FixImages(r *store.ServiceRevision, def *types.TaskDefinition, t *store.Task) *store.ServiceRevision {
	if r == nil || def == nil {
		return nil
	}
	var n *store.ServiceRevision
	for i, img := range r.Object.ContainerImages {
		name := aws.ToString(img.ContainerName)
		if aws.ToString(img.ImageDigest) != "" {
			continue
		}
		at := slices.IndexFunc(def.ContainerDefinitions, func(c types.ContainerDefinition) bool { return aws.ToString(c.Name) == name })
		c := container(t, name)
		if at < 0 || !consistent(&def.ContainerDefinitions[at]) || c == nil || !isDigest(aws.ToString(c.ImageDigest)) {
			continue
		}
		if n == nil {
			copied := *r
			copied.Object.ContainerImages = slices.Clone(r.Object.ContainerImages)
			n = &copied
		}
		n.Object.ContainerImages[i].ImageDigest = c.ImageDigest
	}
	return n
}

// isDigest tells whether an agent's text can be the digest of an image: sha256 and 64 hex digits.
func isDigest(text string) bool {
	hex, ok := strings.CutPrefix(text, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}
