package awsjson

import (
	"reflect"
	"slices"
	"strings"
)

// union is an interface type of which each value is one of a few one-field structs.
type union struct {
	members []unionMember
	byName  map[string]*unionMember
	byType  map[reflect.Type]*unionMember
}

type unionMember struct {
	name  string
	typ   reflect.Type // the struct; its pointer is in the interface
	value *plan        // of the field Value
}

// RegisterUnion tells the codec which types satisfy the union interface U: the zero values' pointers, as in
// RegisterUnion[types.SharingStrategy](&types.SharingStrategyMemberNvidiaMps{}). As the SDK has it, the wire name follows
// "<interface>Member" in the type's name and the value is the field Value. Call it from package initialisation.
func RegisterUnion[U any](members ...U) {
	t := reflect.TypeFor[U]()
	u := &union{byName: map[string]*unionMember{}, byType: map[reflect.Type]*unionMember{}}
	for _, m := range members {
		mt := reflect.TypeOf(m).Elem()
		name, ok := strings.CutPrefix(mt.Name(), t.Name()+"Member")
		if !ok {
			panic("awsjson: " + mt.String() + " is not named like a member of " + t.String())
		}
		u.members = append(u.members, unionMember{name: MemberName(name), typ: mt})
	}
	for i := range u.members {
		m := &u.members[i]
		u.byName[m.name], u.byType[reflect.PointerTo(m.typ)] = m, m
	}
	planMu.Lock()
	defer planMu.Unlock()
	unions[t] = u
}

func (u *union) resolve(b *planner) error {
	for i := range u.members {
		f, ok := u.members[i].typ.FieldByName("Value")
		if !ok {
			return &typeError{u.members[i].typ.String() + " has no field Value"}
		}
		p, err := b.plan(f.Type)
		if err != nil {
			return err
		}
		u.members[i].value = p
	}
	return nil
}

func (u *union) encode(e *encoder, v reflect.Value) error {
	if v.IsNil() {
		e.buf = append(e.buf, "null"...)
		return nil
	}
	e.inexact = true
	m := u.byType[v.Elem().Type()]
	if m == nil || v.Elem().IsNil() {
		return &typeError{v.Elem().Type().String() + " is not a member of the union " + v.Type().String()}
	}
	e.buf = append(appendString(append(e.buf, '{'), m.name), ':')
	if err := m.value.encode(e, v.Elem().Elem().FieldByName("Value")); err != nil {
		return err
	}
	e.buf = append(e.buf, '}')
	return nil
}

func (u *union) decode(d *decoder, v reflect.Value) error {
	if err := d.open('{', "an object"); err != nil {
		return err
	}
	set := 0
	for n := 0; ; n++ {
		more, err := d.more(n, '}')
		if err != nil {
			return err
		}
		if !more {
			break
		}
		key, err := d.name()
		if err != nil {
			return err
		}
		m := u.byName[string(key)]
		d.push(step{name: string(key)})
		isNull, err := d.null()
		switch {
		case err != nil:
			return err
		case isNull:
		case m == nil:
			set++
			if _, err := d.skip(); err != nil {
				return err
			}
			d.report.Unknown = append(d.report.Unknown, d.pathString())
		default:
			set++
			member := reflect.New(m.typ)
			if err := m.value.decode(d, member.Elem().FieldByName("Value")); err != nil {
				return err
			}
			v.Set(member)
		}
		d.pop()
	}
	if set != 1 {
		return d.fail("expected an object with exactly one member")
	}
	return nil
}

// document is an interface type that holds any JSON value.
type document struct{ parse func(raw []byte) (any, error) }

// RegisterDocument tells the codec how a document of the interface type D is made from a JSON text. Documents are encoded
// with their method MarshalSmithyDocument. Call it from package initialisation.
func RegisterDocument[D any](parse func(raw []byte) (D, error)) {
	planMu.Lock()
	defer planMu.Unlock()
	documents[reflect.TypeFor[D]()] = &document{func(raw []byte) (any, error) { return parse(raw) }}
}

func (doc *document) encode(e *encoder, v reflect.Value) error {
	if v.IsNil() {
		e.buf = append(e.buf, "null"...)
		return nil
	}
	e.inexact = true
	m, ok := v.Interface().(interface{ MarshalSmithyDocument() ([]byte, error) })
	if !ok {
		return &typeError{v.Elem().Type().String() + " is not a document"}
	}
	b, err := m.MarshalSmithyDocument()
	if err != nil {
		return err
	}
	e.buf = append(e.buf, b...)
	return nil
}

func (doc *document) decode(d *decoder, v reflect.Value) error {
	raw, err := d.skip()
	if err != nil {
		return err
	}
	value, err := doc.parse(raw)
	if err != nil {
		return d.fail(err.Error())
	}
	v.Set(reflect.ValueOf(value))
	return nil
}

// RegisterRequired tells the codec which members of the struct type of v the service model calls required, by Go field
// name; [Report].Missing lists those that a document lacks. Call it from package initialisation.
func RegisterRequired(v any, fields ...string) {
	planMu.Lock()
	defer planMu.Unlock()
	required[reflect.TypeOf(v)] = slices.Clone(fields)
}
