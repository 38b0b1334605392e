// Command fakezcpd plays zcpd's part in the proof of the Kubernetes lab: it
// makes the CAs of a cluster, serves control planes their bundle, and writes
// the records of servers with the user data that zcpd would render.
//
//	fakezcpd serve DIR ADDR:PORT               make CAs in DIR, serve bundles
//	fakezcpd server DIR VMS ROLE NAME UUID IP  write VMS/UUID.json
//
// ROLE is first, member, worker, or stranger: a worker that pins another CA.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

const (
	vip         = "10.10.0.100"
	joinToken   = "abcdef.0123456789abcdef"
	bundleToken = "bundle-token-of-the-proof"
	version     = "1.36.2"
)

func main() {
	log.SetFlags(0)
	switch {
	case len(os.Args) == 4 && os.Args[1] == "serve":
		serve(os.Args[2], os.Args[3])
	case len(os.Args) == 8 && os.Args[1] == "server":
		server(os.Args[2], os.Args[3], os.Args[4], os.Args[5], os.Args[6], os.Args[7])
	default:
		log.Fatal("usage: see the top of main.go")
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func check(err error) { must(0, err) }

// authority makes a CA and leaves NAME.crt and NAME.key in dir.
func authority(dir, name, subject string) (*x509.Certificate, *ecdsa.PrivateKey) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: subject},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	store(dir, name+".crt", "CERTIFICATE", der)
	store(dir, name+".key", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key)))
	return must(x509.ParseCertificate(der)), key
}

func store(dir, name, kind string, der []byte) {
	path := filepath.Join(dir, name)
	check(os.MkdirAll(filepath.Dir(path), 0o755))
	check(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func serve(dir, address string) {
	authority(dir, "ca", "kubernetes")
	authority(dir, "front-proxy-ca", "front-proxy-ca")
	authority(dir, "etcd/ca", "etcd-ca")
	account := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	store(dir, "sa.key", "PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(account)))
	store(dir, "sa.pub", "PUBLIC KEY", must(x509.MarshalPKIXPublicKey(account.Public())))

	ca, caKey := authority(dir, "zcpd/ca", "zcpd nodes")
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	host, _, _ := net.SplitHostPort(address)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.ParseIP(host)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der := must(x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey))
	check(os.WriteFile(filepath.Join(dir, "url"), []byte("https://"+address+"/node/v1/bundle"), 0o644))

	http.HandleFunc("POST /node/v1/bundle", bundle(dir))
	web := &http.Server{Addr: address, TLSConfig: &tls.Config{Certificates: []tls.Certificate{
		{Certificate: [][]byte{der}, PrivateKey: crypto.Signer(key)}}}}
	log.Fatal(web.ListenAndServeTLS("", ""))
}

// bundle says 425 once, for zcpd does so until it knows the server's port.
func bundle(dir string) http.HandlerFunc {
	var asked atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			ServerID string `json:"server_id"`
		}
		err := json.NewDecoder(r.Body).Decode(&body)
		log.Printf("bundle for %s from %s", body.ServerID, r.RemoteAddr)
		switch {
		case err != nil || r.Header.Get("Authorization") != "Bearer "+bundleToken || !strings.HasPrefix(r.RemoteAddr, "10.10.0."):
			http.Error(w, "no", http.StatusForbidden)
			return
		case asked.Add(1) == 1:
			http.Error(w, "not yet", http.StatusTooEarly)
			return
		}
		var files []map[string]string
		for _, name := range []string{"ca.crt", "ca.key", "sa.pub", "sa.key", "front-proxy-ca.crt", "front-proxy-ca.key", "etcd/ca.crt", "etcd/ca.key"} {
			files = append(files, map[string]string{"path": "/etc/kubernetes/pki/" + name, "mode": "0600",
				"content": string(must(os.ReadFile(filepath.Join(dir, name))))})
		}
		json.NewEncoder(w).Encode(map[string]any{"files": files}) //nolint:errcheck // the guest asks again
	}
}

func server(dir, vms, role, name, uuid, ip string) {
	info := map[string]string{"role": "worker", "node_name": name, "cluster": "7c3f0c52-0000-4000-8000-000000000001",
		"kubernetes_version": version, "endpoint": vip + ":6443"}
	files := []map[string]string{}
	add := func(path, mode, content string) {
		files = append(files, map[string]string{"path": path, "permissions": mode, "content": content})
	}
	if role == "first" || role == "member" {
		info["role"] = "control-plane"
		add("/etc/zcp/bundle.json", "0600", object(map[string]string{"url": read(dir, "url"), "token": bundleToken, "ca": read(dir, "zcpd/ca.crt")}))
		add("/etc/kubernetes/manifests/kube-vip.yaml", "0600", kubeVip)
	}
	config := joinConfig(dir, name, ip, role)
	if role == "first" {
		config = fmt.Sprintf(initConfig, joinToken, ip, name, version, vip, vip)
	}
	add("/etc/zcp/kubeadm.yaml", "0600", config)
	add("/etc/zcp/server.json", "0644", object(info))
	// JSON is YAML too, and needs no templates.
	text := "#cloud-config\n" + object(map[string]any{"write_files": files, "runcmd": [][]string{{"/usr/local/sbin/zcp-boot"}}})
	record := map[string]any{
		"uuid": uuid, "instance_name": "instance-" + uuid[:8], "name": name, "hostname": name, "project_id": "p", "host": "east-1",
		"power": "on", "flavor": "m1", "vcpus": 4, "memory_mb": 8192, "root_gb": 20, "metadata": map[string]string{},
		"user_data": base64.StdEncoding.EncodeToString([]byte(text)),
		"addresses": []map[string]any{{"port": uuid, "mac": "fa:16:3e:00:00:01", "ips": []string{ip}}},
	}
	path := filepath.Join(vms, uuid+".json")
	check(os.WriteFile(path+".tmp", []byte(object(record)), 0o644))
	check(os.Rename(path+".tmp", path))
}

func read(dir, name string) string { return string(must(os.ReadFile(filepath.Join(dir, name)))) }

func object(value any) string { return string(must(json.Marshal(value))) }

func joinConfig(dir, name, ip, role string) string {
	block, _ := pem.Decode([]byte(read(dir, "ca.crt")))
	hash := sha256.Sum256(must(x509.ParseCertificate(block.Bytes)).RawSubjectPublicKeyInfo)
	if role == "stranger" {
		hash[0]++
	}
	config := fmt.Sprintf(joinCommon, joinToken, vip, hash, name)
	if role != "member" {
		return config + "  kubeletExtraArgs:\n  - {name: node-labels, value: \"zcp.example/pool=blue,topology.kubernetes.io/zone=east-a\"}\n" +
			"  taints:\n  - {key: zcp.example/proof, value: \"1\", effect: PreferNoSchedule}\n"
	}
	return config + "controlPlane:\n  localAPIEndpoint: {advertiseAddress: " + ip + ", bindPort: 6443}\n"
}

const initConfig = `apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
bootstrapTokens:
- token: %s
localAPIEndpoint: {advertiseAddress: %s, bindPort: 6443}
nodeRegistration: {name: %s}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v%s
clusterName: proof
controlPlaneEndpoint: %s:6443
encryptionAlgorithm: ECDSA-P256
networking: {podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/16}
apiServer: {certSANs: [%s, proof.example]}
`

const joinCommon = `apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery:
  bootstrapToken:
    token: %s
    apiServerEndpoint: %s:6443
    caCertHashes: ["sha256:%x"]
nodeRegistration:
  name: %s
`

const kubeVip = `apiVersion: v1
kind: Pod
metadata: {name: kube-vip, namespace: kube-system}
spec:
  hostNetwork: true
  containers:
  - name: kube-vip
    image: ghcr.example/kube-vip/kube-vip:v1.0.0
    args: [manager]
    env:
    - {name: port, value: "6443"}
    - {name: address, value: "` + vip + `"}
`
