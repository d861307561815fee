package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// request is one line on the socket. Op says which of the other fields count.
type request struct {
	Op        string            `json:"op"`
	Name      string            `json:"name"`
	Argv      []string          `json:"argv"`
	Env       map[string]string `json:"env"`
	Dir       string            `json:"dir"`
	Log       string            `json:"log"`
	Signal    string            `json:"signal"`
	TimeoutMS int64             `json:"timeout_ms"`
	From      []string          `json:"from"`
}

// response is the one line that answers a request. Error is empty on success.
type response struct {
	Error     string   `json:"error,omitempty"`
	PID       int      `json:"pid,omitempty"`
	Exited    bool     `json:"exited,omitempty"`
	Status    string   `json:"status,omitempty"`
	Processes []status `json:"processes,omitempty"`
	Packets   uint64   `json:"packets,omitempty"`
}

type status struct {
	Name    string `json:"name"`
	PID     int    `json:"pid"`
	Running bool   `json:"running"`
	Status  string `json:"status"`
}

// process is a child. status is written once, before done is closed.
type process struct {
	cmd    *exec.Cmd
	order  int
	done   chan struct{}
	status string
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

type supervisor struct {
	mu        sync.Mutex
	processes map[string]*process
	started   int
	closing   bool

	detached atomic.Bool
	starts   chan func() // work for the main thread
	quit     chan struct{}
	quitOnce sync.Once
	filter   filter
}

// runSupervisor serves the socket until it is told to shut down, is signalled, or, unless it was detached, its
// standard input ends because the harness has died. No child outlives it, however it ends.
func runSupervisor(args []string) error {
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	socket := flags.String("socket", "", "path of the control socket")
	_ = flags.Parse(args)
	if *socket == "" {
		return errors.New("--socket is needed")
	}
	// A socket file that a killed predecessor left behind would be in the way.
	if err := os.Remove(*socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(*socket, 0o600); err != nil {
		return err
	}
	s := &supervisor{processes: map[string]*process{}, starts: make(chan func()), quit: make(chan struct{})}
	stopOnSignal(s.stop)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		if !s.detached.Load() {
			s.stop()
		}
	}()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	for {
		select {
		case start := <-s.starts:
			start()
		case <-s.quit:
			s.killAll()
			return os.Remove(*socket)
		}
	}
}

func (s *supervisor) stop() { s.quitOnce.Do(func() { close(s.quit) }) }

func (s *supervisor) serve(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	out := json.NewEncoder(conn)
	for lines.Scan() {
		var req request
		var resp response
		err := json.Unmarshal(lines.Bytes(), &req)
		if err == nil {
			resp, err = s.handle(req)
		}
		if err != nil {
			resp.Error = err.Error()
		}
		if out.Encode(resp) != nil {
			return
		}
		if req.Op == "shutdown" {
			s.stop()
		}
	}
}

func (s *supervisor) handle(req request) (response, error) {
	switch req.Op {
	case "spawn":
		return s.spawn(req)
	case "signal":
		return response{}, s.signal(req.Name, req.Signal)
	case "wait":
		return s.wait(req.Name, time.Duration(req.TimeoutMS)*time.Millisecond)
	case "list":
		return response{PID: os.Getpid(), Processes: s.list()}, nil
	case "drop":
		return response{}, s.filter.drop(req.From)
	case "heal":
		return response{}, s.filter.heal()
	case "dropped":
		packets, err := s.filter.dropped()
		return response{Packets: packets}, err
	case "detach":
		s.detached.Store(true)
		return response{}, nil
	case "shutdown":
		s.killAll()
		return response{}, nil
	default:
		return response{}, fmt.Errorf("unknown op %q", req.Op)
	}
}

// spawn starts a process under a name that no running process has. Its output is appended to the log file.
func (s *supervisor) spawn(req request) (response, error) {
	if len(req.Argv) == 0 || req.Name == "" || req.Log == "" {
		return response{}, errors.New("spawn needs name, argv and log")
	}
	var pid int
	var err error
	ran := make(chan struct{})
	work := func() {
		defer close(ran)
		pid, err = s.start(req)
	}
	select {
	case s.starts <- work:
		<-ran
	case <-s.quit:
		err = errors.New("the supervisor is shutting down")
	}
	return response{PID: pid}, err
}

// start runs on the main thread.
func (s *supervisor) start(req request) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return 0, errors.New("the supervisor is shutting down")
	}
	if old := s.processes[req.Name]; old != nil && old.running() {
		return 0, fmt.Errorf("%s runs already as process %d", req.Name, old.cmd.Process.Pid)
	}
	log, err := os.OpenFile(req.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.Command(req.Argv[0], req.Argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = req.Dir, log, log
	cmd.Env = os.Environ()
	for key, value := range req.Env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	s.started++
	p := &process{cmd: cmd, order: s.started, done: make(chan struct{})}
	s.processes[req.Name] = p
	go func() {
		_ = cmd.Wait()
		p.status = cmd.ProcessState.String()
		close(p.done)
	}()
	return cmd.Process.Pid, nil
}

var signals = map[string]syscall.Signal{
	"KILL": syscall.SIGKILL, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT,
	"STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT,
}

func (s *supervisor) signal(name, signal string) error {
	p, err := s.find(name)
	if err != nil {
		return err
	}
	number, known := signals[signal]
	if !known {
		return fmt.Errorf("unknown signal %q", signal)
	}
	return p.cmd.Process.Signal(number)
}

func (s *supervisor) wait(name string, timeout time.Duration) (response, error) {
	p, err := s.find(name)
	if err != nil {
		return response{}, err
	}
	select {
	case <-p.done:
		return response{Exited: true, Status: p.status}, nil
	case <-time.After(timeout):
		return response{}, nil
	}
}

func (s *supervisor) find(name string) (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.processes[name]
	if p == nil {
		return nil, fmt.Errorf("no process is named %q", name)
	}
	return p, nil
}

func (s *supervisor) list() []status {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []status{}
	for _, name := range slices.Sorted(maps.Keys(s.processes)) {
		p := s.processes[name]
		entry := status{Name: name, PID: p.cmd.Process.Pid, Running: p.running()}
		if !entry.Running {
			entry.Status = p.status
		}
		all = append(all, entry)
	}
	return all
}

// killAll kills the newest first, so that nothing logs the loss of what it depends on, and waits for the ends.
func (s *supervisor) killAll() {
	s.mu.Lock()
	s.closing = true
	all := slices.SortedFunc(maps.Values(s.processes), func(a, b *process) int { return b.order - a.order })
	s.mu.Unlock()
	for _, p := range all {
		if p.running() {
			_ = p.cmd.Process.Kill()
		}
	}
	for _, p := range all {
		<-p.done
	}
}
