package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"net"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// A test may give a pod its own times, in seconds.
const (
	startAnnotation = "lab.zcp.example/start-seconds"
	stopAnnotation  = "lab.zcp.example/stop-seconds"
)

// podPlayer plays the containers of one node: nothing runs, but every pod goes
// through the states that others can see, in the time it would take.
type podPlayer struct {
	*kubelet
	store cache.Store
	queue workqueue.TypedRateLimitingInterface[string]

	starts map[types.UID]time.Time // when a pod is up; only the worker uses it
	ips    map[types.UID]string
	probes map[types.UID]chan string // what pods that probe will say
	last   uint32
}

func (k *kubelet) runPods(ctx context.Context) {
	p := &podPlayer{kubelet: k, starts: map[types.UID]time.Time{}, ips: map[types.UID]string{}, probes: map[types.UID]chan string{}}
	p.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](100*time.Millisecond, 5*time.Second))
	// The Node authorizer lets a node list no pods but its own.
	list := cache.NewListWatchFromClient(k.client.CoreV1().RESTClient(), "pods", "", fields.OneTermEqualSelector("spec.nodeName", k.name))
	enqueue := func(obj any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
			p.queue.Add(key)
		}
	}
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: list, ObjectType: &v1.Pod{}, ResyncPeriod: time.Minute,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    enqueue,
			UpdateFunc: func(_, obj any) { enqueue(obj) },
			DeleteFunc: enqueue,
		},
	})
	p.store = store
	var wg sync.WaitGroup
	wg.Go(func() { informer.RunWithContext(ctx) })
	wg.Go(func() { p.work(ctx) })
	wg.Go(func() { p.keepMirrors(ctx, informer.HasSynced) })
	<-ctx.Done()
	p.queue.ShutDown()
	wg.Wait()
}

func (p *podPlayer) work(ctx context.Context) {
	for {
		key, quit := p.queue.Get()
		if quit {
			return
		}
		again, err := p.sync(ctx, key)
		switch {
		case err != nil && !errors.IsNotFound(err) && !errors.IsConflict(err):
			p.queue.AddRateLimited(key)
		case again > 0:
			p.queue.Forget(key)
			p.queue.AddAfter(key, again)
		default:
			p.queue.Forget(key)
		}
		p.queue.Done(key)
	}
}

// sync brings one pod as far as it can be now, and says when to look again.
func (p *podPlayer) sync(ctx context.Context, key string) (again time.Duration, err error) {
	obj, exists, err := p.store.GetByKey(key)
	if err != nil || !exists {
		p.clean()
		return 0, err
	}
	pod := obj.(*v1.Pod)
	if pod.DeletionTimestamp != nil {
		return p.terminate(ctx, pod)
	}
	if pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
		return 0, nil
	}
	up, ready := p.state(pod)
	if up && pod.Labels[probeLabel] != "" {
		return p.finishProbe(ctx, pod)
	}
	if up && pod.Spec.RestartPolicy != v1.RestartPolicyAlways {
		return p.finish(ctx, pod)
	}
	if up && ready {
		return 0, nil
	}
	if !up {
		at, begun := p.starts[pod.UID]
		if !begun {
			at = time.Now().Add(p.startTime(pod))
			p.starts[pod.UID] = at
			if ready { // it ran before the power went
				return time.Until(at), p.patch(ctx, pod, p.running(pod, false))
			}
		}
		if wait := time.Until(at); wait > 0 {
			return wait, nil
		}
	}
	if p.podIP(pod) == "" {
		return 300 * time.Millisecond, nil // the node has no network for pods yet
	}
	return 0, p.patch(ctx, pod, p.running(pod, true))
}

// state says whether the pod was started since the power came on, and whether
// the API server has it as ready. The node controller takes the latter away
// from pods of a silent node, and nobody but the kubelet gives it back.
func (p *podPlayer) state(pod *v1.Pod) (up, ready bool) {
	if pod.Status.Phase != v1.PodRunning {
		return false, false
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running == nil || c.State.Running.StartedAt.Time.Before(p.server.booted) {
			up = false
			break
		}
		up = true
	}
	for _, c := range pod.Status.Conditions {
		ready = ready || c.Type == v1.PodReady && c.Status == v1.ConditionTrue
	}
	return up, ready
}

func (p *podPlayer) startTime(pod *v1.Pod) time.Duration {
	if isMirror(pod) {
		return 0
	}
	return seconds(pod, startAnnotation, p.server.agent.podStart)
}

func seconds(pod *v1.Pod, annotation string, otherwise time.Duration) time.Duration {
	if n, err := strconv.ParseFloat(pod.Annotations[annotation], 64); err == nil && n >= 0 {
		return time.Duration(n * float64(time.Second))
	}
	return otherwise
}

// running is the status of a pod whose containers run.
func (p *podPlayer) running(pod *v1.Pod, ready bool) v1.PodStatus {
	status := *pod.Status.DeepCopy()
	now := metav1.Now()
	up, _ := p.state(pod)
	status.Phase = v1.PodRunning
	if status.StartTime == nil {
		status.StartTime = &now
	}
	address := p.server.record.address()
	status.HostIP, status.HostIPs = address, []v1.HostIP{{IP: address}}
	if ip := p.podIP(pod); ip != "" {
		status.PodIP, status.PodIPs = ip, []v1.PodIP{{IP: ip}}
	}
	setCondition(&status, v1.PodReadyToStartContainers, true)
	setCondition(&status, v1.PodInitialized, true)
	setCondition(&status, v1.ContainersReady, ready)
	setCondition(&status, v1.PodReady, ready)
	before := map[string]v1.ContainerStatus{}
	for _, c := range status.ContainerStatuses {
		before[c.Name] = c
	}
	status.ContainerStatuses = nil
	for _, c := range pod.Spec.Containers {
		one, had := before[c.Name]
		if !had {
			one = v1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: c.Image, ContainerID: "lab://" + string(pod.UID) + "/" + c.Name}
		}
		if ready && !up {
			if had && one.State.Running != nil {
				one.RestartCount++
			}
			one.State = v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: now}}
		}
		one.Ready, one.Started = ready, &ready
		status.ContainerStatuses = append(status.ContainerStatuses, one)
	}
	return status
}

// finish ends the pods of Jobs: every command of theirs succeeds after a second.
func (p *podPlayer) finish(ctx context.Context, pod *v1.Pod) (time.Duration, error) {
	status := *pod.Status.DeepCopy()
	for i, c := range status.ContainerStatuses {
		if wait := time.Until(c.State.Running.StartedAt.Add(time.Second)); wait > 0 {
			return wait, nil
		}
		status.ContainerStatuses[i].Ready = false
		status.ContainerStatuses[i].State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			Reason: "Completed", StartedAt: c.State.Running.StartedAt, FinishedAt: metav1.Now(), ContainerID: c.ContainerID}}
	}
	status.Phase = v1.PodSucceeded
	setCondition(&status, v1.ContainersReady, false)
	setCondition(&status, v1.PodReady, false)
	return 0, p.patch(ctx, pod, status)
}

func setCondition(status *v1.PodStatus, kind v1.PodConditionType, is bool) {
	want := v1.ConditionFalse
	if is {
		want = v1.ConditionTrue
	}
	for i := range status.Conditions {
		c := &status.Conditions[i]
		if c.Type == kind {
			if c.Status != want {
				c.Status, c.Reason, c.Message, c.LastTransitionTime = want, "", "", metav1.Now()
			}
			return
		}
	}
	status.Conditions = append(status.Conditions, v1.PodCondition{Type: kind, Status: want, LastTransitionTime: metav1.Now()})
}

func (p *podPlayer) patch(ctx context.Context, pod *v1.Pod, status v1.PodStatus) error {
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion},
		"status":   status,
	})
	if err != nil {
		return err
	}
	_, err = p.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, data, metav1.PatchOptions{}, "status")
	return err
}

// terminate removes a pod when it has had its time to stop. The API server has
// set deletionTimestamp to the end of the grace period already.
func (p *podPlayer) terminate(ctx context.Context, pod *v1.Pod) (time.Duration, error) {
	grace := time.Duration(0)
	if pod.DeletionGracePeriodSeconds != nil {
		grace = time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	}
	begun := pod.DeletionTimestamp.Add(-grace)
	if wait := time.Until(begun.Add(min(grace, seconds(pod, stopAnnotation, p.server.agent.podStop)))); wait > 0 {
		return wait, nil
	}
	now := int64(0)
	return 0, p.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
}

// podIP is the pod's address out of the node's range; one on the host's
// network has the node's.
func (p *podPlayer) podIP(pod *v1.Pod) string {
	if pod.Spec.HostNetwork {
		return p.server.record.address()
	}
	if pod.Status.PodIP != "" {
		p.ips[pod.UID] = pod.Status.PodIP
	}
	if ip := p.ips[pod.UID]; ip != "" {
		return ip
	}
	network := p.podCIDR.Load()
	if network == nil || network.IP.To4() == nil {
		return ""
	}
	taken := map[string]bool{}
	for _, other := range p.store.List() {
		taken[other.(*v1.Pod).Status.PodIP] = true
	}
	for _, ip := range p.ips {
		taken[ip] = true
	}
	ones, bits := network.Mask.Size()
	hosts := uint32(1)<<(bits-ones) - 3 // without the network, the bridge and broadcast
	for range hosts {
		p.last = p.last%hosts + 1
		ip := make(net.IP, 4)
		binary.BigEndian.PutUint32(ip, binary.BigEndian.Uint32(network.IP.To4())+1+p.last)
		if !taken[ip.String()] {
			p.ips[pod.UID] = ip.String()
			return ip.String()
		}
	}
	return ""
}

// clean forgets pods that are gone.
func (p *podPlayer) clean() {
	here := map[types.UID]bool{}
	for _, pod := range p.store.List() {
		here[pod.(*v1.Pod).UID] = true
	}
	for uid := range p.starts {
		if !here[uid] {
			delete(p.starts, uid)
		}
	}
	for uid := range p.ips {
		if !here[uid] {
			delete(p.ips, uid)
		}
	}
}
