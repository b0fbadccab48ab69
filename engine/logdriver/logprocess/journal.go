package logprocess

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/longshore-project/longshore/engine/logdriver"
)

// journald writes to the host's journal, with the fields that Docker's driver has (systemd.journal-fields(7)).
type journald struct{ fields map[string]string }

func newJournal(s logdriver.Settings) (Driver, error) {
	if !journal.Enabled() {
		return nil, errors.New("journald: this host has no journal (/run/systemd/journal/socket)")
	}
	tag, err := tag(s)
	if err != nil {
		return nil, err
	}
	fields, err := extra(s, journalField)
	if err != nil {
		return nil, err
	}
	c := s.Container
	for k, v := range map[string]string{
		"CONTAINER_ID": c.ID(), "CONTAINER_ID_FULL": c.FullID(), "CONTAINER_NAME": c.Name(), "CONTAINER_TAG": tag, "IMAGE_NAME": c.ImageName(), "SYSLOG_IDENTIFIER": tag,
	} {
		fields[k] = v
	}
	return &journald{fields: fields}, nil
}

// journalField is a name as the journal takes it: upper case, digits and underscores, not beginning with one of those.
func journalField(name string) string {
	out := strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return '_'
		}
		return unicode.ToUpper(r)
	}, name)
	return strings.TrimLeft(out, "_0123456789")
}

func (d *journald) Write(e Entry) error {
	priority := journal.PriInfo
	if e.Stream == "stderr" {
		priority = journal.PriErr
	}
	fields := d.fields
	if e.Partial {
		fields = map[string]string{"CONTAINER_PARTIAL_MESSAGE": "true"}
		for k, v := range d.fields {
			fields[k] = v
		}
	}
	if err := journal.Send(string(bytes.TrimSuffix(e.Line, []byte("\n"))), priority, fields); err != nil {
		return fmt.Errorf("journald: %w", err)
	}
	return nil
}

func (*journald) Close() error { return nil }
