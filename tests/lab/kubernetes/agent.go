package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// options are the agent's flags.
type options struct {
	state     string
	bin       string
	workers   string
	bootDelay time.Duration
	podStart  time.Duration
	podStop   time.Duration
	deadAfter time.Duration
}

// agent plays the inside of every running server of every cloud below state.
type agent struct {
	options
	vips    vips
	boots   chan struct{}      // as many kubeadm runs at a time as it holds
	servers map[string]*server // by path of the record; only scan's goroutine uses it
}

func guestAgent() {
	a := &agent{servers: map[string]*server{}}
	flags := flag.NewFlagSet("guest-agent", flag.ExitOnError)
	flags.StringVar(&a.state, "state", "", "folder with one folder for each cloud, which has the folder vms (required)")
	flags.StringVar(&a.bin, "bin", filepath.Dir(executable()), "folder with kubeadm, etcd, kube-apiserver ...")
	flags.StringVar(&a.workers, "workers", "agent", "who plays a worker's kubelet: agent, or hollow (kubemark's)")
	flags.DurationVar(&a.bootDelay, "boot-delay", 0, "from power on to the first line of cloud-init")
	flags.DurationVar(&a.podStart, "pod-start", 3*time.Second, "from a pod's arrival on its node to Ready")
	flags.DurationVar(&a.podStop, "pod-stop", time.Second, "how long a pod takes to stop, if its grace period allows")
	flags.DurationVar(&a.deadAfter, "dead-after", 12*time.Second, "silence after which a node is not ready (kubeadm: 50s; with hollow workers at least 30s)")
	parallel := flags.Int("boots", 10, "kubeadm runs at a time")
	flags.Parse(os.Args[1:]) //nolint:errcheck // ExitOnError
	if a.state == "" || flags.NArg() > 0 || (a.workers != "agent" && a.workers != "hollow") || *parallel < 1 {
		flags.Usage()
		os.Exit(2)
	}
	if a.workers == "hollow" { // it says that it lives every 10 s, and nothing changes that
		a.deadAfter = max(a.deadAfter, 30*time.Second)
	}
	a.boots = make(chan struct{}, *parallel)
	quietKubernetesLogs()
	a.run()
}

func executable() string {
	path, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	return path
}

func (a *agent) run() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log.Printf("guest agent: state %s, workers %s", a.state, a.workers)
	go serveHealth()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		a.scan()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	log.Print("stopping")
	a.shutdown()
	log.Print("stopped")
}

// serveHealth answers kubeadm, which waits for the kubelet of its machine where
// every kubelet listens. Servers share that address here, so one answers for all.
func serveHealth() {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	log.Fatal(http.ListenAndServe("127.0.0.1:10248", ok))
}

// scan makes the running servers those of the records. Polling, because a
// folder of some sixty small files costs nothing to look at.
func (a *agent) scan() {
	paths, _ := filepath.Glob(filepath.Join(a.state, "*", "vms", "*.json"))
	seen := map[string]bool{}
	for _, path := range paths {
		seen[path] = true
		if err := a.look(path); err != nil && !os.IsNotExist(err) {
			log.Print(err)
		}
	}
	for path, s := range a.servers {
		if !seen[path] {
			delete(a.servers, path)
			go s.destroy()
		}
	}
	// A server that was destroyed while no agent ran left its disk behind.
	disks, _ := filepath.Glob(filepath.Join(a.state, "*", "guests", "*"))
	for _, disk := range disks {
		cloud, uuid := filepath.Dir(filepath.Dir(disk)), filepath.Base(disk)
		path := filepath.Join(cloud, "vms", uuid+".json")
		if !strings.HasSuffix(uuid, ".gone") && !seen[path] && a.servers[path] == nil {
			discard(disk)
		}
	}
}

func (a *agent) look(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	s := a.servers[path]
	// The hypervisor's fault hook: a server that crashed has such a file.
	cloud := filepath.Dir(filepath.Dir(path))
	uuid := strings.TrimSuffix(filepath.Base(path), ".json")
	_, crashed := os.Stat(filepath.Join(cloud, "faults", "crash-"+uuid))
	if s != nil && s.modified.Equal(info.ModTime()) && s.crashed == (crashed == nil) {
		return nil
	}
	r, err := readRecord(path)
	if err != nil {
		return err
	}
	if r.UUID != uuid {
		return fmt.Errorf("%s is the record of %s", path, r.UUID)
	}
	if s == nil {
		s = newServer(a, cloud, r)
		a.servers[path] = s
	}
	s.modified, s.crashed = info.ModTime(), crashed == nil
	if !s.on {
		s.record = r
	}
	s.setPower(r.Power == "on" && !s.crashed)
	return nil
}

// shutdown stops everything in an order in which nothing waits for what is
// already gone: an apiserver without its etcd takes half a minute to exit.
func (a *agent) shutdown() {
	each := func(f func(*server)) {
		var wg sync.WaitGroup
		for _, s := range a.servers {
			wg.Go(func() { f(s) })
		}
		wg.Wait()
	}
	each(func(s *server) { s.quiet() })
	each(func(s *server) { s.pods.stop(syscall.SIGTERM, "kube-scheduler", "kube-controller-manager") })
	each(func(s *server) { s.pods.stop(syscall.SIGTERM, "kube-apiserver") })
	each(func(s *server) { s.pods.stop(syscall.SIGTERM) })
	each(func(s *server) { s.console.Close() })
}
