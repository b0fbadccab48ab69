// Package fields holds what a task definition may say against what a real container then has.
//
// [Members] walks the SDK's types by reflection and names every member that a client can set: those of
// RegisterTaskDefinition and of RunTask's overrides. The tests keep one registry, by member, of how each is shown:
//
//	proved      on Docker and on containerd, a task with it was registered through the SDK, went through the control plane, the agent and the engine,
//	            and the member was seen from inside its container or in the engine's own description of it
//	kept        the control plane's own: shown in its answers while the task runs
//	refused     registering it, or running with it, is refused, and the error names it
//	elsewhere   proved in the same way by the named test of another package, which needs more around it
//
// A member that the SDK gets and the registry does not have fails the test, and so does a claim about a member that is
// gone. Many members are proved by one task; a scene is such a task.
package fields

import (
	"reflect"

	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// Members are the paths of all members: "Family", "ContainerDefinitions[].LinuxParameters.Tmpfs[].Size",
// "Overrides.ContainerOverrides[].Command[]". A map is one member.
func Members() []string {
	var all []string
	var walk func(path string, t reflect.Type)
	walk = func(path string, t reflect.Type) {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch {
		case t.Kind() == reflect.Slice:
			walk(path+"[]", t.Elem())
		case t.Kind() != reflect.Struct:
			all = append(all, path)
		default:
			if path != "" {
				path += "."
			}
			for i := range t.NumField() {
				if f := t.Field(i); f.IsExported() {
					walk(path+f.Name, f.Type)
				}
			}
		}
	}
	walk("", reflect.TypeFor[ecs.RegisterTaskDefinitionInput]())
	walk("Overrides", reflect.TypeFor[types.TaskOverride]())
	return all
}
