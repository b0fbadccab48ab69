package config

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// rotatingFile is where the agent's container sees the access key that ECS Anywhere's host agent renews.
const rotatingFile = "/rotatingcreds/credentials"

// fileAge is how long an access key from a file is used before the file is read again, so that a rotated key is seen.
const fileAge = time.Minute

// Credentials is the agent's chain: the first source that has an access key is used, and asked again when its key expires.
//
//	environment (and what ecs.config sets) → shared file → rotating file → the instance's role
//
// On an external instance the rotating file comes before the shared one. role is the instance's role, nil without instance
// metadata. The provider caches; it may be called concurrently.
func (c *Config) Credentials(role aws.CredentialsProvider) aws.CredentialsProvider {
	chain := credentialChain{aws.CredentialsProviderFunc(c.environmentKey)}
	shared := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return fileKey(c.sharedFile(), c.profile())
	})
	rotating := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return fileKey(rotatingFile, c.profile())
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

// fileKey reads the access key of a profile from a file in the form of ~/.aws/credentials.
func fileKey(name, profile string) (aws.Credentials, error) {
	data, err := readBounded(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return aws.Credentials{}, fmt.Errorf("there is no %s", name)
		}
		return aws.Credentials{}, err
	}
	keys := parseProfile(data, profile)
	out := aws.Credentials{
		AccessKeyID: keys["aws_access_key_id"], SecretAccessKey: keys["aws_secret_access_key"], SessionToken: keys["aws_session_token"],
		Source: name, CanExpire: true, Expires: time.Now().Add(fileAge),
	}
	if !out.HasKeys() {
		return aws.Credentials{}, fmt.Errorf("%s has no access key for the profile %q", name, profile)
	}
	return out, nil
}

// parseProfile returns the members of one section: lines "[name]" begin one, "key = value" are its members, and lines that
// begin with '#' or ';' are comments. What is not understood is skipped.
func parseProfile(data []byte, profile string) map[string]string {
	members, inside := map[string]string{}, false
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxFile)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if section, ok := strings.CutPrefix(line, "["); ok {
			section, _, _ = strings.Cut(section, "]")
			inside = strings.TrimSpace(section) == profile
			continue
		}
		if key, v, ok := strings.Cut(line, "="); ok && inside {
			members[strings.ToLower(strings.TrimSpace(key))] = strings.TrimSpace(v)
		}
	}
	return members
}
