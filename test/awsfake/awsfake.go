// Package awsfake is a stand-in for the few AWS services that tasks need: SSM Parameter Store, Secrets Manager, S3, the tokens
// of Amazon ECR, AssumeRole of STS, the tags of EC2 instances, and what Docker's awslogs driver asks of CloudWatch Logs. It is strict: a request must be signed, exactly as the SDK's signer does it,
// with a key that it knows.
package awsfake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Call is a request that was signed well.
type Call struct {
	Operation   string // "GetParameters", "GetObject" …
	AccessKeyID string
	Region      string
	Body        string // or an object's bucket and key

	service string
}

// Server answers requests; it is an http.Handler. Its fields are set before it is used, or by [Server.Set].
type Server struct {
	Keys       []aws.Credentials
	Parameters map[string]string // by name
	Secrets    map[string]string // by SecretId, VersionStage and VersionId joined with "|"
	Objects    map[string]string // by bucket/key
	Tags       map[string]string // of EC2 instances, by the instance's id and the tag's key joined with "|"
	Password   string            // of registries
	Expires    time.Time         // of Password
	// Roles are those that STS gives sessions of, with their life; 0 is what was asked for. Their keys are then among Keys.
	Roles map[string]time.Duration
	Logs  *Logs
	// Refuse, if set, may answer a call with an error: code, empty for none.
	Refuse func(Call) (status int, code string)

	mu       sync.Mutex
	calls    []Call
	sessions []Session
}

// Set changes fields while requests may come.
func (s *Server) Set(f func(*Server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

// Calls are the calls so far whose operation is one of those given; all if none is.
func (s *Server) Calls(operations ...string) (out []Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if len(operations) == 0 || slices.Contains(operations, c.Operation) {
			out = append(out, c)
		}
	}
	return out
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 8<<20)) // a call of CloudWatch Logs may have 1 MiB of text, each byte of which takes up to six
	if err != nil {
		return
	}
	call, err := s.verify(r, body)
	if err != nil {
		fail(w, http.StatusForbidden, "InvalidSignatureException", err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
	if s.Refuse != nil {
		if status, code := s.Refuse(call); code != "" {
			fail(w, status, code, "the stand-in was told to refuse this")
			return
		}
	}
	switch call.Operation {
	case "GetParameters":
		s.parameters(w, body)
	case "GetSecretValue":
		s.secret(w, body)
	case "GetAuthorizationToken":
		token := base64.StdEncoding.EncodeToString([]byte("AWS:" + s.Password))
		answer(w, map[string]any{"authorizationData": []any{map[string]any{"authorizationToken": token, "expiresAt": float64(s.Expires.Unix()), "proxyEndpoint": "https://registry.example"}}})
	case "GetObject":
		if data, ok := s.Objects[call.Body]; ok {
			_, _ = io.WriteString(w, data)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message><RequestId>req-1</RequestId></Error>`)
	case "DescribeTags":
		s.tags(w, call.Body)
	case "CreateLogGroup", "CreateLogStream", "PutLogEvents":
		s.logs(w, call.Operation, body)
	default:
		if call.service == "sts" {
			s.sts(w, call)
			return
		}
		fail(w, http.StatusBadRequest, "UnknownOperationException", call.Operation)
	}
}

func (s *Server) parameters(w http.ResponseWriter, body []byte) {
	var in struct {
		Names          []string
		WithDecryption bool
	}
	if err := json.Unmarshal(body, &in); err != nil || !in.WithDecryption || len(in.Names) == 0 || len(in.Names) > 10 {
		fail(w, http.StatusBadRequest, "ValidationException", "Names must be 1 to 10, WithDecryption true")
		return
	}
	found, missing := []any{}, []string{}
	for _, name := range in.Names {
		value, ok := s.Parameters[name]
		if !ok {
			missing = append(missing, name)
			continue
		}
		plain, version, _ := strings.Cut(name, ":")
		p := map[string]any{"Name": plain, "ARN": "arn:aws:ssm:us-west-2:123456789012:parameter/" + strings.TrimPrefix(plain, "/"), "Type": "SecureString", "Value": value, "Version": 1}
		if version != "" {
			p["Selector"] = ":" + version
		}
		found = append(found, p)
	}
	answer(w, map[string]any{"Parameters": found, "InvalidParameters": missing})
}

func (s *Server) secret(w http.ResponseWriter, body []byte) {
	var in struct{ SecretID, VersionStage, VersionID string }
	if err := json.Unmarshal(body, &in); err != nil {
		fail(w, http.StatusBadRequest, "ValidationException", "the body is no JSON object")
		return
	}
	value, ok := s.Secrets[strings.Join([]string{in.SecretID, in.VersionStage, in.VersionID}, "|")]
	if !ok {
		fail(w, http.StatusBadRequest, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
		return
	}
	answer(w, map[string]any{"ARN": in.SecretID, "SecretString": value, "VersionStages": []string{"AWSCURRENT"}})
}

// tags answers as the Query API of EC2 does.
func (s *Server) tags(w http.ResponseWriter, instance string) {
	type item struct {
		Resource string `xml:"resourceId"`
		Key      string `xml:"key"`
		Value    string `xml:"value"`
	}
	var out struct {
		XMLName xml.Name `xml:"DescribeTagsResponse"`
		Items   []item   `xml:"tagSet>item"`
	}
	for name, value := range s.Tags {
		if id, key, _ := strings.Cut(name, "|"); id == instance {
			out.Items = append(out.Items, item{id, key, value})
		}
	}
	_ = xml.NewEncoder(w).Encode(out)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(v)
}

func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("X-Amzn-RequestId", "req-1")
	w.WriteHeader(status)
	answer(w, map[string]string{"__type": code, "message": message})
}

// services are the names that requests must be signed for, by what X-Amz-Target begins with.
var services = map[string]string{
	"AmazonSSM": "ssm", "secretsmanager": "secretsmanager", "AmazonEC2ContainerRegistry_V20150921": "ecr", "Logs_20140328": "logs", "": "s3",
}

// verify signs the request again, at its own time, and compares.
func (s *Server) verify(r *http.Request, body []byte) (call Call, err error) {
	target, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	service, known := services[target]
	if !known {
		return call, fmt.Errorf("unknown target %s", target)
	}
	call = Call{Operation: operation, Body: string(body)}
	if form := r.Header.Get("Content-Type"); target == "" && strings.HasPrefix(form, "application/x-www-form-urlencoded") {
		service = "sts"
		values, err := url.ParseQuery(string(body))
		if err != nil {
			return call, err
		}
		if call.Operation = values.Get("Action"); call.Operation == "DescribeTags" {
			service, call.Body = "ec2", values.Get("Filter.1.Value.1")
		}
	}
	call.service = service
	if service == "s3" {
		call.Operation, call.Body = "GetObject", strings.TrimPrefix(r.URL.Path, "/")
	}
	authorization := r.Header.Get("Authorization")
	_, scope, _ := strings.Cut(authorization, "Credential=")
	parts := strings.Split(scope, "/")
	if len(parts) < 4 {
		return call, fmt.Errorf("no signature: %q", authorization)
	}
	call.AccessKeyID, call.Region = parts[0], parts[2]
	s.mu.Lock()
	i := slices.IndexFunc(s.Keys, func(k aws.Credentials) bool { return k.AccessKeyID == call.AccessKeyID })
	if i < 0 {
		s.mu.Unlock()
		return call, fmt.Errorf("unknown key %s", call.AccessKeyID)
	}
	key := s.Keys[i]
	s.mu.Unlock()
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return call, err
	}
	again, err := http.NewRequestWithContext(context.Background(), r.Method, "http://"+r.Host+r.URL.EscapedPath(), bytes.NewReader(body))
	if err != nil {
		return call, err
	}
	for _, name := range []string{"Content-Type", "X-Amz-Target", "Amz-Sdk-Invocation-Id", "Amz-Sdk-Request", "X-Amz-Content-Sha256", "X-Amzn-Logs-Format"} {
		if v := r.Header.Get(name); v != "" {
			again.Header.Set(name, v)
		}
	}
	sum := sha256.Sum256(body)
	err = v4.NewSigner().SignHTTP(context.Background(), key, again, hex.EncodeToString(sum[:]), service, call.Region, at, func(o *v4.SignerOptions) { o.DisableURIPathEscaping = service == "s3" })
	if err == nil && again.Header.Get("Authorization") != authorization {
		err = fmt.Errorf("the signature is %s, it must be %s", authorization, again.Header.Get("Authorization"))
	}
	return call, err
}
