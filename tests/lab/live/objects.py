"""Migrations by the real kubectl, in a management cluster that is a real kube-apiserver."""
import os

from management import Management
from moves import home, settled
from rig import until

SHORT = {"canary": "off", "holdSeconds": 3}


def wish(target, **more):
    return dict(SHORT, cluster="shop", target=target, **more)


def group(world):
    if not world.case("a management cluster; zcpd follows it with the rights of deploy/crd", begin):
        return
    world.case("the API server itself refuses what makes no sense (CEL, schema)", refusals)
    if world.case("kubectl apply starts a migration; kubectl, zcpctl and API see one thing", start):
        world.case("kubectl and zcpctl steer in turn; zcpd and API server die in between", steer)
        world.case("kubectl delete turns the migration back, and the object goes then", delete)
    world.case("a migration of zcpctl's is an object, and deleting that turns it back", mirrored)
    world.case("from the commit on, deleting the object is only that", committed)


def begin(world):
    world.management = Management(world.rig)
    world.management.start()
    os.environ["ZCP_MANAGEMENT_KUBECONFIG"] = world.management.install()
    world.rig.crash_zcpd()


def refusals(world):
    kube, said = world.management, 0
    cases = (
        ({"source": "west"}, "must be another cloud than the source"),
        ({"waves": [{"upto": "50%"}, {"upto": "25%"}, {"upto": "100%"}]}, "must go further"),
        ({"waves": [{"upto": "50%"}]}, "the last wave must be"),
        ({"waves": [{"upto": 0.5}, {"upto": "100%"}]}, "spec.waves[0].upto"),
        ({"approvedWave": 9}, "not so many waves"),
        ({"direction": "back", "commitNow": True}, "not committed"),
        ({"drain": {"timeoutSeconds": 1}}, "spec.drain.timeoutSeconds"),
        ({"speed": "fast"}, "unknown field"),
    )
    for fields, words in cases:
        text = kube.apply("wrong", wish("west", **fields), check="refused")
        assert words in text, (words, text)
        said += 1
    # What only zcpd can know is a condition.
    kube.apply("nowhere", wish("north"))
    until("the object says that there is no such cloud",
          lambda: condition(kube, "nowhere", "Accepted") == ("False", "InvalidSpec"), 30)
    kube.delete("nowhere", wait=True)
    return "%d specs" % said


def condition(kube, name, kind):
    found = kube.find(name) or {}
    for row in found.get("status", {}).get("conditions", []):
        if row["type"] == kind:
            return row["status"], row["reason"]
    return None


def start(world):
    kube = world.management
    source, target = home(world)
    world.source = source
    kube.apply("there", wish(target, waves=[
        {"upto": 1, "soakSeconds": 1, "gate": "approval"}, {"upto": "100%", "soakSeconds": 1}]))
    until("the object is in approval",
          lambda: (kube.find("there") or {}).get("status", {}).get("phase") == "approval", 240)
    found = kube.find("there")
    world.migration_id = found["status"]["migrationID"]
    now = world.control.migration(world.migration_id)
    assert now["created_by"] == "kubectl:team-live/there", now["created_by"]
    assert world.migration_id in world.control.ctl("migration", "list", "-o", "json")
    table = kube.kubectl("-n", "team-live", "get", "clm", "there")
    head, row = (line.split() for line in table.splitlines())
    assert head == ["NAME", "CLUSTER", "TO", "PHASE", "WAVE", "DRAINED", "PAUSED", "AGE"], head
    assert row[:7] == ["there", "shop", target, "approval", "1/2", "1/4", "false"], row
    text = kube.wish("there", target=source, check="refused")
    assert "once the migration is accepted" in text, text
    return " ".join(row)


def steer(world):
    kube, control = world.management, world.control

    def both(paused):
        def look():
            found, now = kube.find("there"), control.migration(world.migration_id)
            return found and now and found["spec"]["paused"] == paused \
                and bool(now.get("paused")) == paused \
                and bool(found["status"].get("paused")) == paused
        until("paused is %s on both sides" % paused, look, 60)
    control.ctl("migration", "pause", "shop")
    both(True)
    kube.wish("there", paused=False)
    both(False)
    world.rig.crash_zcpd()
    kube.wish("there", paused=True)
    both(True)
    kube.crash_server()
    control.ctl("migration", "resume", "shop")
    kube.start_server()
    both(False)


def delete(world):
    kube = world.management
    kube.delete("there", wait=True)
    phase = world.control.migration(world.migration_id)["phase"]
    assert phase == "rolled_back", phase
    settled(world, world.source)


def mirrored(world):
    kube = world.management
    source, target = home(world)
    identity = world.control.migrate("shop", target, "--waves", "1,100%", "--gate", "1=approval")
    name = "shop-" + identity.replace("-", "")[-12:]
    until("the object %s appears" % name, lambda: kube.find(name), 60)
    world.control.reach(identity, "provisioning", "draining", "soaking", "approval")
    kube.delete(name, wait=True)
    phase = world.control.migration(identity)["phase"]
    assert phase == "rolled_back", phase
    settled(world, source)
    return name


def committed(world):
    kube = world.management
    _, target = home(world)
    kube.apply("move", wish(target, commitNow=True, waves=[{"upto": "100%", "soakSeconds": 1}]))
    until("the object is in committing or after",
          lambda: (kube.find("move") or {}).get("status", {}).get("phase")
          in ("committing", "succeeded"), 300)
    identity = kube.find("move")["status"]["migrationID"]
    kube.delete("move", wait=True)
    world.control.reach(identity, "succeeded", patience=120)
    settled(world, target)
