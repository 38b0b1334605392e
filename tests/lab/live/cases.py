"""The cases, in the order that costs least: each group leaves the cluster as the next wants it."""
import canary
import faults
import moves
import objects
import parts

GROUPS = (
    ("clouds", parts.clouds),
    ("cluster", parts.cluster),
    ("migration", moves.demo),
    ("canary", canary.group),
    ("rollback", moves.rollback),
    ("dead", moves.dead_target),
    ("crd", objects.group),
    ("crashes", moves.crashes),
    ("faults", faults.group),
    ("scale", parts.scale),
    ("hollow", parts.hollow),
    ("contract", parts.contract),
)
NEEDED = ("clouds", "cluster")
WITHOUT_KUBERNETES = ("clouds", "contract")


def no_kubernetes(world):
    raise AssertionError("its programs could not be built")


def run(world, only):
    """All groups, or those with one of the words in their name and what they stand on."""
    if not world.rig.kube:
        world.case("Kubernetes is there", no_kubernetes)
    for name, group in GROUPS:
        if not world.rig.kube and name not in WITHOUT_KUBERNETES:
            continue
        wanted = not only or name in NEEDED or any(word in name for word in only)
        if wanted and group(world) is False:
            print("the rest cannot be tried without that", flush=True)
            break
    parts.farewell(world)
