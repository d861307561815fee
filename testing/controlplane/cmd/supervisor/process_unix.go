//go:build unix && !linux

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// childAttributes keeps a terminal's Ctrl-C away from a child. Only Linux can also tie its life to ours.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// stopOnSignal ignores SIGINT and SIGHUP, which a terminal sends to the whole group: the harness decides then.
func stopOnSignal(stop func()) {
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	go func() {
		<-terminate
		stop()
	}()
}
