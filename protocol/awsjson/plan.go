package awsjson

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// plan is how values of one type are encoded and decoded. Plans are made once per type and shared.
type plan struct {
	encode func(e *encoder, v reflect.Value) error
	decode func(d *decoder, v reflect.Value) error
	// unset tells whether a struct member with this value is left out; request is the mode of MarshalRequest.
	unset func(v reflect.Value, request bool) bool
}

// field is one member of a struct.
type field struct {
	name     string
	key      string // `"name":`
	index    []int
	plan     *plan
	required bool
}

func (f *field) of(v reflect.Value) reflect.Value {
	if len(f.index) == 1 {
		return v.Field(f.index[0])
	}
	return v.FieldByIndex(f.index)
}

// structPlan holds the members of a struct in order of name.
type structPlan struct {
	fields   []field
	byName   map[string]int
	required []int
}

var (
	timeType = reflect.TypeFor[time.Time]()
	rawType  = reflect.TypeFor[json.RawMessage]()

	plans  sync.Map // reflect.Type → *plan
	planMu sync.Mutex

	unions    = map[reflect.Type]*union{}    // by interface type; guarded by planMu
	documents = map[reflect.Type]*document{} // by interface type; guarded by planMu
	required  = map[reflect.Type][]string{}  // Go field names by struct type; guarded by planMu
)

func planOf(t reflect.Type) (*plan, error) {
	if p, ok := plans.Load(t); ok {
		return p.(*plan), nil
	}
	planMu.Lock()
	defer planMu.Unlock()
	b := planner{made: map[reflect.Type]*plan{}}
	p, err := b.plan(t)
	if err != nil {
		return nil, err
	}
	for t, p := range b.made { // only complete plans become visible
		plans.LoadOrStore(t, p)
	}
	return p, nil
}

// planner makes the plans of a type and of all it refers to; a type that refers to itself finds its own unfinished plan.
type planner struct{ made map[reflect.Type]*plan }

func (b *planner) plan(t reflect.Type) (*plan, error) {
	if p, ok := plans.Load(t); ok {
		return p.(*plan), nil
	}
	if p, ok := b.made[t]; ok {
		return p, nil
	}
	p := &plan{unset: neverUnset}
	b.made[t] = p
	if err := b.fill(p, t); err != nil {
		return nil, err
	}
	return p, nil
}

func (b *planner) fill(p *plan, t reflect.Type) error {
	switch {
	case t == timeType:
		p.encode, p.decode, p.unset = encodeTime, decodeTime, zeroUnset
		return nil
	case t == rawType:
		p.encode, p.decode, p.unset = encodeRaw, decodeRaw, nilUnset
		return nil
	}
	switch t.Kind() {
	case reflect.String:
		p.encode, p.decode, p.unset = encodeString, decodeString, zeroUnset
	case reflect.Bool:
		p.encode, p.decode, p.unset = encodeBool, decodeBool, requestUnset
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		p.encode, p.decode, p.unset = encodeInt, decodeInt, requestUnset
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		p.encode, p.decode, p.unset = encodeUint, decodeUint, requestUnset
	case reflect.Float32, reflect.Float64:
		p.encode, p.decode, p.unset = encodeFloat, decodeFloat, requestUnset
	case reflect.Pointer:
		elem, err := b.plan(t.Elem())
		if err != nil {
			return err
		}
		p.encode = func(e *encoder, v reflect.Value) error {
			if v.IsNil() {
				e.buf = append(e.buf, "null"...)
				return nil
			}
			return elem.encode(e, v.Elem())
		}
		p.decode = func(d *decoder, v reflect.Value) error {
			if v.IsNil() {
				v.Set(reflect.New(t.Elem()))
			}
			return elem.decode(d, v.Elem())
		}
		p.unset = nilUnset
	case reflect.Slice:
		p.unset = nilUnset
		if t.Elem().Kind() == reflect.Uint8 {
			p.encode, p.decode = encodeBlob, decodeBlob
			return nil
		}
		elem, err := b.plan(t.Elem())
		if err != nil {
			return err
		}
		p.encode = func(e *encoder, v reflect.Value) error { return encodeList(e, v, elem) }
		p.decode = func(d *decoder, v reflect.Value) error { return decodeList(d, v, elem) }
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			return &typeError{t.String() + ": only strings can be keys of a map"}
		}
		elem, err := b.plan(t.Elem())
		if err != nil {
			return err
		}
		p.encode = func(e *encoder, v reflect.Value) error { return encodeMap(e, v, elem) }
		p.decode = func(d *decoder, v reflect.Value) error { return decodeMap(d, v, elem) }
		p.unset = nilUnset
	case reflect.Struct:
		s, err := b.structPlan(t)
		if err != nil {
			return err
		}
		p.encode = func(e *encoder, v reflect.Value) error { return encodeStruct(e, v, s) }
		p.decode = func(d *decoder, v reflect.Value) error { return decodeStruct(d, v, s) }
	case reflect.Interface:
		p.unset = nilUnset
		if doc := documents[t]; doc != nil {
			p.encode, p.decode = doc.encode, doc.decode
			return nil
		}
		u := unions[t]
		if u == nil {
			return &typeError{t.String() + " is a union or document that no imported package has registered (protocol/ecsapi registers those of ECS)"}
		}
		if err := u.resolve(b); err != nil {
			return err
		}
		p.encode, p.decode = u.encode, u.decode
	default:
		return &typeError{t.String() + " has no form in AWS JSON"}
	}
	return nil
}

func (b *planner) structPlan(t reflect.Type) (*structPlan, error) {
	s := &structPlan{byName: map[string]int{}}
	if err := b.collect(s, t, nil); err != nil {
		return nil, err
	}
	slices.SortFunc(s.fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	if len(s.fields) > maxMembers {
		return nil, &typeError{t.String() + " has too many members"}
	}
	clear(s.byName)
	for i := range s.fields {
		s.byName[s.fields[i].name] = i
		if s.fields[i].required {
			s.required = append(s.required, i)
		}
	}
	return s, nil
}

func (b *planner) collect(s *structPlan, t reflect.Type, prefix []int) error {
	var inlined []reflect.StructField
	must := required[t]
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("awsjson")
		if !f.IsExported() || tag == "-" || isResultMetadata(f) {
			continue
		}
		if f.Anonymous && tag == "" {
			if f.Type.Kind() != reflect.Struct {
				return &typeError{t.String() + "." + f.Name + ": only structs can be embedded"}
			}
			inlined = append(inlined, f)
			continue
		}
		name := tag
		if name == "" {
			name = MemberName(f.Name)
		}
		if _, hidden := s.byName[name]; hidden {
			continue
		}
		p, err := b.plan(f.Type)
		if err != nil {
			return err
		}
		s.byName[name] = len(s.fields)
		s.fields = append(s.fields, field{
			name: name, key: string(appendString(nil, name)) + ":", index: append(slices.Clone(prefix), i), plan: p,
			required: slices.Contains(must, f.Name),
		})
	}
	for _, f := range inlined {
		if err := b.collect(s, f.Type, append(slices.Clone(prefix), f.Index...)); err != nil {
			return err
		}
	}
	return nil
}

// MemberName is the wire name of a Go field: the same with its first letter lowered.
func MemberName(goName string) string {
	r, n := utf8.DecodeRuneInString(goName)
	return strings.ToLower(string(r)) + goName[n:]
}

// isResultMetadata recognises what the SDK adds to every output.
func isResultMetadata(f reflect.StructField) bool {
	return f.Name == "ResultMetadata" && f.Type.Name() == "Metadata" && strings.HasSuffix(f.Type.PkgPath(), "smithy-go/middleware")
}

func neverUnset(reflect.Value, bool) bool             { return false }
func nilUnset(v reflect.Value, _ bool) bool           { return v.IsNil() }
func zeroUnset(v reflect.Value, _ bool) bool          { return v.IsZero() }
func requestUnset(v reflect.Value, request bool) bool { return request && v.IsZero() }
