package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/backup"
	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/etcd"
	"github.com/longshore-project/longshore/internal/durable"
)

// Backups are made once a day in BackupDir, and the last few kept.
const (
	backupInterval = 24 * time.Hour
	backupsKept    = 7
	backupPrefix   = "longshore-"
	backupSuffix   = ".backup"
	backupLook     = 10 * time.Minute // between two looks whether one is due
	maxBackupFile  = 1 << 20          // of a file beside the records
)

// writeBackup writes a backup of what this control plane has.
func (p *ControlPlane) writeBackup(ctx context.Context, to io.Writer) (backup.About, error) {
	var files []backup.File
	for name, path := range p.backedUpFiles() {
		data, err := durable.Read(path, maxBackupFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return backup.About{}, err
		}
		files = append(files, backup.File{Name: name, Data: data})
	}
	slices.SortFunc(files, func(a, b backup.File) int { return strings.Compare(a.Name, b.Name) })
	return backup.Write(ctx, p.etcd, store.DefaultPrefix, backup.About{Region: p.cfg.Region, AccountID: p.cfg.AccountID}, files, to)
}

// backedUpFiles are the files that go into a backup, by their names in it: without the seal key its records can't be used.
func (p *ControlPlane) backedUpFiles() map[string]string {
	files := map[string]string{seal.FileName: p.sealPath()}
	for _, name := range []string{auth.AdminFile, auth.HostFile, certs.CAFile, certs.CAKeyFile} {
		files[name] = filepath.Join(p.cfg.DataDir, name)
	}
	return files
}

// serveBackup answers with a backup. One that can't be finished is cut off, which whoever reads it sees.
func (p *ControlPlane) serveBackup(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // as long as it takes
	if _, err := p.writeBackup(r.Context(), w); err != nil {
		p.log.Warn("a backup could not be made", zap.Error(err))
		panic(http.ErrAbortHandler)
	}
}

// serveCheck answers what of the records can't be used or is at odds with the rest.
func (p *ControlPlane) serveCheck(w http.ResponseWriter, r *http.Request) {
	wrong := []string{}
	if err := p.store.Read(r.Context(), func(v *store.View) error { wrong = append(wrong, v.Check()...); return nil }); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answerJSON(w, http.StatusOK, wrong)
}

// keepBackups makes a backup when the newest is a day old, and deletes the oldest beyond those that are kept.
func (p *ControlPlane) keepBackups(ctx context.Context) error {
	tick := time.NewTicker(backupLook)
	defer tick.Stop()
	for {
		if err := p.backUp(ctx, time.Now()); err != nil && ctx.Err() == nil {
			p.log.Error("the daily backup could not be made; trying again", zap.String("directory", p.cfg.BackupDir), zap.Duration("retry", backupLook), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// backUp makes a backup if one is due.
func (p *ControlPlane) backUp(ctx context.Context, now time.Time) error {
	there, err := filepath.Glob(filepath.Join(p.cfg.BackupDir, backupPrefix+"*"+backupSuffix))
	if err != nil {
		return err
	}
	slices.Sort(there) // their names are times
	if n := len(there); n > 0 {
		if info, err := os.Stat(there[n-1]); err == nil && now.Sub(info.ModTime()) < backupInterval && !info.ModTime().After(now) {
			return nil
		}
	}
	if err := os.MkdirAll(p.cfg.BackupDir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(p.cfg.BackupDir, backupPrefix+now.UTC().Format("20060102T150405Z")+backupSuffix)
	var about backup.About
	err = saveBackup(path, func(w io.Writer) (err error) {
		about, err = p.writeBackup(ctx, w)
		return err
	})
	if err != nil {
		return err
	}
	p.log.Info("a backup was made", zap.String("path", path), zap.Int64("revision", about.Revision))
	for there = append(there, path); len(there) > backupsKept; there = there[1:] {
		if err := os.Remove(there[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// saveBackup writes a backup, reads it again, and puts it in its place when it is whole and on the disk.
func saveBackup(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // of mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone when all went well
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if err == nil {
		if _, err = f.Seek(0, io.SeekStart); err == nil {
			_, err = backup.Read(f)
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Backup has the control plane that runs with a data directory write a backup to path, which must not exist.
func Backup(ctx context.Context, dir, path string) error {
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("%w: %s exists already", ErrConfig, path)
	}
	return saveBackup(path, func(w io.Writer) error { return stream(ctx, dir, "/backup", w) })
}

// CheckRunning tells what is wrong with the records of the control plane that runs with a data directory.
func CheckRunning(ctx context.Context, dir string) (wrong []string, err error) {
	return wrong, ask(ctx, dir, http.MethodGet, "/check", nil, &wrong)
}

// ReadBackup reads a backup as a whole.
func ReadBackup(path string) (*backup.Backup, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := backup.Read(f)
	if err != nil {
		return nil, fmt.Errorf("the backup %s can't be used: %w", path, err)
	}
	return b, nil
}

// Restore reads a backup into cfg's store: an embedded one whose data directory has no records, or an external cluster that has
// none. Of cfg the data directory, the seal key's file, the quota and what concerns etcd count. No control plane may run there. A
// restore into an embedded store that fails leaves nothing; into an external one it leaves a part, to be deleted before the
// next attempt.
func Restore(ctx context.Context, cfg Config, path string) (*backup.Backup, error) {
	b, err := ReadBackup(path)
	if err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.DataDir == "" {
		return nil, fmt.Errorf("%w: --data-dir is missing", ErrConfig)
	}
	unlock, err := lockDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if len(cfg.EtcdEndpoints) > 0 {
		err = restoreExternal(ctx, cfg, b)
	} else {
		err = restoreEmbedded(ctx, cfg, b)
	}
	return b, errors.Join(err, keepOwner(cfg.DataDir, cfg.SealKeyFile))
}

func restoreExternal(ctx context.Context, cfg Config, b *backup.Backup) error {
	client, err := etcd.Connect(ctx, etcd.External{Endpoints: cfg.EtcdEndpoints, TLS: cfg.EtcdTLS, Username: cfg.EtcdUsername, Password: cfg.EtcdPassword, Log: cfg.Log})
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if err := b.Restore(ctx, client, store.DefaultPrefix); err != nil {
		return err
	}
	return restoreFiles(cfg, b)
}

// restoreEmbedded fills a store beside the one that is to be, and puts it in its place as the last step.
func restoreEmbedded(ctx context.Context, cfg Config, b *backup.Backup) error {
	final := filepath.Join(cfg.DataDir, "etcd")
	if _, err := os.Stat(final); err == nil {
		return fmt.Errorf("%w: %s has records: move it away first, and keep it until the restored control plane is what you want", ErrConfig, final)
	}
	half := filepath.Join(cfg.DataDir, "etcd.restoring")
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	server, err := etcd.Start(ctx, etcd.Config{Dir: half, Quota: cfg.EtcdQuota, Log: cfg.Log})
	if err != nil {
		return err
	}
	err = b.Restore(ctx, server.Client(), store.DefaultPrefix)
	if err := errors.Join(err, server.Close()); err != nil {
		return errors.Join(err, os.RemoveAll(half))
	}
	if err := restoreFiles(cfg, b); err != nil {
		return err
	}
	return os.Rename(half, final)
}

// restoreFiles writes the backup's files. One that is there and differs is put aside.
func restoreFiles(cfg Config, b *backup.Backup) error {
	stamp := ".before-restore-" + time.Now().UTC().Format("20060102T150405Z")
	for _, f := range b.Files {
		path := filepath.Join(cfg.DataDir, filepath.FromSlash(f.Name))
		if f.Name == seal.FileName && cfg.SealKeyFile != "" {
			path = cfg.SealKeyFile
		}
		switch old, err := os.ReadFile(path); {
		case err == nil && string(old) == string(f.Data):
			continue
		case err == nil:
			if err := os.Rename(path, path+stamp); err != nil {
				return err
			}
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := durable.Write(path, f.Data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// refuseNewer refuses a store that a newer longshore-control has written to: what it can't read it would decide without.
func (p *ControlPlane) refuseNewer() error {
	var newer []store.Quarantined
	p.store.Peek(func(v *store.View) {
		newer = slices.DeleteFunc(v.Quarantined(), func(q store.Quarantined) bool { return !errors.Is(q.Err, store.ErrNewer) })
	})
	if len(newer) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d records of the store were written by a newer longshore-control (%s: %w): start that one, or restore a backup from before the upgrade", ErrConfig, len(newer), newer[0].Key, newer[0].Err)
}
