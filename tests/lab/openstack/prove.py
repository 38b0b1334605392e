#!/usr/bin/python3 -B
"""Check by real calls that the running clouds do what the tests rely on.

lab exec tests/lab/openstack/prove.py [CLOUD ...]     exits 1 on a surprise
"""
import base64
import json
import os
import subprocess
import sys
import threading
import time
import uuid

import rest
import seed
from cloud import Cloud, GENERATION

STATE = os.environ["ZCP_LAB_STATE"]
LAB = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lab")
USER_DATA = base64.b64encode(b"#cloud-config\nruncmd: [kubeadm join]\n").decode()
SURPRISES = []


class Trial:
    def __init__(self, name):
        self.name = name
        self.cloud = Cloud(STATE, name)
        self.admin = rest.Client(self.cloud.urls())
        self.kaas = rest.Client(self.cloud.urls(), "kaas", "kaas")
        self.tag = "zcp-prove-" + uuid.uuid4().hex[:8]
        flavors = self.kaas.get("nova-api", "/flavors")["flavors"]
        self.flavor = self.pick(flavors, seed.FLAVOR_NAME[name] % "2c4g")
        self.image = self.pick(self.kaas.get("glance", "/v2/images")["images"],
                               "zcp-node-" + seed.KUBERNETES_VERSION)
        self.network = self.pick(self.kaas.get("neutron", "/v2.0/networks")["networks"], "kaas")

    @staticmethod
    def pick(rows, name):
        [row] = [r for r in rows if r["name"] == name]
        return row["id"]

    def check(self, what, good, shown=""):
        print("%-5s %-9s %s  %s" % (self.name, "ok" if good else "SURPRISE", what, shown),
              flush=True)
        if not good:
            SURPRISES.append(what)

    def refused(self, what, code, action, *words):
        try:
            action(*words)
        except rest.Failed as error:
            self.check(what, error.code == code, "%d %s" % (error.code, error.text[:110]))
        else:
            self.check(what, False, "accepted")

    def nova(self, method, path, body=None, version="2.87", **more):
        return self.kaas.call(method, "nova-api", path, body, headers={
            "X-OpenStack-Nova-API-Version": version}, **more)

    def neutron(self, method, path, body=None, **more):
        return self.kaas.call(method, "neutron", "/v2.0" + path, body, **more)

    def lab(self, *words):
        subprocess.run([LAB, "--state", STATE, "--cloud", self.name, *words], check=True)

    def make_port(self, **fields):
        return self.neutron("POST", "/ports", {"port": dict(
            fields, network_id=self.network, name=self.tag)})["port"]

    def make_server(self, name, networks=None, flavor=None, group=None, timeout=60):
        body = {"server": {
            "name": name, "flavorRef": flavor or self.flavor, "imageRef": self.image,
            "networks": networks or [{"uuid": self.network}], "user_data": USER_DATA,
            "tags": [self.tag], "metadata": {"zcp.node": self.tag}}}
        if group:
            body["os:scheduler_hints"] = {"group": group}
        return self.nova("POST", "/servers", body, timeout=timeout)["server"]["id"]

    def listed(self, **query):
        more = "".join("&%s=%s" % pair for pair in query.items())
        return self.nova("GET", "/servers/detail?tags=%s%s" % (self.tag, more))

    def until(self, server, *statuses, patience=120):
        began = time.time()
        while time.time() < began + patience:
            row = self.nova("GET", "/servers/" + server)["server"]
            if row["status"] in statuses and not row["OS-EXT-STS:task_state"]:
                break
            time.sleep(0.3)
        return row, time.time() - began

    def remove_all(self):
        began = time.time()
        for row in self.listed()["servers"]:
            self.nova("DELETE", "/servers/" + row["id"])
        while self.listed()["servers"] and time.time() < began + 120:
            time.sleep(0.3)
        return time.time() - began

    def record(self, server):
        try:
            with open(self.cloud.path("vms", server + ".json")) as f:
                return json.load(f)
        except OSError:
            return None

    # ---- the trials ----------------------------------------------------

    def run(self):
        try:
            self.port_and_server()
            self.list_by_tag()
            self.group_quota()
            self.capacity()
            self.unclear_answer()
            self.numbers_of_the_cloud()
        finally:
            took = self.remove_all()
            self.check("all servers deleted", True, "%.1f s" % took)
            for port in self.neutron("GET", "/ports?name=" + self.tag)["ports"]:
                self.neutron("DELETE", "/ports/" + port["id"])

    def port_and_server(self):
        vip = self.make_port()
        address = vip["fixed_ips"][0]["ip_address"]
        self.check("VIP in the node range", address.startswith(
            seed.RANGE[self.name][:6]), address)
        port = self.make_port(allowed_address_pairs=[{"ip_address": address}])
        self.neutron("PUT", "/ports/%s/tags" % port["id"], {"tags": [self.tag]})
        found = self.neutron("GET", "/ports?tags=" + self.tag)["ports"]
        self.check("port found by tag, with its address pair", [p["id"] for p in found] == [
            port["id"]] and found[0]["allowed_address_pairs"][0]["ip_address"] == address)
        server = self.make_server("prove-1", [{"port": port["id"]}])
        row, took = self.until(server, "ACTIVE", "ERROR")
        self.check("server with that port is ACTIVE", row["status"] == "ACTIVE", "%.1f s" % took)
        zone = seed.ZONE[self.name] or "nova"
        self.check("its zone", row["OS-EXT-AZ:availability_zone"] == zone, zone)
        self.refused("a second server on the port", 409, lambda: self.until(
            self.make_server("prove-2", [{"port": port["id"]}]), "ERROR"))
        output = self.nova("POST", "/servers/%s/action" % server,
                           {"os-getConsoleOutput": {"length": 10}})["output"]
        self.check("console output", bool(output), repr(output[:30]))
        self.power(server, port)
        self.nova("DELETE", "/servers/" + server)
        while self.listed()["servers"]:
            time.sleep(0.2)
        left = self.neutron("GET", "/ports/" + port["id"])["port"]
        self.check("the port outlives its server, unbound", left["device_id"] == "")
        self.check("the record is gone", self.record(server) is None)

    def power(self, server, port):
        record = self.record(server)
        self.check("record", record["user_data"] == USER_DATA and record["power"] == "on"
                   and record["tags"] == [self.tag]
                   and record["addresses"][0]["port"] == port["id"]
                   and record["addresses"][0]["ips"] == [port["fixed_ips"][0]["ip_address"]])
        boots = record["boots"]
        for action, status, power in (("os-stop", "SHUTOFF", "off"), ("os-start", "ACTIVE", "on")):
            self.nova("POST", "/servers/%s/action" % server, {action: None})
            self.until(server, status)
            self.check("record after " + action, self.record(server)["power"] == power)
        self.nova("POST", "/servers/%s/action" % server, {"reboot": {"type": "HARD"}})
        began = time.time()
        while self.record(server)["boots"] < boots + 2 and time.time() < began + 60:
            time.sleep(0.2)
        self.until(server, "ACTIVE")
        self.check("record counts boots", self.record(server)["boots"] == boots + 2)

    def list_by_tag(self):
        made = [self.make_server("page-%d" % n) for n in range(5)]
        for server in made:
            self.until(server, "ACTIVE", "ERROR")
        seen, marker = [], {}
        while True:
            page = self.listed(limit=2, **marker)
            seen += [row["id"] for row in page["servers"]]
            if not page.get("servers_links"):
                break
            marker = {"marker": seen[-1]}
        self.check("list by tag, two a page", sorted(seen) == sorted(made))
        self.check("deleted", True, "%.1f s" % self.remove_all())

    def group_quota(self):
        group = self.nova("POST", "/os-server-groups", {"server_group": {
            "name": self.tag, "policy": "soft-anti-affinity"}})["server_group"]["id"]
        made = [self.make_server("group-%d" % n, group=group) for n in range(10)]
        self.refused("an 11th server in a group", 403, self.make_server, "group-10", None,
                     None, group)
        began = time.time()
        rows = [self.until(server, "ACTIVE", "ERROR")[0] for server in made]
        self.check("ten in a group", all(row["status"] == "ACTIVE" for row in rows),
                   "%.1f s" % (time.time() - began))
        self.check("over all hosts", len({row["hostId"] for row in rows}) == 2)
        self.remove_all()
        self.nova("DELETE", "/os-server-groups/" + group)

    def capacity(self):
        huge = self.admin.post("nova-api", "/flavors", {"flavor": {
            "name": self.tag, "vcpus": 33, "ram": 1024, "disk": 1}})["flavor"]["id"]
        row, _ = self.until(self.make_server("huge", flavor=huge), "ERROR", "ACTIVE")
        self.check("too big for any host", "No valid host" in row.get("fault", {}).get(
            "message", ""))
        self.remove_all()
        self.admin.call("DELETE", "nova-api", "/flavors/" + huge)

    def unclear_answer(self):
        """POST gets no answer, and the server comes to exist all the same."""
        self.lab("pause", "neutron")
        resume = threading.Timer(8, self.lab, ["resume", "neutron"])
        resume.start()
        try:
            self.make_server("late", timeout=4)
            self.check("POST while neutron is paused times out", False)
        except OSError as error:
            self.check("POST while neutron is paused times out", not isinstance(
                error, rest.Failed), type(error).__name__)
        resume.join()
        began = time.time()
        while not self.listed()["servers"] and time.time() < began + 60:
            time.sleep(0.3)
        rows = self.listed()["servers"]
        self.check("the server exists later", len(rows) == 1,
                   "%.1f s after neutron came back" % (time.time() - began))
        for row in rows:
            self.until(row["id"], "ACTIVE", "ERROR")

    def numbers_of_the_cloud(self):
        project = self.kaas.project_id
        quota = self.admin.get("nova-api", "/os-quota-sets/%s/detail" % project)["quota_set"]
        self.check("quota of nova", quota["instances"]["limit"] == 400
                   and quota["server_group_members"]["limit"] == 10)
        quota = self.kaas.get("neutron", "/v2.0/quotas/%s/details.json" % project)["quota"]
        self.check("quota of neutron", quota["port"]["limit"] == 2000, quota["port"])
        hosts = self.admin.get("placement", "/resource_providers")["resource_providers"]
        vcpus = [self.admin.get("placement", "/resource_providers/%s/inventories" % h["uuid"])
                 ["inventories"]["VCPU"] for h in hosts]
        self.check("placement", [(v["total"], v["allocation_ratio"]) for v in vcpus]
                   == [(32, 4.0)] * 2)
        self.refused("placement to a member", 403, self.kaas.get, "placement",
                     "/resource_providers")


for name in sys.argv[1:] or GENERATION:
    Trial(name).run()
print("SURPRISES: %s" % SURPRISES if SURPRISES else "no surprise")
sys.exit(1 if SURPRISES else 0)
