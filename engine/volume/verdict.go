package volume

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
)

// verdict is what was found out about one mount.
type verdict struct {
	missing  string   // the right whose lack makes the whole mount unusable, in words; empty: usable at least in part
	where    string   // what lacks it, when it is not the mounted object itself
	hint     string   // what to change, when it is not the mounted object's mode
	warnings []string // parts that are not usable, and what could not be asked
}

func (v *verdict) refused() bool { return v.missing != "" }

// refusal is the whole reason, for the task's stopped reason.
func (v *verdict) refusal(m engine.Mount, o *object, who identity) string {
	access := "read-write"
	if m.ReadOnly {
		access = "read-only"
	}
	where, hint := v.where, v.hint
	if where == "" {
		where = "it is a " + o.describe()
	}
	if hint == "" {
		hint = fmt.Sprintf("give the user access (chown %d %s, or chmod, or setfacl -m u:%d:rwX %s) or change the container's user", who.uid, m.Source, who.uid, m.Source)
	}
	return fmt.Sprintf("host volume %s (mounted %s at %s) can't be used by %s: %s; %s. To change: %s", m.Source, access, m.Target, who.name(), v.missing, where, hint)
}

// rights are the answers for one object. unknown is an answer that says nothing about permission.
type rights struct {
	r, w, x bool
	unknown error
}

// rightsOn asks for the three rights on an object. w is false beneath a read-only mount, but for special files, where a
// read-only mount does not matter.
func rightsOn(ask *asker, o *object, readOnly bool) rights {
	var got rights
	yes := func(mode uint32) bool {
		err := ask.access(o, mode)
		switch {
		case err == nil, errors.Is(err, unix.ETXTBSY):
			return true
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
			return false
		}
		got.unknown = err
		return true
	}
	got.r, got.x = yes(unix.R_OK), o.isDir() && yes(unix.X_OK)
	special := o.format() != unix.S_IFDIR && o.format() != unix.S_IFREG
	got.w = (!readOnly || special) && yes(unix.W_OK)
	return got
}

// usable is the rule of the package comment; it returns the missing right in words.
func (r rights) usable(format uint32, readOnly bool) (missing string) {
	switch format {
	case unix.S_IFDIR:
		switch {
		case !r.x:
			return "it may not enter the directory (no x)"
		case !r.r && readOnly:
			return "it may enter the directory but not read it (no r)"
		case !r.r && !r.w:
			return "it may enter the directory but neither read nor write it (no r, no w)"
		}
	case unix.S_IFREG:
		if !r.r {
			return "it may not read the file (no r)"
		}
	case unix.S_IFSOCK:
		if !r.w {
			return "it may not connect to the socket (no w)"
		}
	case unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK:
		if !r.r && !r.w {
			return "it may neither read nor write it (no r, no w)"
		}
	}
	return ""
}

// verdictOf judges the mounted object and a sample of what lies beneath it.
func verdictOf(ctx context.Context, ask *asker, o *object, m engine.Mount, opts Options) *verdict {
	v := &verdict{}
	got := rightsOn(ask, o, m.ReadOnly)
	if got.unknown != nil {
		v.warn("host volume %s could not be checked: %v", m.Source, got.unknown)
		return v
	}
	missing := got.usable(o.format(), m.ReadOnly)
	if !o.isDir() {
		v.missing = missing
		if missing == "" && o.format() == unix.S_IFREG && !m.ReadOnly && !got.w {
			v.warn("host volume %s is mounted read-write at %s, but the container's user may not write it; it is a %s", m.Source, m.Target, o.describe())
		}
		return v
	}
	if !got.x {
		v.missing = missing
		return v
	}
	s := sample{ask: ask, mount: m, opts: opts, left: opts.Sample}
	s.walk(ctx, o, "", opts.Depth)
	switch {
	case missing == "":
	case s.usable == 0 && !s.cut:
		v.missing = missing + ", and nothing in it can be used"
		return v
	default:
		v.warn("host volume %s at %s: %s; entries can be used only by name; it is a %s", m.Source, m.Target, missing, o.describe())
	}
	if missing == "" && !m.ReadOnly && !got.w {
		v.warn("host volume %s is mounted read-write at %s, but the container's user may not write in it; it is a %s", m.Source, m.Target, o.describe())
	}
	v.warnings = append(v.warnings, s.warnings(m)...)
	return v
}

func (v *verdict) warn(format string, args ...any) {
	v.warnings = append(v.warnings, fmt.Sprintf(format, args...))
}

// sample looks at a bounded number of entries beneath a mount.
type sample struct {
	ask     *asker
	mount   engine.Mount
	opts    Options
	left    int
	usable  int
	refused []string
	escapes []string
	cut     bool // there is more than was looked at
}

// maxNamed is how many entries a warning names.
const maxNamed = 5

// walk looks at the entries of a directory that the subject can enter, and then into those that it can enter.
func (s *sample) walk(ctx context.Context, dir *object, rel string, depth int) {
	names, err := dir.list(s.left + 1)
	if err != nil {
		s.cut = true // the agent itself may not look, as under root squash
		return
	}
	for _, name := range names {
		if s.left == 0 || ctx.Err() != nil {
			s.cut = true
			return
		}
		s.left--
		s.entry(ctx, dir, path.Join(rel, name), name, depth)
	}
}

func (s *sample) entry(ctx context.Context, dir *object, rel, name string, depth int) {
	o, err := dir.child(name)
	if err != nil {
		return // gone meanwhile, or a mount that may not be looked at
	}
	defer o.close()
	if o.format() == unix.S_IFLNK {
		if target, err := o.link(); err == nil && leaves(s.mount.Target, rel, target) {
			s.escapes = append(s.escapes, rel+" -> "+target)
		}
		return
	}
	got := rightsOn(s.ask, o, s.mount.ReadOnly)
	if got.unknown != nil {
		s.cut = true
		return
	}
	if got.usable(o.format(), s.mount.ReadOnly) == "" {
		s.usable++
	} else {
		s.refused = append(s.refused, rel+" ("+o.describe()+")")
	}
	if !o.isDir() || !got.x {
		return
	}
	if depth <= 1 {
		s.cut = true
		return
	}
	s.walk(ctx, o, rel, depth-1)
}

// warnings says what the sample found.
func (s *sample) warnings(m engine.Mount) []string {
	var out []string
	say := func(list []string, what string) {
		if len(list) == 0 {
			return
		}
		more := ""
		if len(list) > maxNamed {
			more = fmt.Sprintf(" and %d more", len(list)-maxNamed)
			list = list[:maxNamed]
		}
		out = append(out, fmt.Sprintf("host volume %s at %s: %s: %s%s (%d entries looked at)", m.Source, m.Target, what, strings.Join(list, ", "), more, s.opts.Sample-s.left))
	}
	say(s.refused, "the container's user can't use")
	say(s.escapes, "symlinks that lead out of the mount, and so to other files inside the container")
	return out
}

// leaves tells whether a symlink at rel beneath the container path target leads out of the mount when it is followed inside
// the container.
func leaves(target, rel, link string) bool {
	if path.IsAbs(link) {
		link = path.Clean(link)
		return link != target && !strings.HasPrefix(link, strings.TrimSuffix(target, "/")+"/")
	}
	at := path.Dir("/" + rel)
	depth := strings.Count(strings.TrimSuffix(at, "/"), "/")
	for _, part := range strings.Split(link, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}
