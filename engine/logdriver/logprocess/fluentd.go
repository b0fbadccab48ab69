package logprocess

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/fluent/fluent-logger-golang/fluent"

	"github.com/longshore-project/longshore/engine/logdriver"
)

// fluentd writes to a Fluentd or Fluent Bit, by the forward protocol, with the members that Docker's driver has.
type fluentd struct {
	f     *fluent.Fluent
	tag   string
	extra map[string]string
	id    string
	name  string
}

func newFluentd(s logdriver.Settings) (Driver, error) {
	config, err := fluentConfig(s.Options)
	if err != nil {
		return nil, err
	}
	d := &fluentd{id: s.Container.FullID(), name: "/" + s.Container.Name()}
	if d.tag, err = tag(s); err != nil {
		return nil, err
	}
	if d.extra, err = extra(s, func(k string) string { return k }); err != nil {
		return nil, err
	}
	if d.f, err = fluent.New(config); err != nil {
		return nil, fmt.Errorf("fluentd at %s: %w", s.Options["fluentd-address"], err)
	}
	return d, nil
}

func fluentConfig(o map[string]string) (fluent.Config, error) {
	c := fluent.Config{FluentNetwork: "tcp", FluentHost: "127.0.0.1", FluentPort: 24224, BufferLimit: 1 << 20, RetryWait: 1000, MaxRetry: 1<<31 - 1}
	if a := o["fluentd-address"]; a != "" {
		if !strings.Contains(a, "://") {
			a = "tcp://" + a
		}
		u, err := url.Parse(a)
		if err != nil {
			return c, fmt.Errorf("option fluentd-address %q: %w", a, err)
		}
		switch u.Scheme {
		case "unix":
			c.FluentNetwork, c.FluentSocketPath = "unix", u.Path
		case "tcp", "tls":
			c.FluentNetwork, c.FluentHost = u.Scheme, u.Hostname()
			if _, port, err := net.SplitHostPort(u.Host); err == nil {
				if c.FluentPort, err = strconv.Atoi(port); err != nil {
					return c, fmt.Errorf("option fluentd-address %q: %w", a, err)
				}
			}
		default:
			return c, fmt.Errorf("option fluentd-address is %q; it must begin with tcp://, tls:// or unix://", a)
		}
	}
	var err error
	read := func(name string, set func(string) error) {
		if v, given := o[name]; given && err == nil {
			if serr := set(v); serr != nil {
				err = fmt.Errorf("option %s %q: %w", name, v, serr)
			}
		}
	}
	boolean := func(at *bool) func(string) error {
		return func(v string) (err error) { *at, err = strconv.ParseBool(v); return err }
	}
	read("fluentd-async", boolean(&c.Async))
	read("fluentd-async-connect", boolean(&c.Async))
	read("fluentd-sub-second-precision", boolean(&c.SubSecondPrecision))
	read("fluentd-request-ack", boolean(&c.RequestAck))
	read("fluentd-buffer-limit", func(v string) error {
		n, err := units.RAMInBytes(v)
		c.BufferLimit = int(n)
		return err
	})
	read("fluentd-retry-wait", func(v string) error {
		d, err := time.ParseDuration(v)
		c.RetryWait = int(d.Milliseconds())
		return err
	})
	read("fluentd-write-timeout", func(v string) (err error) { c.WriteTimeout, err = time.ParseDuration(v); return err })
	read("fluentd-max-retries", func(v string) (err error) { c.MaxRetry, err = strconv.Atoi(v); return err })
	c.ForceStopAsyncSend = c.Async
	return c, err
}

func (d *fluentd) Write(e Entry) error {
	record := map[string]string{"container_id": d.id, "container_name": d.name, "source": e.Stream, "log": string(bytes.TrimSuffix(e.Line, []byte("\n")))}
	if e.Partial {
		record["partial_message"] = "true"
	}
	maps.Copy(record, d.extra)
	return d.f.PostWithTime(d.tag, e.Time, record)
}

func (d *fluentd) Close() error { return d.f.Close() }
