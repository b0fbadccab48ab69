// Package bench measures Longshore beside its floor: the same container made by a bare client on the same engine, in the same run,
// in turn. `make bench` prints the figures; nothing here is judged by a test. See bench_test.go, which is built with the tag
// "bench" only.
//
// The engine's data lies on a tmpfs, because loops that make and remove containers slow down by half on ext4 within minutes.
// The figures of a shared machine are noisy: read ratios of medians.
package bench
