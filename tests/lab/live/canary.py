"""A canary on the real clouds: real connections and datagrams, and flows that the kernel drops."""
import contextlib
import json
import subprocess
import urllib.request

from control import OPENER
from moves import home
from rig import API, until

# As the lab's subnets are; see ../openstack.
RANGES = {"east": "10.10.0.0/16", "west": "10.20.0.0/16"}
VXLAN, KUBELET = ("udp", 8472), ("tcp", 10250)


def group(world):
    world.case("a canary joins, reaches everything, and is gone", passes)
    world.case("a port closed one way is found, with the rule to ask for", finds, [VXLAN])
    world.case("so are a closed kubelet port and both ways at once", finds, [VXLAN, KUBELET], True)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def closed(flows):
    """Drops packets by the routing policy database. Every address of the lab is local, and local
    addresses are looked up before any rule, so that rule is put behind ours for the time."""
    rules = [("pref", "5", "from", RANGES[source], "to", RANGES[target], "ipproto", protocol,
              "dport", str(port), "blackhole") for source, target, (protocol, port) in flows]
    ip("rule", "add", "pref", "10", "lookup", "local")
    ip("rule", "del", "pref", "0")
    added = []
    try:
        for rule in rules:
            ip("rule", "add", *rule)
            added.append(rule)
        yield
    finally:
        for rule in added:
            ip("rule", "del", *rule)
        ip("rule", "add", "pref", "0", "lookup", "local")
        ip("rule", "del", "pref", "10")


def post(world, path, body):
    request = urllib.request.Request(
        "http://%s/v1/%s" % (API, path), data=json.dumps(body).encode(), method="POST", headers={
            "Authorization": "Bearer " + world.rig.token, "Content-Type": "application/json"})
    with OPENER.open(request, timeout=10) as answer:
        return json.loads(answer.read())


def look(world, target):
    """A preflight with a canary; its insights by their ids."""
    cluster = world.control.cluster("shop")["id"]
    made = post(world, "clusters/%s/preflights" % cluster, {"target": target, "canary": "auto"})

    def done():
        now = world.control.get("preflights/" + made["id"])
        return now if now and not now["check_pending"] else None
    now = until("the preflight is done", done, 240, 1)
    gone(world)
    return {one["id"]: one for one in now["insights"]}


def gone(world):
    """Nothing of a canary is left: no server, no Node, no pod."""
    def left():
        names = [name for cloud in RANGES for name in world.witness.server_names(cloud)]
        for kind in (["nodes"], ["pods", "-n", "kube-system"]):
            names += [item["metadata"]["name"] for item in world.kubectl.items(*kind)]
        return not [name for name in names if "canary" in name]
    until("nothing of the canary is left", left, 120, 1)


def passes(world):
    _, target = home(world)
    insights = look(world, target)
    canary = insights["canary"]
    assert canary["level"] == "PASS", insights
    return canary["resources"][0]


def finds(world, ports, both=False):
    source, target = home(world)
    forget(world)
    flows = [(target, source, port) for port in ports]
    if both:
        flows += [(source, target, port) for port in ports]
    with closed(flows):
        insights = look(world, target)
    found = insights["port_closed"]
    assert found["level"] == "BLOCK", found
    wanted = sorted("%s %s -> %s %s %s/%d" % (a, RANGES[a], b, RANGES[b], protocol, port)
                    for a, b, (protocol, port) in flows)
    assert found["resources"] == wanted, (found["resources"], wanted)
    return "; ".join(found["resources"])


def forget(world):
    """Makes what canaries found two days old, as no user can."""
    world.rig.sql("UPDATE canaries SET finished_at = finished_at - interval '2 days'")
