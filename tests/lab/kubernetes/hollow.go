package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// runHollow leaves the node to kubemark's hollow kubelet: the real kubelet's
// code with a runtime that starts nothing. The Node is there already, because
// a hollow kubelet keeps the providerID of a Node that it finds but would make
// one of its own.
func (s *server) runHollow(ctx context.Context, k *kubelet) {
	args := []string{"--morph=kubelet", "--name=" + k.name,
		"--bootstrap-kubeconfig=" + s.path("/etc/kubernetes/bootstrap-kubelet.conf"),
		"--kubeconfig=" + s.path("/var/lib/kubelet/bootstrapped.conf"),
		"--cert-dir=" + s.path("/var/lib/kubelet/pki"),
		"--use-host-image-service=false"}
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
		// A hollow kubelet listens on all addresses, and all share these: another one, or a
		// connection that goes out, can have taken any port since the last try.
		port, readOnly, err := twoFreePorts()
		if err != nil {
			s.console.printf("kubelet: %v", err)
			return
		}
		ports := []string{"--kubelet-port=" + port, "--kubelet-read-only-port=" + readOnly}
		cmd := exec.CommandContext(ctx, filepath.Join(s.agent.bin, "kubemark"), append(ports, args...)...)
		cmd.Env = []string{"TMPDIR=" + s.path("/tmp")}
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		s.console.printf("kubelet: hollow, port %s", port)
		err = cmd.Run()
		if ctx.Err() != nil {
			return
		}
		s.console.printf("kubelet: hollow kubelet ended: %v", err)
		sleep(ctx, time.Second)
	}
}

// twoFreePorts are ports that nobody listens on, and no connection goes out from.
func twoFreePorts() (string, string, error) {
	var ports [2]string
	for n := range ports {
		free, err := net.Listen("tcp", ":0")
		if err != nil {
			return "", "", err
		}
		defer free.Close()
		_, ports[n], _ = net.SplitHostPort(free.Addr().String())
	}
	return ports[0], ports[1], nil
}
