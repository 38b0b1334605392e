"""Start, signal and end processes by pid file.

A pid file holds "PID START-TIME": the two together name one process for good, so
a pid that the kernel gave to somebody else is never signalled.
"""
import os
import re
import signal
import subprocess
import time

CHILDREN = []      # what this run of the program started


def start_ticks(pid):
    """The start time of a live process, or None."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            fields = f.read().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def read(pid_file):
    """The pid of the running process that the file names, or None."""
    try:
        with open(pid_file) as f:
            pid, started = f.read().split()
    except (OSError, ValueError):
        return None
    return int(pid) if start_ticks(int(pid)) == started else None


def write(pid_file, pid):
    with open(pid_file + ".new", "w") as f:
        f.write("%d %s\n" % (pid, start_ticks(pid)))
    os.rename(pid_file + ".new", pid_file)


def launch(pid_file, command, log, **popen):
    """A session of its own, so that it outlives the shell and has one group to signal."""
    with open(log, "ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                   start_new_session=True, **popen)
    CHILDREN.append(process)
    write(pid_file, process.pid)


def send(pid_file, number):
    pid = read(pid_file)
    if pid:
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            pass
    return pid


def end(pid_files, number, patience=20):
    """Signal all, wait for all, kill the stubborn, remove the files."""
    for path in pid_files:
        send(path, number)
        send(path, signal.SIGCONT)     # a paused one could not act on the signal
    limit = time.time() + patience
    while any(read(path) for path in pid_files):
        if time.time() > limit:
            for path in pid_files:
                send(path, signal.SIGKILL)
        reap()
        time.sleep(0.05)
    for path in pid_files:
        if os.path.exists(path):
            os.unlink(path)


def reap():
    """Children of ours that ended would stay as zombies while we run."""
    for child in list(CHILDREN):
        child.poll()


def usage(session):
    """MiB (proportional share), CPU seconds and state of a session's processes."""
    kib, ticks, leader = 0, 0, "?"
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % name) as f:
                fields = f.read().rsplit(")", 1)[1].split()
            if int(fields[3]) != session:
                continue
            with open("/proc/%s/smaps_rollup" % name) as f:
                kib += int(re.search(r"^Pss:\s+(\d+)", f.read(), re.M).group(1))
        except (OSError, AttributeError):
            continue
        ticks += int(fields[11]) + int(fields[12])
        if int(name) == session:
            leader = fields[0]
    return round(kib / 1024), round(ticks / os.sysconf("SC_CLK_TCK"), 1), leader
