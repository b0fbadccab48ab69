package auth

import (
	"strings"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	terminator = "aws4_request"
	// maxAuthorization bounds the header's length: SDKs send some 400 bytes.
	maxAuthorization = 8 << 10
)

// authorization is what an Authorization header says.
type authorization struct {
	accessKeyID           string
	date, region, service string
	signedHeaders         []string // lower case, in the client's order
	signature             string   // 64 hex digits
}

// scope is what the key is derived for.
func (a *authorization) scope() string {
	return a.date + "/" + a.region + "/" + a.service + "/" + terminator
}

// parseAuthorization reads "AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…". Blanks after the commas are
// optional, and the order is free.
func parseAuthorization(header string) (*authorization, *Error) {
	if len(header) > maxAuthorization {
		return nil, refuse(CodeIncomplete, "Authorization header has %d bytes; at most %d are accepted.", len(header), maxAuthorization)
	}
	scheme, rest, _ := strings.Cut(strings.TrimSpace(header), " ")
	if scheme != algorithm {
		if strings.HasPrefix(scheme, "AWS4-") {
			return nil, refuse(CodeIncomplete, "Unsupported AWS 'algorithm': '%s'. Only %s is accepted.", printable(scheme), algorithm)
		}
		return nil, refuse(CodeMissingToken, messageMissingToken)
	}
	parameters := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return nil, refuse(CodeIncomplete, "'%s' not a valid key=value pair (missing equal-sign) in Authorization header.", printable(part))
		}
		if _, twice := parameters[name]; twice {
			return nil, refuse(CodeIncomplete, "Authorization header has '%s' twice.", printable(name))
		}
		parameters[name] = value
	}
	var missing []string
	for _, name := range []string{"Credential", "Signature", "SignedHeaders"} {
		if parameters[name] == "" {
			missing = append(missing, "Authorization header requires '"+name+"' parameter.")
		}
	}
	if missing != nil {
		return nil, refuse(CodeIncomplete, "%s", strings.Join(missing, " "))
	}
	a := &authorization{signature: parameters["Signature"]}
	if err := a.setCredential(parameters["Credential"]); err != nil {
		return nil, err
	}
	if err := a.setHeaders(parameters["SignedHeaders"]); err != nil {
		return nil, err
	}
	if len(a.signature) != 64 || strings.Trim(a.signature, "0123456789abcdef") != "" {
		return nil, refuse(CodeIncomplete, "Signature must be 64 lower-case hexadecimal digits.")
	}
	return a, nil
}

func (a *authorization) setCredential(credential string) *Error {
	parts := strings.Split(credential, "/")
	if len(parts) != 5 {
		return refuse(CodeIncomplete, "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '%s'", printable(credential))
	}
	for _, p := range parts {
		if p == "" {
			return refuse(CodeIncomplete, "Credential has an empty element: '%s'", printable(credential))
		}
	}
	if parts[4] != terminator {
		return refuse(CodeInvalid, "Credential should be scoped with a valid terminator: '%s', not '%s'.", terminator, printable(parts[4]))
	}
	a.accessKeyID, a.date, a.region, a.service = parts[0], parts[1], parts[2], parts[3]
	return nil
}

func (a *authorization) setHeaders(list string) *Error {
	seen := map[string]bool{}
	for name := range strings.SplitSeq(list, ";") {
		if name == "" || name != strings.ToLower(name) || strings.ContainsAny(name, " \t:") {
			return refuse(CodeIncomplete, "SignedHeaders must be lower-case header names with semicolons between them, got '%s'", printable(list))
		}
		if seen[name] {
			return refuse(CodeIncomplete, "SignedHeaders has '%s' twice.", printable(name))
		}
		seen[name] = true
		a.signedHeaders = append(a.signedHeaders, name)
	}
	return nil
}

func (a *authorization) signs(header string) bool {
	for _, name := range a.signedHeaders {
		if name == header {
			return true
		}
	}
	return false
}

// printable is s, short and without anything that could upset a terminal or a log.
func printable(s string) string {
	const most = 128
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\ufffd' {
			return '?'
		}
		return r
	}, s)
}
