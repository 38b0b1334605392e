"""Those who saw it: the real `openstack` and `kubectl`, and the clouds' own APIs. Nothing here
asks zcpd."""
import base64
import contextlib
import glob
import json
import os
import subprocess
import sys
import threading
import time

LAB = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(LAB, "openstack")]

import rest            # noqa: E402
from cloud import Cloud  # noqa: E402
from rig import until  # noqa: E402

CLOUDS = ("east", "west")
VERSION = {"X-OpenStack-Nova-API-Version": "2.79"}


class Witness:
    def __init__(self, rig):
        self.rig = rig
        self.urls = {name: Cloud(rig.state, name).urls() for name in CLOUDS}
        self.kaas = {name: rest.Client(self.urls[name], "kaas", "kaas") for name in CLOUDS}
        self.admin = {name: rest.Client(self.urls[name]) for name in CLOUDS}
        self.before = self.ids()

    def ids(self):
        """What is in the clouds now."""
        return {name: {kind: {row["id"] for row in rows}
                       for kind, rows in self.things(name).items()} for name in CLOUDS}

    def openstack(self, cloud, *words):
        """The real client, from the lab's own packages."""
        packages = os.path.join(self.rig.state, "debian/usr")
        env = dict(os.environ, PYTHONPATH=packages + "/lib/python3/dist-packages",
                   PYTHONPYCACHEPREFIX=os.path.join(self.rig.state, "bytecode/client"),
                   OS_CLIENT_CONFIG_FILE=os.path.join(self.rig.state, "clouds.yaml"))
        done = subprocess.run(
            [sys.executable, packages + "/bin/openstack", "--os-cloud", cloud, *words,
             "-f", "json"], env=env, text=True, capture_output=True, check=False, timeout=180)
        assert done.returncode == 0, "openstack %s: %s" % (" ".join(words), done.stderr[-600:])
        return json.loads(done.stdout)

    def server_names(self, cloud):
        """By `openstack server list`."""
        return sorted(row["Name"] for row in self.openstack(cloud, "server", "list"))

    def servers(self, cloud):
        return self.kaas[cloud].get("nova-api", "/servers/detail?limit=1000",
                                    headers=VERSION)["servers"]

    def things(self, cloud):
        client = self.kaas[cloud]
        return {"servers": self.servers(cloud),
                "ports": client.get("neutron", "/v2.0/ports")["ports"],
                "server groups": client.get("nova-api", "/os-server-groups",
                                            headers=VERSION)["server_groups"]}

    def workers(self, cloud, cluster):
        return [row for row in self.servers(cloud)
                if row["name"].startswith(cluster + "-") and "zcp.pool" in row["metadata"]
                and row["id"] not in self.before[cloud]["servers"]]

    def made(self, cloud):
        """How many servers were ever made there, deleted ones too; only an admin sees those."""
        admin = self.admin[cloud]
        rows = [admin.get("nova-api", "/servers?all_tenants=1&limit=1000&deleted=%s" % deleted)
                for deleted in ("true", "false")]
        return sum(len(row["servers"]) for row in rows)

    def nothing_doubled(self):
        """At most one server for each node, and one port for each server."""
        for cloud in CLOUDS:
            things = self.things(cloud)
            nodes = [row["metadata"].get("zcp.node") for row in things["servers"]]
            assert len(nodes) == len(set(nodes)), "two servers of one node: %s" % sorted(nodes)
            marks = [row["description"] for row in things["ports"]]
            marks = [mark for mark in marks if mark.startswith("zcp.install=")]
            assert len(marks) == len(set(marks)), "two ports of one node: %s" % sorted(marks)

    def nothing_left(self, patience=120, before=None):
        """Nothing that was not there before (when we came); asked until it is so."""
        before = before or self.before

        def look():
            left = ["%s %s %s" % (cloud, kind, row.get("name"))
                    for cloud in CLOUDS for kind, rows in self.things(cloud).items()
                    for row in rows if row["id"] not in before[cloud][kind]]
            look.left = left
            return not left
        try:
            until("nothing is left", look, patience, 1)
        except AssertionError:
            raise AssertionError("left in the clouds: %s" % "; ".join(look.left)) from None

    def purge(self):
        """Removes what a failed run left, so that the next one finds the clouds as this one did."""
        for cloud in CLOUDS:
            client, things = self.kaas[cloud], self.things(cloud)
            for kind, service, path in (("servers", "nova-api", "/servers/%s"),
                                        ("ports", "neutron", "/v2.0/ports/%s"),
                                        ("server groups", "nova-api", "/os-server-groups/%s")):
                new = {row["id"] for row in things[kind]} - self.before[cloud][kind]
                for identity in new:
                    try:
                        client.call("DELETE", service, path % identity)
                    except rest.Failed as error:
                        if error.code != 404:
                            print("   not removed: %s" % error, flush=True)
                if new and kind == "servers":
                    until("servers are gone", lambda: not new & {
                        row["id"] for row in self.servers(cloud)}, 60)

    def record(self, server):
        """What the hypervisor holds of a server."""
        [path] = glob.glob(os.path.join(self.rig.state, "*/vms", server + ".json"))
        with open(path) as f:
            return json.load(f)

    def user_data(self, server):
        return base64.b64decode(self.record(server)["user_data"]).decode()


class Kubectl:
    """The real kubectl, with a kubeconfig that zcpctl gave."""

    def __init__(self, rig, control, cluster):
        self.program = os.path.join(rig.kube, "kubectl")
        self.config = os.path.join(rig.folder, cluster + ".kubeconfig")
        text = control.ctl("cluster", "kubeconfig", cluster, "--ttl", "1h")
        with open(self.config, "w") as f:
            f.write(text)

    def __call__(self, *words, given=None, check=True):
        done = subprocess.run([self.program, "--kubeconfig", self.config, *words], text=True,
                              input=given, capture_output=True, check=False, timeout=120)
        if check and done.returncode:
            raise AssertionError("kubectl %s: %s" % (" ".join(words), done.stderr[-600:]))
        return done.stdout

    def items(self, *words):
        return json.loads(self("get", *words, "-o", "json"))["items"]

    def ready_nodes(self):
        def ready(node):
            return any(c["type"] == "Ready" and c["status"] == "True"
                       for c in node["status"].get("conditions", []))
        return [node for node in self.items("nodes") if ready(node)]

    def cordoned(self):
        return [node["metadata"]["name"] for node in self.items("nodes")
                if node["spec"].get("unschedulable")]

    def all_run(self, count):
        """Every pod of the Deployment runs, on as many nodes as there are."""
        def look():
            pods = [pod for pod in self.items("pods", "-l", "app=web")
                    if not pod["metadata"].get("deletionTimestamp")]
            return len(pods) == count and all(
                pod["status"]["phase"] == "Running" for pod in pods) and pods
        return until("%d pods run" % count, look, 90, 1)


class Watch:
    """Looks at a Deployment all the time, and remembers the fewest pods that were available."""

    def __init__(self, kubectl, floor):
        self.kubectl, self.floor, self.seen = kubectl, floor, []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.stopped.set()
        self.thread.join()
        if kind is None:
            assert self.seen, "the Deployment was never seen"
            assert min(self.seen) >= self.floor, "only %d pods available, the budget says %d" % (
                min(self.seen), self.floor)

    def run(self):
        while not self.stopped.wait(0.7):
            try:
                text = self.kubectl("get", "deployment", "web", "-o",
                                    "jsonpath={.metadata.name} {.status.availableReplicas}")
            except (AssertionError, subprocess.TimeoutExpired):
                continue      # an API that does not answer says nothing about pods
            _, count = text.split(" ")
            self.seen.append(int(count or 0))     # a count of 0 is left out


class Lab:
    """Faults."""

    def __init__(self, rig, witness):
        self.rig, self.witness = rig, witness

    def service(self, cloud, verb, *services):
        subprocess.run([os.path.join(LAB, "lab"), "--state", self.rig.state, "--cloud", cloud,
                        verb, *services], check=True)

    def hosts(self, cloud, status):
        """Every host enabled or disabled: a disabled one takes no new server."""
        admin = self.witness.admin[cloud]
        rows = admin.get("nova-api", "/os-services?binary=nova-compute",
                         headers={"X-OpenStack-Nova-API-Version": "2.53"})["services"]
        for row in rows:
            admin.call("PUT", "nova-api", "/os-services/" + row["id"], {"status": status},
                       headers={"X-OpenStack-Nova-API-Version": "2.53"})

    def room(self, cloud, there_is):
        """Placement's figures: without room Nova accepts a server and then finds no valid host."""
        admin, version = self.witness.admin[cloud], {"OpenStack-API-Version": "placement 1.26"}
        providers = admin.get("placement", "/resource_providers", headers=version)
        for row in providers["resource_providers"]:
            path = "/resource_providers/%s/inventories/VCPU" % row["uuid"]
            inventory = admin.get("placement", path, headers=version)
            reserved = 0 if there_is else inventory["total"]
            if inventory["reserved"] != reserved:
                inventory["reserved"] = reserved
                admin.call("PUT", "placement", path, inventory, headers=version)

    @contextlib.contextmanager
    def full(self, cloud):
        """No room for the time. Compute services write their own figures back whenever a server of
        theirs comes or goes, so ours are written again and again."""
        over = threading.Event()

        def hold():
            while not over.wait(0.3):
                with contextlib.suppress(Exception):   # both may write at once; the next try counts
                    self.room(cloud, False)
        self.room(cloud, False)
        holder = threading.Thread(target=hold, daemon=True)
        holder.start()
        try:
            yield
        finally:
            over.set()
            holder.join()
            self.room(cloud, True)

    def heal(self):
        """As if no case had ever touched anything."""
        for cloud in CLOUDS:
            self.service(cloud, "resume", "neutron", "nova-api")
            self.hosts(cloud, "enabled")
            self.room(cloud, True)


def wait_seconds(seconds, why):
    """Only where time itself is the point."""
    print("   ... %s (%d s)" % (why, seconds), flush=True)
    time.sleep(seconds)
