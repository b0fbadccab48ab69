// Command router stands in for Fluent Bit in the tests: it reads the configuration at Fluent Bit's path, in Fluent Bit's classic
// form, speaks the forward protocol on its inputs, and prints what its stdout outputs match, one JSON object a line. It
// knows the plugins forward, tcp, grep, record_modifier, stdout and null, and ends with an error at anything else.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
)

const config = "/fluent-bit/etc/fluent-bit.conf"

// entry is a line of a section; keys have no case.
type entry struct{ key, value string }

type section struct {
	kind    string
	entries []entry
}

func (s section) get(key string) string {
	for _, e := range s.entries {
		if strings.EqualFold(e.key, key) {
			return e.value
		}
	}
	return ""
}

// read reads a file and those that it includes.
func read(name string, sections []section) ([]section, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "@INCLUDE "):
			if sections, err = read(strings.TrimPrefix(line, "@INCLUDE "), sections); err != nil {
				return nil, err
			}
		case line[0] == '[':
			sections = append(sections, section{kind: strings.Trim(line, "[]")})
		case len(sections) == 0:
			return nil, fmt.Errorf("%s: %q stands in no section", name, line)
		default:
			key, value, _ := strings.Cut(line, " ")
			s := &sections[len(sections)-1]
			s.entries = append(s.entries, entry{key, os.ExpandEnv(strings.TrimSpace(value))})
		}
	}
	return sections, nil
}

type router struct {
	filters, outputs []section
	mu               sync.Mutex
}

// serve takes the messages of one connection: [tag, time, record] or [tag, time, record, options].
func (r *router) serve(c net.Conn) {
	defer c.Close()
	for d := msgpack.NewDecoder(c); ; {
		n, err := d.DecodeArrayLen()
		if err == nil && (n < 3 || n > 4) {
			err = fmt.Errorf("a message of %d parts", n)
		}
		var tag string
		var record map[string]any
		if err == nil {
			err = errors.Join(d.Decode(&tag), d.Skip(), d.Decode(&record))
		}
		if err == nil && n == 4 {
			err = d.Skip()
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "router:", err)
			}
			return
		}
		r.route(tag, record)
	}
}

func (r *router) route(tag string, record map[string]any) {
	matches := func(s section) bool { ok, _ := path.Match(s.get("Match"), tag); return ok }
	for _, f := range r.filters {
		if matches(f) && !keep(f, record) {
			return
		}
	}
	for _, o := range r.outputs {
		if matches(o) && o.get("Name") == "stdout" {
			settings := map[string]string{}
			for _, e := range o.entries {
				settings[e.key] = e.value
			}
			line, _ := json.Marshal(map[string]any{"tag": tag, "record": record, "output": settings})
			r.mu.Lock()
			fmt.Println(string(line))
			r.mu.Unlock()
		}
	}
}

// keep applies a filter.
func keep(f section, record map[string]any) bool {
	for _, e := range f.entries {
		field, rest, _ := strings.Cut(e.value, " ")
		switch strings.ToLower(e.key) {
		case "record":
			record[field] = rest
		case "regex", "exclude":
			text, _ := record[field].(string)
			if regexp.MustCompile(rest).MatchString(text) == strings.EqualFold(e.key, "exclude") {
				return false
			}
		}
	}
	return true
}

func (r *router) listen(s section) error {
	network, address := "tcp", net.JoinHostPort(s.get("Listen"), s.get("Port"))
	if p := s.get("unix_path"); p != "" {
		network, address = "unix", p
		_ = os.Remove(p)
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if s.get("Name") == "forward" {
				go r.serve(c)
			} else {
				_ = c.Close()
			}
		}
	}()
	return nil
}

// run serves for ever; it returns what keeps it from it.
func run() error {
	sections, err := read(config, nil)
	if err != nil {
		return err
	}
	known := map[string]string{"INPUT": "forward tcp", "FILTER": "grep record_modifier", "OUTPUT": "stdout null"}
	r := &router{}
	for _, s := range sections {
		if !strings.Contains(" "+known[s.kind]+" ", " "+s.get("Name")+" ") {
			return fmt.Errorf("the plugin %q of a section %s is not known", s.get("Name"), s.kind)
		}
		switch s.kind {
		case "FILTER":
			r.filters = append(r.filters, s)
		case "OUTPUT":
			r.outputs = append(r.outputs, s)
		}
	}
	for _, s := range sections {
		if s.kind == "INPUT" {
			if err := r.listen(s); err != nil {
				return err
			}
		}
	}
	select {}
}

func main() {
	fmt.Fprintln(os.Stderr, "router:", run())
	os.Exit(1)
}
