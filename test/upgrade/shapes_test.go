package upgrade

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/tcs"
)

// whole sets every member of a value. Types that contain themselves end after some levels.
func whole(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		if depth > 24 {
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		whole(v.Elem(), depth+1)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && v.Type().Field(i).Tag.Get("json") != "-" {
				whole(v.Field(i), depth+1)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		whole(v.Index(0), depth+1)
	case reflect.Map:
		value := reflect.New(v.Type().Elem()).Elem()
		whole(value, depth+1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), value)
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(7)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(7.5)
	}
}

// wires are the codecs, by the name of their socket.
var wires = map[string]struct {
	messages func() []any
	encode   func(any) ([]byte, error)
	decode   func([]byte) (any, error)
}{acsWire: {acs.Messages, acs.Encode, acs.Decode}, tcsWire: {tcs.Messages, tcs.Encode, tcs.Decode}}

// A member that was renamed, or has another type, would be lost in silence between two versions.
func TestTodaysTypesKnowEveryMemberOfTheMessagesOfEachVersionThatIsKept(t *testing.T) {
	for name, wire := range wires {
		path := filepath.Join("testdata", "shapes", version+"-"+name+".jsonl")
		if os.Getenv("UPDATE") != "" {
			var out bytes.Buffer
			for _, m := range wire.messages() {
				whole(reflect.ValueOf(m).Elem(), 0)
				frame, err := wire.encode(m)
				if err != nil {
					t.Fatal(err)
				}
				out.Write(append(frame, '\n'))
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		paths, err := filepath.Glob("testdata/shapes/*-" + name + ".jsonl")
		if err != nil || len(paths) == 0 {
			t.Fatalf("no shapes of %s are kept: %v", name, err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for frame := range bytes.Lines(data) {
				m, err := wire.decode(frame)
				if err != nil {
					t.Errorf("%s: %v: %s", path, err, frame)
					continue
				}
				again, err := wire.encode(m)
				if err != nil {
					t.Errorf("%s: %v: %s", path, err, frame)
					continue
				}
				var was, is any
				if err := json.Unmarshal(frame, &was); err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(again, &is); err != nil {
					t.Fatal(err)
				}
				if err := (bindings{}).agree(was, is, ""); err != nil {
					t.Errorf("%s: of %s %v", path, strings.TrimSpace(typeOf(frame)), err)
				}
			}
		}
	}
}
