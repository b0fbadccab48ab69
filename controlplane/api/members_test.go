package api

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/ecsapi"
)

func TestAMemberThatIsNotSupportedMayBeNeutral(t *testing.T) {
	for _, c := range []struct{ member, body, at string }{
		{"a", `{}`, ""},
		{"a", `{"a":null}`, ""},
		{"a", `{"a":[]}`, ""},
		{"a", `{"a":{}}`, ""},
		{"a", `{"a":false}`, ""},
		{"a", `{"a":0}`, ""},
		{"a", `{"a":0.0}`, ""},
		{"a", `{"a":""}`, ""},
		{"a", `{"a":"DISABLED"}`, ""},
		{"a", `{"a":"NONE"}`, ""},
		{"a", `{"a":{"b":false,"c":[]}}`, ""},
		{"a", `{"a":true}`, "a"},
		{"a", `{"a":1}`, "a"},
		{"a", `{"a":1e400}`, "a"},
		{"a", `{"a":"x"}`, "a"},
		{"a", `{"a":[{"b":1}]}`, "a"},
		{"a.b", `{"a":{"b":"ROLLING"}}`, "a.b"},
		{"a.b=ROLLING|ECS", `{"a":{"b":"ROLLING"}}`, ""},
		{"a.b=ROLLING|ECS", `{"a":{"b":"ECS"}}`, ""},
		{"a.b=ROLLING|ECS", `{"a":{"b":"BLUE_GREEN"}}`, "a.b"},
		{"a.b=5", `{"a":{"b":5}}`, ""},
		{"a[].b", `{"a":[{"b":0},{"b":3}]}`, "a[1].b"},
		{"a[].b[].c", `{"a":[{},{"b":[{"c":false},{"c":true}]}]}`, "a[1].b[1].c"},
		{"a[].b", `{"a":{"b":3}}`, ""}, // the decoder refuses the type
	} {
		o, err := parseObject([]byte(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if at, value := o.offends(parseRefusal(c.member)); at != c.at || (at != "") != (value != "") {
			t.Errorf("%s in %s: refused at %q with %q, want %q", c.member, c.body, at, value, c.at)
		}
	}
}

func TestEveryRefusedMemberExistsInTheModel(t *testing.T) {
	for name, o := range testServer().table {
		op := ecsapi.ByName(name)
		if op == nil {
			t.Errorf("%s is served and not in the model", name)
			continue
		}
		for _, r := range o.refused {
			body := nested(r.path)
			_, report, err := o.decode([]byte(body))
			if err == nil && len(report.Unknown) > 0 {
				t.Errorf("%s: %s is refused but unknown to the model (%v)", name, r.path, report.Unknown)
			}
		}
	}
}

// nested is a document that has the member of path, with the value null.
func nested(path string) string {
	step, rest, more := strings.Cut(path, ".")
	name, list := strings.CutSuffix(step, "[]")
	inner := "null"
	if more {
		inner = nested(rest)
	}
	if list {
		inner = "[" + inner + "]"
	}
	return fmt.Sprintf(`{%q:%s}`, name, inner)
}

func testServer() *Server {
	return New(Config{Region: "us-west-2", AccountID: "123456789012"})
}

func TestPagesGiveEveryItemOnceWhateverTheSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z:/0-9]{1,8}`), 0, 30, rapid.ID[string]).Draw(t, "items")
		desc := rapid.Bool().Draw(t, "desc")
		slices.Sort(items)
		if desc {
			slices.Reverse(items)
		}
		c := &call{op: "ListClusters"}
		size := rapid.Int32Range(1, 12).Draw(t, "size")
		var got []string
		var token *string
		for {
			page, next, err := paginate(c, paging{max: &size, token: token, limit: 100, size: 100, desc: desc}, items, itself)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) > int(size) || next != nil && len(page) != int(size) {
				t.Fatalf("a page of %d has %d items", size, len(page))
			}
			got = append(got, page...)
			if token = next; token == nil {
				break
			}
		}
		if !slices.Equal(got, items) {
			t.Fatalf("got %q, want %q", got, items)
		}
	})
}

func TestATokenGoesOnWhereItsItemWasEvenIfThatIsGone(t *testing.T) {
	c := &call{op: "ListClusters"}
	_, token, err := paginate(c, paging{max: aws.Int32(2), limit: 100, size: 100}, []string{"a", "b", "c", "d"}, itself)
	if err != nil {
		t.Fatal(err)
	}
	page, _, err := paginate(c, paging{token: token, limit: 100, size: 100}, []string{"a", "aa", "c", "d"}, itself)
	if err != nil || !slices.Equal(page, []string{"c", "d"}) {
		t.Errorf("got %q, %v", page, err)
	}
}

func TestBadPagesAreInvalidParameters(t *testing.T) {
	items := []string{"a", "b"}
	c := &call{op: "ListClusters"}
	_, foreign, _ := paginate(&call{op: "ListTasks"}, paging{max: aws.Int32(1), limit: 100, size: 100}, items, itself)
	for name, p := range map[string]paging{
		"maxResults 0":            {max: aws.Int32(0), limit: 100, size: 100},
		"maxResults -1":           {max: aws.Int32(-1), limit: 100, size: 100},
		"maxResults 101":          {max: aws.Int32(101), limit: 100, size: 100},
		"a token of nobody":       {token: aws.String("nonsense"), limit: 100, size: 100},
		"a token of another list": {token: foreign, limit: 100, size: 100},
	} {
		_, _, err := paginate(c, p, items, itself)
		var e *Error
		if !errors.As(err, &e) || e.Code != "InvalidParameterException" || p.token != nil && !strings.HasPrefix(e.Message, "Invalid token") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestTheStoresErrorsAskForPatience(t *testing.T) {
	s := testServer()
	for _, c := range []struct {
		err    error
		code   string
		status int
	}{
		{fmt.Errorf("write: %w", store.ErrFull), "ThrottlingException", 400},
		{fmt.Errorf("write: %w", store.ErrConflict), "ThrottlingException", 400},
		{fmt.Errorf("write: %w", store.ErrUnavailable), "ServerException", 503},
		{fmt.Errorf("anything else"), "ServerException", 500},
		{&auth.Error{Code: "InvalidSignatureException", Message: "m"}, "InvalidSignatureException", 400},
		{ecsapi.Errorf(ecsapi.ServerException, "m"), "ServerException", 500},
		{&Error{Code: "ClientException"}, "ClientException", 400},
	} {
		if e := s.exception(&call{}, c.err); e.Code != c.code || e.Status != c.status {
			t.Errorf("%v: got %s with status %d, want %s with %d", c.err, e.Code, e.Status, c.code, c.status)
		}
	}
}

// FuzzRequest feeds bodies to every operation's decoder and rules up to the handler: they are accepted, or refused with
// an exception that is the client's fault.
func FuzzRequest(f *testing.F) {
	s := testServer()
	names := make([]string, 0, len(s.table))
	for name := range s.table {
		names = append(names, name)
	}
	slices.Sort(names)
	for i := range names {
		f.Add(uint8(i), []byte(`{"cluster":"c","maxResults":1,"tags":[{"key":"a","value":null}],"containerDefinitions":[{"name":"a","secrets":[{}]}]}`))
	}
	f.Add(uint8(0), []byte(`{"a":{"a":[[[]]]},"a":1} x`))
	f.Add(uint8(1), []byte("\x00\xff{"))
	f.Fuzz(func(t *testing.T, operation uint8, body []byte) {
		name := names[int(operation)%len(names)]
		c := &call{s: s, op: name, userAgent: "fuzz"}
		if _, err := s.table[name].read(c, body); err != nil {
			if e := s.exception(c, err); e.Status != 400 {
				t.Errorf("%s %q: %v", name, body, e)
			}
		}
	})
}

// FuzzTaskDefinition feeds definitions to the rules: what they accept is accepted again as it came back.
func FuzzTaskDefinition(f *testing.F) {
	s := testServer()
	f.Add([]byte(`{"family":"f","cpu":".25 vCPU","memory":"1GB","networkMode":"host","pidMode":"host","containerDefinitions":[{"name":"a","image":"i","portMappings":[{"containerPort":80}],"healthCheck":{"command":["CMD","x"]},"dependsOn":[{"containerName":"b","condition":"START"}]},{"name":"b","image":"i","essential":false}]}`))
	f.Add([]byte(`{"family":"f","volumes":[{"name":"v"}],"placementConstraints":[{"type":"memberOf","expression":"attribute:a==b"}],"containerDefinitions":[{"name":"a","image":"i","memory":6,"mountPoints":[{"sourceVolume":"v","containerPath":"/v"}],"linuxParameters":{"capabilities":{"add":["ALL"]}},"links":["a"]}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		in, ok := readDefinition(s, body)
		if !ok {
			return
		}
		d, err := newDefinition(in)
		if err != nil {
			if e := s.exception(&call{}, err); e.Status != 400 {
				t.Fatalf("%q: %v", body, e)
			}
			return
		}
		in.ContainerDefinitions, in.Volumes, in.Cpu, in.Memory, in.NetworkMode = d.ContainerDefinitions, d.Volumes, d.Cpu, d.Memory, d.NetworkMode
		if _, err := newDefinition(in); err != nil {
			t.Fatalf("%q is accepted, but what it became is not: %v", body, err)
		}
	})
}

func readDefinition(s *Server, body []byte) (*ecs.RegisterTaskDefinitionInput, bool) {
	in, err := s.table["RegisterTaskDefinition"].read(&call{s: s, op: "RegisterTaskDefinition"}, body)
	if err != nil {
		return nil, false
	}
	return in.(*ecs.RegisterTaskDefinitionInput), true
}
