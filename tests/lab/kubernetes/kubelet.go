package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/certificate/bootstrap"
	"k8s.io/kubernetes/pkg/util/taints"
)

// kubelet plays one node's kubelet towards the API server.
type kubelet struct {
	server  *server
	flags   map[string]string
	client  kubernetes.Interface
	name    string
	uid     types.UID // of the Node
	podCIDR atomic.Pointer[net.IPNet]
}

// quietKubernetesLogs keeps client-go's own lines, of sixty nodes in one
// process, out of the agent's log.
func quietKubernetesLogs() {
	set := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(set)
	set.Set("logtostderr", "false")     //nolint:errcheck // known flag
	set.Set("alsologtostderr", "false") //nolint:errcheck // known flag
	set.Set("stderrthreshold", "FATAL") //nolint:errcheck // known flag
	klog.SetOutput(io.Discard)
}

// runKubelet begins when kubeadm has written the kubelet's configuration, as
// the real one's systemd unit does.
func (s *server) runKubelet(ctx context.Context) {
	for !s.exists("/var/lib/kubelet/config.yaml") || !s.exists("/var/lib/kubelet/kubeadm-flags.env") {
		if !sleep(ctx, 200*time.Millisecond) {
			return
		}
	}
	k := &kubelet{server: s, flags: s.kubeletFlags(), name: s.info.NodeName}
	if name := k.flags["hostname-override"]; name != "" {
		k.name = name
	}
	s.console.printf("kubelet: starts as node %s", k.name)
	s.work.Go(func() { s.pods.watch(ctx) })
	for k.client = k.credentials(ctx); k.client != nil && ctx.Err() == nil; {
		if err := k.register(ctx); err == nil {
			break
		} else if ctx.Err() == nil {
			s.console.printf("kubelet: register: %v", err)
		}
		sleep(ctx, time.Second)
	}
	if ctx.Err() != nil {
		return
	}
	s.console.printf("kubelet: node %s is registered", k.name)
	if s.agent.workers == "hollow" && s.info.Role == "worker" {
		s.runHollow(ctx, k)
		return
	}
	s.work.Go(func() { s.servePort(ctx) })
	s.work.Go(func() { k.renewLease(ctx) })
	s.work.Go(func() { k.runPods(ctx) })
	k.statusLoop(ctx)
}

// kubeletFlags are those that kubeadm and the boot script gave the kubelet.
func (s *server) kubeletFlags() map[string]string {
	flags := map[string]string{}
	for _, file := range []string{"/var/lib/kubelet/kubeadm-flags.env", "/etc/default/kubelet"} {
		data, _ := os.ReadFile(s.path(file))
		_, value, _ := strings.Cut(strings.TrimSpace(string(data)), "=")
		for word := range strings.FieldsSeq(strings.Trim(value, `"`)) {
			name, value, _ := strings.Cut(strings.TrimPrefix(word, "--"), "=")
			flags[name] = value
		}
	}
	return flags
}

// credentials are those of kubelet.conf; where there is none yet, the kubelet's
// own code gets a certificate with the bootstrap token.
func (k *kubelet) credentials(ctx context.Context) kubernetes.Interface {
	s := k.server
	last := ""
	for {
		client, err := k.load()
		if err == nil {
			return client
		}
		if s.exists("/etc/kubernetes/bootstrap-kubelet.conf") {
			err = k.bootstrap(ctx)
		}
		if err == nil {
			continue
		}
		if err.Error() != last && ctx.Err() == nil {
			last = err.Error()
			s.console.printf("kubelet: %v", err)
		}
		if !sleep(ctx, 500*time.Millisecond) {
			return nil
		}
	}
}

func (k *kubelet) load() (kubernetes.Interface, error) {
	file := k.server.path("/etc/kubernetes/kubelet.conf")
	loaded, err := clientcmd.LoadFromFile(file)
	if err != nil {
		return nil, err
	}
	for _, user := range loaded.AuthInfos {
		if user.ClientCertificate != "" { // a path as the server sees it
			user.ClientCertificate = k.server.path(user.ClientCertificate)
			user.ClientKey = k.server.path(user.ClientKey)
		}
	}
	config, err := clientcmd.NewDefaultClientConfig(*loaded, nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 50, 100 // the kubelet's own defaults
	config.UserAgent = "kubelet/v" + k.server.info.KubernetesVersion
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.Timeout = 0
	return kubernetes.NewForConfig(config)
}

func (k *kubelet) bootstrap(ctx context.Context) error {
	s := k.server
	certs, own := s.path("/var/lib/kubelet/pki"), s.path("/var/lib/kubelet/bootstrapped.conf")
	if err := os.MkdirAll(certs, 0o700); err != nil {
		return err
	}
	began := time.Now()
	err := bootstrap.LoadClientCert(ctx, own, s.path("/etc/kubernetes/bootstrap-kubelet.conf"), certs, types.NodeName(k.name))
	if err != nil {
		return err
	}
	s.console.printf("kubelet: TLS bootstrap took %.2f s", time.Since(began).Seconds())
	// The paths in there are ours and not the server's: put the contents in.
	config, err := clientcmd.LoadFromFile(own)
	if err != nil {
		return err
	}
	if err := clientcmdapi.FlattenConfig(config); err != nil {
		return err
	}
	next := s.path("/etc/kubernetes/kubelet.conf.next")
	if err := clientcmd.WriteToFile(*config, next); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(filepath.Dir(next), "kubelet.conf"))
}

// register makes the Node, or takes the one that is there, as after a reboot.
func (k *kubelet) register(ctx context.Context) error {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.name, Labels: map[string]string{
		v1.LabelHostname: k.name, v1.LabelOSStable: "linux", v1.LabelArchStable: "amd64",
		"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
	}}}
	for pair := range strings.SplitSeq(k.flags["node-labels"], ",") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			node.Labels[name] = value
		}
	}
	if list := k.flags["register-with-taints"]; list != "" {
		parsed, _, err := taints.ParseTaints(strings.Split(list, ","))
		if err != nil {
			return err
		}
		node.Spec.Taints = parsed
	}
	node.Spec.ProviderID = k.flags["provider-id"]
	node.Status = k.nodeStatus()
	made, err := k.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if errors.IsAlreadyExists(err) {
		if made, err = k.client.CoreV1().Nodes().Get(ctx, k.name, metav1.GetOptions{}); err == nil {
			err = k.patchStatus(ctx)
		}
	}
	if err != nil {
		return err
	}
	k.uid = made.UID
	return nil
}

func (k *kubelet) nodeStatus() v1.NodeStatus {
	s := k.server
	machine := strings.ReplaceAll(s.record.UUID, "-", "")
	resources := v1.ResourceList{
		v1.ResourceCPU:              *resource.NewQuantity(max(s.record.VCPUs, 1), resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(max(s.record.MemoryMB, 512)<<20, resource.BinarySI),
		v1.ResourceEphemeralStorage: resource.MustParse("20Gi"),
		v1.ResourcePods:             resource.MustParse("110"),
	}
	status := v1.NodeStatus{
		Capacity:    resources,
		Allocatable: resources,
		Addresses: []v1.NodeAddress{
			{Type: v1.NodeInternalIP, Address: s.record.address()},
			{Type: v1.NodeHostName, Address: k.name},
		},
		DaemonEndpoints: v1.NodeDaemonEndpoints{KubeletEndpoint: v1.DaemonEndpoint{Port: 10250}},
		NodeInfo: v1.NodeSystemInfo{
			MachineID: machine, SystemUUID: s.record.UUID, BootID: k.bootID(),
			KernelVersion: "6.1.0-lab", OSImage: "zcp lab guest", OperatingSystem: "linux", Architecture: "amd64",
			ContainerRuntimeVersion: "lab://1.0.0", KubeletVersion: "v" + strings.TrimPrefix(s.info.KubernetesVersion, "v"),
		},
	}
	now, since := metav1.Now(), metav1.NewTime(s.booted)
	for _, c := range []struct {
		kind   v1.NodeConditionType
		status v1.ConditionStatus
		reason string
	}{
		{v1.NodeMemoryPressure, v1.ConditionFalse, "KubeletHasSufficientMemory"},
		{v1.NodeDiskPressure, v1.ConditionFalse, "KubeletHasNoDiskPressure"},
		{v1.NodePIDPressure, v1.ConditionFalse, "KubeletHasSufficientPID"},
		{v1.NodeReady, v1.ConditionTrue, "KubeletReady"},
	} {
		status.Conditions = append(status.Conditions, v1.NodeCondition{Type: c.kind, Status: c.status, Reason: c.reason,
			Message: "played by the lab's guest agent", LastHeartbeatTime: now, LastTransitionTime: since})
	}
	return status
}

// bootID is a new one for each power on, which is how others tell a reboot.
func (k *kubelet) bootID() string {
	path := filepath.Join(k.server.disk, fmt.Sprintf("bootid-%d", k.server.booted.Unix()))
	if data, err := os.ReadFile(path); err == nil {
		return string(data)
	}
	id := strings.ToLower(rand.Text())
	os.WriteFile(path, []byte(id), 0o644) //nolint:errcheck // then it is a new one next time
	return id
}

func (k *kubelet) patchStatus(ctx context.Context) error {
	data, err := json.Marshal(map[string]any{"status": k.nodeStatus()})
	if err != nil {
		return err
	}
	_, err = k.client.CoreV1().Nodes().Patch(ctx, k.name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	return err
}

// statusLoop keeps the Node's status; a node that was called unknown, as after
// a pause, says at once that it is ready.
func (k *kubelet) statusLoop(ctx context.Context) {
	reported := time.Now()
	pause := 300 * time.Millisecond // until the pods' network is known
	for sleep(ctx, pause) {
		node, err := k.client.CoreV1().Nodes().Get(ctx, k.name, metav1.GetOptions{})
		if err != nil {
			continue
		}
		if _, network, err := net.ParseCIDR(node.Spec.PodCIDR); err == nil {
			k.podCIDR.Store(network)
			pause = 10 * time.Second
		}
		ready := false
		for _, c := range node.Status.Conditions {
			ready = ready || c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
		}
		if ready && time.Since(reported) < 5*time.Minute {
			continue
		}
		if err := k.patchStatus(ctx); err != nil && ctx.Err() == nil {
			k.server.console.printf("kubelet: status: %v", err)
			continue
		}
		reported = time.Now()
	}
}

// renewLease says that the node lives. The kubelet does so every 10 s of the
// 50 s of silence that it may keep; here it is the same part of a shorter time.
func (k *kubelet) renewLease(ctx context.Context) {
	leases := k.client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	seconds := int32(40)
	var lease *coordinationv1.Lease
	for {
		now := metav1.NowMicro()
		var err error
		if lease == nil {
			lease, err = leases.Get(ctx, k.name, metav1.GetOptions{})
		}
		if errors.IsNotFound(err) {
			lease, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
				Name: k.name, Namespace: v1.NamespaceNodeLease,
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: k.name, UID: k.uid}},
			}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &k.name, LeaseDurationSeconds: &seconds, RenewTime: &now}}, metav1.CreateOptions{})
		} else if err == nil {
			lease.Spec.HolderIdentity, lease.Spec.RenewTime = &k.name, &now
			lease, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
		}
		pause := k.server.agent.deadAfter / 4
		if err != nil {
			lease, pause = nil, time.Second
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}
