package imagecache

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/protocol/acs"
)

// PullError is why an image is not available. Its text begins with the error name that Amazon ECS uses and names the
// image, the registry, the cause in the engine's words, and what to do. errdefs finds the cause's class in it.
type PullError struct {
	Image    string
	Registry string        // for people; empty if the reference can't be read
	Tries    int           // 0: nothing was tried
	Elapsed  time.Duration // from the first request to the failure
	Cause    error
	Hint     string // what to do
	ECR      bool   // the credentials were Amazon ECR's
}

// Name is the error name of Amazon ECS: CannotPullContainerAuthError, with Amazon ECR CannotPullECRContainerError, if
// credentials were refused or can't be had, CannotPullContainerError else.
func (e *PullError) Name() string {
	if e.ECR && (errdefs.IsUnauthorized(e.Cause) || errdefs.IsPermissionDenied(e.Cause)) {
		return "CannotPullECRContainerError"
	}
	if errdefs.IsUnauthorized(e.Cause) || errdefs.IsPermissionDenied(e.Cause) {
		return "CannotPullContainerAuthError"
	}
	return "CannotPullContainerError"
}

func (e *PullError) Error() string {
	text := fmt.Sprintf("%s: image %s", e.Name(), e.Image)
	if e.Registry != "" {
		text += " can't be pulled from " + e.Registry
	} else {
		text += " can't be pulled"
	}
	switch {
	case e.Tries == 1:
		text += fmt.Sprintf(" (1 try, %s)", e.Elapsed.Round(time.Millisecond))
	case e.Tries > 1:
		text += fmt.Sprintf(" (%d tries in %s)", e.Tries, e.Elapsed.Round(time.Millisecond))
	}
	text += ": " + e.Cause.Error()
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// Unwrap returns the cause.
func (e *PullError) Unwrap() error { return e.Cause }

// classed is a text with a class.
type classed struct {
	class error
	text  string
}

func (e *classed) Error() string { return e.text }
func (e *classed) Unwrap() error { return e.class }

// failure is what everyone who waited for a flight is told.
func (c *Cache[I]) failure(f *flight[I], tries int, began time.Time, err error) error {
	if cause := context.Cause(f.ctx); cause != nil && cause != context.Canceled { //nolint:errorlint // the very value is meant
		err = cause
	}
	e := &PullError{Image: f.name.given, Registry: f.name.registry, Tries: tries, Elapsed: time.Since(began), Cause: err, ECR: isECR(f.asked)}
	switch {
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err):
		e.Hint = "no credentials for it are configured, give them in ECS_ENGINE_AUTH_DATA or by docker login as the agent's user; a registry also says this of an image that does not exist"
		switch {
		case isECR(f.asked):
			e.Hint = "check that the role (the task's execution role, else this host's) may pull from the repository, and that the image exists"
		case f.asked != nil:
			e.Hint = "check the user and the password in the secret that repositoryCredentials names"
		case f.auth != nil:
			e.Hint = fmt.Sprintf("check the credentials that %s has for %s", f.auth.Source, f.auth.ServerAddress)
		}
		if o := f.auth.origin(time.Now()); o != "" {
			e.Hint += "; " + o
		}
	case errdefs.IsNotFound(err) && otherPlatform(err):
		e.Hint = "it is there, and not for this host's architecture: build it for that too"
	case errdefs.IsNotFound(err):
		e.Hint = "check its name and tag"
	case errdefs.IsResourceExhausted(err):
		e.Hint = "wait for the registry's limit to pass or log in with credentials, or make room on the engine's disk, whichever it names"
	case errdefs.IsUnavailable(err):
		e.Hint = "check that this host reaches the registry and that the container engine runs"
	}
	return e
}

// otherPlatform says whether an image is only there for other platforms, in the words of Docker and of containerd.
func otherPlatform(err error) bool {
	text := err.Error()
	return strings.Contains(text, "no matching manifest for") || strings.Contains(text, "no match for platform")
}

// unsupported refuses registry credentials that a task definition asks for where nobody fetches them.
func unsupported(name name, auth *acs.RegistryAuthentication) error {
	return &PullError{
		Image: name.given, Registry: name.registry,
		Cause: &classed{errdefs.ErrNotImplemented, fmt.Sprintf("it needs registry credentials of type %q, and nothing here fetches such", auth.Type)},
		Hint:  "give the host credentials for this registry in ECS_ENGINE_AUTH_DATA and leave them out of the task definition",
	}
}
