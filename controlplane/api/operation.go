package api

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"github.com/longshore-project/longshore/protocol/awsjson"
)

// operations maps an operation's name to how it is served.
type operations map[string]operation

// operation is how one operation is served. Make one with [handle].
type operation struct {
	decode  func(body []byte) (in any, report awsjson.Report, err error)
	serve   func(ctx context.Context, c *call, in any) (out any, err error)
	refused []refusal
	texts   map[string]*Error // what a missing required member is answered with, by path
}

// handle serves an operation with f, which gets the SDK's input type, or a struct that embeds it and has the members that
// only agents send, and returns the SDK's output type. Members that the model requires have been seen to be there and not
// null; an empty list or text may be.
func handle[In, Out any](f func(ctx context.Context, c *call, in *In) (*Out, error)) operation {
	return operation{
		decode: func(body []byte) (any, awsjson.Report, error) {
			in := new(In)
			report, err := awsjson.Unmarshal(body, in)
			return in, report, err
		},
		serve: func(ctx context.Context, c *call, in any) (any, error) { return f(ctx, c, in.(*In)) },
	}
}

// refusing names members that the API has and that are not supported here. Each is a path, with the values that are
// the neutral ones beside absent, null, empty, false, 0, DISABLED and NONE after an equals sign:
//
//	configuration.managedStorageConfiguration
//	deploymentController.type=ECS
//	volumes[].dockerVolumeConfiguration.driver=local|overlay
func (o operation) refusing(members ...string) operation {
	for _, m := range members {
		o.refused = append(o.refused[:len(o.refused):len(o.refused)], parseRefusal(m))
	}
	return o
}

// orElse is the error to answer when the required member is missing, for those whose text clients know.
func (o operation) orElse(member string, err *Error) operation {
	texts := map[string]*Error{member: err}
	for m, e := range o.texts {
		texts[m] = e
	}
	o.texts = texts
	return o
}

// run decodes and judges a request's body, and serves it.
func (o operation) run(ctx context.Context, c *call, body []byte) ([]byte, error) {
	in, err := o.read(c, body)
	if err != nil {
		return nil, err
	}
	out, err := o.serve(ctx, c, in)
	if err != nil {
		return nil, err
	}
	c.made = madeBy(out)
	return awsjson.Marshal(out)
}

// read decodes a body into the operation's input and into c.members, and refuses what is malformed, incomplete or asks
// for what is not supported.
func (o operation) read(c *call, body []byte) (any, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
	}
	in, report, err := o.decode(body)
	if err != nil {
		return nil, err
	}
	if c.members, err = parseObject(body); err != nil {
		return nil, err
	}
	if missing := slices.DeleteFunc(report.Missing, o.refuses); len(missing) > 0 {
		if known, ok := o.texts[missing[0]]; ok {
			return nil, known
		}
		return nil, invalid("%s requires the member %s.", c.op, strings.Join(missing, ", "))
	}
	for _, r := range o.refused {
		if at, value := c.members.offends(r); at != "" {
			return nil, unsupported("%s: the member %s with the value %.100s is not supported by this control plane; leave it out.", c.op, at, value)
		}
	}
	for _, path := range report.Unknown {
		c.noteUnknown(path)
	}
	return in, nil
}

// refuses says whether a member is part of one that is not supported, and so need not be complete.
func (o operation) refuses(path string) bool {
	path = indexless(path)
	return slices.ContainsFunc(o.refused, func(r refusal) bool { return strings.HasPrefix(path, r.path+".") })
}
