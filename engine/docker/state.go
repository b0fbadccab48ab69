package docker

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"

	"github.com/longshore-project/longshore/engine"
)

// fromInspect is all that Docker knows of a container.
func fromInspect(c container.InspectResponse) engine.State {
	s := engine.State{
		ID:        c.ID,
		Name:      strings.TrimPrefix(c.Name, "/"),
		ImageID:   c.Image,
		CreatedAt: parseTime(c.Created),
		Mounts:    mounts(c.Mounts),
	}
	if c.Config != nil {
		s.Labels, s.Image = c.Config.Labels, c.Config.Image
	}
	if c.HostConfig != nil {
		s.NetworkMode = networkMode(string(c.HostConfig.NetworkMode))
	}
	if st := c.State; st != nil {
		s.Status, s.Pid, s.OOMKilled, s.Error = status(st.Status), st.Pid, st.OOMKilled, st.Error
		s.StartedAt, s.FinishedAt = parseTime(st.StartedAt), parseTime(st.FinishedAt)
		switch {
		case s.Status == engine.StatusRunning: // the engine still shows the end of the run before a restart
			s.FinishedAt = time.Time{}
		case !s.FinishedAt.IsZero() && s.FinishedAt.Before(s.StartedAt): // it notes the start of a short process after its end
			s.FinishedAt = s.StartedAt
		}
		if ended(s.Status) || s.Error != "" {
			s.ExitCode = st.ExitCode
		}
		s.Health = health(st.Health, s.StartedAt)
	}
	if c.NetworkSettings != nil && s.Status == engine.StatusRunning {
		s.Addresses = addresses(c.NetworkSettings.Networks)
		s.Ports = bindings(c.NetworkSettings)
	}
	return s
}

// fromSummary is what a list shows of a container. The engine gives exit code and health only within a sentence for
// people ("Exited (137) 3 minutes ago", "Up 2 hours (healthy)"); what can't be found there stays zero.
func fromSummary(c container.Summary) engine.State {
	s := engine.State{
		ID: c.ID, Labels: c.Labels, Image: c.Image, ImageID: c.ImageID, Status: status(c.State),
		CreatedAt: time.Unix(c.Created, 0), NetworkMode: networkMode(c.HostConfig.NetworkMode), Mounts: mounts(c.Mounts), Partial: true,
	}
	for _, name := range c.Names {
		if strings.Count(name, "/") == 1 { // "/other/alias" is a link's
			s.Name = name[1:]
		}
	}
	switch text := c.Status; {
	case ended(s.Status):
		if _, rest, ok := strings.Cut(text, "("); ok {
			code, _, _ := strings.Cut(rest, ")")
			s.ExitCode, _ = strconv.Atoi(code)
		}
	case strings.Contains(text, "(healthy)"):
		s.Health.Status = "HEALTHY"
	case strings.Contains(text, "(unhealthy)"):
		s.Health.Status = "UNHEALTHY"
	case strings.Contains(text, "(health: starting)"):
		s.Health.Status = "UNKNOWN"
	}
	if s.Status != engine.StatusRunning {
		return s
	}
	if c.NetworkSettings != nil {
		s.Addresses = addresses(c.NetworkSettings.Networks)
	}
	for _, p := range c.Ports {
		if p.PublicPort != 0 {
			s.Ports = append(s.Ports, engine.Binding{HostIP: p.IP, Port: engine.Port{
				Container: int32(p.PrivatePort), Host: int32(p.PublicPort), Protocol: p.Type,
			}})
		}
	}
	slices.SortFunc(s.Ports, compareBindings)
	return s
}

func status(docker string) engine.Status {
	switch docker {
	case container.StateCreated:
		return engine.StatusCreated
	case container.StateRunning, container.StatePaused, container.StateRestarting:
		return engine.StatusRunning
	case container.StateDead:
		return engine.StatusDead
	}
	return engine.StatusExited // exited, or being removed
}

func ended(s engine.Status) bool { return s == engine.StatusExited || s == engine.StatusDead }

func networkMode(mode string) string {
	if mode == "" || mode == network.NetworkDefault {
		return network.NetworkBridge
	}
	return mode
}

// parseTime reads Docker's times; its zero is the first second of the year 1.
func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() <= 1 {
		return time.Time{}
	}
	return t
}

func mounts(points []container.MountPoint) []engine.Mount {
	var all []engine.Mount
	for _, p := range points {
		m := engine.Mount{Type: string(p.Type), Source: p.Source, Target: p.Destination, ReadOnly: !p.RW}
		if p.Type == mount.TypeVolume {
			m.Source, m.Path = p.Name, p.Source
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b engine.Mount) int { return strings.Compare(a.Target, b.Target) })
	return all
}

// health translates Docker's health. Docker keeps the last five probes and not when the status changed: Since is the
// end of the first of those that agree with it, so it is exact for a status that is younger than five probes.
func health(h *container.Health, started time.Time) engine.Health {
	if h == nil || h.Status == container.NoHealthcheck || h.Status == "" {
		return engine.Health{}
	}
	out := engine.Health{Status: "UNKNOWN", Since: started}
	switch h.Status {
	case container.Healthy:
		out.Status = "HEALTHY"
	case container.Unhealthy:
		out.Status = "UNHEALTHY"
	}
	if len(h.Log) == 0 {
		return out
	}
	last := h.Log[len(h.Log)-1]
	out.ExitCode, out.Output = last.ExitCode, last.Output
	for i := len(h.Log) - 1; i >= 0 && out.Status != "UNKNOWN"; i-- {
		if (h.Log[i].ExitCode == 0) != (out.Status == "HEALTHY") {
			break
		}
		out.Since = h.Log[i].End
	}
	return out
}

func addresses(networks map[string]*network.EndpointSettings) []string {
	var all []string
	for _, n := range networks {
		if n == nil {
			continue
		}
		for _, a := range []string{n.IPAddress, n.GlobalIPv6Address} {
			if a != "" {
				all = append(all, a)
			}
		}
	}
	slices.Sort(all)
	return all
}

func bindings(settings *container.NetworkSettings) []engine.Binding {
	var all []engine.Binding
	for port, list := range settings.Ports {
		for _, b := range list {
			host, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil {
				continue
			}
			all = append(all, engine.Binding{HostIP: b.HostIP, Port: engine.Port{
				Container: int32(port.Int()), Host: int32(host), Protocol: port.Proto(),
			}})
		}
	}
	slices.SortFunc(all, compareBindings)
	return all
}

// compareBindings orders by container port, protocol, IPv4 before IPv6, and host port.
func compareBindings(a, b engine.Binding) int {
	v6 := func(s string) int {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Is6() {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(a.Container, b.Container), strings.Compare(a.Protocol, b.Protocol),
		cmp.Compare(v6(a.HostIP), v6(b.HostIP)), cmp.Compare(a.Host, b.Host),
	)
}
