package logprocess

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/docker/go-units"

	"github.com/longshore-project/longshore/engine/logdriver"
)

// jsonFile writes Docker's json-file format: an object a line. A file that has grown to its size becomes container.log.1, what was that becomes
// container.log.2, and so on; there are never more files than asked for.
type jsonFile struct {
	dir   string
	max   int64 // bytes of a file; 0: no bound
	files int
	attrs map[string]string
	f     *os.File
	size  int64
	buf   bytes.Buffer
}

func newJSONFile(s logdriver.Settings) (Driver, error) {
	d := &jsonFile{dir: s.Dir, files: 1}
	for o, v := range s.Options {
		var err error
		switch o {
		case "max-size":
			if d.max, err = units.RAMInBytes(v); err == nil && d.max <= 0 && v != "-1" {
				err = fmt.Errorf("it must be above 0, or -1 for no bound")
			}
			d.max = max(d.max, 0)
		case "max-file":
			if d.files, err = strconv.Atoi(v); err == nil && d.files < 1 {
				err = fmt.Errorf("it must be above 0")
			}
		}
		if err != nil {
			return nil, fmt.Errorf("option %s %q: %w", o, v, err)
		}
	}
	var err error
	if d.attrs, err = extra(s, func(k string) string { return k }); err != nil {
		return nil, err
	}
	if _, given := s.Options["tag"]; given {
		if d.attrs["tag"], err = tag(s); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return nil, err
	}
	return d, d.open()
}

func (d *jsonFile) open() error {
	f, err := os.OpenFile(logdriver.Numbered(d.dir, 0), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	d.f, d.size = f, info.Size()
	return nil
}

func (d *jsonFile) Write(e Entry) error {
	d.buf.Reset()
	enc := json.NewEncoder(&d.buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(logdriver.Line{Log: string(e.Line), Stream: e.Stream, Attrs: d.attrs, Time: e.Time}); err != nil {
		return err
	}
	if d.max > 0 && d.size > 0 && d.size+int64(d.buf.Len()) > d.max {
		if err := d.rotate(); err != nil {
			return err
		}
	}
	n, err := d.f.Write(d.buf.Bytes())
	d.size += int64(n)
	return err
}

func (d *jsonFile) rotate() error {
	if err := d.f.Close(); err != nil {
		return err
	}
	if d.files == 1 { // another file and not a shorter one, so that who reads it sees that
		if err := os.Remove(logdriver.Numbered(d.dir, 0)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for n := d.files - 1; n > 0; n-- {
		if err := os.Rename(logdriver.Numbered(d.dir, n-1), logdriver.Numbered(d.dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return d.open()
}

func (d *jsonFile) Close() error { return d.f.Close() }
