package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"
)

// cloudInit does what cloud-init does with the user data: it writes the files.
// The commands of runcmd start the image's boot script, which bootScript plays.
func (s *server) cloudInit() error {
	u, err := s.record.userData()
	if err != nil {
		return err
	}
	for _, f := range u.WriteFiles {
		if err := s.write(f.Path, f.Permissions, f.Content); err != nil {
			return err
		}
		s.console.printf("cloud-init: wrote %s", f.Path)
	}
	for _, command := range u.RunCmd {
		s.console.printf("cloud-init: runcmd %v (played by the lab)", command)
	}
	return nil
}

// bootScript does what the image's boot script does: kubelet flags from what
// the server knows of itself, the bundle of a control plane, then kubeadm.
func (s *server) bootScript(ctx context.Context) error {
	// Where kubeadm's systemd unit has a site's own kubelet flags.
	if err := s.write("/etc/default/kubelet", "0644", fmt.Sprintf(
		"KUBELET_EXTRA_ARGS=\"--provider-id=openstack:///%s --node-ip=%s\"\n", s.record.UUID, s.record.address())); err != nil {
		return err
	}
	if s.info.Role == "control-plane" && !s.exists("/etc/zcp/bundle-written") {
		if err := s.fetchBundle(ctx); err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
	}
	command, err := s.kubeadmConfig()
	if err != nil {
		return err
	}
	s.probeOnBoot(ctx, "first")
	select { // a few processors stand for those of all servers
	case s.agent.boots <- struct{}{}:
		defer func() { <-s.agent.boots }()
	case <-ctx.Done():
		return nil
	}
	// Preflight looks at the machine (ports, images, swap, systemd), which is
	// not the server's here. Everything after it is run as it is.
	cmd, err := s.command(ctx, "kubeadm", command, "--config", "/run/zcp/kubeadm.yaml", "--skip-phases", "preflight")
	if err != nil {
		return err
	}
	s.console.printf("boot script: %s", strings.Join(cmd.Args, " "))
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("zcp: failed: kubeadm: %w", err)
	}
	s.work.Go(func() { s.probeOnBoot(ctx, "canary") })
	return nil
}

// command prepares a program that has the server's disk as its root.
func (s *server) command(ctx context.Context, program string, args ...string) (*exec.Cmd, error) {
	inside := "/usr/local/bin/" + program
	if err := s.install(program, s.path(inside)); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, inside, args...)
	cmd.Args[0] = program
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/bin", "HOME=/root"}
	cmd.Stdout, cmd.Stderr = s.console.file, s.console.file
	// Should the agent be killed, nothing of it may stay behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: s.root, Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// install links a program to the server's disk, or copies it from another file
// system. It must be linked statically, for the disk has no libraries.
func (s *server) install(program, to string) error {
	have, haveErr := os.Stat(to)
	from, err := filepath.EvalSymlinks(filepath.Join(s.agent.bin, program))
	if err != nil {
		if haveErr == nil {
			return nil // the cache was emptied; the server still has its own
		}
		return err
	}
	if want, err := os.Stat(from); err == nil && haveErr == nil && os.SameFile(have, want) {
		return nil
	}
	for _, dir := range []string{filepath.Dir(to), s.path("/tmp"), s.path("/root")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	os.Remove(to)
	if os.Link(from, to) == nil {
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

type bundleSource struct {
	URL   string `json:"url"`
	Token string `json:"token"`
	CA    string `json:"ca"`
}

// fetchBundle gets the secrets of a control plane, which are not in the user data.
func (s *server) fetchBundle(ctx context.Context) error {
	var source bundleSource
	if err := s.readJSON("/etc/zcp/bundle.json", &source); err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(source.CA)) {
		return errors.New("no CA certificate in bundle.json")
	}
	dialer := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(s.record.address())}}
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext:       dialer.DialContext,
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		DisableKeepAlives: true,
	}}
	last := ""
	for deadline := time.Now().Add(20 * time.Minute); time.Now().Before(deadline); {
		again, err := s.tryBundle(ctx, &client, source)
		if err == nil || !again {
			return err
		}
		if err.Error() != last {
			last = err.Error()
			s.console.printf("boot script: bundle: %s; trying again", last)
		}
		if !sleep(ctx, time.Second) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("gave up after 20 minutes: %s", last)
}

// tryBundle says with an error whether it is worth another try.
func (s *server) tryBundle(ctx context.Context, client *http.Client, source bundleSource) (again bool, err error) {
	body, _ := json.Marshal(map[string]string{"server_id": s.record.UUID})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, source.URL, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+source.Token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		var unknown *tls.CertificateVerificationError
		return !errors.As(err, &unknown), err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return true, err
	}
	if resp.StatusCode != http.StatusOK {
		again := resp.StatusCode == http.StatusTooEarly || resp.StatusCode >= 500
		return again, fmt.Errorf("%s: %.300s", resp.Status, answer)
	}
	var bundle struct {
		Files []struct{ Path, Mode, Content string } `json:"files"`
	}
	if err := json.Unmarshal(answer, &bundle); err != nil {
		return false, err
	}
	for _, f := range bundle.Files {
		if err := s.write(f.Path, f.Mode, f.Content); err != nil {
			return false, err
		}
		s.console.printf("boot script: bundle has %s", f.Path)
	}
	return false, s.write("/etc/zcp/bundle-written", "0600", "")
}

// kubeadmConfig makes of /etc/zcp/kubeadm.yaml the file that kubeadm is given,
// and says which of kubeadm's commands it is for. What it adds: the address,
// where none is given (kubeadm would take that of the default route, and there
// is none here), and the folder with the lab's patches.
func (s *server) kubeadmConfig() (command string, err error) {
	data, err := os.ReadFile(s.path("/etc/zcp/kubeadm.yaml"))
	if err != nil {
		return "", err
	}
	var out []string
	for _, text := range strings.Split("\n"+string(data), "\n---") {
		if strings.TrimSpace(text) == "" {
			continue
		}
		doc := map[string]any{}
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			return "", fmt.Errorf("kubeadm.yaml: %w", err)
		}
		switch doc["kind"] {
		case "InitConfiguration":
			command = "init"
			setAddress(doc, s.record.address())
			doc["patches"] = map[string]any{"directory": "/run/zcp/patches"}
		case "JoinConfiguration":
			command = "join"
			if controlPlane, ok := doc["controlPlane"].(map[string]any); ok {
				setAddress(controlPlane, s.record.address())
			}
			doc["patches"] = map[string]any{"directory": "/run/zcp/patches"}
		}
		one, err := yaml.Marshal(doc)
		if err != nil {
			return "", err
		}
		out = append(out, string(one))
	}
	if command == "" {
		return "", errors.New("kubeadm.yaml has neither an InitConfiguration nor a JoinConfiguration")
	}
	if err := s.writePatches(); err != nil {
		return "", err
	}
	return command, s.write("/run/zcp/kubeadm.yaml", "0600", strings.Join(out, "---\n"))
}

func setAddress(doc map[string]any, address string) {
	endpoint, _ := doc["localAPIEndpoint"].(map[string]any)
	if endpoint == nil {
		endpoint = map[string]any{}
		doc["localAPIEndpoint"] = endpoint
	}
	if endpoint["advertiseAddress"] == nil {
		endpoint["advertiseAddress"] = address
	}
}

// writePatches lays down what the lab changes in kubeadm's own manifests.
// Servers share one network namespace, so no component may bind to all
// addresses or to 127.0.0.1; and a test has no time for the usual 50 s until a
// dead node is known and 300 s until its pods are evicted.
func (s *server) writePatches() error {
	address := s.record.address()
	bind := "--bind-address=" + address
	elect := []string{"--leader-elect-lease-duration=10s", "--leader-elect-renew-deadline=8s", "--leader-elect-retry-period=1s"}
	flags := map[string][]string{
		// Between two addresses of one machine a call comes from the called one,
		// which is not in the certificate of the caller.
		"etcd": {"--unsafe-no-fsync", "--peer-skip-client-san-verification"},
		"kube-apiserver": {bind,
			"--default-not-ready-toleration-seconds=10", "--default-unreachable-toleration-seconds=10"},
		"kube-controller-manager": append([]string{bind, "--kube-api-qps=300", "--kube-api-burst=600",
			"--node-monitor-period=2s", "--node-monitor-grace-period=" + s.agent.deadAfter.String()}, elect...),
		"kube-scheduler": append([]string{bind, "--kube-api-qps=300", "--kube-api-burst=600"}, elect...),
	}
	for component, more := range flags {
		patch := ""
		for _, flag := range more {
			patch += fmt.Sprintf("- {op: add, path: /spec/containers/0/command/-, value: %q}\n", flag)
		}
		if err := s.write("/run/zcp/patches/"+component+"0+json.yaml", "0644", patch); err != nil {
			return err
		}
	}
	return nil
}
