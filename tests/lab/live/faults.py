"""The clouds fail, each in the way that real ones do."""
import json
import re

from moves import home, settled
from parts import WORKERS
from rig import until
from witness import wait_seconds


def group(world):
    world.case("NoValidHost on the target: named, and healed when there is room", no_room)
    world.case("all hosts of a zone disabled: said, and healed when they are back", no_hosts)
    world.case("a POST that times out but makes the server: one server for each node", lost_answer)


def no_room(world):
    """In the middle of a migration the node says so, and it goes on by itself once there is a host."""
    source, target = home(world)
    identity = world.control.migrate("shop", target, "--waves", "1,100%", "--soak", "1s",
                                     "--hold", "1s", "--gate", "1=approval")
    world.control.reach(identity, "approval", patience=240)
    with world.lab.full(target):
        world.control.ctl("migration", "approve", "shop")

        def trouble():
            now = world.control.migration(identity)
            told = [node["trouble"] for node in now["nodes"] if node.get("trouble")]
            return [text for text in told if "host" in text.lower()] or None
        told = until("the node says that no host has room", trouble, 120, 0.5)
    world.control.reach(identity, "succeeded", patience=400)
    settled(world, target)
    wait_for_ports(world)
    return told[0][:120]


def no_hosts(world):
    """Nova refuses the zone itself then, with a 400."""
    cloud, _ = home(world)
    world.lab.hosts(cloud, "disabled")
    try:
        world.control.ctl("cluster", "scale", "shop", "web", "--count", str(WORKERS + 1))

        def said():
            text = json.dumps([world.control.seen("cluster", "nodes", "shop"),
                               world.control.cluster("shop")["waiting"]])
            return re.search(r"[^\"]*availability zone is not available|cloud \w+ is not ready", text)
        told = until("somebody says that the zone takes nothing", said, 60, 1)
    finally:
        world.lab.hosts(cloud, "enabled")
    # a cloud without room is asked again each five minutes
    world.control.ready("shop", WORKERS + 1, patience=420)
    world.control.scale("shop", WORKERS)
    settled(world, cloud)
    return told.group(0)


def wait_for_ports(world):
    """Every port is some server's or a VIP: what failed builds held was given back."""
    def unused():
        return [row["name"] for cloud in ("east", "west")
                for row in world.witness.things(cloud)["ports"]
                if row["id"] not in world.witness.before[cloud]["ports"]
                and not row["device_id"] and not row["name"].endswith("-vip")]
    until("no port without a server", lambda: not unused(), 150, 1)


def lost_answer(world):
    """Nova is stopped while it holds our POST, longer than we wait, and then goes on with it."""
    cloud, _ = home(world)
    before = {row["id"] for row in world.witness.servers(cloud)}
    world.lab.service(cloud, "pause", "nova-api")
    try:
        world.control.ctl("cluster", "scale", "shop", "web", "--count", str(WORKERS + 1))
        wait_seconds(40, "Nova holds the request, zcpd gives up on it")
    finally:
        world.lab.service(cloud, "resume", "nova-api")
    world.control.ready("shop", WORKERS + 1, patience=300)
    world.witness.nothing_doubled()
    made = [row for row in world.witness.servers(cloud) if row["id"] not in before]
    assert len(made) == 1, [row["name"] for row in made]
    log = open(world.rig.zcpd.path, errors="replace").read()
    world.control.scale("shop", WORKERS)
    settled(world, cloud)
    return "the answer was lost" if "no answer before the deadline" in log else "see the log"
