package awsjson

import (
	"encoding/base64"
	"errors"
	"math"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// maxMembers bounds the members of a struct: their presence is kept in a bit set.
const maxMembers = 128

type decoder struct {
	scanner
	path   []step
	report Report
}

// step is one step of a path: a member or map key, or an index of a list when name is empty and isIndex.
type step struct {
	name    string
	index   int
	isIndex bool
}

func (d *decoder) pathString() string {
	var b strings.Builder
	for _, s := range d.path {
		switch {
		case s.isIndex:
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		case b.Len() > 0:
			b.WriteString("." + s.name)
		default:
			b.WriteString(s.name)
		}
	}
	return b.String()
}

// locate gives an error the path at which decoding stopped.
func (d *decoder) locate(err error) error {
	var e *SerializationError
	if errors.As(err, &e) && e.Path == "" {
		e.Path = d.pathString()
	}
	return err
}

func (d *decoder) push(s step) { d.path = append(d.path, s) }
func (d *decoder) pop()        { d.path = d.path[:len(d.path)-1] }

func decodeStruct(d *decoder, v reflect.Value, s *structPlan) error {
	if err := d.open('{', "an object"); err != nil {
		return err
	}
	var seen, present [maxMembers / 64]uint64
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
		i, known := s.byName[string(key)]
		if !known {
			d.push(step{name: string(key)})
			if _, err := d.skip(); err != nil {
				return err
			}
			d.report.Unknown = append(d.report.Unknown, d.pathString())
			d.pop()
			continue
		}
		f := &s.fields[i]
		d.push(step{name: f.name})
		word, bit := i/64, uint64(1)<<(i%64)
		if seen[word]&bit != 0 {
			return d.fail("the member appears twice")
		}
		seen[word] |= bit
		isNull, err := d.null()
		if err == nil && !isNull {
			present[word] |= bit
			err = f.plan.decode(d, f.of(v))
		}
		if err != nil {
			return err
		}
		d.pop()
	}
	for _, i := range s.required {
		if present[i/64]&(1<<(i%64)) == 0 {
			d.push(step{name: s.fields[i].name})
			d.report.Missing = append(d.report.Missing, d.pathString())
			d.pop()
		}
	}
	return nil
}

func decodeList(d *decoder, v reflect.Value, elem *plan) error {
	if err := d.open('[', "a list"); err != nil {
		return err
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	for n := 0; ; n++ {
		more, err := d.more(n, ']')
		if err != nil || !more {
			return err
		}
		d.push(step{index: n, isIndex: true})
		if v.Len() == v.Cap() {
			v.Grow(1 + v.Len()/2)
		}
		v.SetLen(n + 1)
		v.Index(n).SetZero()
		if d.peek() == 'n' {
			return d.fail("null is not allowed in a list")
		}
		if err := elem.decode(d, v.Index(n)); err != nil {
			return err
		}
		d.pop()
	}
}

func decodeMap(d *decoder, v reflect.Value, elem *plan) error {
	if err := d.open('{', "an object"); err != nil {
		return err
	}
	v.Set(reflect.MakeMap(v.Type()))
	for n := 0; ; n++ {
		more, err := d.more(n, '}')
		if err != nil || !more {
			return err
		}
		key, err := d.name()
		if err != nil {
			return err
		}
		name := string(key)
		d.push(step{name: name})
		k := reflect.ValueOf(name).Convert(v.Type().Key())
		if v.MapIndex(k).IsValid() {
			return d.fail("the key appears twice")
		}
		if d.peek() == 'n' {
			return d.fail("null is not allowed in a map")
		}
		value := reflect.New(v.Type().Elem()).Elem()
		if err := elem.decode(d, value); err != nil {
			return err
		}
		v.SetMapIndex(k, value)
		d.pop()
	}
}

func decodeString(d *decoder, v reflect.Value) error {
	if d.peek() != '"' {
		return d.expected("a string")
	}
	b, err := d.string()
	if err != nil {
		return err
	}
	v.SetString(string(b))
	return nil
}

func decodeBool(d *decoder, v reflect.Value) error {
	switch d.peek() {
	case 't':
		v.SetBool(true)
		return d.literal("true")
	case 'f':
		v.SetBool(false)
		return d.literal("false")
	}
	return d.expected("a boolean")
}

func (d *decoder) isNumber() bool {
	c := d.peek()
	return c == '-' || c >= '0' && c <= '9'
}

// integral rewrites a number such as 1.0 or 2e3 without fraction and exponent; false if it has a fraction.
func integral(text string) (string, bool) {
	if !strings.ContainsAny(text, ".eE") {
		return text, true
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.Abs(f) > 1<<62 {
		return "9223372036854775808", true // out of every range
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok || !r.IsInt() {
		return "", false
	}
	return r.Num().String(), true
}

func decodeInt(d *decoder, v reflect.Value) error {
	text, at, err := d.integer()
	if err != nil {
		return err
	}
	i, err := strconv.ParseInt(text, 10, v.Type().Bits())
	if err != nil {
		d.pos = at
		bound := int64(math.MaxInt64) >> (64 - v.Type().Bits())
		return d.fail("expected an integer from " + strconv.FormatInt(-bound-1, 10) + " to " + strconv.FormatInt(bound, 10))
	}
	v.SetInt(i)
	return nil
}

func decodeUint(d *decoder, v reflect.Value) error {
	text, at, err := d.integer()
	if err != nil {
		return err
	}
	u, err := strconv.ParseUint(text, 10, v.Type().Bits())
	if err != nil {
		d.pos = at
		return d.fail("expected an integer from 0 to " + strconv.FormatUint(math.MaxUint64>>(64-v.Type().Bits()), 10))
	}
	v.SetUint(u)
	return nil
}

func (d *decoder) integer() (text string, at int, err error) {
	if !d.isNumber() {
		return "", 0, d.expected("an integer")
	}
	at = d.pos
	b, err := d.number()
	if err != nil {
		return "", 0, err
	}
	text, ok := integral(string(b))
	if !ok {
		d.pos = at
		return "", 0, d.fail("expected an integer, got a number with a fraction")
	}
	return text, at, nil
}

func decodeFloat(d *decoder, v reflect.Value) error {
	if d.peek() == '"' {
		b, err := d.string()
		if err != nil {
			return err
		}
		switch string(b) {
		case "NaN":
			v.SetFloat(math.NaN())
		case "Infinity":
			v.SetFloat(math.Inf(1))
		case "-Infinity":
			v.SetFloat(math.Inf(-1))
		default:
			return d.fail("expected a number, got a string")
		}
		return nil
	}
	if !d.isNumber() {
		return d.expected("a number")
	}
	at := d.pos
	b, err := d.number()
	if err != nil {
		return err
	}
	f, err := strconv.ParseFloat(string(b), v.Type().Bits())
	if err != nil {
		d.pos = at
		return d.fail("the number is out of range")
	}
	v.SetFloat(f)
	return nil
}

func decodeTime(d *decoder, v reflect.Value) error {
	at := d.pos
	if d.peek() == '"' {
		b, err := d.string()
		if err != nil {
			return err
		}
		t, err := time.Parse(time.RFC3339Nano, string(b))
		if err != nil {
			d.pos = at
			return d.fail("expected a timestamp (seconds since the epoch, or an ISO-8601 string with a zone)")
		}
		v.Set(reflect.ValueOf(t.UTC()))
		return nil
	}
	if !d.isNumber() {
		return d.expected("a timestamp")
	}
	at = d.pos
	b, err := d.number()
	if err != nil {
		return err
	}
	t, ok := parseSeconds(string(b))
	if !ok {
		d.pos = at
		return d.fail("the timestamp is out of range")
	}
	v.Set(reflect.ValueOf(t))
	return nil
}

// The first and last second that RFC 3339 can write.
const (
	minSecond = -62135596800
	maxSecond = 253402300799
)

// parseSeconds reads seconds since the epoch exactly, to the nanosecond.
func parseSeconds(text string) (time.Time, bool) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f < minSecond || f > maxSecond {
		return time.Time{}, false
	}
	if !strings.ContainsAny(text, ".eE") {
		return time.Unix(int64(f), 0).UTC(), true
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return time.Time{}, false
	}
	r.Mul(r, big.NewRat(1e9, 1))
	ns := new(big.Int).Div(r.Num(), r.Denom())
	sec, frac := new(big.Int).DivMod(ns, big.NewInt(1e9), new(big.Int))
	return time.Unix(sec.Int64(), frac.Int64()).UTC(), true
}

func decodeBlob(d *decoder, v reflect.Value) error {
	if d.peek() != '"' {
		return d.expected("a base64 string")
	}
	b, err := d.string()
	if err != nil {
		return err
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Decode(out, b)
	if err != nil {
		return d.fail("the string is not base64")
	}
	v.SetBytes(out[:n])
	return nil
}

func decodeRaw(d *decoder, v reflect.Value) error {
	b, err := d.skip()
	if err != nil {
		return err
	}
	v.SetBytes(append([]byte(nil), b...))
	return nil
}
