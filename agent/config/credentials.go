package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/protocol/awsapi"
)

// rotatingFile is where the agent's container sees the access key that ECS Anywhere's host agent renews.
const rotatingFile = "/rotatingcreds/credentials"

// Credentials is the agent's chain: the first source that has an access key is used, and asked again when its key expires.
//
//	environment (and what ecs.config sets) → shared file → rotating file → the instance's role
//
// On an external instance the rotating file comes before the shared one. role is the instance's role, nil without instance
// metadata. The provider caches; it may be called concurrently.
func (c *Config) Credentials(role aws.CredentialsProvider) aws.CredentialsProvider {
	chain := credentialChain{aws.CredentialsProviderFunc(c.environmentKey)}
	shared := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return awsapi.FileKey(c.sharedFile(), c.profile())
	})
	rotating := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return awsapi.FileKey(rotatingFile, c.profile())
	})
	if c.External {
		chain = append(chain, rotating, shared)
	} else {
		chain = append(chain, shared, rotating)
	}
	if role != nil {
		chain = append(chain, role)
	}
	return aws.NewCredentialsCache(chain)
}

func (c *Config) environmentKey(context.Context) (aws.Credentials, error) {
	if c.AccessKeyID == "" {
		return aws.Credentials{}, errors.New("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set")
	}
	return aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: string(c.SecretAccessKey), SessionToken: string(c.SessionToken), Source: "environment"}, nil
}

func (c *Config) sharedFile() string {
	if c.SharedCredentialsFile != "" {
		return c.SharedCredentialsFile
	}
	return filepath.Join(home(), ".aws", "credentials")
}

func home() string {
	home, err := os.UserHomeDir()
	if err != nil { // a service without HOME
		home = "/root"
	}
	return home
}

// DockerConfigFile is Docker's own file of registry credentials.
func (c *Config) DockerConfigFile() string {
	if c.DockerConfig != "" {
		return filepath.Join(c.DockerConfig, "config.json")
	}
	return filepath.Join(home(), ".docker", "config.json")
}

// HelperEnvironment is all that credential helpers get of the environment: where programs, their files and the network are,
// and none of the agent's secrets.
func (c *Config) HelperEnvironment() []string {
	env := []string{"HOME=" + home(), "DOCKER_CONFIG=" + filepath.Dir(c.DockerConfigFile()), "PATH=" + os.Getenv("PATH")}
	if os.Getenv("PATH") == "" {
		env[2] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	for name, value := range map[string]string{"HTTP_PROXY": c.Proxy.HTTP, "HTTPS_PROXY": c.Proxy.HTTPS, "NO_PROXY": c.Proxy.None} {
		if value != "" {
			env = append(env, name+"="+value, strings.ToLower(name)+"="+value)
		}
	}
	return env
}

func (c *Config) profile() string {
	if c.External && c.AlternateProfile != "default" {
		return c.AlternateProfile
	}
	return c.CredentialProfile
}

// credentialChain asks its members in order.
type credentialChain []aws.CredentialsProvider

// Retrieve returns the first member's credentials that has some; the error names why each has none.
func (chain credentialChain) Retrieve(ctx context.Context) (aws.Credentials, error) {
	var errs []error
	for _, p := range chain {
		credentials, err := p.Retrieve(ctx)
		if err == nil {
			return credentials, nil
		}
		errs = append(errs, err)
	}
	return aws.Credentials{}, fmt.Errorf("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in %s, or see that one of these works: %w", DefaultFile, errors.Join(errs...))
}
