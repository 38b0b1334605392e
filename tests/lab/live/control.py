"""What a user has: zcpctl, and the API for quick looks."""
import json
import os
import subprocess
import urllib.error
import urllib.request

from rig import API, until

CNI = """\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: zcp-cni, namespace: kube-system}
spec:
  selector: {matchLabels: {app: zcp-cni}}
  template:
    metadata: {labels: {app: zcp-cni}}
    spec:
      hostNetwork: true
      tolerations: [{operator: Exists}]
      containers: [{name: cni, image: "cni.example/cni:1"}]
"""
CLOUDS = {"east": ("k8s.2c4g", "nova"), "west": ("m1.k8s-2c4g", "west-a")}
OFFERING = "1.36.2"
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Control:
    def __init__(self, rig):
        self.rig = rig

    def ctl(self, *words, check=True):
        """Runs zcpctl; its standard output. `check` may be another exit code that is wanted."""
        done = subprocess.run([os.path.join(self.rig.binaries, "zcpctl"), *words], text=True,
                              capture_output=True, check=False, timeout=900)
        with open(os.path.join(self.rig.logs, "zcpctl.log"), "a") as log:
            log.write("$ zcpctl %s\n%s%sexit %d\n" % (
                " ".join(words), done.stdout[:4000], done.stderr, done.returncode))
        wanted = 0 if check is True else check
        if check is not False and done.returncode != wanted:
            raise AssertionError("zcpctl %s: exit %d: %s" % (
                " ".join(words), done.returncode, done.stderr.strip()))
        return done.stdout

    def seen(self, *words):
        return json.loads(self.ctl(*words, "-o", "json"))

    def get(self, path):
        """Straight from the API; None while it does not answer."""
        request = urllib.request.Request("http://%s/v1/%s" % (API, path), headers={
            "Authorization": "Bearer " + self.rig.token})
        try:
            with OPENER.open(request, timeout=10) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError("GET %s: %d %s" % (path, error.code, error.read())) from None
        except OSError:
            return None

    def add_cloud(self, name):
        flavor, zone = CLOUDS[name]
        return self.ctl("cloud", "add", name, "--from-clouds-yaml",
                        os.path.join(self.rig.state, "clouds.yaml"), "--entry", name,
                        "--network", "kaas", "--security-group", "kaas-nodes",
                        "--flavor", flavor, "--zone", zone, "--timeout", "3m")

    def add_offering(self):
        path = os.path.join(self.rig.folder, "cni.yaml")
        with open(path, "w") as f:
            f.write(CNI)
        self.ctl("offering", "add", "--kubernetes", OFFERING, "--addon-manager", "1.36.0",
                 "--cni", path, "--cni-port", "udp/8472", "--daemon", "kube-system/zcp-cni")
        self.ctl("project", "add", "live")
        os.environ["ZCP_PROJECT"] = "live"

    def create(self, name, workers, control_plane=1, timeout="5m"):
        self.ctl("cluster", "create", name, "--cloud", "east", "--offering", OFFERING,
                 "--control-plane", str(control_plane),
                 "--pool", "name=web,count=%d,surge=2" % workers,
                 "--wait", "--timeout", timeout)
        return self.cluster(name)

    def cluster(self, name):
        return self.seen("cluster", "get", name)

    def scale(self, name, count):
        self.ctl("cluster", "scale", name, "web", "--count", str(count), "--wait",
                 "--timeout", "4m")

    def delete(self, name):
        self.ctl("cluster", "delete", name, "--yes", "--wait", "--timeout", "4m")

    def migrate(self, cluster, to, *words, canary=False):
        """Starts a migration and gives its id."""
        words = words if canary else ("--no-canary", *words)
        return self.seen("migration", "start", cluster, "--to", to, *words)["id"]

    def migration(self, identity):
        return self.get("migrations/" + identity)

    def reach(self, identity, *phases, patience=180, each=None):
        """Waits for one of the phases. Fails at once in an end that is not wanted."""
        ends = {"succeeded", "rolled_back", "cancelled"} - set(phases)
        last = {}

        def look():
            now = self.migration(identity)
            if now is None:
                return None
            last.update(now)
            if each:
                each(now)
            if now["phase"] in ends:
                raise AssertionError("ended in %s, not %s" % (now["phase"], phases))
            return now["phase"] in phases and now
        try:
            return until("migration in " + " or ".join(phases), look, patience, 0.15)
        except AssertionError as error:
            text = {key: last.get(key) for key in ("phase", "wave", "paused", "waiting")}
            raise AssertionError("%s; %s" % (error, text)) from None

    def ready(self, name, workers, patience=120):
        def look():
            found = self.get("clusters?project=live&name=" + name)
            [row] = found["items"] if found else [None]
            return row and row["phase"] == "running" and all(
                p["usable"] == p["nodes"] == workers for p in row["pools"]) and row
        return until("%s has %d workers that serve" % (name, workers), look, patience)
