package statemgr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
)

// Layout of a bbolt meta page, behind the page header of 16 bytes: magic, version, page size and flags of 4 bytes each;
// root page and sequence, free list page, high-water mark, transaction and checksum of 8 bytes each.
const (
	metaOffset  = 16
	metaSize    = 64
	metaSummed  = 56
	metaMagic   = 0xED0CDAED
	minPageSize = 1 << 9
	maxPageSize = 1 << 16
)

// checkSize compares a database's length with what its meta pages promise. bbolt maps the file into memory: touching a
// page behind the end of a truncated file would be the end of the process.
func checkSize(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the state database: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("the state database %s is not a regular file", path)
	}
	if info.Size() == 0 { // bbolt was stopped before it wrote the first byte
		return nil
	}
	first, ok := readMeta(f, 0)
	size := first.pageSize
	if !ok {
		size = uint32(os.Getpagesize())
	}
	second, ok2 := readMeta(f, int64(size))
	best := first
	if ok2 && (!ok || second.transaction > first.transaction) {
		best = second
	}
	if !ok && !ok2 {
		return &damage{fmt.Errorf("neither of its meta pages can be read (it has %d bytes)", info.Size())}
	}
	if want := int64(best.highWater) * int64(best.pageSize); info.Size() < want {
		return &damage{fmt.Errorf("it is truncated: it has %d bytes and should have at least %d", info.Size(), want)}
	}
	return nil
}

type meta struct {
	pageSize               uint32
	highWater, transaction uint64
}

func readMeta(f io.ReaderAt, at int64) (meta, bool) {
	var b [metaSize]byte
	if _, err := f.ReadAt(b[:], at+metaOffset); err != nil {
		return meta{}, false
	}
	m := meta{binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint64(b[40:]), binary.NativeEndian.Uint64(b[48:])}
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSummed])
	ok := binary.NativeEndian.Uint32(b[0:]) == metaMagic && m.pageSize >= minPageSize && m.pageSize <= maxPageSize &&
		m.highWater < 1<<40 && sum.Sum64() == binary.NativeEndian.Uint64(b[metaSummed:])
	return m, ok
}
