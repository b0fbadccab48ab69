package imagecache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"
)

// unpack is how much of the engine's disk a pull takes for each byte that it downloads: 1 for the download itself, which lies
// beside what is unpacked from it until the layer is done, and 1.5 to 2 for that, as gzip does with programs and texts.
// A layer that is not compressed takes 2.
const (
	unpack     = 3
	unpackTar  = 2
	unpackZstd = 4 // which compresses a little better
)

// plenty is the free space from which on a pull is not looked at beforehand: an image that does not fit is not to be expected,
// and each question is one more that a registry may count.
var plenty = Room{Bytes: 32 << 30, Inodes: 2 << 20}

// Layers is an Engine that says which layers it has, unpacked: their diff ids (OCI image specification, config.md).
type Layers interface {
	Layers(ctx context.Context) ([]string, error)
}

// ensureRoom sees to it, before a pull, that the engine's disk has room for it: by a collection, if need be. An image that
// can't fit is a failure, ResourceExhausted, with the numbers. What can't be found out is logged, and the pull begins.
func (c *Cache[I]) ensureRoom(f *flight[I], log *zap.Logger) error {
	if c.cfg.HTTPClient == nil || !c.Collects() {
		return nil
	}
	disk := c.collector.cfg.Store.Disk()
	if !disk.Known() || disk.Free.Bytes >= plenty.Bytes && (disk.Free.Inodes >= plenty.Inodes || disk.Total.Inodes == 0) {
		return nil
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(f.ctx, askTime)
	defer cancel()
	want, download, err := c.wants(ctx, f, disk)
	if err != nil {
		log.Info("how large the image is can't be found out before the pull, which begins all the same", zap.Error(err), zap.Stringer("disk", disk), zap.Duration("duration", time.Since(begun)))
		return nil
	}
	if disk.Total.Inodes == 0 {
		want.Inodes = 0
	}
	fits := func() bool { return want.Bytes <= disk.Free.Bytes && want.Inodes <= disk.Free.Inodes }
	log.Debug("room for the image", zap.Int64("download", download), zap.Int64("bytes", want.Bytes), zap.Int64("inodes", want.Inodes), zap.Stringer("disk", disk), zap.Bool("fits", fits()), zap.Duration("duration", time.Since(begun)))
	if fits() {
		return nil
	}
	removed := "images are not removed by themselves here: longshore-agent gc removes those that nobody uses"
	if c.collector.cfg.Interval > 0 {
		log.Warn("the disk has no room for the image; images that nobody uses are removed first", zap.Int64("bytes", want.Bytes), zap.Int64("inodes", want.Inodes), zap.Stringer("disk", disk))
		r, err := c.collect(f.ctx, false, want)
		if err != nil {
			log.Warn("images could not be collected", zap.Error(err))
		} else {
			removed = fmt.Sprintf("the images that nobody uses were removed, %d MiB", mib(r.Freed))
		}
		if disk = c.collector.cfg.Store.Disk(); fits() {
			return nil
		}
	}
	return &classed{errdefs.ErrResourceExhausted, fmt.Sprintf("no room for it on the engine's disk: its layers that are not here are %d MiB to download and take about %d MiB and %d inodes (up to %d times that); %s; %s",
		mib(download), mib(want.Bytes), want.Inodes, unpackZstd, disk, removed)}
}

// onFullDisk removes images that nobody uses when a pull has filled the disk, before it is tried again.
func (c *Cache[I]) onFullDisk(f *flight[I], err error, log *zap.Logger) {
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(strings.ToLower(err.Error()), "no space left") || !c.Collects() || c.collector.cfg.Interval <= 0 {
		return
	}
	disk := c.collector.cfg.Store.Disk()
	r, cerr := c.collect(f.ctx, false, Room{Bytes: disk.Free.Bytes + disk.Total.Bytes/10, Inodes: disk.Free.Inodes + disk.Total.Inodes/10})
	if cerr == nil {
		log.Warn("the engine's disk is full; images that nobody uses were removed", zap.Int64("bytes", r.Freed), zap.Stringer("disk", disk))
	}
}

// mib rounds up.
func mib(bytes int64) int64 { return (bytes + 1<<20 - 1) >> 20 }

// wants is what a pull will take of the disk, and how much it will download. Layers that the engine has are counted only if
// the image would fit without them.
func (c *Cache[I]) wants(ctx context.Context, f *flight[I], disk Disk) (want Room, download int64, err error) {
	r := newRegistry(c.cfg.HTTPClient, f.name.repository, f.auth)
	m, err := r.manifest(ctx, tag(f.name.given))
	if err != nil {
		return want, 0, err
	}
	if _, err := c.engine.Image(ctx, m.Config.Digest); err == nil {
		return want, 0, nil // it is here, perhaps by another name
	}
	want, download = roomFor(m.Layers, nil)
	if want.Bytes <= disk.Free.Bytes && want.Inodes <= disk.Free.Inodes {
		return want, download, nil
	}
	engine, ok := c.engine.(Layers)
	if !ok {
		return want, download, nil
	}
	have, err := engine.Layers(ctx)
	if err != nil || len(have) == 0 {
		return want, download, nil //nolint:nilerr // all layers count then
	}
	ids := r.layerIDs(ctx, m)
	want, download = roomFor(m.Layers, func(i int) bool { return i < len(ids) && slices.Contains(have, ids[i]) })
	return want, download, nil
}

// roomFor adds up layers, but for those that are there.
func roomFor(layers []layer, there func(i int) bool) (want Room, download int64) {
	for i, l := range layers {
		if there != nil && there(i) {
			continue
		}
		factor := int64(unpack)
		switch {
		case strings.HasSuffix(l.MediaType, "tar"):
			factor = unpackTar
		case strings.HasSuffix(l.MediaType, "zstd"):
			factor = unpackZstd
		}
		download += l.Size
		want.Bytes += factor * l.Size
		want.Inodes += inodesOf((factor - 1) * l.Size)
	}
	return want, download
}
