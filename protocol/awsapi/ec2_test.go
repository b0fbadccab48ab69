package awsapi_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/protocol/agentapi"
)

func TestTheTagsOfAnInstanceAreFetchedPageByPage(t *testing.T) {
	throttled := false
	w := newWorld(t, "ec2", func(w http.ResponseWriter, _ *http.Request, body []byte) {
		form, err := url.ParseQuery(string(body))
		if err != nil || form.Get("Action") != "DescribeTags" || form.Get("Version") != "2016-11-15" || form.Get("Filter.1.Name") != "resource-id" || form.Get("Filter.1.Value.1") != "i-1" {
			t.Errorf("%s %v", body, err)
		}
		item, next := "<item><resourceId>i-1</resourceId><resourceType>instance</resourceType><key>team</key><value>a &amp; b</value></item><item><key>aws:autoscaling:groupName</key><value>g</value></item>", "<nextToken>n/1=</nextToken>"
		switch {
		case !throttled:
			throttled = true
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>slow down</Message></Error></Errors><RequestID>r-1</RequestID></Response>")
			return
		case form.Get("NextToken") == "n/1=":
			item, next = "<item><key>stage</key><value></value></item>", "<nextToken/>"
		}
		fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><DescribeTagsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r-2</requestId><tagSet>%s</tagSet>%s</DescribeTagsResponse>`, item, next)
	})
	tags, err := w.client.DescribeInstanceTags(t.Context(), w.caller(), "i-1")
	if err != nil || !maps.Equal(tags, map[string]string{"team": "a & b", "stage": ""}) {
		t.Errorf("%q %v", tags, err)
	}
}

func TestWhatEC2RefusesIsSaidByNameAndWhatIsNoAnswerIsNotBelieved(t *testing.T) {
	answer, status := "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized to perform this operation.</Message></Error></Errors><RequestID>r-1</RequestID></Response>", http.StatusForbidden
	w := newWorld(t, "ec2", func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.WriteHeader(status)
		fmt.Fprint(w, answer)
	})
	_, err := w.client.DescribeInstanceTags(t.Context(), w.caller(), "i-1")
	var refused *agentapi.APIError
	if !errors.As(err, &refused) || refused.Code != "UnauthorizedOperation" || refused.RequestID != "r-1" {
		t.Error(err)
	}
	status = http.StatusOK
	for _, answer = range []string{"", "<html></html>", "{}", "<DescribeTagsResponse><tagSet>", "<DescribeTagsResponse>" + strings.Repeat(" ", 2<<20) + "</DescribeTagsResponse>", "<DescribeTagsResponse><nextToken>again</nextToken></DescribeTagsResponse>"} {
		if tags, err := w.client.DescribeInstanceTags(t.Context(), w.caller(), "i-1"); err == nil {
			t.Errorf("%.40q: %q", answer, tags)
		}
	}
}
