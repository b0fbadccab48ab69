// Command longshore-log takes the output of one container where its log configuration says. containerd's shim starts it (a logging binary:
// the output is on the file descriptors 3 and 4, and 5 is closed when it is ready). Nobody calls it by hand.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/longshore-project/longshore/engine/logdriver"
	"github.com/longshore-project/longshore/engine/logdriver/logprocess"
)

func main() {
	// There is one beside each container: it holds little, and collects often.
	debug.SetGCPercent(20)
	runtime.GOMAXPROCS(1)
	// The output decides when it ends: a stop of the machine's services reaches the containers first.
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "longshore-log:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 || os.Args[1] != "settings" {
		return fmt.Errorf("containerd starts this program, with the arguments: settings FILE")
	}
	s, err := logdriver.ReadSettings(os.Args[2])
	if err != nil {
		return err
	}
	d, err := logprocess.New(s)
	if err != nil { // who starts the container tells it
		return errors.Join(err, logdriver.Status{LastError: err.Error(), Since: time.Now().UTC()}.Write(s.Dir))
	}
	if err := os.NewFile(5, "ready").Close(); err != nil {
		return err
	}
	debug.FreeOSMemory() // what only the beginning needed
	return logprocess.Copy(os.NewFile(3, "stdout"), os.NewFile(4, "stderr"), d, s)
}
