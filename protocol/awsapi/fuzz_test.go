package awsapi

import (
	"strings"
	"testing"
)

func FuzzTags(f *testing.F) {
	f.Add([]byte(`<DescribeTagsResponse><tagSet><item><key>a</key><value>b</value></item></tagSet><nextToken>x</nextToken></DescribeTagsResponse>`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		tags := map[string]string{}
		if _, err := parseTags(answer, tags); err != nil && len(tags) > 0 {
			t.Error("an answer that cannot be used has tags")
		}
		for k := range tags {
			if k == "" || strings.HasPrefix(k, "aws:") {
				t.Errorf("%q", k)
			}
		}
	})
}
