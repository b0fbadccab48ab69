package local

import "golang.org/x/sys/unix"

// Disks are the file systems of the directories, each once, in their order. One that can't be looked at is left out.
func Disks(dirs ...string) []Disk {
	out, seen := []Disk{}, map[unix.Fsid]bool{}
	for _, dir := range dirs {
		var fs unix.Statfs_t
		if dir == "" || unix.Statfs(dir, &fs) != nil || seen[fs.Fsid] {
			continue
		}
		seen[fs.Fsid] = true
		out = append(out, Disk{Path: dir, Free: int64(fs.Bavail) * fs.Bsize, Total: int64(fs.Blocks) * fs.Bsize, FreeInodes: int64(fs.Ffree), TotalInodes: int64(fs.Files)})
	}
	return out
}
