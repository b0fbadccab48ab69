package secrets

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/awsapi"
)

// parameterRef is where a parameter of SSM is. asked is what the service is asked for.
type parameterRef struct{ region, asked string }

// parameterOf reads valueFrom of a parameter: its name, or an ARN. An ARN of the task's own account is asked for by name,
// which every implementation understands; that of another account, for a shared parameter, as it is.
func parameterOf(s *acs.Secret, region, account string) parameterRef {
	ref := parameterRef{region: or(s.Region, region), asked: s.ValueFrom}
	f := strings.SplitN(s.ValueFrom, ":", 6) // arn:partition:ssm:region:account:parameter/name
	if len(f) != 6 || f[0] != "arn" || f[2] != "ssm" {
		return ref
	}
	ref.region = or(f[3], ref.region)
	name, ok := strings.CutPrefix(f[5], "parameter/")
	if !ok || f[4] != account {
		return ref
	}
	ref.asked = name
	if strings.Contains(name, "/") { // of a hierarchy, whose names begin with a slash
		ref.asked = "/" + name
	}
	return ref
}

// secretRef is where a secret of Secrets Manager is, and which member of its value is meant.
type secretRef struct {
	region string
	id     awsapi.SecretID
}

// secretOf reads valueFrom of a secret: an ARN, perhaps followed by a JSON key, a version's stage and a version's id, each
// of which may be empty, or a name.
func secretOf(s *acs.Secret, region string) (ref secretRef, key string) {
	ref = secretRef{region: or(s.Region, region), id: awsapi.SecretID{ID: s.ValueFrom}}
	f := strings.Split(s.ValueFrom, ":") // arn:partition:secretsmanager:region:account:secret:name[:key[:stage[:version]]]
	if len(f) < 7 || f[0] != "arn" {
		return ref, ""
	}
	ref.region, ref.id.ID = or(f[3], ref.region), strings.Join(f[:7], ":")
	f = append(f[7:], "", "", "")
	ref.id.Stage, ref.id.Version = f[1], f[2]
	return ref, f[0]
}

// member is a member of a secret that is a JSON object: a string's text, or what any other value is in JSON.
func member(value awsapi.Value, key string) (awsapi.Value, error) {
	if key == "" {
		return value, nil
	}
	var object map[string]json.RawMessage
	if json.Unmarshal([]byte(value), &object) != nil || object == nil { // its error would show the value
		return "", fmt.Errorf("it is no JSON object, so that it has no key %q", key)
	}
	raw, ok := object[key]
	if !ok {
		return "", fmt.Errorf("its JSON object has no key %q", key)
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return awsapi.Value(text), nil
	}
	return awsapi.Value(raw), nil
}

// fileRef is where a file is.
type fileRef struct{ bucket, key string }

// fileOf reads the ARN of a file: arn:partition:s3:::bucket/key.
func fileOf(arn string) (ref fileRef, err error) {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) == 6 && parts[0] == "arn" && parts[2] == "s3" {
		if bucket, key, ok := strings.Cut(parts[5], "/"); ok && bucket != "" && key != "" {
			return fileRef{bucket, key}, nil
		}
	}
	return ref, fmt.Errorf("it is not like arn:aws:s3:::bucket/path/file.env")
}

// what names a secret for people.
func what(s *acs.Secret, region string) string {
	kind := "parameter " + s.ValueFrom + " of SSM Parameter Store"
	if s.Provider == engine.ProviderSecretsManager {
		kind = "secret " + s.ValueFrom + " of Secrets Manager"
	}
	return fmt.Sprintf("%s in %s, for %s", kind, region, s.Name)
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
