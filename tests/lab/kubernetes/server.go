package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// server is one guest. Its disk is a folder; every program of it runs with
// that folder as its root, so paths are those of a real server.
type server struct {
	agent    *agent
	record   record
	modified time.Time
	crashed  bool

	disk    string // kept while the server exists
	root    string
	console *console
	pods    *staticPods
	info    serverInfo

	on     bool
	booted time.Time // when the power came on
	cancel context.CancelFunc
	work   sync.WaitGroup
}

func newServer(a *agent, cloud string, r record) *server {
	s := &server{agent: a, record: r}
	s.disk = filepath.Join(cloud, "guests", r.UUID)
	s.root = filepath.Join(s.disk, "root")
	s.console = openConsole(filepath.Join(cloud, "console", r.UUID+".log"))
	s.pods = &staticPods{server: s, running: map[string]*staticPod{}}
	return s
}

// path is where a file of the server is; no ".." leads out of its disk.
func (s *server) path(inside string) string {
	return filepath.Join(s.root, filepath.Clean("/"+inside))
}

func (s *server) exists(inside string) bool {
	_, err := os.Stat(s.path(inside))
	return err == nil
}

func (s *server) setPower(on bool) {
	if on == s.on {
		return
	}
	s.on = on
	if !on {
		s.console.printf("power off")
		os.Remove(filepath.Join(s.disk, "booted"))
		s.quiet()
		s.pods.stop(syscall.SIGKILL)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.work.Go(func() {
		if err := s.run(ctx); err != nil && ctx.Err() == nil {
			s.console.printf("FAILED: %v", err)
		}
	})
}

// quiet ends everything that the server says to others, as a cut power line
// would; its processes are stopped apart from this.
func (s *server) quiet() {
	if s.cancel != nil {
		s.cancel()
	}
	s.work.Wait()
}

func (s *server) destroy() {
	s.console.printf("destroyed")
	s.quiet()
	s.pods.stop(syscall.SIGKILL)
	s.console.Close()
	discard(s.disk)
}

// discard renames first, so that a disk half removed is never taken for one.
func discard(disk string) {
	gone := disk + ".gone"
	os.Rename(disk, gone) //nolint:errcheck // may be there from before
	if err := os.RemoveAll(gone); err != nil {
		log.Print(err)
	}
}

// run is the life of a server from power on to power off.
func (s *server) run(ctx context.Context) error {
	if err := s.powerOn(); err != nil {
		return err
	}
	first := !s.exists("/etc/zcp/booted")
	if first {
		if !sleep(ctx, s.agent.bootDelay) {
			return nil
		}
		if err := s.cloudInit(); err != nil {
			return fmt.Errorf("cloud-init: %w", err)
		}
	}
	if err := s.readJSON("/etc/zcp/server.json", &s.info); err != nil {
		return err
	}
	if s.info.NodeName == "" || s.record.address() == "" {
		return fmt.Errorf("the server has no node name or no address")
	}
	s.work.Go(func() { s.runKubelet(ctx) })
	if !first {
		return nil
	}
	if err := s.bootScript(ctx); err != nil {
		return fmt.Errorf("boot script: %w", err)
	}
	if ctx.Err() != nil {
		return nil
	}
	s.console.printf("boot finished %.1f s after power on", time.Since(s.booted).Seconds())
	return s.write("/etc/zcp/booted", "0644", "")
}

// powerOn tells a power cycle from a restart of the agent, during which a
// server's pods are taken to have gone on.
func (s *server) powerOn() error {
	marker := filepath.Join(s.disk, "booted")
	s.booted = time.Now().Truncate(time.Second)
	if data, err := os.ReadFile(marker); err == nil {
		if at, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil {
			s.booted = time.Unix(at, 0)
			return nil
		}
	}
	s.console.printf("power on")
	if err := os.MkdirAll(s.root, 0o755); err != nil {
		return err
	}
	return os.WriteFile(marker, []byte(strconv.FormatInt(s.booted.Unix(), 10)), 0o644)
}

func (s *server) readJSON(inside string, into any) error {
	data, err := os.ReadFile(s.path(inside))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", inside, err)
	}
	return nil
}

func (s *server) write(inside, mode, content string) error {
	bits := uint64(0o644)
	if mode != "" {
		var err error
		if bits, err = strconv.ParseUint(mode, 8, 12); err != nil {
			return fmt.Errorf("%s: mode %q: %w", inside, mode, err)
		}
	}
	if !filepath.IsAbs(inside) {
		return fmt.Errorf("%q is not an absolute path", inside)
	}
	path := s.path(inside)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(content), os.FileMode(bits)); err != nil {
		return err
	}
	return os.Chmod(path, os.FileMode(bits))
}

// sleep reports whether the time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// console is the server's console log, also the output of its programs.
type console struct {
	mu   sync.Mutex
	file *os.File
}

func openConsole(path string) *console {
	os.MkdirAll(filepath.Dir(path), 0o755) //nolint:errcheck // the open tells
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	return &console{file: file}
}

func (c *console) printf(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.file, "%s %s\n", time.Now().UTC().Format("15:04:05.000"), line)
}

func (c *console) Close() { c.file.Close() }
