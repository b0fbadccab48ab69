package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/longshore-project/longshore/controlplane/store"
)

// amzDate is the form of X-Amz-Date.
const amzDate = "20060102T150405Z"

// Options of a [Verifier]. The zero value of a field is its default.
type Options struct {
	// Skew is how far the request's date may be from Now; default [DefaultSkew].
	Skew time.Duration
	// Now is the clock; default time.Now.
	Now func() time.Time
	// TaskKeys finds keys that were issued for tasks, which are no keys of the store; nil for one that was not. May be nil: none was.
	TaskKeys func(ctx context.Context, accessKeyID string) (*TaskKey, error)
}

// Verifier verifies signatures. It is safe for concurrent use.
type Verifier struct {
	lookup func(ctx context.Context, accessKeyID string) (*Key, error)
	skew   time.Duration
	now    func() time.Time
	tasks  func(ctx context.Context, accessKeyID string) (*TaskKey, error)
}

// NewVerifier makes a verifier that finds keys with lookup, which returns nil for a key that does not exist.
func NewVerifier(lookup func(ctx context.Context, accessKeyID string) (*Key, error), o Options) *Verifier {
	v := &Verifier{lookup: lookup, skew: o.Skew, now: o.Now, tasks: o.TaskKeys}
	if v.skew <= 0 {
		v.skew = DefaultSkew
	}
	if v.now == nil {
		v.now = time.Now
	}
	return v
}

// Verify says who signed r, whose body has been read already. The error is an [*Error] when the request is refused, and
// lookup's own when the key could not be looked up.
func (v *Verifier) Verify(r *http.Request, body []byte) (*Identity, error) {
	a, date, refusal := v.claim(r)
	if refusal != nil {
		return nil, refusal
	}
	hash := sha256.Sum256(body)
	bodyHash := hex.EncodeToString(hash[:])
	if sent := r.Header.Values("X-Amz-Content-Sha256"); len(sent) > 0 && (len(sent) > 1 || !strings.EqualFold(sent[0], bodyHash)) {
		return nil, refuse(CodeInvalid, "X-Amz-Content-Sha256 is '%s', and the body's SHA-256 is '%s'.", printable(sent[0]), bodyHash)
	}
	canonical, refusal := canonicalRequest(r, a.signedHeaders, bodyHash)
	if refusal != nil {
		return nil, refusal
	}
	key, err := v.lookup(r.Context(), a.accessKeyID)
	if err != nil {
		return nil, fmt.Errorf("look up the access key %s: %w", printable(a.accessKeyID), err)
	}
	if key == nil && v.tasks != nil {
		return v.verifyTask(r, a, stringToSign(date, a.scope(), canonical))
	}
	if len(r.Header.Values(tokenHeader)) > 0 {
		return nil, refuse(CodeUnknownKey, "%s Only keys that were issued for a task have an X-Amz-Security-Token here.", messageUnknownKey)
	}
	if key == nil || key.Secret == "" {
		return nil, refuse(CodeUnknownKey, messageUnknownKey)
	}
	want := sign(signingKey(key.Secret, a), stringToSign(date, a.scope(), canonical))
	if subtle.ConstantTimeCompare([]byte(want), []byte(a.signature)) != 1 {
		return nil, refuse(CodeInvalid, messageMismatch)
	}
	if ended := key.Ended(v.now()); !ended.IsZero() { // told to those only who have the secret
		return nil, refuse(CodeUnknownKey, "%s The access key %s %s.", messageUnknownKey, key.AccessKeyID, endedHow(key.Key, ended))
	}
	return &Identity{AccessKeyID: key.AccessKeyID, Role: key.Role, Enrolment: key.Enrolment, Name: key.Name, Instance: key.Instance, Expires: key.Expires,
		Region: a.region, Service: a.service}, nil
}

// endedHow says what ended a key, and when.
func endedHow(k *store.Key, at time.Time) string {
	how := "expired"
	if !k.Revoked.IsZero() {
		how = "was revoked"
	}
	return how + " at " + at.UTC().Format(time.RFC3339)
}

// VerifyUpgrade is [Verifier.Verify] for the request that opens a web socket: it has no body, and agents sign only host
// and the date.
func (v *Verifier) VerifyUpgrade(r *http.Request) (*Identity, error) { return v.Verify(r, nil) }

// claim reads what the request says about its signature, and refuses what no key could make right.
func (v *Verifier) claim(r *http.Request) (a *authorization, date string, refusal *Error) {
	if query := r.URL.RawQuery; strings.Contains(query, "X-Amz-Signature=") || strings.Contains(query, "X-Amz-Algorithm=") {
		return nil, "", refuse(CodeIncomplete, "Presigned requests are not accepted: sign the headers, with an Authorization header.")
	}
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return nil, "", refuse(CodeMissingToken, messageMissingToken)
	}
	if len(headers) > 1 {
		return nil, "", refuse(CodeIncomplete, "The request has %d Authorization headers.", len(headers))
	}
	if a, refusal = parseAuthorization(headers[0]); refusal != nil {
		return nil, "", refusal
	}
	if !a.signs("host") {
		return nil, "", refuse(CodeInvalid, "'Host' must be a 'SignedHeader' in the AWS Authorization.")
	}
	// Whoever changed it on the way would change what is asked. Others, which proxies add, are of no effect.
	if len(r.Header.Values("X-Amz-Target")) > 0 && !a.signs("x-amz-target") {
		return nil, "", refuse(CodeInvalid, "'X-Amz-Target' must be a 'SignedHeader' in the AWS Authorization.")
	}
	at, date, refusal := signedDate(r, a)
	if refusal != nil {
		return nil, "", refusal
	}
	return a, date, v.checkScope(a, at, date)
}

// signedDate is the request's date, and as it is signed.
func signedDate(r *http.Request, a *authorization) (at time.Time, date string, refusal *Error) {
	name := "X-Amz-Date"
	values := r.Header.Values(name)
	if len(values) == 0 {
		name = "Date"
		values = r.Header.Values(name)
	}
	if len(values) != 1 {
		return at, "", refuse(CodeIncomplete, "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header, once; there are %d.", len(values))
	}
	if !a.signs(strings.ToLower(name)) {
		return at, "", refuse(CodeInvalid, "'%s' must be a 'SignedHeader' in the AWS Authorization.", name)
	}
	at, err := time.Parse(amzDate, values[0])
	if err != nil && name == "Date" {
		at, err = http.ParseTime(values[0])
	}
	if err != nil {
		return at, "", refuse(CodeIncomplete, "Date must be in ISO-8601 'basic format'. Got '%s'. See http://en.wikipedia.org/wiki/ISO_8601", printable(values[0]))
	}
	return at, at.UTC().Format(amzDate), nil
}

// checkScope holds the date against the clock and the scope against the date. The clock comes first, as it explains most.
func (v *Verifier) checkScope(a *authorization, at time.Time, date string) *Error {
	now := v.now().UTC()
	switch early, late := now.Add(-v.skew), now.Add(v.skew); {
	case at.Before(early.Truncate(time.Second)):
		return refuse(CodeInvalid, "Signature expired: %s is now earlier than %s (%s - %s)",
			date, early.Format(amzDate), now.Format(amzDate), minutes(v.skew))
	case at.After(late):
		return refuse(CodeInvalid, "Signature not yet current: %s is still later than %s (%s + %s)",
			date, late.Format(amzDate), now.Format(amzDate), minutes(v.skew))
	}
	if day := date[:8]; a.date != day {
		return refuse(CodeInvalid, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '%s' != '%s', from '%s'.",
			printable(a.date), day, date)
	}
	if a.service != service {
		return refuse(CodeInvalid, "Credential should be scoped to correct service: '%s', not '%s'.", service, printable(a.service))
	}
	return nil
}

func minutes(d time.Duration) string {
	if d%time.Minute == 0 {
		return strconv.Itoa(int(d/time.Minute)) + " min."
	}
	return d.String()
}

// canonicalRequest is the text whose hash was signed.
func canonicalRequest(r *http.Request, signed []string, bodyHash string) (string, *Error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", refuse(CodeIncomplete, "The query can't be read: %v", printable(err.Error()))
	}
	for _, values := range query {
		slices.Sort(values)
	}
	var b strings.Builder
	b.WriteString(r.Method + "\n")
	b.WriteString(escapePath(r.URL.EscapedPath()) + "\n")
	b.WriteString(strings.ReplaceAll(query.Encode(), "+", "%20") + "\n")
	for _, name := range signed {
		values := headerValues(r, name)
		if len(values) == 0 {
			return "", refuse(CodeInvalid, "%s The signed header '%s' is not in the request.", messageMismatch, printable(name))
		}
		b.WriteString(name + ":")
		for i, value := range values {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(fold(value))
		}
		b.WriteByte('\n')
	}
	b.WriteString("\n" + strings.Join(signed, ";") + "\n" + bodyHash)
	return b.String(), nil
}

// headerValues are a header's values as the client sent them, those included that net/http keeps elsewhere.
func headerValues(r *http.Request, name string) []string {
	switch name {
	case "host":
		return []string{r.Host}
	case "content-length":
		if r.ContentLength >= 0 {
			return []string{strconv.FormatInt(r.ContentLength, 10)}
		}
		return nil
	case "transfer-encoding":
		return r.TransferEncoding
	}
	return r.Header.Values(name)
}

// fold takes the blanks around a value away and makes one of several inside it.
func fold(value string) string {
	value = strings.Trim(value, " \t\r\n")
	if !strings.Contains(value, "  ") {
		return value
	}
	var b strings.Builder
	for i := range len(value) {
		if value[i] == ' ' && value[i-1] == ' ' {
			continue
		}
		b.WriteByte(value[i])
	}
	return b.String()
}

// escapePath escapes the path as it was sent once more, as all services but S3 have it.
func escapePath(path string) string {
	if path == "" {
		return "/"
	}
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(path) {
		switch c := path[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-_.~/", c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}

func stringToSign(date, scope, canonical string) string {
	hash := sha256.Sum256([]byte(canonical))
	return algorithm + "\n" + date + "\n" + scope + "\n" + hex.EncodeToString(hash[:])
}

// signingKey derives the key of one day, region and service.
func signingKey(secret string, a *authorization) []byte {
	return derive(secret, a.date, a.region, a.service)
}

func derive(secret, day, region, service string) []byte {
	key := []byte("AWS4" + secret)
	for _, part := range []string{day, region, service, terminator} {
		key = mac(key, part)
	}
	return key
}

func sign(key []byte, text string) string { return hex.EncodeToString(mac(key, text)) }

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
