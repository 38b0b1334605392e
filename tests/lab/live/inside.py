"""Runs inside the lab's network namespace: starts zcpd on the clouds there, goes through the
cases, prints what held, and ends all that it started."""
import argparse
import contextlib
import json
import os
import re
import signal
import sys
import time
import traceback

import cases
from control import Control
from rig import Rig
from witness import CLOUDS, Lab, Witness


class World:
    """What a case is given."""

    def __init__(self, options):
        self.state = os.environ["ZCP_LAB_STATE"]
        self.suite = options.suite
        self.rig = Rig(self.state, options.kube, options.binaries)
        self.control = Control(self.rig)
        self.witness = Witness(self.rig)
        self.lab = Lab(self.rig, self.witness)
        self.seconds, self.passed, self.failed = [], 0, 0

    def case(self, name, action, *words):
        """Runs one case; whatever it throws is its failure. True if it held."""
        began = time.time()
        try:
            said = action(self, *words)
        except Exception as error:  # any failure of a case is a result, not our end
            self.failed += 1
            good, said = False, str(error) or type(error).__name__
            self.explain(name)
        else:
            self.passed += 1
            good = True
        took = round(time.time() - began, 1)
        self.seconds.append((name, took))
        print("%s  %s (%.1f s)%s" % ("ok    " if good else "FAILED", name, took,
                                     "  " + str(said) if said else ""), flush=True)
        return good

    def explain(self, name):
        """All that helps to understand a failure, in a file of its own."""
        path = os.path.join(self.rig.logs, "failed-%s.txt" % re.sub(r"\W+", "-", name))
        with open(path, "w") as f:
            f.write(traceback.format_exc())
            for words in (["cluster", "list"], ["migration", "list"], ["work", "list"]):
                f.write("\n$ zcpctl %s\n" % " ".join(words))
                f.write(self.control.ctl(*words, "-o", "json", check=False))
            for cloud in CLOUDS:
                for kind, rows in self.witness.things(cloud).items():
                    f.write("\n%s: %s\n" % (cloud, kind))
                    f.writelines("  %s %s %s\n" % (row["id"], row.get("name"), row.get("status"))
                                 for row in rows)
        print("   more in %s" % path, flush=True)


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kube", required=True, help="folder; empty: there is none")
    parser.add_argument("--binaries", required=True)
    parser.add_argument("--suite", default="")
    parser.add_argument("--before", default="[]")
    parser.add_argument("--only", action="append", default=[])
    return parser.parse_args()


def table(rows):
    width = max(len(name) for name, _ in rows)
    print("\n%-*s  seconds" % (width, "phase"))
    for name, took in rows:
        print("%-*s  %7.1f" % (width, name, took))
    print("%-*s  %7.1f" % (width, "all of it", sum(took for _, took in rows)), flush=True)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def go_through(world, only):
    """Whatever happens, all of the end is done, and nobody hurries it."""
    with contextlib.ExitStack() as end:
        end.callback(world.witness.purge)
        end.callback(world.rig.stop)
        end.callback(world.lab.heal)
        end.callback(lambda: [signal.signal(number, signal.SIG_IGN) for number in SIGNALS])
        world.lab.heal()
        began = time.time()
        world.rig.start()
        world.seconds.append(("start Postgres, guest agent, zcpd", round(time.time() - began, 1)))
        cases.run(world, only)


def main():
    options = parse()
    for number in SIGNALS:
        signal.signal(number, lambda *_: sys.exit(1))
    world = World(options)
    go_through(world, options.only)
    table([tuple(row) for row in json.loads(options.before)] + world.seconds)
    print("%d passed, %d failed" % (world.passed, world.failed))
    return 1 if world.failed or not world.passed else 0


if __name__ == "__main__":
    sys.exit(main())
