package awsjson

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads JSON tokens from data at pos. Its errors carry no path; decoder.locate adds it.
type scanner struct {
	data  []byte
	pos   int
	depth int
}

func (s *scanner) fail(reason string) error {
	return &SerializationError{Reason: reason, Offset: s.pos}
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// peek skips space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

// kind names the JSON type of the value that begins here.
func (s *scanner) kind() string {
	switch c := s.peek(); {
	case c == '{':
		return "an object"
	case c == '[':
		return "a list"
	case c == '"':
		return "a string"
	case c == 't' || c == 'f':
		return "a boolean"
	case c == 'n':
		return "null"
	case c == '-' || c >= '0' && c <= '9':
		return "a number"
	case c == 0 && s.pos >= len(s.data):
		return "the end of the document"
	default:
		return "something that is not JSON"
	}
}

func (s *scanner) expected(what string) error {
	return s.fail("expected " + what + ", got " + s.kind())
}

// open enters an object or list.
func (s *scanner) open(c byte, what string) error {
	if s.peek() != c {
		return s.expected(what)
	}
	if s.depth++; s.depth > MaxDepth {
		return s.fail("more than " + strconv.Itoa(MaxDepth) + " objects and lists inside each other")
	}
	s.pos++
	return nil
}

// more moves to the next entry of an object or list and tells whether there is one; n counts the entries seen.
func (s *scanner) more(n int, end byte) (bool, error) {
	c := s.peek()
	if c == end {
		s.pos++
		s.depth--
		return false, nil
	}
	if n > 0 {
		if c != ',' {
			return false, s.fail("expected ',' or '" + string(end) + "', got " + s.kind())
		}
		s.pos++
		s.space()
	}
	return true, nil
}

// name reads a member's name and the colon. The result may point into data and is valid until the next call.
func (s *scanner) name() ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.fail("expected a member's name in double quotes, got " + s.kind())
	}
	b, err := s.string()
	if err != nil {
		return nil, err
	}
	if s.peek() != ':' {
		return nil, s.fail("expected ':' after a member's name")
	}
	s.pos++
	return b, nil
}

// null consumes a null if one is next.
func (s *scanner) null() (bool, error) {
	if s.peek() != 'n' {
		return false, nil
	}
	return true, s.literal("null")
}

func (s *scanner) literal(word string) error {
	if len(s.data)-s.pos < len(word) || string(s.data[s.pos:s.pos+len(word)]) != word {
		return s.fail("expected " + word)
	}
	s.pos += len(word)
	return nil
}

// string reads a string; without escapes the result points into data.
func (s *scanner) string() ([]byte, error) {
	s.pos++ // the quote
	start := s.pos
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			b := s.data[start:s.pos]
			if !utf8.Valid(b) {
				return nil, s.fail("a string is not valid UTF-8")
			}
			s.pos++
			return b, nil
		case c == '\\':
			return s.escaped(start)
		case c < ' ':
			return nil, s.fail("a control character in a string must be escaped")
		default:
			s.pos++
		}
	}
	return nil, s.fail("a string does not end")
}

func (s *scanner) escaped(start int) ([]byte, error) {
	b := append(make([]byte, 0, 2*(s.pos-start)+32), s.data[start:s.pos]...)
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		switch {
		case c == '"':
			if !utf8.Valid(b) {
				return nil, s.fail("a string is not valid UTF-8")
			}
			s.pos++
			return b, nil
		case c < ' ':
			return nil, s.fail("a control character in a string must be escaped")
		case c != '\\':
			b = append(b, c)
			s.pos++
		default:
			var err error
			if b, err = s.escape(b); err != nil {
				return nil, err
			}
		}
	}
	return nil, s.fail("a string does not end")
}

func (s *scanner) escape(b []byte) ([]byte, error) {
	if s.pos+1 >= len(s.data) {
		return nil, s.fail("a string does not end")
	}
	c := s.data[s.pos+1]
	if c == 'u' {
		r, ok := s.hex4(s.pos + 2)
		n := 6
		if ok && utf16.IsSurrogate(r) {
			low, ok2 := rune(0), false
			if s.pos+7 < len(s.data) && s.data[s.pos+6] == '\\' && s.data[s.pos+7] == 'u' {
				low, ok2 = s.hex4(s.pos + 8)
			}
			r, n = utf16.DecodeRune(r, low), 12
			ok = ok2 && r != utf8.RuneError
		}
		if !ok {
			return nil, s.fail(`a \u escape is not a Unicode character`)
		}
		s.pos += n
		return utf8.AppendRune(b, r), nil
	}
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	default:
		return nil, s.fail("an unknown escape in a string")
	}
	s.pos += 2
	return append(b, c), nil
}

func (s *scanner) hex4(at int) (rune, bool) {
	if at+4 > len(s.data) {
		return 0, false
	}
	var r rune
	for _, c := range s.data[at : at+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// number reads a number's text as the JSON grammar has it.
func (s *scanner) number() ([]byte, error) {
	start := s.pos
	digits := func() bool {
		from := s.pos
		for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
			s.pos++
		}
		return s.pos > from
	}
	at := func(c byte) bool { return s.pos < len(s.data) && s.data[s.pos] == c }
	if at('-') {
		s.pos++
	}
	ok := at('0')
	if ok {
		s.pos++
	} else {
		ok = digits()
	}
	if ok && at('.') {
		s.pos++
		ok = digits()
	}
	if ok && (at('e') || at('E')) {
		s.pos++
		if at('+') || at('-') {
			s.pos++
		}
		from := s.pos
		ok = digits()
		if exp, err := strconv.Atoi(string(s.data[from:s.pos])); ok && (err != nil || exp > maxNumber) {
			return nil, s.fail("a number's exponent is out of range")
		}
	}
	if !ok {
		return nil, s.fail("a number is malformed")
	}
	if s.pos-start > maxNumber {
		return nil, s.fail("a number has more than " + strconv.Itoa(maxNumber) + " characters")
	}
	return s.data[start:s.pos], nil
}

// maxNumber bounds the length of a number's text and its exponent, so that no conversion can be made expensive.
const maxNumber = 400

// skip reads one value of any type and returns its text.
func (s *scanner) skip() ([]byte, error) {
	c := s.peek()
	start := s.pos
	var err error
	switch {
	case c == '{':
		err = s.skipObject()
	case c == '[':
		err = s.skipList()
	case c == '"':
		_, err = s.string()
	case c == 't':
		err = s.literal("true")
	case c == 'f':
		err = s.literal("false")
	case c == 'n':
		err = s.literal("null")
	case c == '-' || c >= '0' && c <= '9':
		_, err = s.number()
	default:
		err = s.expected("a value")
	}
	if err != nil {
		return nil, err
	}
	return s.data[start:s.pos], nil
}

func (s *scanner) skipObject() error {
	if err := s.open('{', "an object"); err != nil {
		return err
	}
	for n := 0; ; n++ {
		more, err := s.more(n, '}')
		if err != nil || !more {
			return err
		}
		if _, err := s.name(); err != nil {
			return err
		}
		if _, err := s.skip(); err != nil {
			return err
		}
	}
}

func (s *scanner) skipList() error {
	if err := s.open('[', "a list"); err != nil {
		return err
	}
	for n := 0; ; n++ {
		more, err := s.more(n, ']')
		if err != nil || !more {
			return err
		}
		if _, err := s.skip(); err != nil {
			return err
		}
	}
}
