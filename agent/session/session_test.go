package session_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/coder/websocket"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/agent/session/sessiontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pass lets time pass inside a synctest bubble.
func pass(d time.Duration) { <-time.After(d) }

// signer signs with a fixed key.
var signer = session.NewSigV4(aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: "AKIA", SecretAccessKey: "s", SessionToken: "token"}, nil
}), "us-west-2")

// start runs a session until stop is called, which returns Run's error. frames counts what Handler got.
func start(t *testing.T, s *sessiontest.Server, change func(*session.Config)) (frames *atomic.Int64, stop func() error) {
	t.Helper()
	frames = &atomic.Int64{}
	c := session.Config{
		Name: "ACS", Client: s.Client, Signer: signer, Log: zap.NewNop(), Limits: session.DefaultLimits(),
		URL: func(context.Context) (string, error) { return "ws://control/acs/ws?dockerVersion=Docker%3A+1", nil },
		Serve: func(context.Context, *session.Conn) session.Handler {
			return func(frame []byte) (bool, error) {
				frames.Add(1)
				if string(frame) == "stop" {
					return true, errors.New("nonsense")
				}
				return string(frame) == "heartbeat", nil
			}
		},
	}
	if change != nil {
		change(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- session.Run(ctx, c) }()
	return frames, func() error {
		cancel()
		return <-done
	}
}

func hold(ctx context.Context, c *sessiontest.Conn) { _ = c.Receive(ctx) }

// beat sends heartbeats until the connection ends.
func beat(ctx context.Context, c *sessiontest.Conn) {
	ctx = c.CloseRead(ctx)
	for ctx.Err() == nil {
		c.Send(ctx, "heartbeat")
		pass(30 * time.Second)
	}
}

func TestTheHandshakeSignsTheHostAndTheDateAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessiontest.New(t, hold)
		_, stop := start(t, s, nil)
		synctest.Wait()
		r := s.Attempts()[0]
		if got := r.Header.Get("Authorization"); !strings.Contains(got, "/us-west-2/ecs/aws4_request, SignedHeaders=host;x-amz-date;x-amz-security-token, Signature=") {
			t.Error(got)
		}
		if r.URL.Path != "/acs/ws" || r.URL.Query().Get("dockerVersion") != "Docker: 1" || r.Host != "control" {
			t.Error(r.URL, r.Host)
		}
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestAConnectionThatEndsAsConnectionsDoIsMadeAgainAtOnce(t *testing.T) {
	for name, end := range map[string]func(*sessiontest.Conn){
		"1000": func(c *sessiontest.Conn) { _ = c.Close(websocket.StatusNormalClosure, "") },
		"1001": func(c *sessiontest.Conn) { _ = c.Close(websocket.StatusGoingAway, "") },
		"1011": func(c *sessiontest.Conn) { _ = c.Close(websocket.StatusInternalError, "") },
		"1006": func(c *sessiontest.Conn) { _ = c.CloseNow() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sessiontest.New(t, func(_ context.Context, c *sessiontest.Conn) {
					pass(2 * time.Second)
					end(c)
				}, hold)
				_, stop := start(t, s, nil)
				pass(2*time.Second + time.Millisecond)
				synctest.Wait()
				if n := len(s.Attempts()); n != 2 {
					t.Errorf("%d attempts", n)
				}
				_ = stop()
			})
		})
	}
}

func TestAServerThatClosesEveryConnectionAtOnceIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessiontest.New(t, func(_ context.Context, c *sessiontest.Conn) { _ = c.Close(websocket.StatusNormalClosure, "") })
		_, stop := start(t, s, nil)
		pass(time.Minute)
		if n := len(s.Attempts()); n < 5 || n > 16 {
			t.Errorf("%d attempts in a minute", n)
		}
		_ = stop()
	})
}

func TestTheBackOffGrowsWhileTheServerIsAwayAndTheSessionIsThereSoonAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessiontest.New(t, hold)
		s.Unreachable(errors.New("connection refused"))
		_, stop := start(t, s, nil)
		pass(200 * time.Millisecond)
		s.Unreachable(nil)
		pass(150 * time.Millisecond)
		if n := len(s.Attempts()); n != 1 {
			t.Errorf("%d attempts", n)
		}
		_ = stop()
	})
}

func TestARefusalIsTriedAgainWithGrowingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessiontest.New(t, hold)
		s.Refuse(func(_ int, w http.ResponseWriter) bool {
			http.Error(w, `{"AccessDeniedException":"no"}`, http.StatusForbidden)
			return true
		})
		_, stop := start(t, s, nil)
		pass(time.Hour)
		if n := len(s.Attempts()); n < 40 || n > 60 { // 0.25 s growing by half to 2 min
			t.Errorf("%d attempts in an hour", n)
		}
		_ = stop()
	})
}

func TestADeregisteredInstanceSleepsForAnHourAndTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessiontest.New(t, hold)
		s.Refuse(func(n int, w http.ResponseWriter) bool {
			if n == 0 {
				http.Error(w, `{"InactiveInstanceException":"gone"}`, http.StatusBadRequest)
			}
			return n == 0
		})
		var told atomic.Int64
		_, stop := start(t, s, func(c *session.Config) { c.Inactive = func(time.Duration) error { told.Add(1); return nil } })
		pass(time.Hour - time.Second)
		if n := len(s.Attempts()); n != 1 || told.Load() != 1 {
			t.Errorf("%d attempts, told %d times", n, told.Load())
		}
		pass(2 * time.Second)
		if n := len(s.Attempts()); n != 2 {
			t.Errorf("%d attempts", n)
		}
		_ = stop()
	})
}

func TestTheOwnerMayEndTheSessionOfADeregisteredInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessiontest.New(t, hold)
		s.Refuse(func(_ int, w http.ResponseWriter) bool {
			http.Error(w, `{"InactiveInstanceException":"gone"}`, http.StatusBadRequest)
			return true
		})
		gone := errors.New("register anew")
		_, stop := start(t, s, func(c *session.Config) { c.Inactive = func(time.Duration) error { return gone } })
		synctest.Wait()
		if err := stop(); !errors.Is(err, gone) {
			t.Error(err)
		}
	})
}

func TestASilentConnectionIsGivenUpAndOnlySignsOfLifeCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessiontest.New(t, func(ctx context.Context, c *sessiontest.Conn) {
			for range 4 {
				pass(50 * time.Second)
				c.Send(ctx, "heartbeat")
			}
			for range 30 { // frames nobody knows don't count
				pass(10 * time.Second)
				c.Send(ctx, "what is this")
			}
		}, beat)
		frames, stop := start(t, s, nil)
		pass(255 * time.Second)
		if n := len(s.Attempts()); n != 1 || frames.Load() < 4 {
			t.Errorf("%d attempts, %d frames", n, frames.Load())
		}
		pass(2*time.Minute - 50*time.Second)
		synctest.Wait()
		if n := len(s.Attempts()); n != 2 {
			t.Errorf("%d attempts", n)
		}
		_ = stop()
	})
}

func TestAnOldConnectionIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan error, 1)
		s := sessiontest.New(t, func(ctx context.Context, c *sessiontest.Conn) {
			go func() {
				for ctx.Err() == nil {
					c.Send(ctx, "heartbeat")
					pass(30 * time.Second)
				}
			}()
			_, _, err := c.Read(ctx)
			closed <- err
		}, beat)
		_, stop := start(t, s, nil)
		pass(35*time.Minute + time.Second)
		synctest.Wait()
		if n := len(s.Attempts()); n != 2 {
			t.Errorf("%d attempts", n)
		}
		var e websocket.CloseError
		if err := <-closed; !errors.As(err, &e) || e.Code != websocket.StatusNormalClosure || e.Reason != "ConnectionExpired: Reconnect to continue" {
			t.Error(err)
		}
		_ = stop()
		pass(time.Minute)
	})
}

func TestAHandlerThatCannotGoOnEndsTheConnectionAndNotTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessiontest.New(t, func(ctx context.Context, c *sessiontest.Conn) {
			c.Send(ctx, "stop")
			hold(ctx, c)
		}, hold)
		_, stop := start(t, s, nil)
		pass(time.Second)
		if n := len(s.Attempts()); n != 2 {
			t.Errorf("%d attempts", n)
		}
		_ = stop()
	})
}

func TestAFrameThatIsTooLargeEndsTheConnectionAndNotTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessiontest.New(t, func(ctx context.Context, c *sessiontest.Conn) {
			c.Send(ctx, strings.Repeat("x", session.ReadLimit+1))
			hold(ctx, c)
		}, hold)
		frames, stop := start(t, s, nil)
		pass(time.Second)
		if n := len(s.Attempts()); n != 2 || frames.Load() != 0 {
			t.Errorf("%d attempts, %d frames", n, frames.Load())
		}
		_ = stop()
	})
}

func TestAnEndpointThatCannotBeFoundIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessiontest.New(t, hold)
		var asked atomic.Int64
		_, stop := start(t, s, func(c *session.Config) {
			url := c.URL
			c.URL = func(ctx context.Context) (string, error) {
				if asked.Add(1) < 3 {
					return "", errors.New("no such endpoint")
				}
				return url(ctx)
			}
		})
		pass(2 * time.Second)
		if n := len(s.Attempts()); n != 1 || asked.Load() != 3 {
			t.Errorf("%d attempts, asked %d times", n, asked.Load())
		}
		_ = stop()
	})
}

func TestAServerThatSendsPingsAndFallsSilentIsGivenUpSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sessiontest.New(t, func(ctx context.Context, c *sessiontest.Conn) {
			go func() {
				for range 5 {
					_ = c.Ping(ctx)
					pass(2 * time.Second)
				}
			}()
			c.Receive(ctx)
		}, beat)
		_, stop := start(t, s, nil)
		pass(8*time.Second + 14*time.Second)
		if n := len(s.Attempts()); n != 1 {
			t.Errorf("%d attempts", n)
		}
		pass(2 * time.Second)
		if n := len(s.Attempts()); n != 2 {
			t.Errorf("%d attempts", n)
		}
		_ = stop()
	})
}

func TestADeregistrationIsToldWithHowLongTheHostWasAway(t *testing.T) {
	for _, c := range []struct {
		name  string
		pings bool
		late  bool // what was sent before the host was suspended is read after it
		want  time.Duration
	}{{"by its last ping", true, false, 12 * time.Second}, {"by the gap between pings", true, true, 12 * time.Second}, {"by the end of its connection", false, false, 250 * time.Millisecond}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sessiontest.New(t, func(ctx context.Context, conn *sessiontest.Conn) {
					go conn.Receive(ctx)
					if c.pings {
						_ = conn.Ping(ctx)
					}
					pass(12 * time.Second) // as if this end were suspended
					if c.late {
						_ = conn.Ping(ctx)
					}
				})
				s.Refuse(func(n int, w http.ResponseWriter) bool {
					if n > 0 {
						http.Error(w, `{"InactiveInstanceException":"gone"}`, http.StatusBadRequest)
					}
					return n > 0
				})
				var away atomic.Int64
				_, stop := start(t, s, func(cfg *session.Config) {
					cfg.Inactive = func(d time.Duration) error { away.Store(int64(d)); return nil }
				})
				pass(13 * time.Second)
				if got := time.Duration(away.Load()); got < c.want-time.Second || got > c.want {
					t.Errorf("away for %s", got)
				}
				_ = stop()
			})
		})
	}
}

func TestASlowHandlerDoesNotKeepPingsFromBeingAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answered atomic.Int64
		s := sessiontest.New(t, func(ctx context.Context, c *sessiontest.Conn) {
			go c.Receive(ctx)
			c.Send(ctx, "slow")
			for range 3 {
				limited, cancel := context.WithTimeout(ctx, time.Second)
				if c.Ping(limited) == nil {
					answered.Add(1)
				}
				cancel()
			}
			pass(time.Hour)
		})
		_, stop := start(t, s, func(c *session.Config) {
			c.Serve = func(ctx context.Context, _ *session.Conn) session.Handler {
				return func([]byte) (bool, error) {
					select {
					case <-ctx.Done():
					case <-time.After(10 * time.Second):
					}
					return true, nil
				}
			}
		})
		pass(5 * time.Second)
		if n := answered.Load(); n != 3 {
			t.Errorf("%d of 3 pings were answered", n)
		}
		_ = stop()
	})
}
