"""Clouds and clusters without moving them."""
import json
import os
import re
import subprocess
import sys

from rig import until
from witness import CLOUDS, Kubectl

WORKERS = 4
REPLICAS = 8
BUDGET = 7
WORKLOAD = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 3
      containers: [{name: web, image: "web.example/web:1"}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: default}
spec: {minAvailable: %d, selector: {matchLabels: {app: web}}}
""" % (REPLICAS, BUDGET)


def clouds(world):
    def wrong_network(world):
        text = world.control.ctl(
            "cloud", "add", "wrong", "--from-clouds-yaml", world.state + "/clouds.yaml",
            "--entry", "east", "--network", "nowhere", "--flavor", "k8s.2c4g", "--timeout", "1m",
            check=1)
        assert "WRONG" in text and "network" in text, text
        world.control.ctl("cloud", "remove", "wrong", "--yes")
    good = [world.case("cloud add %s: checked and usable" % name,
                       lambda world, name=name: world.control.add_cloud(name) and None)
            for name in CLOUDS]
    world.case("cloud add says which field is wrong", wrong_network)
    return all(good) and world.case("an offering with its CNI is added",
                                    lambda world: world.control.add_offering())


def cluster(world):
    return (world.case("a cluster of 1 + %d is made on east" % WORKERS, make, "shop")
            and world.case("kubectl: all nodes are Ready, each the server it says", nodes_are_servers)
            and world.case("kubectl: Deployment and budget, all pods run", workload)
            and world.case("user data is accepted by kubeadm config validate", user_data) is not None)


def make(world, name):
    world.control.create(name, WORKERS)
    world.kubectl = Kubectl(world.rig, world.control, name)
    names = world.witness.server_names("east")
    assert len([n for n in names if n.startswith(name + "-")]) == WORKERS + 1, names


def nodes_are_servers(world):
    ready = world.kubectl.ready_nodes()
    assert len(ready) == WORKERS + 1, [node["metadata"]["name"] for node in ready]
    servers = {"openstack:///" + row["id"]: row["name"] for row in world.witness.servers("east")}
    for node in ready:
        assert servers.get(node["spec"].get("providerID")) == node["metadata"]["name"], node["spec"]
    whoami = json.loads(world.kubectl("auth", "whoami", "-o", "json"))
    return whoami["status"]["userInfo"]["username"]


def workload(world):
    world.kubectl("apply", "-f", "-", given=WORKLOAD)
    world.kubectl.all_run(REPLICAS)


def written_files(world, server):
    """Path and text of all that cloud-init would write; PyYAML is among the lab's packages."""
    packages = os.path.join(world.state, "debian/usr/lib/python3/dist-packages")
    if packages not in sys.path:
        sys.path.append(packages)
    import yaml
    document = yaml.safe_load(world.witness.user_data(server))
    return {row["path"]: row["content"] for row in document["write_files"]}


def user_data(world):
    """The files as a server would find them, judged by the program that will read them."""
    seen = set()
    for server in world.witness.servers("east"):
        files = written_files(world, server["id"])
        path = os.path.join(world.rig.folder, "kubeadm.yaml")
        with open(path, "w") as f:
            f.write(files["/etc/zcp/kubeadm.yaml"])
        done = subprocess.run([os.path.join(world.rig.kube, "kubeadm"), "config", "validate",
                               "--config", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        seen.add(json.loads(files["/etc/zcp/server.json"])["role"])
        secret = [n for n, text in files.items() if re.search("BEGIN .*PRIVATE KEY", text)]
        assert not secret, "a private key in user data: %s" % secret
    assert seen == {"control-plane", "worker"}, seen


def scale(world):
    def grow(world):
        world.control.scale("shop", WORKERS + 2)
        assert len(world.kubectl.ready_nodes()) == WORKERS + 3

    def shrink(world):
        world.control.scale("shop", 2)
        until("two workers are left", lambda: len(world.kubectl.ready_nodes()) == 3)
        world.kubectl.all_run(REPLICAS)

    def delete(world):
        world.control.delete("shop")
        world.witness.nothing_left()
    world.case("a pool grows", grow)
    world.case("a pool shrinks, and its pods live on", shrink)
    world.case("a deleted cluster leaves nothing", delete)


def hollow(world):
    """One migration with kubelets that are not ours."""
    def move(world):
        before = world.witness.ids()
        world.rig.agent.end()
        world.rig.start_agent("hollow")
        world.control.create("hollow", 2)
        world.kubectl = Kubectl(world.rig, world.control, "hollow")
        world.kubectl("apply", "-f", "-", given=WORKLOAD)
        identity = world.control.migrate("hollow", "west", "--waves", "1,100%", "--soak", "1s",
                                         "--hold", "1s")
        world.control.reach(identity, "succeeded")
        assert len(world.witness.workers("west", "hollow")) == 2
        world.kubectl.all_run(REPLICAS)
        world.control.delete("hollow")
        world.witness.nothing_left(before=before)
    world.case("a migration with kubemark's hollow kubelets", move)


def contract(world):
    """The suite that holds the simulation to the truth, against the truth."""
    def suite(world):
        path = os.path.join(world.rig.logs, "contract.log")
        with open(path, "w") as log:
            done = subprocess.run(
                [world.suite, "contract::"], stdout=log, stderr=subprocess.STDOUT, check=False,
                env=dict(os.environ, ZCP_LAB_CLOUDS=world.state + "/clouds.yaml"))
        with open(path) as log:
            text = log.read()
        failed = re.findall(r"^test (\S+) \.\.\. FAILED", text, re.M)
        assert done.returncode == 0, "failed: %s; see %s" % (" ".join(failed), path)
        return re.search(r"(\d+) passed", text).group(0)
    if world.suite:
        world.case("the contract suite holds on both clouds", suite)


def farewell(world):
    """Whatever happened before: what we made is deleted, and the clouds say so."""
    def leave(world):
        found = world.control.get("clusters?project=live")
        for row in found["items"] if found else []:
            world.control.delete(row["name"])
        world.witness.nothing_left()
    world.case("the clouds are as they were", leave)
