package secrets

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/test/awsfake"
)

func ecr(role bool) *acs.RegistryAuthentication {
	return &acs.RegistryAuthentication{Type: "ecr", ECRAuthData: &acs.ECRAuthData{RegistryID: "123456789012", Region: "us-west-2", UseExecutionRole: role}}
}

func asm(parameter string) *acs.RegistryAuthentication {
	return &acs.RegistryAuthentication{Type: "asm", ASMAuthData: &acs.ASMAuthData{CredentialsParameter: parameter, Region: "us-west-2"}}
}

func TestATokenIsFetchedOnceForARegistryAndARole(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	for _, task := range []string{taskArn, taskArn, "other"} {
		wg.Go(func() {
			c, err := w.Registry(t.Context(), task, ecr(true), nil)
			if err != nil || c.Username != "AWS" || c.Password != "planted-token" {
				t.Error(c, err)
			}
		})
	}
	wg.Wait()
	if _, err := w.Registry(t.Context(), "without", ecr(false), nil); err != nil {
		t.Error(err)
	}
	calls := w.aws.Calls("GetAuthorizationToken")
	if len(calls) != 2 || calls[0].AccessKeyID != "ROLE" || calls[1].AccessKeyID != "HOST" {
		t.Errorf("%+v", calls)
	}
}

func TestATokenIsRenewedBeforeItExpiresAndWhenItWasRefused(t *testing.T) {
	w := newWorld(t)
	get := func() string {
		t.Helper()
		c, err := w.Registry(t.Context(), taskArn, ecr(true), nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Password
	}
	first := get()
	w.aws.Set(func(s *awsfake.Server) { s.Password = "planted-second" })
	w.mu.Lock()
	w.now = w.now.Add(10*time.Hour + 50*time.Minute)
	w.mu.Unlock()
	if get() != first {
		t.Error("a token with 70 minutes left was renewed")
	}
	w.mu.Lock()
	w.now = w.now.Add(41 * time.Minute)
	w.mu.Unlock()
	if get() != "planted-second" {
		t.Error("a token with 29 minutes left was used")
	}
	held, err := w.Registry(t.Context(), taskArn, ecr(true), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.aws.Set(func(s *awsfake.Server) { s.Password = "planted-third" })
	if c, err := w.Registry(t.Context(), taskArn, ecr(true), held); err != nil || c.Password != "planted-third" {
		t.Error("a token that was refused was used again", err)
	}
	if c, err := w.Registry(t.Context(), taskArn, ecr(true), held); err != nil || c.Password != "planted-third" || len(w.aws.Calls()) != 3 {
		t.Error("a token that others had renewed already was renewed once more", err)
	}
}

func TestRepositoryCredentialsAreAUserAndAPasswordInASecret(t *testing.T) {
	w := newWorld(t)
	c, err := w.Registry(t.Context(), taskArn, asm("registry"), nil)
	if err != nil || c.Username != "me" || c.Password != "planted-registry" {
		t.Error(c, err)
	}
	// They are kept until they are refused, and then fetched once for all who hold the old ones.
	if again, err := w.Registry(t.Context(), taskArn, asm("registry"), nil); err != nil || again != c || len(w.aws.Calls("GetSecretValue")) != 1 {
		t.Error("they were fetched again", err, w.aws.Calls("GetSecretValue"))
	}
	for range 2 {
		if _, err := w.Registry(t.Context(), taskArn, asm("registry"), c); err != nil {
			t.Error(err)
		}
	}
	for parameter, want := range map[string]string{"broken": `{"username": "…", "password": "…"}`, "absent": "ResourceNotFoundException"} {
		_, err := w.Registry(t.Context(), taskArn, asm(parameter), nil)
		if !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), parameter) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v", parameter, err)
		}
	}
	if _, err := w.Registry(t.Context(), "without", asm("registry"), nil); !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "executionRoleArn") {
		t.Error(err)
	}
	if _, err := w.Registry(t.Context(), taskArn, &acs.RegistryAuthentication{Type: "other"}, nil); err == nil || !strings.Contains(err.Error(), `"other"`) {
		t.Error(err)
	}
}
