package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Ask calls an operation of the ECS API as the CLI does with these arguments, but without the half second of a processor that the CLI takes:
// so do tests ask that wait for something. What a person does, and the first look at it, goes through the CLI.
func Ask[T any](l *Lab, operation string, args ...string) (answer T) {
	l.t.Helper()
	body, err := json.Marshal(members(args))
	if err != nil {
		l.t.Fatal(err)
	}
	url, id, secret := l.API()
	request, err := http.NewRequestWithContext(l.t.Context(), http.MethodPost, url+"/", bytes.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	var name strings.Builder
	for word := range strings.SplitSeq(operation, "-") {
		name.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	request.Header.Set("Content-Type", "application/x-amz-json-1.1")
	request.Header.Set("X-Amz-Target", "AmazonEC2ContainerServiceV20141113."+name.String())
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(l.t.Context(), aws.Credentials{AccessKeyID: id, SecretAccessKey: secret}, request, hex.EncodeToString(sum[:]), "ecs", region, time.Now()); err != nil {
		l.t.Fatal(err)
	}
	request.Close = true // no connection is left behind
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		l.t.Fatalf("%s %v: %v", operation, args, err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, said)
	}
	if err == nil {
		err = json.Unmarshal(said, &answer)
	}
	if err != nil {
		l.t.Fatalf("%s %v: %v", operation, args, err)
	}
	return answer
}

// members are the CLI's arguments as members of a request: --service-name a is serviceName, and what is plural is a list.
func members(args []string) map[string]any {
	all := map[string]any{}
	for i := 0; i < len(args); {
		flag := strings.TrimPrefix(args[i], "--")
		end := i + 1
		for end < len(args) && !strings.HasPrefix(args[end], "--") {
			end++
		}
		first, more, _ := strings.Cut(flag, "-")
		for word := range strings.SplitSeq(more, "-") {
			if word != "" {
				first += strings.ToUpper(word[:1]) + word[1:]
			}
		}
		if values := args[i+1 : end]; strings.HasSuffix(flag, "s") && !strings.HasSuffix(flag, "status") {
			all[first] = values
		} else {
			all[first] = values[0]
		}
		i = end
	}
	return all
}
