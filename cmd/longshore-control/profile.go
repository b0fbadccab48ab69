//go:build profile

package main

import (
	"net/http"
	_ "net/http/pprof" // what a build with this tag is for
	"os"
	"runtime"
)

// A binary built with the tag "profile" answers Go's profiler on LONGSHORE_PROFILE, an address.
func init() {
	at := os.Getenv("LONGSHORE_PROFILE")
	if at == "" {
		return
	}
	runtime.SetMutexProfileFraction(100)
	go func() { _ = http.ListenAndServe(at, nil) }()
}
