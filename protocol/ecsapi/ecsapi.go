// Package ecsapi is what the ECS API consists of: its operations with their input and output types, which are the AWS
// SDK's own, and its error codes. Importing it teaches protocol/awsjson ECS's unions, documents and required members.
//
//	op, err := ecsapi.ByTarget(r.Header.Get("X-Amz-Target"))  // *Error UnknownOperationException
//	in := op.NewInput()                                        // *ecs.CreateServiceInput
//	report, err := awsjson.Unmarshal(body, in)                 // *awsjson.SerializationError
//	err = report.Required()                                    // *awsjson.RequiredError
//
// Three shapes have members that only the agent's own model of the API has; they are declared here, with the SDK's type
// embedded: [RegisterContainerInstanceInput], [DiscoverPollEndpointInput] and [DiscoverPollEndpointOutput]. NewInput and
// NewOutput of their operations return these.
//
// The agent does not import this package, which links the SDK's client (2.1 MiB more resident): see protocol/agentapi.
package ecsapi

//go:generate go run ./internal/gen

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/document"
	smithydocument "github.com/aws/smithy-go/document"

	"github.com/longshore-project/longshore/protocol/awsjson"
)

// TargetPrefix is what stands before the operation's name in the header X-Amz-Target.
const TargetPrefix = "AmazonEC2ContainerServiceV20141113."

// Operation is an operation of the ECS API.
type Operation struct {
	Name      string
	NewInput  func() any // a pointer to a new input struct
	NewOutput func() any // a pointer to a new output struct
}

// Operations are all operations of the API in order of name.
func Operations() []*Operation { return slices.Clone(operations) }

// ByName finds an operation; nil when the API has none of that name.
func ByName(name string) *Operation {
	i, ok := slices.BinarySearchFunc(operations, name, func(op *Operation, name string) int { return strings.Compare(op.Name, name) })
	if !ok {
		return nil
	}
	return operations[i]
}

// ByTarget finds the operation that an X-Amz-Target header names. The error is an UnknownOperationException.
func ByTarget(target string) (*Operation, error) {
	name, ok := strings.CutPrefix(target, TargetPrefix)
	if !ok {
		return nil, Errorf(UnknownOperationException, "The header X-Amz-Target must be %s<operation>, but was %q.", TargetPrefix, shorten(target))
	}
	if op := ByName(name); op != nil {
		return op, nil
	}
	return nil, Errorf(UnknownOperationException, "The operation %q is not an operation of the ECS API.", shorten(name))
}

func shorten(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// RegisterContainerInstanceInput is the SDK's shape and what only agents send.
type RegisterContainerInstanceInput struct {
	ecs.RegisterContainerInstanceInput
	// ClientToken makes a repeated registration the same one.
	ClientToken *string
}

// DiscoverPollEndpointInput is the SDK's shape and what only agents send.
type DiscoverPollEndpointInput struct {
	ecs.DiscoverPollEndpointInput
	// ZoneId is the availability zone; agents send "" for the ACS and TCS look-ups.
	ZoneId *string
}

// DiscoverPollEndpointOutput is the SDK's shape and what only agents read.
type DiscoverPollEndpointOutput struct {
	ecs.DiscoverPollEndpointOutput
	// SystemLogsEndpoint is where other agents send system logs.
	SystemLogsEndpoint *string
}

func init() {
	awsjson.RegisterDocument(func(raw []byte) (document.Interface, error) {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		return document.NewLazyDocument(smithyNumbers(v)), nil
	})
}

// smithyNumbers replaces encoding/json's numbers by those that the SDK's documents understand.
func smithyNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		return smithydocument.Number(v)
	case []any:
		for i := range v {
			v[i] = smithyNumbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = smithyNumbers(v[k])
		}
	}
	return v
}
