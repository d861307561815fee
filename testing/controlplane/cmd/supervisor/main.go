// Command supervisor is the parent of all processes of one cluster, and the hand of the harness on its network.
//
//	supervisor run --socket PATH        starts, stops and signals processes as the harness asks on the socket
//	supervisor net bridge|plug|remove   makes and removes the bridges, and plugs a namespace into them
//
// It is small on purpose, so that the harness can call it often: the control plane itself is another binary.
package main

import (
	"fmt"
	"os"
	"runtime"
)

func init() {
	// Parent-death signals are tied to the thread that started a child, so the main goroutine, which starts
	// all of them, has to stay on the main thread.
	runtime.LockOSThread()
}

func main() {
	if len(os.Args) < 2 {
		fail(2, "usage: supervisor run|net …")
	}
	var err error
	switch os.Args[1] {
	case "run":
		err = runSupervisor(os.Args[2:])
	case "net":
		err = runNet(os.Args[2:])
	default:
		fail(2, "unknown command "+os.Args[1]+": use run or net")
	}
	if err != nil {
		fail(1, err.Error())
	}
}

func fail(code int, message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(code)
}
