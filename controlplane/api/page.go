package api

import (
	"encoding/base64"
	"slices"
	"strings"
)

// paging is what a client asked of a list, and the list's limits.
type paging struct {
	max   *int32
	token *string
	limit int32 // highest maxResults
	size  int32 // page size without maxResults
	desc  bool  // items are in descending order of key
}

// paginate is the page of items that a client asked for, and the token of the next one, nil after the last. items must
// be in order of key, and keys unique. A token holds the last key returned, so that a page neither repeats nor skips an
// item when others come and go in between; it is good only for the operation that issued it.
func paginate[T any](c *call, p paging, items []T, key func(T) string) ([]T, *string, error) {
	size := p.size
	if p.max != nil {
		if *p.max < 1 || *p.max > p.limit {
			return nil, nil, invalid("maxResults should be between 1 and %d, but was %d.", p.limit, *p.max)
		}
		size = *p.max
	}
	if p.token != nil && *p.token != "" {
		last, err := c.openToken(*p.token)
		if err != nil {
			return nil, nil, err
		}
		start, found := slices.BinarySearchFunc(items, last, func(item T, last string) int {
			if p.desc {
				return strings.Compare(last, key(item))
			}
			return strings.Compare(key(item), last)
		})
		if found {
			start++
		}
		items = items[start:]
	}
	if int64(len(items)) <= int64(size) {
		return items, nil, nil
	}
	next := c.sealToken(key(items[size-1]))
	return items[:size], &next, nil
}

func (c *call) sealToken(key string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(c.op + "\x00" + key))
}

func (c *call) openToken(token string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	op, key, ok := strings.Cut(string(b), "\x00")
	if err != nil || !ok || op != c.op {
		return "", invalid("Invalid token: %.200q is not a nextToken of %s.", token, c.op)
	}
	return key, nil
}

// itself is the key of a list of unique strings.
func itself(s string) string { return s }
