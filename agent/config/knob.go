package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/longshore-project/longshore/protocol/awsapi"
)

// Support says what a setting does in this version; all but [Supported] are warned about when they are set.
type Support string

// How far a setting is supported.
const (
	Supported Support = ""
	// HostService is a setting that only a containerised agent's host service reads.
	HostService Support = "has no effect: it configures the container that the agent runs in, and this agent runs on the host itself"
	// Obsolete is a setting whose opposite does not exist here.
	Obsolete Support = "has no effect: this agent always keeps its state"
)

// Knob is one setting.
type Knob struct {
	Name    string   // environment variable
	Aliases []string // older names that are still read
	JSON    string   // member of the JSON file, empty if it can't be set there
	Type    string   // boolean, duration, integer, string, enum, json map, json list, port range, path or secret
	Default string
	Bounds  string // human-readable; empty when there are none
	Meaning string
	Support Support
	// Strict settings are an error when they can't be understood, not a warning.
	Strict bool
	// Raised settings get the least value where less is asked for, as the Amazon ECS agent has it; others the default.
	Raised bool
	parse  func(*Config, string) error
}

// Expect says what a good value looks like.
func (k *Knob) Expect() string {
	if k.Type == "enum" {
		return k.Bounds
	}
	if k.Bounds != "" {
		return fmt.Sprintf("a %s (%s)", k.Type, k.Bounds)
	}
	return "a " + k.Type
}

func (k *Knob) fallback() string {
	if k.Default == "" {
		return "no value"
	}
	return "the default " + k.Default
}

// neutral says whether a value of an unsupported setting asks for what happens anyway.
func (k *Knob) neutral(text string) bool {
	text = strings.TrimSpace(text)
	if text == k.Default {
		return true
	}
	given, err := strconv.ParseBool(text)
	def, defErr := strconv.ParseBool(k.Default)
	return err == nil && defErr == nil && given == def
}

func knobByJSON(key string) (*Knob, bool) {
	for i := range Knobs {
		if Knobs[i].JSON != "" && strings.EqualFold(Knobs[i].JSON, key) {
			return &Knobs[i], true
		}
	}
	return nil, false
}

// knobByName finds a knob by its name or an older one.
var knobByName = func() map[string]*Knob {
	m := make(map[string]*Knob, len(Knobs))
	for i := range Knobs {
		m[Knobs[i].Name] = &Knobs[i]
		for _, a := range Knobs[i].Aliases {
			m[a] = &Knobs[i]
		}
	}
	return m
}()

func text(name, json, def, meaning string, field func(*Config) *string) Knob {
	return Knob{Name: name, JSON: json, Type: "string", Default: def, Meaning: meaning, parse: func(c *Config, v string) error {
		*field(c) = v
		return nil
	}}
}

func hidden(name, json, meaning string, field func(*Config) *Secret) Knob {
	return Knob{Name: name, JSON: json, Type: "secret", Meaning: meaning, parse: func(c *Config, v string) error {
		*field(c) = Secret(v)
		return nil
	}}
}

// logSize is a size as Docker's json-file log driver takes it.
func logSize(name, def, meaning string, field func(*Config) *string) Knob {
	return Knob{Name: name, Type: "string", Default: def, Bounds: "such as 10m, 500k or 1g", Meaning: meaning, parse: func(c *Config, v string) error {
		digits := strings.TrimRight(strings.ToLower(v), "kmg")
		if n, err := strconv.ParseUint(digits, 10, 32); err != nil || len(v) > len(digits)+1 || n == 0 && v != "0" {
			return fmt.Errorf("%q is not a size such as 10m", truncate(v))
		}
		*field(c) = strings.ToLower(v)
		return nil
	}}
}

func directory(name, json, def, meaning string, field func(*Config) *string) Knob {
	return Knob{Name: name, JSON: json, Type: "path", Default: def, Bounds: "absolute", Meaning: meaning, parse: func(c *Config, v string) error {
		if !strings.HasPrefix(v, "/") {
			return fmt.Errorf("%q is not an absolute path", truncate(v))
		}
		*field(c) = hostPath(v)
		return nil
	}}
}

func boolean(name, json, def, meaning string, field func(*Config) *bool) Knob {
	return Knob{Name: name, JSON: json, Type: "boolean", Default: def, Bounds: "true or false", Meaning: meaning, parse: func(c *Config, v string) error {
		b, err := strconv.ParseBool(strings.ToLower(v))
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", truncate(v))
		}
		*field(c) = b
		return nil
	}}
}

func integer(name, json, def string, low, high int64, meaning string, field func(*Config) *int64) Knob {
	return Knob{Name: name, JSON: json, Type: "integer", Default: def, Bounds: fmt.Sprintf("%d to %d", low, high), Meaning: meaning, parse: func(c *Config, v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", truncate(v))
		}
		if n < low || n > high {
			return fmt.Errorf("%d is not between %d and %d", n, low, high)
		}
		*field(c) = n
		return nil
	}}
}

// reservedMemory is an amount, or auto.
func reservedMemory() Knob {
	k := integer("ECS_RESERVED_MEMORY", "ReservedMemory", "0", 0, 1<<40, "MiB of memory that are not offered to tasks; auto measures at the first start what the host itself uses, keeps that and a quarter more, and remembers it", func(c *Config) *int64 { return &c.ReservedMemory })
	number := k.parse
	k.Type, k.Bounds = "integer or auto", "0 to 1099511627776, or auto"
	k.parse = func(c *Config, v string) error {
		if c.ReservedMemoryAuto = v == "auto"; c.ReservedMemoryAuto {
			c.ReservedMemory = 0
			return nil
		}
		return number(c, v)
	}
	return k
}

func duration(name, json, def string, low time.Duration, meaning string, field func(*Config) *time.Duration) Knob {
	k := Knob{Name: name, JSON: json, Type: "duration", Default: def, Meaning: meaning, parse: func(c *Config, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as 30s or 2h", truncate(v))
		}
		if d < low {
			return &tooLittle{d, low}
		}
		*field(c) = d
		return nil
	}}
	if low > 0 {
		k.Bounds = "at least " + low.String()
	}
	return k
}

// tooLittle is a duration below the least.
type tooLittle struct{ given, least time.Duration }

func (e *tooLittle) Error() string { return fmt.Sprintf("%s is less than %s", e.given, e.least) }

// raised gives a duration the least value where less is asked for.
func raised(k Knob) Knob {
	k.Raised = true
	return k
}

// upTo gives a duration an upper bound.
func upTo(high time.Duration, k Knob, value func(*Config) time.Duration) Knob {
	parse := k.parse
	k.Bounds += ", at most " + high.String()
	k.parse = func(c *Config, v string) error {
		if err := parse(c, v); err != nil {
			return err
		}
		if d := value(c); d > high {
			return fmt.Errorf("%s is more than %s", d, high)
		}
		return nil
	}
	return k
}

func enum(name, json, def, meaning string, choices []string, field func(*Config) *string) Knob {
	return Knob{Name: name, JSON: json, Type: "enum", Default: def, Bounds: "one of " + strings.Join(choices, ", "), Meaning: meaning, parse: func(c *Config, v string) error {
		v = strings.ToLower(v)
		if !slices.Contains(choices, v) {
			return fmt.Errorf("%q is not one of %s", truncate(v), strings.Join(choices, ", "))
		}
		*field(c) = v
		return nil
	}}
}

func jsonMap(name, member, meaning string, field func(*Config) *map[string]string) Knob {
	return Knob{Name: name, JSON: member, Type: "json map", Bounds: `such as {"key":"value"}`, Meaning: meaning, parse: func(c *Config, v string) error {
		m := map[string]string{}
		if err := decode(v, &m); err != nil {
			return err
		}
		*field(c) = m
		return nil
	}}
}

func jsonList(name, member, def, meaning string, field func(*Config) *[]string) Knob {
	return Knob{Name: name, JSON: member, Type: "json list", Default: def, Bounds: `such as ["a","b"]`, Meaning: meaning, parse: func(c *Config, v string) error {
		var list []string
		if err := decode(v, &list); err != nil {
			return err
		}
		*field(c) = list
		return nil
	}}
}

// commas is a list that is written with commas between its items; in the JSON file it may be one too.
func commas(name, member, meaning string, field func(*Config) *[]string) Knob {
	return Knob{Name: name, JSON: member, Type: "comma list", Bounds: "such as a:1,b:2", Meaning: meaning, parse: func(c *Config, v string) error {
		var list []string
		if strings.HasPrefix(v, "[") {
			if err := decode(v, &list); err != nil {
				return err
			}
			*field(c) = list
			return nil
		}
		for _, item := range strings.Split(v, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		*field(c) = list
		return nil
	}}
}

func portList(name, member, def, meaning string, field func(*Config) *[]uint16) Knob {
	return Knob{Name: name, JSON: member, Type: "json list", Default: def, Bounds: "such as [22,2375]", Meaning: meaning, parse: func(c *Config, v string) error {
		var list []uint16
		if err := decode(v, &list); err != nil {
			return err
		}
		*field(c) = list
		return nil
	}}
}

func portRange(name, member, meaning string, field func(*Config) *PortRange) Knob {
	return Knob{Name: name, JSON: member, Type: "port range", Bounds: "such as 32768-60999", Meaning: meaning, parse: func(c *Config, v string) error {
		low, high, ok := strings.Cut(v, "-")
		first, err1 := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
		last, err2 := strconv.ParseUint(strings.TrimSpace(high), 10, 16)
		if !ok || err1 != nil || err2 != nil || first == 0 || first > last {
			return fmt.Errorf("%q is not a range of ports such as 32768-60999", truncate(v))
		}
		*field(c) = PortRange{uint16(first), uint16(last)}
		return nil
	}}
}

// TaskNetwork is what the interfaces hang on that the agent makes for tasks: Macvlan is the parent's name; else it is a bridge; of
// nothing it is the host that decides, see [TaskNetwork.On].
type TaskNetwork struct {
	Bridge, Uplink string
	Macvlan        string
}

const taskBridge = "longshore-task"

// On is what it is on a host whose default route leaves by an interface; by none, if that is empty. What the configuration names stays.
// A macvlan there reaches the host's own network whatever the host's firewall does with what it forwards; Docker's drops it.
func (n TaskNetwork) On(defaultRoute string) TaskNetwork {
	switch {
	case n != TaskNetwork{}:
		return n
	case defaultRoute == "":
		return TaskNetwork{Bridge: taskBridge}
	}
	return TaskNetwork{Macvlan: defaultRoute}
}

// DefaultRoute is the interface of the default route with the lowest metric in the text of /proc/net/route (proc_pid_net(5)); empty if there is
// none.
func DefaultRoute(table string) (name string) {
	best := uint64(0)
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		if metric, err := strconv.ParseUint(f[6], 10, 32); err == nil && (name == "" || metric < best) {
			name, best = f[0], metric
		}
	}
	return name
}

func taskNetwork(name, def, meaning string, field func(*Config) *TaskNetwork) Knob {
	return Knob{Name: name, Type: "network", Default: def, Bounds: "auto, bridge, bridge:NAME, bridge:NAME,uplink=INTERFACE or macvlan:INTERFACE", Meaning: meaning, parse: func(c *Config, v string) error {
		var n TaskNetwork
		kind, rest, _ := strings.Cut(v, ":")
		kind, option, _ := strings.Cut(kind, ",")
		if option != "" {
			rest = "," + option
		}
		switch kind {
		case "auto":
			if rest != "" {
				return fmt.Errorf("auto is all there is to say, not %q", truncate(v))
			}
			*field(c) = n
			return nil
		case "bridge":
			var uplink string
			n.Bridge, uplink, _ = strings.Cut(rest, ",")
			n.Uplink = strings.TrimPrefix(uplink, "uplink=")
			if uplink != "" && (n.Uplink == uplink || !interfaceName(n.Uplink)) {
				return fmt.Errorf("%q is not uplink=INTERFACE", truncate(uplink))
			}
			if n.Bridge == "" {
				n.Bridge = taskBridge
			}
		case "macvlan":
			n.Macvlan = rest
		default:
			return fmt.Errorf("%q is none of auto, bridge and macvlan", truncate(kind))
		}
		if parent := n.Bridge + n.Macvlan; !interfaceName(parent) {
			return fmt.Errorf("%q is not a name of an interface", truncate(parent))
		}
		*field(c) = n
		return nil
	}}
}

// interfaceName reports whether the kernel takes a name for an interface (net/core/dev.c, dev_valid_name).
func interfaceName(n string) bool {
	return n != "" && len(n) < 16 && n != "." && n != ".." && !strings.ContainsAny(n, "/: \t\n")
}

func address(name, member, meaning string, field func(*Config) *string) Knob {
	return Knob{Name: name, JSON: member, Type: "address", Bounds: "IPv4 or IPv6", Meaning: meaning, parse: func(c *Config, v string) error {
		a, err := netip.ParseAddr(v)
		if err != nil {
			return fmt.Errorf("%q is not an IP address", truncate(v))
		}
		*field(c) = a.String()
		return nil
	}}
}

// endpoint is the URL of a service. What is signed for one must not go to another, so that a mistake is an error.
func endpoint(name, meaning string, field func(*Config) *string) Knob {
	return Knob{Name: name, Type: "URL", Bounds: "http or https", Meaning: meaning, Strict: true, parse: func(c *Config, v string) error {
		if err := (&awsapi.Endpoints{All: v}).Check(); err != nil {
			return fmt.Errorf("%q is not like https://host:port", truncate(v))
		}
		*field(c) = v
		return nil
	}}
}

// decode is strict JSON: one value, nothing behind it. The value itself is not in the error, it may be a secret.
// rates are two numbers of requests, for long and at once.
func rates(name, def, meaning string, fields func(*Config) (steady, burst *int64)) Knob {
	return Knob{Name: name, Type: "pair", Default: def, Bounds: "two numbers from 1 to 1000000, such as 40,60", Meaning: meaning, parse: func(c *Config, v string) error {
		first, second, _ := strings.Cut(v, ",")
		var n [2]int64
		for i, text := range []string{first, second} {
			var err error
			if n[i], err = strconv.ParseInt(strings.TrimSpace(text), 10, 64); err != nil || n[i] < 1 || n[i] > 1000000 {
				return errors.New("not two numbers from 1 to 1000000 with a comma between them")
			}
		}
		steady, burst := fields(c)
		*steady, *burst = n[0], n[1]
		return nil
	}}
}

func decode(v string, into any) error {
	d := json.NewDecoder(bytes.NewReader([]byte(v)))
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more behind the value")
		}
	}
	if err != nil {
		return fmt.Errorf("not the JSON that is expected: %w", err)
	}
	return nil
}

// strict makes a setting's mistakes errors.
func strict(k Knob) Knob {
	k.Strict = true
	return k
}

// also gives a setting an older name.
func also(k Knob, names ...string) Knob {
	k.Aliases = names
	return k
}

// refused declares a setting of the Amazon ECS agent that this one does not follow, and why.
func refused(name, kind, def, meaning, why string) Knob {
	return Knob{Name: name, Type: kind, Default: def, Meaning: meaning, Support: Support("refused: " + why)}
}

func hostService(name, kind, def, meaning string) Knob {
	return Knob{Name: name, Type: kind, Default: def, Meaning: meaning, Support: HostService}
}
