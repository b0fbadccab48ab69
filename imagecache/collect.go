package imagecache

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
)

// Local is an image that the engine has.
type Local struct {
	ID      string
	Names   []string // references, repo:tag and repo@digest
	Size    int64    // bytes; layers that images share count with each of them
	Created time.Time
}

// Track is what is remembered of an image that was pulled here for a task, or that a task's container was made from.
type Track struct {
	PulledAt time.Time `json:"pulledAt"`
	UsedAt   time.Time `json:"usedAt"`         // when it was last seen in use
	Refs     []string  `json:"refs,omitempty"` // normalised references under which it was pulled
}

// Room is free or wanted space of the engine's data root.
type Room struct{ Bytes, Inodes int64 }

// Disk is the engine's data root. The zero value is one that can't be looked at.
type Disk struct {
	Path        string
	Free, Total Room
}

// Known reports whether the disk could be looked at.
func (d Disk) Known() bool { return d.Total.Bytes > 0 }

// used is how full the disk is, in percent, of bytes and of inodes; of inodes 0 where the file system has no number of them.
func (d Disk) used() (bytes, inodes float64) {
	share := func(free, total int64) float64 {
		if total <= 0 {
			return 0
		}
		return 100 * float64(total-free) / float64(total)
	}
	return share(d.Free.Bytes, d.Total.Bytes), share(d.Free.Inodes, d.Total.Inodes)
}

// fuller reports whether more than percent of the disk's bytes or inodes are taken.
func (d Disk) fuller(percent int64) bool {
	bytes, inodes := d.used()
	return d.Known() && (bytes > float64(percent) || inodes > float64(percent))
}

// String is for people: "/var/lib/docker: 12345 of 20480 MiB and 900000 of 1310720 inodes free".
func (d Disk) String() string {
	if !d.Known() {
		return "not known"
	}
	return fmt.Sprintf("%s: %d of %d MiB and %d of %d inodes free", d.Path, d.Free.Bytes>>20, d.Total.Bytes>>20, d.Free.Inodes, d.Total.Inodes)
}

// Rules say what may be collected. Zero ages mean none.
type Rules struct {
	MinimumAge time.Duration // since the pull (ECS_IMAGE_MINIMUM_CLEANUP_AGE)
	ForeignAge time.Duration // since the creation (NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE)
	PerCycle   int           // images removed at once (ECS_NUM_IMAGES_DELETE_PER_CYCLE)
	Foreign    bool          // also images that no task had pulled, and containers of others (ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP)
	// ContainerAge is how long a container of others has not run before it goes (ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION), and
	// ContainersPerCycle how many go at once (NONECS_NUM_CONTAINERS_DELETE_PER_CYCLE).
	ContainerAge       time.Duration
	ContainersPerCycle int
	Keep               []string // images that are never removed: references, or patterns of path.Match
	High, Low          int64    // watermarks, in percent of the disk; High 0: none
}

// Situation is all that a collection is decided on.
type Situation struct {
	Now    time.Time
	Images []Local
	Tracks map[string]Track  // by image id
	Uses   map[string]string // by image id, and by normalised reference: who uses it
	Held   map[string]bool   // by image id: leases, from a pull to the end of the task
	Pins   map[string]string // by image id, and by normalised reference: why it stays
	Disk   Disk
	Want   Room // what must be free beyond the watermarks, for a pull that is about to begin
}

// Verdict is what becomes of an image.
type Verdict struct {
	Local
	Tracked bool
	Delete  bool
	Reason  string
	Age     time.Duration // since the pull, of a foreign one since its creation
	UsedAt  time.Time     // zero: never by a task
}

// short says why the disk is short and what must become free; empty: it is not.
func (s *Situation) short(r Rules) (why string, missing Room) {
	if !s.Disk.Known() {
		return "", Room{}
	}
	if r.High > 0 && s.Disk.fuller(r.High) {
		bytes, inodes := s.Disk.used()
		why = fmt.Sprintf("the disk is short: %.0f %% of its bytes and %.0f %% of its inodes are taken, the high watermark is %d %%", bytes, inodes, r.High)
		keep := func(total int64) int64 { return total * (100 - r.Low) / 100 }
		missing = Room{keep(s.Disk.Total.Bytes) - s.Disk.Free.Bytes, keep(s.Disk.Total.Inodes) - s.Disk.Free.Inodes}
	}
	if s.Want.Bytes > s.Disk.Free.Bytes || s.Want.Inodes > s.Disk.Free.Inodes {
		if why == "" {
			why = fmt.Sprintf("a pull wants %d MiB and %d inodes, %d MiB and %d inodes are free", s.Want.Bytes>>20, s.Want.Inodes, s.Disk.Free.Bytes>>20, s.Disk.Free.Inodes)
		}
		missing.Bytes, missing.Inodes = max(missing.Bytes, s.Want.Bytes-s.Disk.Free.Bytes), max(missing.Inodes, s.Want.Inodes-s.Disk.Free.Inodes)
	}
	return why, missing
}

// Decide says of every image whether it goes and why; those to be removed come first, in the order of their removal. It is
// pure.
//
// An image that a container or a task uses, that is held or pinned, stays in any case. Of the others those go that a task had
// pulled and that are old enough, the one that was used least recently first; after them foreign ones, the smallest first,
// where that is asked for. A cycle removes a bounded number. While the disk is short neither the age nor the number counts,
// until enough has become free: that is estimated by the images' sizes, so whoever removes them measures again.
func Decide(s Situation, r Rules) []Verdict {
	verdicts := make([]Verdict, 0, len(s.Images))
	for _, img := range s.Images {
		verdicts = append(verdicts, judge(&s, r, img))
	}
	slices.SortFunc(verdicts, func(a, b Verdict) int {
		switch {
		case a.Delete != b.Delete:
			return order(a.Delete)
		case a.Tracked != b.Tracked:
			return order(a.Tracked)
		case a.Tracked:
			return cmp.Or(a.UsedAt.Compare(b.UsedAt), cmp.Compare(b.Age, a.Age), cmp.Compare(a.ID, b.ID))
		}
		return cmp.Or(cmp.Compare(a.Size, b.Size), cmp.Compare(a.ID, b.ID))
	})
	why, missing := s.short(r)
	left := r.PerCycle
	for i := range verdicts {
		v := &verdicts[i]
		if !v.Delete {
			break
		}
		young := v.Tracked && v.Age < r.MinimumAge || !v.Tracked && v.Age < r.ForeignAge
		switch {
		case missing.Bytes > 0 || missing.Inodes > 0:
			v.Reason += "; " + why
			missing.Bytes -= v.Size
			missing.Inodes -= inodesOf(v.Size)
			left--
		case young && v.Tracked:
			v.Delete, v.Reason = false, fmt.Sprintf("it was pulled %s ago, less than %s", v.Age.Round(time.Second), r.MinimumAge)
		case young:
			v.Delete, v.Reason = false, fmt.Sprintf("it was made %s ago, less than %s", v.Age.Round(time.Second), r.ForeignAge)
		case left <= 0:
			v.Delete, v.Reason = false, fmt.Sprintf("its turn comes in a later cycle, each removes %d", r.PerCycle)
		default:
			left--
		}
	}
	slices.SortStableFunc(verdicts, func(a, b Verdict) int {
		if a.Delete != b.Delete {
			return order(a.Delete)
		}
		return 0
	})
	return verdicts
}

func order(first bool) int {
	if first {
		return -1
	}
	return 1
}

// judge says whether an image may go at all.
func judge(s *Situation, r Rules, img Local) Verdict {
	track, tracked := s.Tracks[img.ID]
	v := Verdict{Local: img, Tracked: tracked, Age: s.Now.Sub(img.Created)}
	if tracked {
		v.Age, v.UsedAt = s.Now.Sub(track.PulledAt), track.UsedAt
	}
	if v.Reason = why(s.Uses, img); v.Reason != "" {
		return v
	}
	if s.Held[img.ID] {
		v.Reason = "a task that was just given it holds it"
		return v
	}
	if v.Reason = why(s.Pins, img); v.Reason != "" {
		return v
	}
	if name := kept(r.Keep, img.Names); name != "" {
		v.Reason = "it is never removed: " + name
		return v
	}
	if !tracked && !r.Foreign {
		v.Reason = "it is foreign: no task had it pulled, and ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP is not true"
		return v
	}
	v.Delete, v.Reason = true, "no container and no task uses it"
	return v
}

// why finds an image by its id or one of its names.
func why(m map[string]string, img Local) string {
	if text := m[img.ID]; text != "" {
		return text
	}
	for _, n := range img.Names {
		if text := m[normalise(n)]; text != "" {
			return text
		}
	}
	return ""
}

// kept is the entry of a list that one of the names is, or matches.
func kept(list, names []string) string {
	for _, entry := range list {
		for _, n := range names {
			full := normalise(n)
			if n == entry || full == normalise(entry) || repositoryOf(full) == entry {
				return entry
			}
			if ok, err := path.Match(entry, n); ok && err == nil {
				return entry
			}
		}
	}
	return ""
}

// normalise brings a reference to the form with registry and with a digest or a tag; what is none stays as it is.
func normalise(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	if d, ok := named.(reference.Digested); ok { // a tag besides says nothing more
		return named.Name() + "@" + d.Digest().String()
	}
	return reference.TagNameOnly(named).String()
}

func repositoryOf(normalised string) string {
	named, err := reference.ParseNormalizedNamed(normalised)
	if err != nil {
		return normalised
	}
	return named.Name()
}

// bytesPerInode is how many bytes of an unpacked image there are for each of its files, by experience: 20 KiB in Debian's
// base image, 10 KiB in those of interpreted languages.
const bytesPerInode = 16 << 10

func inodesOf(bytes int64) int64 { return bytes / bytesPerInode }

// hasDigest reports whether a registry gave the image, so that it can be had again.
func hasDigest(names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, "@") })
}
