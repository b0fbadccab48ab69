package awsapi

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// maxTags bounds the answer of DescribeTags; an instance has at most 50 tags.
const maxTags = 1 << 20

// DescribeInstanceTags fetches the tags of an EC2 instance (DescribeTags of the EC2 API). Those that AWS itself gives, which begin with aws:,
// are left out: ECS does not take them.
func (c *Client) DescribeInstanceTags(ctx context.Context, who Caller, instance string) (map[string]string, error) {
	client, err := c.client(&ec2, who, "")
	if err != nil {
		return nil, err
	}
	form := url.Values{
		"Action": {"DescribeTags"}, "Version": {"2016-11-15"}, "Filter.1.Name": {"resource-id"}, "Filter.1.Value.1": {instance},
		"Filter.2.Name": {"resource-type"}, "Filter.2.Value.1": {"instance"},
	}
	tags := map[string]string{}
	for range 10 {
		answer, err := client.Query(ctx, form, maxTags)
		if err != nil {
			return nil, err
		}
		next, err := parseTags(answer, tags)
		if err != nil || next == "" {
			return tags, err
		}
		form.Set("NextToken", next)
	}
	return nil, errors.New("DescribeTags: the answer does not end")
}

// parseTags adds the tags of one answer, and returns the token of the next.
func parseTags(answer []byte, tags map[string]string) (next string, err error) {
	var page struct {
		XMLName xml.Name `xml:"DescribeTagsResponse"`
		Items   []struct {
			Key   string `xml:"key"`
			Value string `xml:"value"`
		} `xml:"tagSet>item"`
		Next string `xml:"nextToken"`
	}
	if err := xml.Unmarshal(answer, &page); err != nil {
		return "", fmt.Errorf("DescribeTags: the answer cannot be used: %w", err)
	}
	for _, t := range page.Items {
		if t.Key != "" && !strings.HasPrefix(t.Key, "aws:") {
			tags[t.Key] = t.Value
		}
	}
	return page.Next, nil
}
