package awsjson

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

type encoder struct {
	buf     []byte
	request bool
	inexact bool // something that was written may read as something else
}

func encodeStruct(e *encoder, v reflect.Value, s *structPlan) error {
	e.buf = append(e.buf, '{')
	first := true
	for i := range s.fields {
		f := &s.fields[i]
		fv := f.of(v)
		if f.plan.unset(fv, e.request) {
			continue
		}
		if !first {
			e.buf = append(e.buf, ',')
		}
		first = false
		e.buf = append(e.buf, f.key...)
		if err := f.plan.encode(e, fv); err != nil {
			return err
		}
	}
	e.buf = append(e.buf, '}')
	return nil
}

func encodeList(e *encoder, v reflect.Value, elem *plan) error {
	e.buf = append(e.buf, '[')
	for i := range v.Len() {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		if err := elem.encode(e, v.Index(i)); err != nil {
			return err
		}
	}
	e.buf = append(e.buf, ']')
	return nil
}

func encodeMap(e *encoder, v reflect.Value, elem *plan) error {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	e.buf = append(e.buf, '{')
	for i, k := range keys {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		e.buf = append(appendString(e.buf, k.String()), ':')
		if err := elem.encode(e, v.MapIndex(k)); err != nil {
			return err
		}
	}
	e.buf = append(e.buf, '}')
	return nil
}

func encodeString(e *encoder, v reflect.Value) error {
	e.buf = appendString(e.buf, v.String())
	return nil
}

func encodeBool(e *encoder, v reflect.Value) error {
	e.buf = strconv.AppendBool(e.buf, v.Bool())
	return nil
}

func encodeInt(e *encoder, v reflect.Value) error {
	e.buf = strconv.AppendInt(e.buf, v.Int(), 10)
	return nil
}

func encodeUint(e *encoder, v reflect.Value) error {
	e.buf = strconv.AppendUint(e.buf, v.Uint(), 10)
	return nil
}

func encodeFloat(e *encoder, v reflect.Value) error {
	f := v.Float()
	switch {
	case math.IsNaN(f):
		e.buf = append(e.buf, `"NaN"`...)
	case math.IsInf(f, 1):
		e.buf = append(e.buf, `"Infinity"`...)
	case math.IsInf(f, -1):
		e.buf = append(e.buf, `"-Infinity"`...)
	default:
		format := byte('f')
		if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
			format = 'e'
		}
		e.buf = strconv.AppendFloat(e.buf, f, format, -1, v.Type().Bits())
	}
	return nil
}

func encodeTime(e *encoder, v reflect.Value) error {
	t, _ := reflect.TypeAssert[time.Time](v)
	if t != t.UTC().Truncate(time.Millisecond) {
		e.inexact = true
	}
	ms := t.UnixMilli()
	if ms < 0 {
		e.buf = append(e.buf, '-')
		ms = -ms
	}
	e.buf = strconv.AppendInt(e.buf, ms/1000, 10)
	if ms %= 1000; ms != 0 {
		frac := strconv.Itoa(1000 + int(ms))[1:]
		e.buf = append(append(e.buf, '.'), strings.TrimRight(frac, "0")...)
	}
	return nil
}

func encodeBlob(e *encoder, v reflect.Value) error {
	e.buf = append(e.buf, '"')
	e.buf = base64.StdEncoding.AppendEncode(e.buf, v.Bytes())
	e.buf = append(e.buf, '"')
	return nil
}

func encodeRaw(e *encoder, v reflect.Value) error {
	if !json.Valid(v.Bytes()) {
		return &typeError{"a json.RawMessage does not hold JSON"}
	}
	e.buf = append(e.buf, v.Bytes()...)
	return nil
}

const hex = "0123456789abcdef"

// appendString appends s as a JSON string; bytes that are not UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(append(b, s[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += n
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
