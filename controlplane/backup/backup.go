// Package backup is the control plane's records, and the files without which they can't be read, in one file: written while
// everybody goes on, checked, and read back into an empty store.
//
// # Form
//
// A gzipped tar archive of mode 0600: it holds secrets. In this order:
//
//	backup.json       what it is, see [About]
//	records/000001 …  the records as lines of JSON: key, value, and the revision at which etcd had it
//	files/<name>      files of the data directory: the seal key, key files, the CA
//	end.json          how many records there are, and the SHA-256 of each part before: without it the file is cut off
//
// All records are of one revision of etcd. What lives under a lease (connections, leaderships) is left out: it is of processes
// that are not there after a restore. It is the same for the embedded etcd and an external one, and can be read back into either.
//
// # Restore
//
// [Restore] writes into an empty store, in the order in which the records were written. Revisions are new, so what refers to
// them is adapted, and every container instance is marked: until its agent has said what runs there, nothing is placed on it
// (package poll, adopt.go).
package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/internal/version"
)

// Format is the version of the form that this code writes, and the newest that it reads.
const Format = 1

// The bounds of what is read.
const (
	maxPart = 64 << 20
	maxAll  = 8 << 30
	page    = 500 // records of one request
)

// About says what a backup is.
type About struct {
	Format    int       `json:"format"`
	Made      time.Time `json:"made"`
	Version   string    `json:"version"` // of the longshore-control that made it
	Region    string    `json:"region"`
	AccountID string    `json:"accountId"`
	Revision  int64     `json:"revision"` // of etcd
}

// end is the last part.
type end struct {
	Records int               `json:"records"`
	Sums    map[string]string `json:"sha256"` // by part
}

// record is a line of records/.
type record struct {
	Key      string `json:"k"`
	Value    string `json:"v"`
	Revision int64  `json:"r"` // at which it was written
}

// File is a file of the data directory.
type File struct {
	Name string // relative
	Data []byte
}

// Write writes a backup of what client has below prefix, with files beside it. about needs Region and AccountID.
func Write(ctx context.Context, client *clientv3.Client, prefix string, about About, files []File, to io.Writer) (About, error) {
	out := newWriter(to)
	first, err := client.Get(ctx, prefix+"/", clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	if err != nil {
		return about, fmt.Errorf("read the records: %w", err)
	}
	about.Format, about.Made, about.Version, about.Revision = Format, time.Now().UTC(), version.Version, first.Header.Revision
	if err := out.json("backup.json", about); err != nil {
		return about, err
	}
	for from, n, more := prefix+"/", 1, true; more; n++ {
		got, err := client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix+"/")), clientv3.WithRev(about.Revision), clientv3.WithLimit(page))
		if err != nil {
			return about, fmt.Errorf("read the records at revision %d: %w", about.Revision, err)
		}
		var lines bytes.Buffer
		encoder := json.NewEncoder(&lines)
		encoder.SetEscapeHTML(false)
		for _, kv := range got.Kvs {
			from = string(kv.Key) + "\x00"
			if kv.Lease != 0 {
				continue
			}
			if err := encoder.Encode(record{strings.TrimPrefix(string(kv.Key), prefix+"/"), string(kv.Value), kv.ModRevision}); err != nil {
				return about, err
			}
			out.end.Records++
		}
		if err := out.part(fmt.Sprintf("records/%06d", n), lines.Bytes()); err != nil {
			return about, err
		}
		more = got.More
	}
	for _, f := range files {
		if err := out.part("files/"+f.Name, f.Data); err != nil {
			return about, err
		}
	}
	return about, out.close()
}

// writer writes the parts of a backup.
type writer struct {
	zip *gzip.Writer
	tar *tar.Writer
	end end
}

func newWriter(to io.Writer) *writer {
	z, _ := gzip.NewWriterLevel(to, gzip.BestSpeed) // the level is one
	return &writer{zip: z, tar: tar.NewWriter(z), end: end{Sums: map[string]string{}}}
}

func (w *writer) json(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.part(name, append(data, '\n'))
}

func (w *writer) part(name string, data []byte) error {
	w.end.Sums[name] = sum(data)
	err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), Format: tar.FormatPAX})
	if err == nil {
		_, err = w.tar.Write(data)
	}
	if err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	return nil
}

func (w *writer) close() error {
	last := w.end
	if err := w.json("end.json", last); err != nil {
		return err
	}
	if err := errors.Join(w.tar.Close(), w.zip.Close()); err != nil {
		return fmt.Errorf("write the backup: %w", err)
	}
	return nil
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// Backup is a backup that was read as a whole and is whole.
type Backup struct {
	About   About
	Files   []File
	records []record // in the order in which they were written
}

// Records is how many there are.
func (b *Backup) Records() int { return len(b.records) }

// Read reads a backup. The error says what is wrong with it: nothing of one that is damaged or cut off is of use.
func Read(from io.Reader) (*Backup, error) {
	z, err := gzip.NewReader(bufio.NewReader(from))
	if err != nil {
		return nil, fmt.Errorf("it is no backup of longshore-control: %w", err)
	}
	b, sums, last := &Backup{}, map[string]string{}, (*end)(nil)
	parts := tar.NewReader(io.LimitReader(z, maxAll))
	for {
		h, err := parts.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("it is damaged or cut off: %w", err)
		}
		if h.Size > maxPart || last != nil {
			return nil, fmt.Errorf("its part %.100q is larger than %d bytes, or comes after the end", h.Name, maxPart)
		}
		data, err := io.ReadAll(parts)
		if err != nil {
			return nil, fmt.Errorf("it is damaged or cut off: %w", err)
		}
		if h.Name == "end.json" {
			last = &end{}
			err = json.Unmarshal(data, last)
		} else {
			sums[h.Name] = sum(data)
			err = b.take(h.Name, data)
		}
		if err != nil {
			return nil, fmt.Errorf("its part %.100q: %w", h.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(z, maxPart)); err != nil { // its checksum comes last
		return nil, fmt.Errorf("it is damaged or cut off: %w", err)
	}
	return b, b.whole(last, sums)
}

func (b *Backup) whole(last *end, sums map[string]string) error {
	if last == nil {
		return errors.New("it is cut off: its end is missing")
	}
	for name, want := range last.Sums {
		if sums[name] != want {
			return fmt.Errorf("its part %.100q is damaged: its SHA-256 is not the one that was written", name)
		}
	}
	if len(sums) != len(last.Sums) || last.Records != len(b.records) {
		return fmt.Errorf("it has %d parts and %d records, and was written with %d and %d", len(sums), len(b.records), len(last.Sums), last.Records)
	}
	slices.SortStableFunc(b.records, func(x, y record) int {
		switch {
		case x.Revision < y.Revision:
			return -1
		case x.Revision > y.Revision:
			return 1
		}
		return strings.Compare(x.Key, y.Key)
	})
	return nil
}

// take reads one part.
func (b *Backup) take(name string, data []byte) error {
	kind, rest, _ := strings.Cut(name, "/")
	switch kind {
	case "backup.json":
		if err := json.Unmarshal(data, &b.About); err != nil {
			return err
		}
		if b.About.Format < 1 || b.About.Format > Format {
			return fmt.Errorf("it has format %d, and this longshore-control reads up to %d: use the newer one", b.About.Format, Format)
		}
	case "records":
		for line := range bytes.Lines(data) {
			var r record
			if err := json.Unmarshal(line, &r); err != nil || r.Key == "" {
				return fmt.Errorf("a record can't be read: %w", errors.Join(err, errors.New("it needs a key")))
			}
			b.records = append(b.records, r)
		}
	case "files":
		if !safe(rest) {
			return errors.New("a file of that name is not restored")
		}
		b.Files = append(b.Files, File{rest, data})
	default:
		return errors.New("this version knows no such part")
	}
	return nil
}

// safe tells whether a file's name stays in the data directory.
func safe(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "\\\x00") {
			return false
		}
	}
	return true
}

// Check reads every record, and tells what of them can't be used; none when all can.
func (b *Backup) Check() (wrong []string) {
	values := make(map[string]string, len(b.records))
	for _, r := range b.records {
		values[r.Key] = r.Value
	}
	return store.CheckValues(values)
}

// errNotEmpty: a restore never mixes two stores.
var errNotEmpty = errors.New("the store that is to be restored into is not empty")

// Restore writes the records into an empty store.
func (b *Backup) Restore(ctx context.Context, client *clientv3.Client, prefix string) error {
	there, err := client.Get(ctx, prefix+"/", clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())
	if err != nil {
		return fmt.Errorf("look whether the store is empty: %w", err)
	}
	if len(there.Kvs) > 0 {
		return errNotEmpty
	}
	// Services come last: they refer to revisions.
	services := func(r record) bool { return store.RefersToRevisions(r.Key) }
	plain := slices.DeleteFunc(slices.Clone(b.records), services)
	last := slices.DeleteFunc(slices.Clone(b.records), func(r record) bool { return !services(r) })
	revision := there.Header.Revision
	for _, list := range [][]record{plain, last} {
		for part := range slices.Chunk(list, 100) {
			ops := make([]clientv3.Op, 0, len(part))
			conditions := make([]clientv3.Cmp, 0, len(part))
			for _, r := range part {
				value, err := store.Restored(r.Key, []byte(r.Value), revision)
				if err != nil {
					return fmt.Errorf("adapt the record %.200q: %w", r.Key, err)
				}
				ops = append(ops, clientv3.OpPut(prefix+"/"+r.Key, string(value)))
				conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(prefix+"/"+r.Key), "=", 0))
			}
			done, err := client.Txn(ctx).If(conditions...).Then(ops...).Commit()
			switch {
			case err != nil:
				return fmt.Errorf("write the records: %w", err)
			case !done.Succeeded:
				return fmt.Errorf("%w: somebody writes there", errNotEmpty)
			}
			revision = done.Header.Revision
		}
	}
	return nil
}
