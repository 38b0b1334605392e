"""Migrations: the whole way, back, and with zcpd killed in every phase."""
import json
import time

from parts import BUDGET, REPLICAS, WORKERS
from rig import until
from witness import Watch

APIS = ("keystone", "glance", "neutron", "nova-api", "placement")
SHORT = ("--soak", "2s", "--hold", "3s", "--drain-timeout", "10m")


def demo(world):
    world.case("workers move east to west in waves, the budget is kept", there)


def there(world):
    """What `make demo` shows, here with other witnesses."""
    phases = []

    def each(now):
        step = (now["phase"], now.get("wave"))
        if not phases or phases[-1] != step:
            phases.append(step)
    with Watch(world.kubectl, BUDGET) as watch:
        identity = world.control.migrate("shop", "west", "--waves", "1,50%,100%", *SHORT)
        world.control.reach(identity, "succeeded", each=each, patience=300)
    settled(world, "west")
    names = world.witness.server_names("west")
    assert len(names) == WORKERS, names
    east = world.witness.server_names("east")
    assert len(east) == 1 and "-cp-" in east[0], east
    waves = {wave for phase, wave in phases if phase == "draining"}
    assert waves <= {1, 2, 3} and 3 in waves, phases
    return "at least %d of %d pods available in %d looks" % (
        min(watch.seen), REPLICAS, len(watch.seen))


def settled(world, cloud):
    """All workers are on that cloud and nowhere else, nothing is cordoned, all pods run."""
    other = {"east": "west", "west": "east"}[cloud]
    world.control.ready("shop", WORKERS)
    here, there = (world.witness.workers(name, "shop") for name in (cloud, other))
    assert (len(here), len(there)) == (WORKERS, 0), (len(here), len(there))
    until("no node is cordoned", lambda: not world.kubectl.cordoned(), 30)
    ready = until("all nodes are Ready and no other is there", lambda: (
        len(world.kubectl.items("nodes")) == WORKERS + 1 and world.kubectl.ready_nodes()), 60, 1)
    assert len(ready) == WORKERS + 1
    world.kubectl.all_run(REPLICAS)
    world.witness.nothing_doubled()


def home(world):
    """The cloud that the workers are on now, and the other."""
    [cloud] = {pool["cloud"] for pool in world.control.cluster("shop")["pools"]}
    return cloud, {"east": "west", "west": "east"}[cloud]


def budget(world, least):
    world.kubectl("patch", "pdb", "web", "--type=merge", "-p",
                  json.dumps({"spec": {"minAvailable": least}}))


def rollback(world):
    """Half way, with a budget that blocks first and an approval gate that stops it."""
    state = {}

    def blocked(world):
        source, target = home(world)
        budget(world, REPLICAS)
        state["id"] = world.control.migrate(
            "shop", target, "--waves", "1,50%,100%", "--gate", "2=approval", *SHORT)
        began = time.time()
        world.control.reach(state["id"], "draining")
        draining = time.time()

        def seen():
            now = world.control.migration(state["id"])
            rows = [row for node in now["nodes"] for row in node.get("blockers", [])] if now else []
            return [row for row in rows if row.get("pdb") and row.get("owner")]
        rows = until("the status names who blocks", seen, 60 - (time.time() - draining), 0.5)
        took = time.time() - draining
        for row in rows:
            assert row["pod"].startswith("default/web-"), row
            assert row["pdb"]["name"] == "web", row
            assert row["owner"].startswith(("ReplicaSet/web-", "Deployment/web")), row
        text = world.control.ctl("migration", "explain", "shop")
        assert "default/web-" in text and "budget" in text, text
        assert world.control.migration(state["id"])["phase"] == "draining"
        budget(world, BUDGET)
        return "after %.0f s: %s, %s of %s (the drain began after %.0f s)" % (
            took, rows[0]["pod"], rows[0]["pdb"]["name"], rows[0]["owner"], draining - began)

    def gate(world):
        now = world.control.reach(state["id"], "approval", patience=240)
        assert now["wave"] == 2, now["wave"]
        _, target = home(world)
        assert len(world.witness.workers(target, "shop")) == 2

    def back(world):
        source, target = home(world)
        before = {cloud: world.witness.made(cloud) for cloud in (source, target)}
        with Watch(world.kubectl, BUDGET):
            world.control.ctl("migration", "rollback", "shop", "--yes", "--reason", "live test")
            world.control.reach(state["id"], "rolled_back", patience=240)
            settled(world, source)
        after = {cloud: world.witness.made(cloud) for cloud in (source, target)}
        assert after == before, "servers made by the way back: %s, %s" % (before, after)
    if world.case("a budget that blocks is named within 60 s with pod and owner", blocked):
        world.case("an approval gate stops after wave 2", gate)
        world.case("rollback after wave 2 makes no server", back)


def dead_target(world):
    """Back, while the target cloud's APIs are gone; what is left there goes when they are back."""
    def back(world):
        source, target = home(world)
        identity = world.control.migrate("shop", target, "--waves", "50%,100%", "--gate",
                                         "1=approval", *SHORT)
        world.control.reach(identity, "approval", patience=300)
        left = {row["id"] for row in world.witness.workers(target, "shop")}
        assert len(left) == WORKERS // 2, left
        made = world.witness.made(source)
        world.lab.service(target, "kill", *APIS)
        try:
            with Watch(world.kubectl, BUDGET):
                world.control.ctl("migration", "rollback", "shop", "--yes", "--reason", "live test")
                began = time.time()
                world.control.reach(identity, "rolled_back", patience=240)
                took = time.time() - began
                world.kubectl.all_run(REPLICAS)
            old = {row["name"] for row in world.witness.workers(source, "shop")}
            ready = {node["metadata"]["name"] for node in world.kubectl.ready_nodes()}
            assert len(old) == WORKERS and old <= ready, (old, ready)
            assert not old & set(world.kubectl.cordoned()), world.kubectl.cordoned()
            assert world.witness.made(source) == made, "the way back made servers"
            told = until("the condition TargetCleanup", lambda: cleanup(world, identity), 60, 1)
            assert told["status"] is True, told
        finally:
            world.lab.service(target, "launch", *APIS)
        # Nova's own services find each other again first.
        # And zcpd has backed off, five minutes at most.
        until("nothing is left on the target", lambda: no_worker(world, target), 420, 2)
        until("TargetCleanup is over", lambda: not (
            cleanup(world, identity) or {"status": False})["status"], 120, 1)
        settled(world, source)
        return "back in %.0f s; %s" % (took, told["message"])
    world.case("rollback with the target's API down; cleaned up when it is back", back)


def cleanup(world, identity):
    rows = world.control.migration(identity)["conditions"]
    return next((row for row in rows if row["type"] == "TargetCleanup"), None)


def no_worker(world, cloud):
    """Its API may still be on its way."""
    try:
        return not world.witness.workers(cloud, "shop")
    except Exception:  # whatever a half-started service answers
        return False


class Killer:
    """Kills zcpd once in each of the phases that it is to see."""

    def __init__(self, world, phases):
        self.world, self.left, self.done = world, list(phases), []

    def __call__(self, now):
        if now["phase"] in self.left:
            self.left.remove(now["phase"])
            self.done.append(now["phase"])
            self.world.rig.crash_zcpd()
            self.world.witness.nothing_doubled()


def crashes(world):
    def forward(world):
        _, target = home(world)
        killer = Killer(world, ("provisioning", "draining", "soaking", "approval", "holding",
                                "committing"))
        with Watch(world.kubectl, BUDGET):
            # Preflight is over before anybody could see it: the blow comes with the request.
            identity = world.control.migrate("shop", target, "--waves", "1,100%", "--gate",
                                             "1=approval", "--soak", "4s", "--hold", "8s")
            world.rig.crash_zcpd()
            world.control.reach(identity, "approval", each=killer, patience=300)
            world.control.ctl("migration", "approve", "shop")
            world.control.reach(identity, "succeeded", each=killer, patience=300)
        settled(world, target)
        assert not killer.left, "never seen: %s" % killer.left
        return "pending or preflight, " + ", ".join(killer.done)

    def backward(world):
        source, target = home(world)
        identity = world.control.migrate("shop", target, "--waves", "50%,100%", "--gate",
                                         "1=approval", *SHORT)
        world.control.reach(identity, "approval", patience=240)
        killer = Killer(world, ("rolling_back",))
        world.control.ctl("migration", "rollback", "shop", "--yes")
        world.control.reach(identity, "rolled_back", each=killer, patience=240)
        settled(world, source)
        assert not killer.left, "never seen: %s" % killer.left
    world.case("kill -9 in each phase forward: converges, nothing doubled", forward)
    world.case("kill -9 in rolling_back: converges, nothing doubled", backward)
