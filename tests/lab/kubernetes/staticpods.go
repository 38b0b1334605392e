package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const manifestDir = "/etc/kubernetes/manifests"

// staticPods plays the part of the kubelet that runs the manifests on a
// server's disk: it starts the command of the container as a process.
type staticPods struct {
	server  *server
	mu      sync.Mutex
	running map[string]*staticPod // by name of the program
}

type staticPod struct {
	pod  *v1.Pod
	hash string
	end  chan struct{} // closed: don't start again
	done chan struct{} // closed: the process is gone
	mu   sync.Mutex
	proc *os.Process
}

// watch follows the folder until ctx ends; processes go on after that, for the
// agent stops those of all servers in a certain order.
func (p *staticPods) watch(ctx context.Context) {
	for {
		p.scan()
		if !sleep(ctx, 300*time.Millisecond) {
			return
		}
	}
}

func (p *staticPods) scan() {
	found := map[string]bool{}
	files, _ := filepath.Glob(p.server.path(manifestDir + "/*.yaml"))
	for _, file := range files {
		pod, hash, err := readManifest(file)
		if err != nil || len(pod.Spec.Containers) == 0 {
			continue // perhaps half written: it is looked at again
		}
		name := program(pod)
		found[name] = true
		p.mu.Lock()
		old := p.running[name]
		p.mu.Unlock()
		if old != nil && old.hash == hash {
			continue
		}
		if old != nil {
			p.stop(syscall.SIGTERM, name)
		}
		p.start(name, pod, hash)
	}
	for _, name := range p.names() {
		if !found[name] {
			p.stop(syscall.SIGTERM, name)
		}
	}
}

func readManifest(file string) (*v1.Pod, string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, "", err
	}
	pod := &v1.Pod{}
	if err := yaml.Unmarshal(data, pod); err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(data)
	return pod, hex.EncodeToString(sum[:16]), nil
}

// program names what a static pod runs: the first word of its command, or for
// an image with its own entry point, as kube-vip's, the name of the image.
func program(pod *v1.Pod) string {
	c := pod.Spec.Containers[0]
	if len(c.Command) > 0 {
		return filepath.Base(c.Command[0])
	}
	image, _, _ := strings.Cut(filepath.Base(c.Image), ":")
	return image
}

func (p *staticPods) start(name string, pod *v1.Pod, hash string) {
	s := &staticPod{pod: pod, hash: hash, end: make(chan struct{}), done: make(chan struct{})}
	p.mu.Lock()
	p.running[name] = s
	p.mu.Unlock()
	p.server.console.printf("kubelet: static pod %s starts", name)
	switch name {
	case "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler":
		go p.supervise(name, s)
	case "kube-vip":
		go func() {
			defer close(s.done)
			p.server.agent.vips.announce(vipOf(pod, p.server.info.Endpoint), p.server.record.address(), s.end, p.server.console)
		}()
	default: // nothing here can run it: it is only played
		go func() { <-s.end; close(s.done) }()
	}
}

// supervise starts the process again whenever it ends.
func (p *staticPods) supervise(name string, s *staticPod) {
	defer close(s.done)
	for {
		if err := p.once(name, s); err != nil {
			p.server.console.printf("kubelet: static pod %s: %v", name, err)
		}
		select {
		case <-s.end:
			return
		case <-time.After(time.Second):
		}
	}
}

func (p *staticPods) once(name string, s *staticPod) error {
	args := ownAddress(s.pod.Spec.Containers[0].Command[1:], p.server.record.address())
	cmd, err := p.server.command(context.Background(), name, args...)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(p.server.disk, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	started, err := s.launch(cmd)
	if !started {
		return err
	}
	return cmd.Wait()
}

// launch starts the process unless the pod has ended meanwhile.
func (s *staticPod) launch(cmd *exec.Cmd) (started bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.end:
		return false, nil
	default:
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	s.proc = cmd.Process
	return true, nil
}

// ownAddress puts the server's address for 127.0.0.1, which all servers share.
func ownAddress(args []string, address string) []string {
	var out []string
	for _, arg := range args {
		name, value, has := strings.Cut(arg, "=")
		if !has {
			out = append(out, arg)
			continue
		}
		parts := strings.Split(strings.ReplaceAll(value, "127.0.0.1", address), ",")
		// Lists have both addresses, and nothing can bind to the same twice.
		slices.Sort(parts)
		if strings.Contains(value, "127.0.0.1") {
			parts = slices.Compact(parts)
			value = strings.Join(parts, ",")
		}
		out = append(out, name+"="+value)
	}
	return out
}

// stop ends the named programs, or all, and waits for them. A program that
// does not go in 15 s is killed.
func (p *staticPods) stop(signal syscall.Signal, names ...string) {
	var wg sync.WaitGroup
	for _, name := range p.names() {
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		p.mu.Lock()
		s := p.running[name]
		delete(p.running, name)
		p.mu.Unlock()
		wg.Go(func() { s.terminate(signal) })
	}
	wg.Wait()
}

func (s *staticPod) terminate(signal syscall.Signal) {
	s.mu.Lock()
	close(s.end)
	if s.proc != nil {
		s.proc.Signal(signal) //nolint:errcheck // may have ended
	}
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-time.After(15 * time.Second):
		s.proc.Kill() //nolint:errcheck // may have ended
		<-s.done
	}
}

func (p *staticPods) list() []*staticPod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.running))
}

func (p *staticPods) names() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.running))
}
