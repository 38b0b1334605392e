"""Everything that has to run for a live test: Postgres, zcpd, the guest agent. All of it is
started here and ended here by process id, also when a case fails."""
import glob
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request

NODE_ADDRESS = "10.10.255.1"     # neutron gives addresses from the low end
NODE_PORT = 8443
API = "127.0.0.1:8480"
POSTGRES_PORT = 21432
ZCPD_SETTINGS = {
    "WORKER_LEASE": "10s", "WORKER_POLL": "500ms", "WORKER_BUSY_PERIOD": "1s",
    "WORKER_SERVERS_PERIOD": "10s", "WORKER_NODES_PERIOD": "10s", "WORKER_DRAIN_PASS": "1s",
    "WORKER_UNCLEAR_WAIT": "8s", "WORKER_INVENTORY_PERIOD": "2m", "WORKER_SWEEP_PERIOD": "20s",
    "WORKER_SWEEP_AGE": "1m", "WORKER_GRACE": "5s",
    # Nothing outside is reached here: glance of east stands for a registry.
    "WORKER_CANARY_REGISTRY": "http://127.0.0.1:21292/", "WORKER_CANARY_NAMES": "localhost",
    "WORKER_CANARY_TIME": "",
    "TELEMETRY_LEVEL": "info",
}


class Program:
    """One running program, its log, and nobody else's."""

    def __init__(self, name, logs):
        self.name, self.path, self.process = name, os.path.join(logs, name + ".log"), None

    def start(self, *words, **more):
        with open(self.path, "ab") as log:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, start_new_session=True, **more)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def end(self, number=signal.SIGTERM, patience=20):
        if not self.alive():
            return
        self.process.send_signal(number)
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def tail(self, lines=15):
        with open(self.path, errors="replace") as log:
            return "".join(log.readlines()[-lines:])


def until(what, look, patience=60, pause=0.2):
    """The first true answer of `look`; fails with its last answer or error."""
    limit, answer = time.time() + patience, None
    while time.time() < limit:
        answer = look()
        if answer:
            return answer
        time.sleep(pause)
    raise AssertionError("not within %d s: %s (last: %r)" % (patience, what, answer))


class Rig:
    def __init__(self, state, kube, binaries):
        self.state, self.kube, self.binaries = state, kube, binaries
        self.logs = os.path.join(state, "live-logs")
        shutil.rmtree(self.logs, ignore_errors=True)
        os.makedirs(self.logs)
        self.postgres = Program("postgres", self.logs)
        self.agent = Program("guest-agent", self.logs)
        self.zcpd = Program("zcpd", self.logs)
        self.others = []
        self.token = secrets.token_urlsafe(32)
        self.folder = None

    def start(self):
        self.folder = tempfile.mkdtemp(prefix="zcp-live-", dir="/var/tmp")
        self.start_postgres()
        if self.kube:
            self.start_agent("agent")
        self.start_zcpd()

    def stop(self):
        """zcpd first: it would only complain about what goes away below it."""
        for program in (self.zcpd, *self.others, self.agent):
            program.end()
        self.postgres.end(signal.SIGINT)
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start_postgres(self):
        """Runs as an unprivileged user: PostgreSQL refuses to run as root."""
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
        if not found:
            raise SystemExit("PostgreSQL is not there: apt-get install -y postgresql")
        programs = found[-1]
        user = pwd.getpwnam("postgres")
        os.chown(self.folder, user.pw_uid, user.pw_gid)
        data = os.path.join(self.folder, "data")

        def become():
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        subprocess.run([programs + "/initdb", "-D", data, "-A", "trust", "-U", "zcp",
                        "--no-sync", "-E", "UTF8", "--locale=C"], check=True, cwd=self.folder,
                       preexec_fn=become, stdout=subprocess.DEVNULL)
        self.postgres.start(
            programs + "/postgres", "-D", data, "-p", str(POSTGRES_PORT), "-k", self.folder,
            "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", preexec_fn=become,
            cwd=self.folder)
        ready = [programs + "/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(POSTGRES_PORT)]
        until("Postgres answers", lambda: subprocess.run(ready, check=False).returncode == 0)

    def sql(self, text):
        """One statement, for what no user can do."""
        subprocess.run(["psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p",
                        str(POSTGRES_PORT), "-U", "zcp", "-d", "postgres", "-c", text], check=True)

    def start_agent(self, workers):
        self.agent.start(os.path.join(self.kube, "guest-agent"), "--state", self.state,
                         "--workers", workers, "--pod-start", "2s")

    def start_zcpd(self):
        if "ZCP_DATABASE_URL" not in os.environ:
            self.configure()
        self.zcpd.start(os.path.join(self.binaries, "zcpd"), "serve")
        until("zcpd answers", self.answers)

    def configure(self):
        """By the environment, which wins over every file."""
        token = os.path.join(self.folder, "operator-token")
        with open(token, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as f:
            f.write(self.token)
        zcpd = os.path.join(self.binaries, "zcpd")
        key = subprocess.run([zcpd, "config", "new-key"], check=True, text=True,
                             stdout=subprocess.PIPE).stdout.strip()
        settings = dict(
            ZCPD_SETTINGS, API_LISTEN=API, API_OPERATOR_TOKEN_FILE=token, SEAL_KEY=key,
            NODE_LISTEN="%s:%d" % (NODE_ADDRESS, NODE_PORT),
            NODE_URL="https://%s:%d" % (NODE_ADDRESS, NODE_PORT),
            DATABASE_URL="postgres://zcp@127.0.0.1:%d/postgres" % POSTGRES_PORT)
        os.environ.update(("ZCP_" + name, value) for name, value in settings.items())
        os.environ.update(ZCP_URL="http://" + API, ZCP_TOKEN=self.token, NO_PROXY="*",
                          no_proxy="*")

    def answers(self):
        if not self.zcpd.alive():
            raise AssertionError("zcpd has ended:\n" + self.zcpd.tail())
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            return opener.open("http://%s/readyz" % API, timeout=2).status == 200
        except OSError:
            return False

    def crash_zcpd(self):
        """As the kernel would kill it: no signal handler, no goodbye. Then it is started again."""
        self.zcpd.process.kill()
        self.zcpd.process.wait()
        self.start_zcpd()
