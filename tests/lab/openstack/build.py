"""Make the databases of a cloud from nothing and seed them, once.

The result is kept as the golden copy, and the cloud is left running: a fresh
machine so pays for one start, not for two.
"""
import concurrent.futures
import json
import os
import shutil
import subprocess
import time

import rest
import seed
from cloud import PLUGINS, say

DATABASES = ("keystone", "placement", "glance", "neutron", "nova", "nova_api", "nova_cell0")


def run(cloud, command):
    env = cloud.environment("manage")
    command[0] = shutil.which(command[0], path=env["PATH"]) or command[0]
    log_path = cloud.path("log", "build.log")
    with open(log_path, "ab") as log:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                              cwd=cloud.dir, env=env)
    if done.returncode:
        raise SystemExit("%s: failed: %s; see %s" % (cloud.name, command[:4], log_path))


def manage(cloud, main, config, *runs):
    prefix = ["--config-file", cloud.path("etc", config)]
    run(cloud, [cloud.python, os.path.join(PLUGINS, "lab_manage.py"), main,
                json.dumps([prefix + list(words) for words in runs])])


def make_database_server(cloud):
    run(cloud, ["mariadb-install-db"] + cloud.mysql_arguments()
        + ["--auth-root-authentication-method=normal", "--skip-test-db"])
    cloud.start_base()
    sql = ["CREATE USER lab@'127.0.0.1' IDENTIFIED BY '%s'" % rest.PASSWORD]
    for name in DATABASES:
        sql += ["CREATE DATABASE %s CHARACTER SET utf8mb3" % name,
                "GRANT ALL ON %s.* TO lab@'127.0.0.1'" % name]
    run(cloud, ["mariadb", "--no-defaults", "-uroot", "-S", cloud.path("run/mysql.sock"),
                "-e", ";".join(sql)])


def make_keystone(cloud):
    owner = ["--keystone-user", "root", "--keystone-group", "root"]
    manage(cloud, "keystone.cmd.manage:main", "keystone.conf", ["db_sync"],
           ["fernet_setup"] + owner, ["credential_setup"] + owner,
           ["bootstrap", "--bootstrap-password", rest.PASSWORD,
            "--bootstrap-region-id", cloud.name]
           + ["--bootstrap-%s-url=%s" % (interface, cloud.url("keystone"))
              for interface in ("public", "internal", "admin")])
    cloud.launch("keystone")
    cloud.wait("keystone", lambda: cloud.answers("keystone"))
    seed.identity(cloud)


def make_placement_and_glance(cloud):
    manage(cloud, "placement.cmd.manage:main", "placement.conf", ["db", "sync"])
    manage(cloud, "glance.cmd.manage:main", "glance-api.conf", ["db_sync"])


def make_neutron(cloud):
    manage(cloud, "neutron.db.migration.cli:main", "neutron.conf", ["upgrade", "heads"])


def make_nova(cloud):
    cell0 = cloud.words()["DB"] + "/nova_cell0?charset=utf8"
    manage(cloud, "nova.cmd.manage:main", "nova.conf", ["api_db", "sync"],
           ["cell_v2", "map_cell0", "--database_connection", cell0], ["db", "sync"],
           ["cell_v2", "create_cell", "--name", "cell1"])


def build(cloud):
    began = time.time()
    cloud.stop()
    shutil.rmtree(cloud.dir, ignore_errors=True)
    shutil.rmtree(cloud.golden, ignore_errors=True)
    cloud.render()
    make_database_server(cloud)
    jobs = (make_neutron, make_nova, make_keystone, make_placement_and_glance)
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job, cloud) for job in jobs]:
            done.result()
    say("%s: databases after %.1f s" % (cloud.name, time.time() - began))
    cloud.start_services()
    cloud.wait_ready()
    say("%s: services after %.1f s" % (cloud.name, time.time() - began))
    admin = rest.Client(cloud.urls())
    cloud.wait("host mappings", lambda: seed.hosts_mapped(admin))
    seed.resources(cloud)
    os.makedirs(os.path.dirname(cloud.golden), exist_ok=True)
    cloud.keep_golden()
    cloud.wait_ready()
    say("%s: built and ready after %.1f s" % (cloud.name, time.time() - began))
