package doctor

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/statemgr"
)

// leastFree is the free space above which a disk is not short, however large it is; as the agent judges it.
const leastFree = 5 << 30

// reserveName is the agent's file in its data directory that holds space for a full disk.
const reserveName = "reserve"

// disks looks at the space of the directories that the agent and the engine write to. root is the engine's.
func (e *examination) disks(root string) {
	dirs := []string{e.Config.DataDir, root}
	if e.Config.Log.File != "" {
		dirs = append(dirs, filepath.Dir(e.Config.Log.File))
	}
	percent := e.Config.DiskPressurePercent
	for _, d := range local.Disks(dirs...) {
		mend := "Make room there: docker system df and longshore-agent gc --dry-run show what images and containers hold."
		verdict := OK
		if percent > 0 && d.Free < d.Total/100*percent && d.Free < leastFree || d.TotalInodes > 0 && d.FreeInodes < d.TotalInodes/100*max(percent, 1) {
			verdict = Warn
		}
		if d.Free < 64<<20 || d.TotalInodes > 0 && d.FreeInodes < 1000 {
			verdict = Fail
		}
		e.add(verdict, "disk", mend, "%s", d)
	}
	switch info, err := os.Stat(filepath.Join(e.Config.DataDir, reserveName)); {
	case err == nil:
		e.add(OK, "reserve", "", "%d KiB are held back on the disk of %s for the agent's state", info.Size()>>10, e.Config.DataDir)
	case e.status != nil:
		e.add(Fail, "reserve", "Make room: it is laid in again when 32 MiB are free.", "the reserve on the disk of %s is spent: when the disk is full the agent can't save its state", e.Config.DataDir)
	default:
		e.add(Warn, "reserve", "The agent lays it in at its next start.", "no space is held back on the disk of %s", e.Config.DataDir)
	}
}

// permissions looks at who may read and write what the agent trusts.
func (e *examination) permissions() {
	e.path("state", e.Config.DataDir, 0o077, true)
	e.path("identity", filepath.Join(e.Config.DataDir, statemgr.IdentityName), 0o022, false)
	if file := e.Config.Log.File; file != "" {
		e.path("log", filepath.Dir(file), 0o022, true)
	}
	secret := fs.FileMode(0o022)
	if e.Config.SecretAccessKey != "" || e.Config.EngineAuthData != "" || e.Config.SessionToken != "" {
		secret = 0o077
	}
	e.path("config file", e.File, secret, false)
	e.path("policy file", e.Config.HostPolicyFile, 0o022, false)
}

// path looks at one: its owner, that nobody has the rights in unwanted, and, for a directory that is needed, that it is there
// and can be written.
func (e *examination) path(name, path string, unwanted fs.FileMode, needed bool) {
	if path == "" {
		return
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !needed:
		e.add(OK, name, "", "%s does not exist", path)
		return
	case errors.Is(err, fs.ErrNotExist) && e.status == nil:
		e.add(Warn, name, "The agent makes it when it starts.", "%s does not exist", path)
		return
	case err != nil:
		e.add(Fail, name, "Make it, for root only: install -d -m 0700 "+path, "%v", err)
		return
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
		e.add(Fail, name, "chown root "+path, "%s belongs to uid %d, who may change it", path, owner.Uid)
	case info.Mode().Perm()&unwanted&0o022 != 0:
		e.add(Fail, name, "chmod go-w "+path, "%s has mode %04o: others than root can write to it", path, info.Mode().Perm())
	case info.Mode().Perm()&unwanted != 0:
		e.add(Warn, name, "chmod go-rwx "+path, "%s has mode %04o: others than root can read in it", path, info.Mode().Perm())
	case needed && unix.Access(path, unix.W_OK) != nil:
		e.add(Fail, name, "Run this command as root; if it is root, the file system is read-only: mount -o remount,rw.", "%s can't be written", path)
	default:
		e.add(OK, name, "", "%s has mode %04o and belongs to uid %d", path, info.Mode().Perm(), owner.Uid)
	}
}

// localAddresses asks where containers and monitoring agents ask.
func (e *examination) localAddresses(ctx context.Context) {
	if e.status == nil {
		e.add(Warn, "introspection", "It is there while the agent runs.", "not looked at: the agent does not run")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.Introspection+"/v1/metadata", nil)
	if err == nil {
		var answer *http.Response
		if answer, err = (&http.Client{Transport: transport}).Do(request); err == nil {
			_ = answer.Body.Close()
		}
	}
	if err != nil {
		e.add(Fail, "introspection", "Is the port another process's? ss -ltnp 'sport = :51678' tells.", "it does not answer: %v", err)
	} else {
		e.add(OK, "introspection", "", "answers at http://%s/v1/metadata", e.Introspection)
	}
	if why := e.status.Containers.Problem; why != "" {
		e.add(Fail, "link-local", "The agent tries again every 10 s, and offers task roles once it can. End what has the port: ss -ltnp 'sport = :51679'", "containers can't ask for credentials and metadata, and this host offers no task roles: %s", why)
		return
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.Credentials)
	if err != nil {
		e.add(Fail, "link-local", "The agent puts the address and its nftables rules back within 30 s; its log says what keeps it from that. See: ip addr show dev lo; nft list table inet longshore", "containers can't ask for credentials and metadata at %s: %v", e.Credentials, err)
		return
	}
	_ = conn.Close()
	e.add(OK, "link-local", "", "credentials and metadata are served at %s", e.Credentials)
}
