"""The network namespace that the whole lab lives in.

It has only `lo`. The ranges below are routed to `lo` as local, so every address
in them is one of this "machine": a server's address or a VIP can be bound and
reached although no network exists, and nothing can leave the namespace.
"""
import ctypes
import hashlib
import os
import signal
import subprocess
import time

LOCAL_RANGES = (
    "10.10.0.0/16",   # nodes and VIPs of east
    "10.20.0.0/16",   # nodes and VIPs of west
    "10.244.0.0/15",  # pods: 10.244.0.0/16 and 10.245.0.0/16
    "10.96.0.0/12",   # Kubernetes services
)
CLONE_NEWNET = 0x40000000


def name(state):
    """One namespace for each state folder, so that two labs do not meet."""
    return "zcp-lab-" + hashlib.sha256(state.encode()).hexdigest()[:6]


def handle(state):
    return os.path.join("/run/netns", name(state))


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def create(state):
    if os.path.exists(handle(state)):
        return
    ip("netns", "add", name(state))
    inside = ("-n", name(state))
    ip(*inside, "link", "set", "lo", "up")
    for network in LOCAL_RANGES:
        ip(*inside, "route", "add", "local", network, "dev", "lo")


def enter(state):
    """Move this process into the namespace; what it starts is born there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(handle(state)) as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot enter the network namespace")


def pids(state):
    done = subprocess.run(["ip", "netns", "pids", name(state)], capture_output=True, text=True)
    return [int(pid) for pid in done.stdout.split() if int(pid) != os.getpid()]


def destroy(state, patience=10):
    """End all that still runs inside (all of it is the lab's), then remove it."""
    if not os.path.exists(handle(state)):
        return
    limit = time.time() + patience
    number = signal.SIGTERM
    while True:
        left = pids(state)
        if not left:
            break
        if time.time() > limit:
            number = signal.SIGKILL
        for pid in left:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        time.sleep(0.2)
    ip("netns", "delete", name(state))
