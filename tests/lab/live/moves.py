"""Migrations: the whole way, back, and with zcpd killed in every phase."""
import json

from parts import BUDGET, REPLICAS, WORKERS
from rig import until
from witness import Watch

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
        world.control.reach(state["id"], "draining")

        def seen():
            text = world.control.ctl("migration", "get", "shop")
            now = world.control.seen("migration", "get", "shop")
            rows = [row for node in now["nodes"] for row in node.get("blockers", [])]
            return rows and rows[0]["pod"] in text and rows
        rows = until("zcpctl migration get names who blocks", seen, 60, 1)
        assert all(row["pod"].startswith("default/web-") for row in rows), rows
        assert world.control.migration(state["id"])["phase"] == "draining"
        budget(world, BUDGET)
        return "%s: %s" % (rows[0]["pod"], rows[0]["reason"])

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
    if world.case("a budget that blocks is named, and lets go", blocked):
        world.case("an approval gate stops after wave 2", gate)
        world.case("rollback after wave 2 makes no server", back)


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
