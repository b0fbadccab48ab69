package api

import (
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

const maxEnvironmentFiles = 10

var (
	// parameterName is a parameter of SSM, perhaps with a version or label.
	parameterName = regexp.MustCompile(`^[A-Za-z0-9_./-]+(:[A-Za-z0-9_.-]{1,100})?$`)
	parameterARN  = regexp.MustCompile(`^arn:[a-z-]+:ssm:[a-z0-9-]+:[0-9]{12}:parameter/[A-Za-z0-9_./-]+(:[A-Za-z0-9_.-]{1,100})?$`)
	// secretARN is a secret of Secrets Manager, perhaps with a JSON key, a version's stage and a version's id.
	secretARN  = regexp.MustCompile(`^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@!-]{1,512}(:[^:]*){0,3}$`)
	secretName = regexp.MustCompile(`^[A-Za-z0-9/_+=.@!-]{1,512}$`)
	objectARN  = regexp.MustCompile(`^arn:[a-z-]+:s3:::[A-Za-z0-9][A-Za-z0-9._-]{1,254}/.+$`)
)

// checkSecrets looks at what the agent fetches for a container, with the credentials of the execution role: secrets,
// files of variables and the registry's credentials.
func checkSecrets(d *types.TaskDefinition, c *types.ContainerDefinition) error {
	names := map[string]bool{}
	for _, e := range c.Environment {
		names[aws.ToString(e.Name)] = true
	}
	if err := checkSecretList("secrets", c, c.Secrets, names); err != nil {
		return err
	}
	if l := c.LogConfiguration; l != nil {
		names = map[string]bool{}
		for name := range l.Options {
			names[name] = true
		}
		if err := checkSecretList("logConfiguration.secretOptions", c, l.SecretOptions, names); err != nil {
			return err
		}
	}
	if len(c.EnvironmentFiles) > maxEnvironmentFiles {
		return setting("environmentFiles", c, "It has %d files; at most %d are allowed.", len(c.EnvironmentFiles), maxEnvironmentFiles)
	}
	for _, f := range c.EnvironmentFiles {
		if f.Type != types.EnvironmentFileTypeS3 {
			return setting("environmentFiles", c, "The type must be s3, but was %.100q.", string(f.Type))
		}
		if !objectARN.MatchString(aws.ToString(f.Value)) {
			return setting("environmentFiles", c, "The value must be the ARN of an object in S3, like arn:aws:s3:::bucket/path/file.env, but was %.300q.", aws.ToString(f.Value))
		}
	}
	if r := c.RepositoryCredentials; r != nil && r.CredentialsParameter != nil {
		if p := aws.ToString(r.CredentialsParameter); !secretARN.MatchString(p) && !secretName.MatchString(p) {
			return setting("repositoryCredentials", c, "The credentialsParameter must be the ARN or the name of a secret in Secrets Manager, but was %.300q.", p)
		}
	}
	return checkExecutionRole(d, c)
}

func checkSecretList(member string, c *types.ContainerDefinition, list []types.Secret, taken map[string]bool) error {
	for _, s := range list {
		name, from := aws.ToString(s.Name), aws.ToString(s.ValueFrom)
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00"):
			return setting(member, c, "The name %.200q is invalid.", name)
		case taken[name] && member == "secrets":
			return clientError("The secret name must be unique and not shared with any new or existing environment variables set on the container, such as '%.200s'.", name)
		case taken[name]:
			return setting(member, c, "The option '%.200s' has two values.", name)
		case !parameterName.MatchString(from) && !parameterARN.MatchString(from) && !secretARN.MatchString(from):
			return setting(member, c, "The valueFrom of '%.200s' must be the name or the ARN of a parameter of SSM Parameter Store, or the ARN of a secret of Secrets Manager, but was %.300q.", name, from)
		}
		taken[name] = true
	}
	return nil
}

// checkExecutionRole wants the role that fetches what is named.
func checkExecutionRole(d *types.TaskDefinition, c *types.ContainerDefinition) error {
	if aws.ToString(d.ExecutionRoleArn) != "" {
		return nil
	}
	what := ""
	switch {
	case len(c.Secrets) > 0 || c.LogConfiguration != nil && len(c.LogConfiguration.SecretOptions) > 0:
		what = "container secrets"
	case len(c.EnvironmentFiles) > 0:
		what = "environment files"
	case hasRepositoryCredentials(c):
		what = "repository credentials"
	case configInS3(c):
		what = "a log router's configuration in S3"
	default:
		return nil
	}
	return clientError("When you are specifying %s, you must also specify a value for 'executionRoleArn'.", what)
}

// requiredBySecrets are the attributes of what checkSecrets looks at.
func requiredBySecrets(c *types.ContainerDefinition) (names []string) {
	add := func(list []types.Secret, target string) {
		for _, s := range list {
			service := "ssm."
			if strings.Contains(aws.ToString(s.ValueFrom), ":secretsmanager:") {
				service = "asm."
			}
			names = append(names, ecsCapability+"secrets."+service+target)
		}
	}
	add(c.Secrets, "environment-variables")
	if l := c.LogConfiguration; l != nil {
		add(l.SecretOptions, "bootstrap.log-driver")
	}
	if len(c.EnvironmentFiles) > 0 {
		names = append(names, ecsCapability+"env-files.s3")
	}
	if hasRepositoryCredentials(c) {
		names = append(names, ecsCapability+"private-registry-authentication.secretsmanager")
	}
	return names
}

func hasRepositoryCredentials(c *types.ContainerDefinition) bool {
	return c.RepositoryCredentials != nil && c.RepositoryCredentials.CredentialsParameter != nil
}
