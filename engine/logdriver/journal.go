package logdriver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// maxEntry bounds an entry of the journal as JSON: a line of 16 KiB whose bytes are numbers, and its fields.
const maxEntry = 1 << 20

// entry is one of the journal's (systemd.journal-fields(7), the JSON form of journalctl(1)).
type entry struct {
	Message json.RawMessage `json:"MESSAGE"` // text, or numbers where it is none
	Micros  string          `json:"__REALTIME_TIMESTAMP"`
	Cursor  string          `json:"__CURSOR"`
	Partial string          `json:"CONTAINER_PARTIAL_MESSAGE"`
}

// ReadJournal copies what the driver journald has given the host's journal of a container, by the program journalctl. FailedPrecondition: the
// host has none.
func ReadJournal(ctx context.Context, id string, o ReadOptions, w io.Writer) error {
	r := &journalReader{id: id, printer: printer{o: o, w: w}}
	args := []string{"--lines=all"}
	switch {
	case !o.Since.IsZero():
		args = append(args, fmt.Sprintf("--since=@%d", o.Since.Unix()))
	case o.Lines > 0:
		args = []string{"--lines=" + strconv.Itoa(o.Lines)}
	}
	if err := r.read(ctx, args...); err != nil {
		return err
	}
	if err := r.flush(); err != nil || o.Running == nil {
		return err
	}
	for {
		more, err := o.Running()
		if err != nil {
			return err
		}
		if !more {
			_ = exec.CommandContext(ctx, "journalctl", "--sync").Run() // what the log process has sent is in it then; without, nearly all is
			return r.read(ctx, r.on()...)
		}
		if err := r.follow(ctx); err != nil {
			return err
		}
	}
}

// journalReader reads one container's entries.
type journalReader struct {
	printer
	id     string
	cursor string // of the last entry that was read
}

// on are the arguments for what comes after what was read.
func (r *journalReader) on() []string {
	if r.cursor == "" {
		return []string{"--lines=all"}
	}
	return []string{"--lines=all", "--after-cursor=" + r.cursor}
}

// follow reads what comes, until the container's end.
func (r *journalReader) follow(ctx context.Context) error {
	within, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan error, 1)
	go func() { watched <- r.watch(within, stop) }()
	err := r.read(within, append(r.on(), "--follow")...)
	ended := within.Err() != nil
	stop()
	if werr := <-watched; ctx.Err() == nil && werr != nil {
		return werr
	}
	if ended && ctx.Err() == nil {
		return nil
	}
	return errors.Join(err, ctx.Err())
}

// watch calls stop when the container has ended.
func (r *journalReader) watch(ctx context.Context, stop func()) error {
	defer stop()
	tick := time.NewTicker(5 * followInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if more, err := r.o.Running(); err != nil || !more {
			return err
		}
	}
}

func (r *journalReader) read(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "journalctl", append([]string{"--output=json", "--quiet", "--no-pager", "--all", "CONTAINER_ID_FULL=" + r.id}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("the output of container %s is in the host's journal, and the program journalctl, which reads it, is not on this host: %w", r.id, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return err
	}
	err = r.entries(out)
	_, _ = io.Copy(io.Discard, out)
	if werr := cmd.Wait(); err == nil && werr != nil {
		err = fmt.Errorf("journalctl: %w: %s", werr, strings.TrimSpace(said.String()))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (r *journalReader) entries(from io.Reader) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxEntry)
	for lines.Scan() {
		var e entry
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		r.cursor = e.Cursor
		micros, _ := strconv.ParseInt(e.Micros, 10, 64)
		if err := r.take(func() error { return r.print(time.UnixMicro(micros), e.text()) }); err != nil {
			return err
		}
	}
	return lines.Err()
}

// text is the line.
func (e *entry) text() string {
	var text string
	if json.Unmarshal(e.Message, &text) != nil {
		var numbers []byte
		var each []uint16
		_ = json.Unmarshal(e.Message, &each) // null: an empty line
		for _, n := range each {
			numbers = append(numbers, byte(n))
		}
		text = string(numbers)
	}
	if e.Partial == "true" {
		return text
	}
	return text + "\n"
}
