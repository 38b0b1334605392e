package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"sigs.k8s.io/yaml"
)

// A record is what the fake hypervisor writes about a server. The guest uses
// only what the inside of a server sees: its user data, its DMI uuid, its
// address, and how many processors and how much memory it has.
type record struct {
	UUID      string `json:"uuid"`
	Power     string `json:"power"`
	VCPUs     int64  `json:"vcpus"`
	MemoryMB  int64  `json:"memory_mb"`
	UserData  string `json:"user_data"`
	Addresses []struct {
		IPs []string `json:"ips"`
	} `json:"addresses"`
}

func readRecord(path string) (record, error) {
	var r record
	data, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, err
	}
	if r.UUID == "" || strings.ContainsAny(r.UUID, "/.") {
		return r, fmt.Errorf("%s: no usable uuid", path)
	}
	return r, nil
}

func (r record) address() string {
	for _, port := range r.Addresses {
		if len(port.IPs) > 0 {
			return port.IPs[0]
		}
	}
	return ""
}

// userData is the part of cloud-config that zcpd renders.
type userData struct {
	WriteFiles []struct {
		Path        string `json:"path"`
		Permissions string `json:"permissions"`
		Encoding    string `json:"encoding"`
		Content     string `json:"content"`
	} `json:"write_files"`
	RunCmd []any `json:"runcmd"`
}

func (r record) userData() (userData, error) {
	var u userData
	text, err := base64.StdEncoding.DecodeString(r.UserData)
	if err != nil {
		return u, fmt.Errorf("user data is not base64: %w", err)
	}
	// cloud-init looks at this very line to tell what kind of text it is.
	if !strings.HasPrefix(string(text), "#cloud-config\n") {
		return u, fmt.Errorf("user data does not begin with #cloud-config")
	}
	if err := yaml.Unmarshal(text, &u); err != nil {
		return u, fmt.Errorf("user data: %w", err)
	}
	for _, f := range u.WriteFiles {
		if f.Encoding != "" && f.Encoding != "text/plain" {
			return u, fmt.Errorf("user data: %s has encoding %q, which this guest does not know", f.Path, f.Encoding)
		}
	}
	return u, nil
}

// serverInfo is /etc/zcp/server.json.
type serverInfo struct {
	Role              string `json:"role"`
	NodeName          string `json:"node_name"`
	Cluster           string `json:"cluster"`
	KubernetesVersion string `json:"kubernetes_version"`
	Endpoint          string `json:"endpoint"`
}
