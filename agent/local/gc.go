package local

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/longshore-project/longshore/imagecache"
)

// Collection is the answer of POST /v1/gc[?dryRun=true].
type Collection struct {
	Now    time.Time        `json:"now"`
	DryRun bool             `json:"dryRun"`
	Disk   string           `json:"disk"` // before it
	Images []CollectedImage `json:"images"`
	// Containers are those of others that do not run; only with ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP.
	Containers []CollectedContainer `json:"containers,omitempty"`
	Freed      int64                `json:"freedBytes"` // by the sizes of the images; layers that others share stay
	Failures   []string             `json:"failures,omitempty"`
}

// CollectedImage is what becomes of one image, and why.
type CollectedImage struct {
	ID      string    `json:"id"`
	Names   []string  `json:"names,omitempty"`
	Remove  bool      `json:"remove"`
	Reason  string    `json:"reason"`
	Tracked bool      `json:"tracked"` // a task had it pulled
	Age     int64     `json:"ageSeconds"`
	LastUse time.Time `json:"lastUse,omitzero"`
	Bytes   int64     `json:"bytes"`
}

// CollectedContainer is what becomes of a container of others, and why.
type CollectedContainer struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Image  string `json:"image"`
	Status string `json:"status"`
	Remove bool   `json:"remove"`
	Reason string `json:"reason"`
	Age    int64  `json:"ageSeconds"` // since its process ended; of one that never ran, since it was made
}

// CollectionOf is a report in the form of the answer.
func CollectionOf(r *imagecache.Report, now time.Time) *Collection {
	c := &Collection{Now: now.UTC(), DryRun: r.DryRun, Disk: r.Disk.String(), Images: []CollectedImage{}, Freed: r.Freed, Failures: r.Failures}
	for _, v := range r.Verdicts {
		c.Images = append(c.Images, CollectedImage{
			ID: v.ID, Names: v.Names, Remove: v.Delete, Reason: v.Reason, Tracked: v.Tracked, Age: int64(v.Age.Seconds()), LastUse: v.UsedAt, Bytes: v.Size,
		})
	}
	for _, v := range r.Containers {
		c.Containers = append(c.Containers, CollectedContainer{ID: v.ID, Name: v.Name, Image: v.Image, Status: v.Status, Remove: v.Delete, Reason: v.Reason, Age: int64(v.Age.Seconds())})
	}
	return c
}

// Print prints it for people.
func (c *Collection) Print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tMiB\tAGE\tLAST USE\tVERDICT\tREASON")
	removed, bytes := 0, int64(0)
	for _, i := range c.Images {
		verdict := "kept"
		if i.Remove {
			verdict = map[bool]string{true: "would go", false: "removed"}[c.DryRun]
			removed, bytes = removed+1, bytes+i.Bytes
		}
		name := strings.TrimPrefix(i.ID, "sha256:")
		if len(name) > 12 {
			name = name[:12]
		}
		if len(i.Names) > 0 {
			name = i.Names[0]
		}
		used := "never by a task"
		if !i.LastUse.IsZero() {
			used = age(c.Now, i.LastUse) + " ago"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", name, i.Bytes>>20, time.Duration(i.Age)*time.Second, used, verdict, i.Reason)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := c.printContainers(out); err != nil {
		return err
	}
	for _, f := range c.Failures {
		fmt.Fprintf(out, "not removed: %s\n", f)
	}
	word := map[bool]string{true: "would be removed", false: "were removed"}[c.DryRun]
	_, err := fmt.Fprintf(out, "%d of %d images %s, %d MiB by their sizes; the disk before: %s\n", removed, len(c.Images), word, bytes>>20, c.Disk)
	return err
}

func (c *Collection) printContainers(out io.Writer) error {
	if len(c.Containers) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CONTAINER\tIMAGE\tSTATUS\tAGE\tVERDICT\tREASON")
	for _, x := range c.Containers {
		verdict := "kept"
		if x.Remove {
			verdict = map[bool]string{true: "would go", false: "removed"}[c.DryRun]
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", x.Name, x.Image, x.Status, time.Duration(x.Age)*time.Second, verdict, x.Reason)
	}
	return w.Flush()
}
