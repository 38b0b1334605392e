package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A canary's probe is real: the script that came with the user data (or with
// the pod) runs with this machine's Python, speaks from the server's own
// address, and what it reaches is up to the kernel. A test closes a flow with
// a rule of the routing policy database (ip rule ... blackhole).
const (
	probeLabel  = "zcp.io/canary-probe"
	probeFile   = "/etc/zcp/probe.json"
	probeScript = "/usr/local/lib/zcp/probe"
)

// probe runs the script and returns its last line. The server's disk is no
// root for it, since it has no Python; ZCP_ROOT says where its files are.
func (s *server) probe(ctx context.Context, script, mode, targets string) (string, error) {
	cmd := exec.CommandContext(ctx, "python3", "-c", script, mode, targets)
	cmd.Env = append(os.Environ(), "ZCP_ROOT="+s.root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, s.console.file
	err := cmd.Run()
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	return lines[len(lines)-1], err
}

// probeOnBoot is what the boot script does with the probe: once before the
// join, for the console, and for good afterwards.
func (s *server) probeOnBoot(ctx context.Context, mode string) {
	targets, err := os.ReadFile(s.path(probeFile))
	if err != nil {
		return // no canary
	}
	script, err := os.ReadFile(s.path(probeScript))
	if err != nil {
		s.console.printf("zcp: probe: %v", err)
		return
	}
	said, err := s.probe(ctx, string(script), mode, string(targets))
	if err != nil && ctx.Err() == nil {
		s.console.printf("zcp: probe %s: %v", mode, err)
	}
	if said != "" {
		s.console.printf("zcp: probe: %s", said)
	}
}

// finishProbe ends a pod that tries the way to a canary: it runs what the pod
// would, from the node's address.
func (p *podPlayer) finishProbe(ctx context.Context, pod *v1.Pod) (time.Duration, error) {
	said, begun := p.probes[pod.UID]
	if !begun {
		said = make(chan string, 1)
		p.probes[pod.UID] = said
		env := map[string]string{}
		for _, one := range pod.Spec.Containers[0].Env {
			env[one.Name] = one.Value
		}
		p.server.work.Go(func() {
			text, err := p.server.probe(ctx, env["ZCP_SCRIPT"], "peer", env["ZCP_PROBE"])
			if err != nil && text == "" {
				text = err.Error()
			}
			said <- text
		})
	}
	select {
	case text := <-said:
		status := *pod.Status.DeepCopy()
		c := &status.ContainerStatuses[0]
		c.Ready = false
		c.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "Completed", Message: text,
			StartedAt: c.State.Running.StartedAt, FinishedAt: metav1.Now(), ContainerID: c.ContainerID}}
		status.Phase = v1.PodSucceeded
		setCondition(&status, v1.ContainersReady, false)
		setCondition(&status, v1.PodReady, false)
		said <- text // should the patch fail, it is said again
		return 0, p.patch(ctx, pod, status)
	default:
		return time.Second, nil
	}
}

// servePort answers where a kubelet does, so that the API server's and other
// nodes' way to it can be tried. It knows /healthz and nothing else.
func (s *server) servePort(ctx context.Context) {
	cert, err := selfSigned()
	if err != nil {
		s.console.printf("kubelet: %v", err)
		return
	}
	server := &http.Server{
		Addr:      net.JoinHostPort(s.record.address(), "10250"),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
		ErrorLog:  nil,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/healthz" {
				http.NotFound(w, r)
				return
			}
			fmt.Fprint(w, "ok")
		}),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.ListenAndServeTLS("", ""); !errors.Is(err, http.ErrServerClosed) {
		s.console.printf("kubelet: %v", err)
	}
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
