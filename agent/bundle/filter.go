package bundle

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// hidden stands in the place of a secret.
const hidden = "[hidden]"

const (
	leastSecret = 6 // characters of a value that is looked for everywhere
	leastCore   = 8 // of its form in base64
	mostSecrets = 20_000
)

// Filter takes secrets out of texts. The zero value knows none by value.
type Filter struct {
	forms map[string]bool
	clean *strings.Replacer
}

// Know adds values that are secrets. Those shorter than six characters are not looked for: they are in every text.
func (f *Filter) Know(values ...string) {
	if f.forms == nil {
		f.forms = map[string]bool{}
	}
	for _, v := range values {
		if v = strings.TrimSpace(v); len(v) < leastSecret || len(f.forms) > mostSecrets {
			continue
		}
		for _, form := range formsOf(v) {
			f.forms[form] = true
		}
	}
	f.clean = nil
}

// KnowAll adds every text in a JSON document, such as Docker's config.json, and what is in those that are base64.
func (f *Filter) KnowAll(document []byte) {
	var v any
	if json.Unmarshal(document, &v) == nil {
		f.walk(v, 0)
	}
}

func (f *Filter) walk(v any, depth int) {
	if depth > 20 {
		return
	}
	switch v := v.(type) {
	case string:
		f.Know(v)
		if raw, err := base64.StdEncoding.DecodeString(v); err == nil {
			_, password, _ := strings.Cut(string(raw), ":")
			f.Know(string(raw), password)
		}
	case []any:
		for _, e := range v {
			f.walk(e, depth+1)
		}
	case map[string]any:
		for _, e := range v {
			f.walk(e, depth+1)
		}
	}
}

// KnowURL adds the password of a URL, as it is written and as it is meant.
func (f *Filter) KnowURL(text string) {
	if _, rest, ok := strings.Cut(text, "://"); ok {
		if user, _, ok := strings.Cut(rest, "@"); ok {
			_, password, _ := strings.Cut(user, ":")
			f.Know(password)
			if plain, err := url.PathUnescape(password); err == nil {
				f.Know(plain)
			}
		}
	}
}

// KnowNamed adds a value whose name says that it is a secret.
func (f *Filter) KnowNamed(name, value string) {
	if secretName.MatchString(name) && !keyID.MatchString(name) && !isPath(value) {
		f.Know(value)
	}
	f.KnowURL(value)
}

// isPath reports whether a value is a path of this host, such as that of the file in which a secret is.
func isPath(value string) bool {
	_, err := os.Lstat(value)
	return strings.HasPrefix(value, "/") && err == nil
}

// formsOf are the forms in which a secret may be met. In base64 it may begin at any of three places within a group, so that the characters which depend
// on it alone are looked for.
func formsOf(v string) []string {
	quoted, inJSON := strconv.Quote(v), []byte(nil)
	inJSON, _ = json.Marshal(v)
	forms := []string{v, url.QueryEscape(v), url.PathEscape(v), quoted[1 : len(quoted)-1], string(inJSON[1 : len(inJSON)-1]), hex.EncodeToString([]byte(v)), strings.ToUpper(hex.EncodeToString([]byte(v)))}
	for _, lower := range []string{url.QueryEscape(v), url.PathEscape(v)} {
		forms = append(forms, percent.ReplaceAllStringFunc(lower, strings.ToLower))
	}
	for shift := range 3 {
		padded := append(make([]byte, shift), v...)
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			core := enc.EncodeToString(padded)
			first, last := []int{0, 2, 3}[shift], len(core)
			if len(padded)%3 != 0 {
				last--
			}
			if core = core[first:last]; len(core) >= leastCore {
				forms = append(forms, core, url.QueryEscape(core))
			}
		}
	}
	return forms
}

var (
	percent    = regexp.MustCompile(`%[0-9A-F]{2}`)
	secretName = regexp.MustCompile(`(?i)` + words)
	keyID      = regexp.MustCompile(`(?i)access_?key_?id$`) // which is no secret, and says which key is meant
)

const words = `pass(word|wd|phrase)?|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|auth|credential|cookie|signature|dsn|connection[_-]?string`

// rules are secrets that are known by what stands around them.
var rules = []struct {
	find *regexp.Regexp
	put  string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`), hidden},
	{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@"']*@`), "${1}" + hidden + "@"},
	{regexp.MustCompile(`longshore1\.[A-Za-z0-9_-]+`), hidden},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`), hidden},
	{regexp.MustCompile(`(?i)\b(bearer|basic|aws4-hmac-sha256)\s+[A-Za-z0-9+/_=.~-]{6,}`), "${1} " + hidden},
	{regexp.MustCompile(`(/v[1-4]/credentials|/v[34]|/api|[?&]id=)(/?)[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}`), "${1}${2}" + hidden},
	{regexp.MustCompile(`(?i)(--?[a-z0-9-]*(?:pass(?:word|wd|phrase)?|secret|token|api-?key|credential)[a-z0-9-]*)(=|\s+)("[^"]*"|'[^']*'|[^\s"',\]]+)`), "${1}${2}" + hidden},
	// name=value, "name":"value", name: value; values in quotes, escaped quotes too, to their end.
	{regexp.MustCompile(`(?i)([a-z0-9_.-]*(?:` + words + `)[a-z0-9_.-]*\\*["']?\s*[=:]\s*)(\\+"(?:[^"\\]|\\+[^"\\])*\\+"|"(?:[^"\\]|\\.)*"|'[^']*'|[^\s"',;&}\]\[]+)`), "${1}" + hidden},
}

// run is what may be base64.
var run = regexp.MustCompile(`[A-Za-z0-9+/_-]{16,}={0,2}`)

// Clean takes the secrets out of a text, and takes out what is base64 and has one in it.
func (f *Filter) Clean(text []byte) []byte {
	out := f.plain(text)
	return run.ReplaceAllFunc(out, func(s []byte) []byte {
		raw, err := base64.RawStdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(string(s), "=")))
		if err != nil || !utf8.Valid(raw) || bytes.Equal(f.plain(raw), raw) {
			return s
		}
		return []byte(hidden)
	})
}

// plain takes out those that are not within base64.
func (f *Filter) plain(text []byte) []byte {
	if f.clean == nil {
		forms := make([]string, 0, 2*len(f.forms))
		for _, form := range slices.SortedFunc(maps.Keys(f.forms), func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) }) {
			forms = append(forms, form, hidden)
		}
		f.clean = strings.NewReplacer(forms...)
	}
	out := []byte(f.clean.Replace(string(text)))
	for _, r := range rules {
		out = r.find.ReplaceAll(out, []byte(r.put))
	}
	return out
}
