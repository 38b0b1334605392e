"""One cloud: its places, ports, rendered configuration and services.

STATE/CLOUD/data/          MariaDB files, images, keys, nova state
STATE/CLOUD/etc, log, run  rendered configuration, one log and one pid file a service
STATE/CLOUD/vms/           one JSON record for each server on a hypervisor
STATE/CLOUD/faults/        fault files, see plugins/nova_virt/lab.py
STATE/golden/CLOUD/        the data of the freshly seeded cloud, copied back by reset
"""
import contextlib
import glob
import hashlib
import os
import re
import shutil
import signal
import socket
import time

import packages
import process
import rest

HERE = os.path.dirname(os.path.abspath(__file__))
PLUGINS = os.path.join(HERE, "plugins")
CONFIG = os.path.join(HERE, "config")
GENERATION = {"east": "zed", "west": "2026.2"}
BASE_PORT = {"east": 21000, "west": 22000}
# added to the base port: the last three digits of the usual port
PORTS = {"keystone": 0, "glance": 292, "mysql": 306, "epmd": 369, "rabbit-dist": 572,
         "rabbit": 672, "neutron": 696, "nova-api": 774, "placement": 778}
APIS = ["keystone", "placement", "glance", "neutron", "nova-api"]
HYPERVISORS = 2
# Zed's nova and neutron use eventlet, which wants one thread for each process
THREADS = {"zed": {"keystone": 4, "placement": 4, "glance": 2, "neutron": 1, "nova-api": 1},
           "2026.2": {"keystone": 4, "placement": 4, "glance": 2, "neutron": 4, "nova-api": 4}}
FOLDERS = ("etc", "log", "run", "vms", "faults", "home", "data/keystone", "data/nova",
           "data/neutron", "data/glance/images", "data/glance/staging", "data/glance/tasks")
WORD = re.compile(r"@([A-Za-z_]+(?::[a-z-]+)?)@")


def fingerprint():
    """Changes with whatever decides what is in a fresh cloud."""
    found = hashlib.sha256(packages.debian_list().encode())
    for name in ("west-lock.txt", "build.py", "seed.py"):
        with open(os.path.join(HERE, name), "rb") as f:
            found.update(f.read())
    return found.hexdigest()


def say(text):
    print("%s %s" % (time.strftime("%H:%M:%S"), text), flush=True)


class Cloud:
    def __init__(self, state, name):
        self.name = name
        self.generation = GENERATION[name]
        self.state = state
        self.dir = os.path.join(state, name)
        self.golden = os.path.join(state, "golden", name)
        self.debian = os.path.join(state, "debian")
        self.pypi = os.path.join(state, "pypi")
        self.python = ("/usr/bin/python3" if self.generation == "zed"
                       else os.path.join(self.pypi, "bin/python"))

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def pid_file(self, service):
        return self.path("run", service + ".pid")

    def port(self, service):
        return BASE_PORT[self.name] + PORTS[service]

    def url(self, service):
        path = {"keystone": "/v3", "nova-api": "/v2.1"}.get(service, "")
        return "http://127.0.0.1:%d%s" % (self.port(service), path)

    def urls(self):
        return {service: self.url(service) for service in APIS}

    # ---- configuration -------------------------------------------------

    def words(self):
        """What stands for the @WORDS@ in config/."""
        auth = "\n".join([
            "auth_type = password", "auth_url = " + self.url("keystone"),
            "username = service", "password = " + rest.PASSWORD, "project_name = service",
            "user_domain_id = default", "project_domain_id = default",
            "region_name = " + self.name])
        return {
            "CLOUD": self.name, "STATE": self.dir, "DATA": self.path("data"),
            "ETC": self.path("etc"), "PLUGINS": PLUGINS, "AUTH": auth,
            "AUTHTOKEN": ("[keystone_authtoken]\nwww_authenticate_uri = %s\n"
                          "service_token_roles_required = true\n"
                          "service_token_roles = service\n%s" % (self.url("keystone"), auth)),
            "DB": "mysql+pymysql://lab:%s@127.0.0.1:%d" % (rest.PASSWORD, self.port("mysql")),
            "AMQP": "rabbit://lab:%s@127.0.0.1:%d/" % (rest.PASSWORD, self.port("rabbit")),
            "VIRTUALENV": "" if self.generation == "zed" else "virtualenv = " + self.pypi,
            "UWSGI_PLUGIN": self.uwsgi_plugin(),
            "PASSWORD": rest.PASSWORD,
        }

    def uwsgi_plugin(self):
        """python3 without its version is a name that only an installed package has."""
        [found] = glob.glob(self.debian + "/usr/lib/uwsgi/plugins/python3*_plugin.so")
        return found

    def fill(self, template, **extra):
        words = dict(self.words(), **extra)

        def one(match):
            key = match.group(1)
            return str(self.port(key[5:])) if key.startswith("PORT:") else words[key]
        with open(os.path.join(CONFIG, template)) as f:
            return WORD.sub(one, f.read())

    def render(self):
        for folder in FOLDERS:
            os.makedirs(self.path(folder), exist_ok=True)
        for name in os.listdir(CONFIG):
            if name not in ("uwsgi.ini", "hypervisor.conf"):
                self.write("etc/" + name, self.fill(name))
        for service in APIS:
            self.write("etc/uwsgi-%s.ini" % service, self.fill(
                "uwsgi.ini", SERVICE=service, SERVICE_PORT=str(self.port(service)),
                SERVICE_THREADS=str(THREADS[self.generation][service])))
        for number in self.hypervisor_numbers():
            os.makedirs(self.path("data/nova/hv%d" % number), exist_ok=True)
            self.write("etc/hv%d.conf" % number,
                       self.fill("hypervisor.conf", NUMBER=str(number)))

    def write(self, name, text):
        with open(self.path(name), "w") as f:
            f.write(text)

    def hypervisor_numbers(self):
        return range(1, HYPERVISORS + 1)

    # ---- processes -----------------------------------------------------

    def environment(self, service):
        unpacked = os.path.join(self.debian, "usr")
        modules = [PLUGINS]
        if self.generation == "zed":
            modules.append(os.path.join(unpacked, "lib/python3/dist-packages"))
        env = {
            "PATH": ":".join([unpacked + "/sbin", unpacked + "/bin",
                              "/usr/sbin:/usr/bin:/sbin:/bin"]),
            "LD_LIBRARY_PATH": packages.library_path(self.state),
            "PYTHONPATH": ":".join(modules),
            # bytecode only of what is imported, and not in the source tree
            "PYTHONPYCACHEPREFIX": os.path.join(self.state, "bytecode", self.name),
            "LANG": "C.UTF-8", "HOME": self.path("home"), "TMPDIR": "/var/tmp",
            "no_proxy": "*", "MALLOC_ARENA_MAX": "2", "LAB_SERVICE": service,
            "LAB_GENERATION": self.generation, "LAB_FAULTS": self.path("faults"),
            "OS_NEUTRON_CONFIG_FILES": "neutron.conf",
            "OS_NOVA_CONFIG_FILES": "nova-api-paste.ini;nova.conf",
        }
        for program in ("KEYSTONE", "PLACEMENT", "GLANCE", "NEUTRON", "NOVA"):
            env["OS_%s_CONFIG_DIR" % program] = self.path("etc")
        if service in ("rabbit", "epmd"):
            env.update(self.erlang_environment())
        return env

    def erlang_environment(self):
        return {
            "ERL_EPMD_PORT": str(self.port("epmd")), "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "lab-%s@localhost" % self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port("rabbit")),
            "RABBITMQ_DIST_PORT": str(self.port("rabbit-dist")),
            "RABBITMQ_MNESIA_BASE": self.path("data/rabbit"),
            "RABBITMQ_LOG_BASE": self.path("log"),
            "RABBITMQ_CONFIG_FILE": self.path("etc/rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.path("etc/enabled_plugins"),
            "RABBITMQ_PID_FILE": self.path("run/rabbit-beam.pid"),
            # one scheduler, and no busy waiting: the cores are needed elsewhere
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none "
                "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def mysql_arguments(self):
        return ["--no-defaults", "--user=root", "--basedir=%s/usr" % self.debian,
                "--datadir=" + self.path("data/mysql")]

    def command(self, service):
        if service == "mysql":
            return ["mariadbd"] + self.mysql_arguments() + [
                "--bind-address=127.0.0.1", "--port=%d" % self.port("mysql"),
                "--socket=" + self.path("run/mysql.sock"), "--skip-log-bin",
                "--skip-name-resolve", "--performance-schema=OFF",
                "--innodb-buffer-pool-size=96M", "--innodb-log-file-size=32M",
                # a test bed: nothing has to survive a power cut
                "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0",
                "--innodb-flush-method=nosync",
                "--max-connections=400", "--character-set-server=utf8mb3"]
        if service == "epmd":
            return ["epmd", "-port", str(self.port("epmd")), "-address", "127.0.0.1"]
        if service == "rabbit":
            return [self.debian + "/usr/lib/rabbitmq/bin/rabbitmq-server"]
        if service in APIS:
            return ["uwsgi-core", "--ini", self.path("etc/uwsgi-%s.ini" % service)]
        program, _, number = service.partition("-hv")     # nova-compute-hv1
        arguments = ["--config-file", self.path("etc/nova.conf")]
        if number:
            arguments += ["--config-file", self.path("etc/hv%s.conf" % number)]
        return [self.python, os.path.join(PLUGINS, "lab_run.py"),
                "nova.cmd.%s:main" % program.replace("nova-", "")] + arguments

    def services(self):
        return (["mysql", "epmd", "rabbit"] + APIS + ["nova-conductor", "nova-scheduler"]
                + ["nova-compute-hv%d" % n for n in self.hypervisor_numbers()])

    def launch(self, service):
        if process.read(self.pid_file(service)):
            return
        command = self.command(service)
        env = self.environment(service)
        # Popen looks for the program in our PATH, not in the child's
        command[0] = shutil.which(command[0], path=env["PATH"]) or command[0]
        process.launch(self.pid_file(service), command, self.path("log", service + ".log"),
                       cwd=self.dir, env=env)

    def end(self, services, number=signal.SIGKILL, patience=30):
        process.end([self.pid_file(s) for s in services], number, patience)

    def stop(self):
        # only the database has anything to put in order
        self.end([s for s in self.services() if s != "mysql"])
        self.end(["mysql"], signal.SIGTERM)

    def start(self):
        """Usable when this returns. Cheap when the cloud is up already."""
        began = time.time()
        if not os.path.isdir(self.path("data/mysql")):
            self.restore()
        self.render()
        # the broker keeps nothing worth keeping, and an old queue only confuses
        if not process.read(self.pid_file("rabbit")):
            shutil.rmtree(self.path("data/rabbit"), ignore_errors=True)
        # a machine that went down left its pid files: nothing of theirs runs
        for service in self.services():
            if not process.read(self.pid_file(service)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.pid_file(service))
        self.start_base()
        self.start_services()
        self.wait_ready()
        say("%s: ready after %.1f s" % (self.name, time.time() - began))

    def start_base(self):
        for service in ("mysql", "epmd"):
            self.launch(service)
        self.wait("epmd", lambda: self.port_open("epmd"))
        self.launch("rabbit")
        self.wait("database", lambda: self.port_open("mysql"))

    def start_services(self):
        # keystone needs no broker, all others want it at once
        self.launch("keystone")
        self.wait("message broker", lambda: self.port_open("rabbit"))
        for service in self.services():
            self.launch(service)

    # ---- readiness -----------------------------------------------------

    def wait(self, what, test, patience=240):
        limit = time.time() + patience
        while True:
            try:
                if test():
                    return
            except (OSError, ValueError, KeyError):
                pass
            if time.time() > limit:
                raise SystemExit("%s: no %s after %d s; see %s"
                                 % (self.name, what, patience, self.path("log")))
            process.reap()
            for service in self.services():
                path = self.pid_file(service)
                if os.path.exists(path) and not process.read(path):
                    raise SystemExit("%s: %s ended; see %s" % (
                        self.name, service, self.path("log", service + ".log")))
            time.sleep(0.1)

    def port_open(self, service):
        with socket.socket() as s:
            s.settimeout(1)
            return s.connect_ex(("127.0.0.1", self.port(service))) == 0

    def answers(self, service):
        rest.call("GET", "http://127.0.0.1:%d/" % self.port(service), timeout=20)
        return True

    def wait_ready(self):
        """All APIs answer, all nova services are up, all hosts are in placement."""
        for service in APIS:
            self.wait(service, lambda: self.answers(service))
        self.wait("admin token", lambda: rest.Client(self.urls()))
        admin = rest.Client(self.urls())

        def up():
            rows = admin.get("nova-api", "/os-services")["services"]
            live = [r["binary"] for r in rows if r["state"] == "up"]
            return (live.count("nova-compute") >= HYPERVISORS and "nova-scheduler" in live
                    and "nova-conductor" in live)

        def placed():
            rows = admin.get("placement", "/resource_providers")["resource_providers"]
            return len(rows) >= HYPERVISORS
        self.wait("nova services", up)
        self.wait("resource providers", placed)

    # ---- golden copy ---------------------------------------------------

    def built(self):
        """Is there a golden copy, made by the present code from the present software?"""
        return packages.stamped(self.golden, fingerprint())

    def keep_golden(self):
        """Copy the data while only the database is down; the services reconnect."""
        self.end(["mysql"], signal.SIGTERM)
        shutil.rmtree(self.golden + ".new", ignore_errors=True)
        shutil.copytree(self.path("data"), self.golden + ".new", symlinks=True,
                        ignore=shutil.ignore_patterns("rabbit"))
        self.launch("mysql")
        self.wait("database", lambda: self.port_open("mysql"))
        packages.stamp(self.golden + ".new", fingerprint())
        os.rename(self.golden + ".new", self.golden)

    def restore(self):
        shutil.rmtree(self.dir, ignore_errors=True)
        shutil.copytree(self.golden, self.path("data.new"), symlinks=True)
        # last, so that a copy that was cut short is never taken for the data
        os.rename(self.path("data.new"), self.path("data"))

    def status(self):
        rows = []
        for service in self.services():
            pid = process.read(self.pid_file(service))
            memory, cpu, state = process.usage(pid) if pid else (0, 0.0, "-")
            rows.append({
                "cloud": self.name, "service": service, "pid": pid, "pss_mb": memory,
                "cpu_s": cpu, "port": self.port(service) if service in PORTS else None,
                "state": {"T": "paused"}.get(state, "up" if pid else "down")})
        return rows
