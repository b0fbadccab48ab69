package agent

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// leastFree is the free space above which a disk is not short, however large it is.
const leastFree = 5 << 30

// diskPressure says which of the disks that hold the directories are short: less than percent of their space, and less than
// 5 GiB, or less than percent of their inodes, is free. Empty if none is; a directory that can't be looked at says nothing.
func diskPressure(percent int64, dirs ...string) string {
	var short []string
	seen := map[unix.Fsid]bool{}
	for _, dir := range dirs {
		var fs unix.Statfs_t
		if percent == 0 || dir == "" || unix.Statfs(dir, &fs) != nil || seen[fs.Fsid] || fs.Blocks == 0 {
			continue
		}
		seen[fs.Fsid] = true
		free, all := int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize
		switch {
		case free < all/100*percent && free < leastFree:
			short = append(short, fmt.Sprintf("the disk of %s is short: %d of %d MiB are free (ECS_DISK_PRESSURE_PERCENT is %d); stopped tasks are removed before their time", dir, free>>20, all>>20, percent))
		case fs.Files > 0 && int64(fs.Ffree) < int64(fs.Files)/100*percent:
			short = append(short, fmt.Sprintf("the disk of %s is short: %d of %d inodes are free (ECS_DISK_PRESSURE_PERCENT is %d); stopped tasks are removed before their time", dir, fs.Ffree, fs.Files, percent))
		}
	}
	return strings.Join(short, "; ")
}

// diskShort says why the host's disks are short, as the engine asks it with each look; empty if they are not.
func (a *Agent) diskShort() string {
	why := diskPressure(a.cfg.DiskPressurePercent, a.cfg.DataDir, a.info.Load().Root)
	if spent := a.reserve.pressure(); spent != "" && why == "" {
		why = spent
	}
	return why
}
