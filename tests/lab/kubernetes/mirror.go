package main

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func isMirror(pod *v1.Pod) bool { return pod.Annotations[v1.MirrorPodAnnotationKey] != "" }

// keepMirrors shows the static pods in the API, as the kubelet does; kubeadm
// finds the members of etcd by the annotations of theirs.
func (p *podPlayer) keepMirrors(ctx context.Context, synced func() bool) {
	for sleep(ctx, time.Second) {
		if !synced() {
			continue
		}
		want := map[string]string{}
		for _, s := range p.server.pods.list() {
			want[s.pod.Namespace+"/"+s.pod.Name+"-"+p.name] = s.hash
			p.mirror(ctx, s)
		}
		for _, obj := range p.store.List() {
			pod := obj.(*v1.Pod)
			hash := pod.Annotations[v1.MirrorPodAnnotationKey]
			if hash == "" || want[pod.Namespace+"/"+pod.Name] == hash {
				continue
			}
			now := int64(0)
			p.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{ //nolint:errcheck // again in a second
				GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		}
	}
}

func (p *podPlayer) mirror(ctx context.Context, s *staticPod) {
	pod := s.pod.DeepCopy()
	pod.Name += "-" + p.name
	if _, exists, _ := p.store.GetByKey(pod.Namespace + "/" + pod.Name); exists {
		return
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations["kubernetes.io/config.source"] = "file"
	pod.Annotations["kubernetes.io/config.hash"] = s.hash
	pod.Annotations[v1.MirrorPodAnnotationKey] = s.hash
	controller := true
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: p.name, UID: p.uid, Controller: &controller}}
	pod.Spec.NodeName = p.name
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	pod.Status = v1.PodStatus{}
	if _, err := p.client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		p.server.console.printf("kubelet: mirror pod %s: %v", pod.Name, err)
	}
}
