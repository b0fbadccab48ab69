package roles

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"go.uber.org/zap"
)

// failing is an STS whose first answers are errors; the last of them stays.
type failing struct {
	errs  []error
	calls int
}

func (f *failing) AssumeRole(context.Context, *sts.AssumeRoleInput, ...func(*sts.Options)) (*sts.AssumeRoleOutput, error) {
	err := f.errs[min(f.calls, len(f.errs)-1)]
	if f.calls++; err != nil {
		return nil, err
	}
	return &sts.AssumeRoleOutput{Credentials: &types.Credentials{AccessKeyId: aws.String("AK"), SecretAccessKey: aws.String("s"), Expiration: aws.Time(time.Now().Add(time.Hour))}}, nil
}

// answered is what the SDK makes of an answer with a status.
func answered(status int, code string) error {
	return &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}}, Err: &smithy.GenericAPIError{Code: code, Message: "m"}}
}

// ask waits for the outcome.
func ask(i *Issuer) (Credentials, error) {
	for {
		ready := make(chan struct{})
		c, err := i.Get(app, Task{"c", "0123"}, false, func() { close(ready) })
		if !errors.Is(err, ErrPending) {
			return c, err
		}
		<-ready
	}
}

func TestAPassingFailureOfSTSIsAskedAgainAtGrowingDistanceAndSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bank := &failing{errs: []error{answered(503, "ServiceUnavailable"), answered(400, "Throttling"), fmt.Errorf("dial: %w", context.DeadlineExceeded), answered(403, "ExpiredToken"), nil}}
		i := NewIssuer(IssuerConfig{STS: bank, Log: zap.NewNop()})
		defer i.Close()
		begun := time.Now()
		done := make(chan error)
		go func() {
			c, err := ask(i)
			if err == nil && c.AccessKeyID != "AK" {
				err = errors.New("other credentials")
			}
			done <- err
		}()
		<-time.After(2 * time.Second)
		synctest.Wait()
		if got := fmt.Sprint(i.Waits(Task{"c", "0123"})); !strings.Contains(got, "did not give the role "+app+" in 2 calls") || !strings.Contains(got, "Throttling: m") || len(i.Waits(Task{"c", "other"})) != 0 {
			t.Error(got)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(begun); bank.calls != 5 || took != 15*time.Second || len(i.Waits(Task{"c", "0123"})) != 0 {
			t.Errorf("%d calls in %s", bank.calls, took)
		}
	})
}

func TestAFailureOfSTSThatDoesNotPassIsToldWhenItsTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bank := &failing{errs: []error{answered(500, "InternalFailure")}}
		i := NewIssuer(IssuerConfig{STS: bank, Log: zap.NewNop()})
		defer i.Close()
		begun := time.Now()
		_, err := ask(i)
		if took := time.Since(begun); err == nil || !strings.Contains(err.Error(), "STS AssumeRole: InternalFailure: m (the last of ") || took < 4*time.Minute || took > 5*time.Minute || bank.calls < 8 || bank.calls > 20 {
			t.Errorf("%d calls in %s: %v", bank.calls, took, err)
		}
	})
}

func TestARefusalOfSTSIsFinalAtOnce(t *testing.T) {
	for name, refusal := range map[string]error{
		"AccessDenied": answered(403, "AccessDenied"), "NoSuchEntity": answered(404, "NoSuchEntity"), "ValidationError": answered(400, "ValidationError"),
		"InvalidClientTokenId": answered(403, "InvalidClientTokenId"), "a proxy's no": &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: &http.Response{StatusCode: 407}}, Err: errors.New("html")},
		"too short a role": fmt.Errorf("operation: %w", smithy.InvalidParamsError{}),
	} {
		synctest.Test(t, func(t *testing.T) {
			bank, begun := &failing{errs: []error{refusal}}, time.Now()
			i := NewIssuer(IssuerConfig{STS: bank, Log: zap.NewNop()})
			defer i.Close()
			if _, err := ask(i); err == nil || bank.calls != 1 || time.Since(begun) != 0 || strings.Contains(err.Error(), "the last of") {
				t.Errorf("%s: %d calls: %v", name, bank.calls, err)
			}
		})
	}
}

func TestWhoWaitsForSTSIsNotToldOfTheControlPlanesOwnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := NewIssuer(IssuerConfig{STS: &failing{errs: []error{answered(503, "ServiceUnavailable")}}, Log: zap.NewNop()})
		if _, err := i.Get(app, Task{"c", "0123"}, false, func() { t.Error("it was told") }); !errors.Is(err, ErrPending) {
			t.Error(err)
		}
		synctest.Wait()
		i.Close()
		if _, err := i.Get(app, Task{"c", "0123"}, false, nil); !errors.Is(err, ErrPending) {
			t.Error(err)
		}
	})
}
