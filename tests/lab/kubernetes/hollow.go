package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// runHollow leaves the node to kubemark's hollow kubelet: the real kubelet's
// code with a runtime that starts nothing. The Node is there already, because
// a hollow kubelet keeps the providerID of a Node that it finds but would make
// one of its own.
func (s *server) runHollow(ctx context.Context, k *kubelet) {
	// A hollow kubelet listens on all addresses, and all share these.
	first := 20000 + 2*portSlot(s.record.address())
	args := []string{"--morph=kubelet", "--name=" + k.name,
		"--bootstrap-kubeconfig=" + s.path("/etc/kubernetes/bootstrap-kubelet.conf"),
		"--kubeconfig=" + s.path("/var/lib/kubelet/bootstrapped.conf"),
		"--cert-dir=" + s.path("/var/lib/kubelet/pki"),
		"--use-host-image-service=false",
		"--kubelet-port=" + strconv.Itoa(first), "--kubelet-read-only-port=" + strconv.Itoa(first+1)}
	if labels := k.flags["node-labels"]; labels != "" {
		args = append(args, "--node-labels="+labels)
	}
	if taints := k.flags["register-with-taints"]; taints != "" {
		args = append(args, "--register-with-taints="+taints)
	}
	log, err := os.OpenFile(filepath.Join(s.disk, "kubelet.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.console.printf("kubelet: %v", err)
		return
	}
	defer log.Close()
	for {
		cmd := exec.CommandContext(ctx, filepath.Join(s.agent.bin, "kubemark"), args...)
		cmd.Env = []string{"TMPDIR=" + s.path("/tmp")}
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		s.console.printf("kubelet: hollow, port %d", first)
		err := cmd.Run()
		if ctx.Err() != nil {
			return
		}
		s.console.printf("kubelet: hollow kubelet ended: %v", err)
		sleep(ctx, time.Second)
	}
}

// portSlot tells servers of one cloud and of two apart by their addresses
// last 14 bits.
func portSlot(address string) int {
	ip := net.ParseIP(address).To4()
	if ip == nil {
		return 0
	}
	return (int(ip[1])>>1&1)<<13 | (int(ip[2])&31)<<8 | int(ip[3])
}
