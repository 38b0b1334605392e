package main

import (
	"io"
	"net"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
)

// vips plays kube-vip: the virtual address of a control plane is served by a
// forwarder that hands every connection to a living member. Bytes pass as they
// are, so TLS is between the client and the apiserver.
type vips struct {
	mu     sync.Mutex
	active map[string]*vip
}

type vip struct {
	listener net.Listener
	members  []string // host:port
	next     int
}

// vipOf is the address and port that the manifest announces, else the endpoint
// of server.json.
func vipOf(pod *v1.Pod, endpoint string) string {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		host, port = endpoint, "6443"
	}
	for _, env := range pod.Spec.Containers[0].Env {
		switch env.Name {
		case "address", "vip_address":
			host = env.Value
		case "port":
			port = env.Value
		}
	}
	if ip, _, err := net.ParseCIDR(host); err == nil {
		host = ip.String()
	}
	return net.JoinHostPort(host, port)
}

// announce makes the server a member of the virtual address until end closes.
func (v *vips) announce(address, member string, end chan struct{}, console *console) {
	_, port, _ := net.SplitHostPort(address)
	member = net.JoinHostPort(member, port)
	for {
		err := v.join(address, member)
		if err == nil {
			break
		}
		console.printf("kube-vip: %v", err)
		select {
		case <-end:
			return
		case <-time.After(2 * time.Second):
		}
	}
	console.printf("kube-vip: %s leads to %s", address, member)
	<-end
	v.leave(address, member)
}

func (v *vips) join(address, member string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.active == nil {
		v.active = map[string]*vip{}
	}
	one := v.active[address]
	if one == nil {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		one = &vip{listener: listener}
		v.active[address] = one
		go v.serve(one)
	}
	one.members = append(one.members, member)
	return nil
}

func (v *vips) leave(address, member string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	one := v.active[address]
	one.members = slices.DeleteFunc(one.members, func(m string) bool { return m == member })
	if len(one.members) == 0 {
		one.listener.Close()
		delete(v.active, address)
	}
}

func (v *vips) serve(one *vip) {
	for {
		conn, err := one.listener.Accept()
		if err != nil {
			return
		}
		go v.forward(one, conn)
	}
}

func (v *vips) forward(one *vip, client net.Conn) {
	defer client.Close()
	v.mu.Lock()
	members := slices.Clone(one.members)
	one.next++
	first := one.next
	v.mu.Unlock()
	for i := range members {
		server, err := net.DialTimeout("tcp", members[(first+i)%len(members)], time.Second)
		if err != nil {
			continue
		}
		splice(client.(*net.TCPConn), server.(*net.TCPConn))
		return
	}
}

func splice(client, server *net.TCPConn) {
	defer server.Close()
	done := make(chan struct{})
	go func() {
		io.Copy(server, client) //nolint:errcheck // either side may break off
		server.CloseWrite()
		close(done)
	}()
	io.Copy(client, server) //nolint:errcheck // either side may break off
	client.CloseWrite()
	client.CloseRead()
	<-done
}
