package statemgr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"runtime/debug"
)

// bbolt maps its file into memory and trusts what it finds there: in a truncated or overwritten file it would follow wild
// pointers, which is the end of the process. So each page is checked here, by its bytes, before bbolt sees the file.
//
// The layout: page n is at n times the page size. A page begins with its number (8 bytes), flags (2), the count of its
// elements (2) and how many further pages it spans (4). Pages 0 and 1 are meta pages; of the valid ones the later
// transaction counts. All numbers are in the machine's byte order.
const (
	pageHeader  = 16
	elementSize = 16
	metaSize    = 64
	metaSummed  = 56
	metaMagic   = 0xED0CDAED
	minPageSize = 1 << 9
	maxPageSize = 1 << 16
	noFreelist  = ^uint64(0)
	maxDepth    = 64

	branchPage, leafPage, freelistPage = 0x01, 0x02, 0x10
	bucketValue                        = 0x01
)

var order = binary.NativeEndian

// check reads a database's bytes. Its error is a [*damage] if they can't be a database.
func check(path string) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(raw) == 0 { // bbolt was stopped before it wrote the first byte
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the state database: %w", err)
	}
	_, err = checkPages(raw)
	return err
}

// checkPages checks a database's bytes, and returns the meta page that counts.
func checkPages(raw []byte) (meta, error) {
	m, ok := readMeta(raw, 0)
	size := uint64(os.Getpagesize())
	if ok {
		size = m.pageSize
	}
	if second, ok2 := readMeta(raw, size); ok2 && (!ok || second.transaction > m.transaction) {
		m, ok = second, true
	}
	if !ok {
		return meta{}, damaged("neither of its meta pages can be read (it has %d bytes)", len(raw))
	}
	if want := m.highWater * m.pageSize; uint64(len(raw)) < want {
		return meta{}, damaged("it is truncated: it has %d bytes and should have at least %d", len(raw), want)
	}
	c := &checker{raw: raw, meta: m, seen: map[uint64]bool{0: true, 1: true}}
	if err := c.tree(m.root, 0); err != nil {
		return meta{}, err
	}
	return m, c.freelist()
}

func damaged(format string, args ...any) error {
	return &damage{fmt.Errorf("it is damaged: "+format, args...)}
}

type meta struct{ pageSize, root, freelist, highWater, transaction uint64 }

func readMeta(raw []byte, at uint64) (meta, bool) {
	if at+pageHeader+metaSize > uint64(len(raw)) {
		return meta{}, false
	}
	b := raw[at+pageHeader:][:metaSize]
	m := meta{uint64(order.Uint32(b[8:])), order.Uint64(b[16:]), order.Uint64(b[32:]), order.Uint64(b[40:]), order.Uint64(b[48:])}
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSummed])
	ok := order.Uint32(b) == metaMagic && m.pageSize >= minPageSize && m.pageSize <= maxPageSize && m.highWater < 1<<40 &&
		sum.Sum64() == order.Uint64(b[metaSummed:])
	return m, ok
}

type checker struct {
	raw []byte
	meta
	seen map[uint64]bool // pages that something refers to
}

// page returns a page with those it spans, and notes that they are in use.
func (c *checker) page(id uint64) ([]byte, error) {
	if id >= c.highWater {
		return nil, damaged("page %d is referred to, and there are %d", id, c.highWater)
	}
	p := c.raw[id*c.pageSize:]
	span := uint64(order.Uint32(p[12:])) + 1
	if order.Uint64(p) != id || id+span > c.highWater {
		return nil, damaged("page %d says that it is page %d and spans %d", id, order.Uint64(p), span)
	}
	for i := id; i < id+span; i++ {
		if c.seen[i] {
			return nil, damaged("page %d is referred to twice", i)
		}
		c.seen[i] = true
	}
	return p[:span*c.pageSize], nil
}

func (c *checker) tree(id uint64, depth int) error {
	if depth > maxDepth {
		return damaged("page %d lies %d levels deep", id, depth)
	}
	p, err := c.page(id)
	if err != nil {
		return err
	}
	return c.elements(p, id, depth)
}

// elements checks the elements of a branch or leaf page, and what they refer to.
func (c *checker) elements(p []byte, id uint64, depth int) error {
	kind, count := order.Uint16(p[8:]), uint64(order.Uint16(p[10:]))
	if kind != branchPage && kind != leafPage || kind == branchPage && count == 0 || pageHeader+count*elementSize > uint64(len(p)) {
		return damaged("page %d is of kind %#x with %d elements", id, kind, count)
	}
	for i := range count {
		e := p[pageHeader+i*elementSize:]
		if kind == branchPage {
			if at, size := uint64(order.Uint32(e)), uint64(order.Uint32(e[4:])); at+size > uint64(len(e)) {
				return damaged("element %d of page %d reaches out of it", i, id)
			}
			if err := c.tree(order.Uint64(e[8:]), depth+1); err != nil {
				return err
			}
			continue
		}
		at, key, value := uint64(order.Uint32(e[4:])), uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
		if at+key+value > uint64(len(e)) {
			return damaged("element %d of page %d reaches out of it", i, id)
		}
		if order.Uint32(e)&bucketValue != 0 {
			if err := c.bucket(e[at+key:][:value], id, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucket checks a bucket's value: its root page and sequence, and, where the root is 0, its only page right behind them.
func (c *checker) bucket(v []byte, id uint64, depth int) error {
	if len(v) < 16 {
		return damaged("a bucket in page %d has %d bytes", id, len(v))
	}
	if root := order.Uint64(v); root != 0 {
		return c.tree(root, depth+1)
	}
	if v = v[16:]; len(v) < pageHeader || order.Uint16(v[8:]) != leafPage {
		return damaged("a bucket inside page %d is no leaf", id)
	}
	return c.elements(v, id, depth+1)
}

func (c *checker) freelist() error {
	if c.meta.freelist == noFreelist {
		return nil
	}
	p, err := c.page(c.meta.freelist)
	if err != nil {
		return err
	}
	count, at := uint64(order.Uint16(p[10:])), uint64(pageHeader)
	if count == 0xFFFF { // the count does not fit there and is the first entry
		count, at = order.Uint64(p[at:]), at+8
	}
	if order.Uint16(p[8:]) != freelistPage || count > c.highWater || at+count*8 > uint64(len(p)) {
		return damaged("page %d is no list of free pages", c.meta.freelist)
	}
	for i := range count {
		free := order.Uint64(p[at+i*8:])
		if free >= c.highWater || c.seen[free] {
			return damaged("page %d is on the list of free pages and is not free", free)
		}
		c.seen[free] = true
	}
	return nil
}

// guarded runs f so that a panic of bbolt's, or a page that the disk can no longer give, is an error.
func guarded(f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if r := recover(); r != nil {
			err = damaged("%v", r)
		}
	}()
	return f()
}
