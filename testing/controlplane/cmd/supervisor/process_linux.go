package main

import (
	"os"
	"os/signal"
	"syscall"
)

// childAttributes lets the kernel kill a child when the supervisor dies, and keeps a terminal's Ctrl-C away from it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
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
