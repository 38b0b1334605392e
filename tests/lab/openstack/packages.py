"""Get the software of both clouds into the state folder.

east: Debian packages are downloaded and unpacked to STATE/debian, not installed.
    No maintainer script runs, so nothing on this machine changes, no service
    starts, and it takes seconds where dpkg takes minutes (most of that time is
    byte-compiling modules that never get imported).
west: wheels with pinned versions (west-lock.txt) in the virtualenv STATE/pypi.
"""
import concurrent.futures
import glob
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PIPS = 2
LOCK = os.path.join(HERE, "west-lock.txt")

PACKAGES = [
    "python3-keystone", "python3-placement", "python3-glance", "python3-neutron",
    "python3-nova", "python3-pymysql", "python3-pip-whl", "mariadb-server-core",
    "mariadb-client-core", "rabbitmq-server", "uwsgi-core", "uwsgi-plugin-python3",
]
# they come along as dependencies, and nothing here loads them
UNUSED = re.compile(
    r"systemd|udev|lib(udev1|systemd|nss-systemd|pam-systemd)|sudo|open-iscsi|qemu-utils|"
    r"logrotate|sphinx|graphviz|ieee-data|docutils|dictionaries|"
    r"python3-(mypy|botocore|boto3|s3transfer|numpy|sphinx|grpcio|ceph|rados|rbd|rgw|cephfs|"
    r"gevent|redis|confluent-kafka|docutils|babel)|python-babel|"
    r"lib(rgw|rados|rbd|cephfs|lapack|blas|gfortran|gvc|gvpr|cgraph|rdkafka)")


def quiet(command, log, **more):
    with open(log, "ab") as out:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **more)
    if done.returncode:
        raise SystemExit("failed: %s; see %s" % (" ".join(command[:4]), log))


def stamped(folder, text):
    """Was the folder made completely, from the same list?"""
    try:
        with open(os.path.join(folder, ".stamp")) as f:
            return f.read() == text
    except OSError:
        return False


def stamp(folder, text):
    with open(os.path.join(folder, ".stamp"), "w") as f:
        f.write(text)


def host_tools(state):
    """The only packages that are really installed, and only if they are missing."""
    wanted = {"ip": "iproute2", "dpkg-deb": "dpkg"}
    missing = [package for tool, package in wanted.items() if not shutil.which(tool)]
    if missing:
        log = os.path.join(state, "apt.log")
        quiet(["apt-get", "-q", "update"], log)
        quiet(["apt-get", "-y", "-q", "--no-install-recommends", "install", *missing], log,
              env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))


def debian_list():
    return "\n".join(PACKAGES + [UNUSED.pattern])


def west_list():
    with open(LOCK) as f:
        return f.read()


def installed(state):
    return (stamped(os.path.join(state, "debian"), debian_list())
            and stamped(os.path.join(state, "pypi"), west_list()))


def install(state):
    """Both at once, if this machine has a pip of its own; otherwise it comes with east's."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(debian, state)
        if not pip_wheel(state):
            first.result()
        second = pool.submit(west, state)
        first.result()
        second.result()
    finish_west(state)


def debian(state):
    target = os.path.join(state, "debian")
    if stamped(target, debian_list()):
        return
    shutil.rmtree(target, ignore_errors=True)
    archives = os.path.join(state, "debs")
    os.makedirs(os.path.join(archives, "partial"), exist_ok=True)
    log = os.path.join(state, "apt.log")
    # as root: apt's own user may not be allowed into the state folder
    apt = ["apt-get", "-y", "-q", "-o", "Acquire::Retries=3", "-o", "APT::Sandbox::User=root",
           "-o", "DPkg::Lock::Timeout=600", "-o", "Dir::Cache::Archives=" + archives]
    quiet(apt + ["update"], log)
    quiet(apt + ["--no-install-recommends", "--download-only", "install", *PACKAGES], log)
    files = [f for f in glob.glob(archives + "/*.deb")
             if not UNUSED.match(os.path.basename(f))]
    os.makedirs(target)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda f: quiet(["dpkg-deb", "-x", f, target], log), files))
    relocate_erlang(target)
    shutil.rmtree(archives)
    stamp(target, debian_list())


def relocate_erlang(target):
    """The start script of Erlang has its place written into it."""
    script = os.path.join(target, "usr/lib/erlang/bin/erl")
    with open(script) as f:
        text = f.read()
    with open(script, "w") as f:
        f.write(text.replace("=/usr/lib/erlang", "=%s/usr/lib/erlang" % target))


def pip_wheel(state):
    """The pip of this Debian: a wheel which runs as it is, without an install."""
    for root in ("/", os.path.join(state, "debian")):
        found = glob.glob(os.path.join(root, "usr/share/python-wheels/pip-*.whl"))
        if found:
            return found[0]
    return None


def west(state):
    target = os.path.join(state, "pypi")
    if stamped(target, west_list()):
        return
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", target], check=True)
    with open(LOCK) as f:
        pins = [line.strip() for line in f if "==" in line]
    with concurrent.futures.ThreadPoolExecutor(PIPS) as pool:
        list(pool.map(lambda n: run_pip(state, target, n, pins[n::PIPS]), range(PIPS)))


def run_pip(state, target, number, pins):
    """One of several at once: a pip mostly waits for one small answer after another."""
    # not compiled here: each module is compiled when it is first imported
    quiet([os.path.join(target, "bin/python"), os.path.join(pip_wheel(state), "pip"),
           "install", "--no-deps", "--only-binary", ":all:", "--no-compile", "--no-input",
           "--disable-pip-version-check", *pins],
          os.path.join(state, "pip-%d.log" % number))


def finish_west(state):
    """Two libraries have no wheel; building them would need a compiler and more packages."""
    target = os.path.join(state, "pypi")
    if stamped(target, west_list()):
        return
    [site] = glob.glob(target + "/lib/python3*/site-packages")
    modules = os.path.join(state, "debian/usr/lib/python3/dist-packages")
    shutil.copy(os.path.join(modules, "simplegeneric.py"), site)
    shutil.copytree(os.path.join(modules, "ovs"), os.path.join(site, "ovs"))
    stamp(target, west_list())


def library_path(state):
    """For LD_LIBRARY_PATH: the shared libraries among the unpacked packages."""
    return ":".join(glob.glob(os.path.join(state, "debian/usr/lib/*-linux-gnu"))
                    + glob.glob(os.path.join(state, "debian/lib/*-linux-gnu")))
