package storm

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if bin, err := victim(); err == nil {
			_ = os.Remove(bin)
		}
		os.Exit(code)
	}))
}
