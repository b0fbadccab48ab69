package awsapi

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/internal/durable"
)

const (
	// fileAge is how long an access key from a file is used before the file is read again, so that a rotated key is seen.
	fileAge = time.Minute
	// maxFile bounds such a file.
	maxFile = 1 << 20
)

// FileKey reads the access key of a profile from a file in the form of ~/.aws/credentials.
func FileKey(name, profile string) (aws.Credentials, error) {
	data, err := durable.Read(name, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return aws.Credentials{}, fmt.Errorf("there is no %s", name)
	}
	if err != nil {
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
