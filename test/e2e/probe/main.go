// Command probe is what the end-to-end tests run in containers: the AWS SDK with its own default chain of credentials, as any
// application has it, and a small HTTP client.
//
//	probe chain             the credentials that the chain finds, once, as JSON: the secrets as their SHA-256
//	probe serve             the same, and then waits to be stopped
//	probe get URL           status and body
//	probe put URL BODY      status and body
//
// In a URL, $NAME is replaced by the environment variable.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
)

// Found is what the chain found.
type Found struct {
	AccessKeyID, Secret, Token, Source string
	Expires                            time.Time
	Error                              string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	switch args := os.Args[1:]; {
	case len(args) == 1 && args[0] == "chain":
		chain(ctx)
	case len(args) == 1 && args[0] == "serve":
		chain(ctx)
		<-ctx.Done()
	case len(args) == 2 && args[0] == "get":
		ask(ctx, http.MethodGet, args[1], "")
	case len(args) == 3 && args[0] == "put":
		ask(ctx, http.MethodPut, args[1], args[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: probe chain | serve | get URL | put URL BODY")
		os.Exit(2)
	}
}

func chain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var found Found
	cfg, err := awsconfig.LoadDefaultConfig(ctx)
	if err == nil {
		c, cerr := cfg.Credentials.Retrieve(ctx)
		found, err = Found{AccessKeyID: c.AccessKeyID, Secret: sum(c.SecretAccessKey), Token: sum(c.SessionToken), Source: c.Source, Expires: c.Expires}, cerr
	}
	if err != nil {
		found.Error = err.Error()
	}
	_ = json.NewEncoder(os.Stdout).Encode(found)
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func ask(ctx context.Context, method, url, body string) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, os.ExpandEnv(url), strings.NewReader(body))
	if err != nil {
		fmt.Println(0, err)
		return
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		fmt.Println(0, err)
		return
	}
	defer response.Body.Close()
	data, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	fmt.Println(response.StatusCode, string(data))
}
