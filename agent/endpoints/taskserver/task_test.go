package taskserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/endpoints/caller"
)

func TestWhoAsksInATasksNetworkIsOfThatTaskWhateverItsAddress(t *testing.T) {
	const mine, other = "arn:aws:ecs:us-west-2:1:task/c/mine", "arn:aws:ecs:us-west-2:1:task/c/other"
	s := New(Config{Log: zap.NewNop(), Rate: 1, Burst: 3})
	f := caller.New(caller.Config{})
	s.Handle("GET /who", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := f.Find(r)
		_, not := f.Is(r, other)
		var refused *caller.Refused
		fmt.Fprint(w, c.TaskArn, err, errors.As(not, &refused))
	}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	get := func(at string) (int, string) {
		res, err := http.Get("http://" + at + "/who")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	var at []string
	for _, task := range []string{mine, other} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, l.Addr().String())
		go func() { done <- s.ServeTask(ctx, l, task) }()
	}
	if code, body := get(at[0]); code != http.StatusOK || body != mine+"<nil> true" {
		t.Errorf("%d %s", code, body)
	}
	for range 3 {
		get(at[0])
	}
	if code, _ := get(at[0]); code != http.StatusTooManyRequests {
		t.Errorf("a task has no rate: %d", code)
	}
	if code, body := get(at[1]); code != http.StatusOK || body != other+"<nil> false" {
		t.Errorf("another task with the same address has the same rate: %d %s", code, body)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	for range 2 {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
