package logdriver

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Line is an object of a file in Docker's json-file format: one a line.
type Line struct {
	Log    string            `json:"log"`
	Stream string            `json:"stream"`
	Attrs  map[string]string `json:"attrs,omitempty"`
	Time   time.Time         `json:"time"`
}

// fileName is the newest file.
const fileName = "container.log"

// Numbered is a container's file: 0 is the newest, 1 is what was that before it grew to its size, and so on.
func Numbered(dir string, n int) string {
	if n == 0 {
		return filepath.Join(dir, fileName)
	}
	return filepath.Join(dir, fileName+"."+strconv.Itoa(n))
}

// maxObject bounds an object of a file when it is read: a line of 16 KiB, each byte of which may take six.
const maxObject = 256 << 10

// Read copies what json-file has written in a folder, the last lines of it; all of it if lines is 0 or less. A file that is rotated away meanwhile
// is left out, and so is an object that a power cut has cut off.
func Read(dir string, lines int, w io.Writer) error {
	last := 0
	for ; ; last++ {
		if _, err := os.Stat(Numbered(dir, last+1)); err != nil {
			break
		}
	}
	var kept []string
	for n := last; n >= 0; n-- {
		err := each(Numbered(dir, n), func(l Line) error {
			if lines <= 0 {
				_, err := io.WriteString(w, l.Log)
				return err
			}
			if kept = append(kept, l.Log); len(kept) > lines {
				kept = kept[1:]
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, l := range kept {
		if _, err := io.WriteString(w, l); err != nil {
			return err
		}
	}
	return nil
}

func each(name string, f func(Line) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	scan := bufio.NewScanner(file)
	scan.Buffer(nil, maxObject)
	for scan.Scan() {
		var l Line
		if json.Unmarshal(scan.Bytes(), &l) != nil {
			continue
		}
		if err := f(l); err != nil {
			return err
		}
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
