"""A management cluster: one more real kube-apiserver, with an etcd of its own, and what zcpd needs
to use it. zcpd gets a token of the service account in deploy/crd/rbac.yaml and nothing more."""
import json
import os
import subprocess

from rig import Program, until

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))))
MANIFESTS = os.path.join(REPOSITORY, "deploy", "crd")
PORT, ETCD, PEER = 26443, 26379, 26380
SERVICES = "10.111.0.0/16"      # within the lab's service range
ADVERTISED = "10.10.255.2"      # within the lab's node range; neutron gives from the low end


class Management:
    def __init__(self, rig):
        self.rig = rig
        self.folder = os.path.join(rig.folder, "management")
        os.makedirs(self.folder)
        self.etcd = Program("management-etcd", rig.logs)
        self.server = Program("management-apiserver", rig.logs)
        rig.others += [self.server, self.etcd]
        self.admin = os.path.join(self.folder, "admin.conf")

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self):
        self.make_certificates()
        self.kubeconfig(self.admin, "an-administrator")
        with open(self.path("tokens.csv"), "w") as f:
            f.write('an-administrator,admin,admin,"system:masters"\n')
        url, peer = "http://127.0.0.1:%d" % ETCD, "http://127.0.0.1:%d" % PEER
        self.etcd.start(
            os.path.join(self.rig.kube, "etcd"), "--name", "m0", "--data-dir", self.path("etcd"),
            "--listen-client-urls", url, "--advertise-client-urls", url,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", "m0=" + peer, "--unsafe-no-fsync", "--log-level", "warn")
        self.start_server()

    def start_server(self):
        self.server.start(
            os.path.join(self.rig.kube, "kube-apiserver"), "--bind-address=127.0.0.1",
            "--advertise-address=" + ADVERTISED, "--secure-port=%d" % PORT,
            "--etcd-servers=http://127.0.0.1:%d" % ETCD, "--authorization-mode=RBAC",
            "--tls-cert-file=" + self.path("server.crt"),
            "--tls-private-key-file=" + self.path("server.key"),
            "--token-auth-file=" + self.path("tokens.csv"),
            "--service-account-issuer=https://management.test",
            "--service-account-key-file=" + self.path("sa.key"),
            "--service-account-signing-key-file=" + self.path("sa.key"),
            "--service-cluster-ip-range=" + SERVICES, "--endpoint-reconciler-type=none")
        until("the management API answers",
              lambda: self.kubectl("get", "--raw", "/readyz", check=False) == "ok", 90, 0.5)

    def crash_server(self):
        self.server.process.kill()
        self.server.process.wait()

    def make_certificates(self):
        def openssl(*words):
            subprocess.run(["openssl", *words], check=True, cwd=self.folder,
                           stderr=subprocess.DEVNULL)
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2",
                "-subj", "/CN=management")
        openssl("req", *curve, "-keyout", "server.key", "-out", "server.csr",
                "-subj", "/CN=kube-apiserver")
        with open(self.path("san"), "w") as f:
            f.write("subjectAltName=IP:127.0.0.1,DNS:kubernetes\n")
        openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
                "-CAcreateserial", "-out", "server.crt", "-days", "2", "-extfile", "san")
        openssl("genrsa", "-out", "sa.key", "2048")

    def kubeconfig(self, path, token):
        """JSON is YAML. The authority is named by its file: the operator's own file may do that."""
        text = json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "m",
            "clusters": [{"name": "m", "cluster": {
                "server": "https://127.0.0.1:%d" % PORT,
                "certificate-authority": self.path("ca.crt")}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "m", "context": {"cluster": "m", "user": "u"}}]})
        with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as f:
            f.write(text)

    def install(self):
        """As deploy/crd/README.md says, with a token that ends."""
        for name in ("clustermigrations.zcp.io.yaml", "rbac.yaml"):
            self.kubectl("apply", "-f", os.path.join(MANIFESTS, name))
        self.kubectl("wait", "--for=condition=established", "--timeout=30s",
                     "crd/clustermigrations.zcp.io")
        self.kubectl("create", "namespace", "team-live")
        self.kubectl("label", "namespace", "team-live", "zcp.io/project=live")
        token = self.kubectl("-n", "zcp-system", "create", "token", "zcpd", "--duration=2h")
        path = self.path("zcpd.conf")
        self.kubeconfig(path, token.strip())
        return path

    def kubectl(self, *words, given=None, check=True):
        """The real kubectl; its standard output, or with check="refused" what it said."""
        done = subprocess.run(
            [os.path.join(self.rig.kube, "kubectl"), "--kubeconfig", self.admin,
             "--cache-dir", self.path("cache"), *words],
            input=given, text=True, capture_output=True, check=False, timeout=120)
        with open(os.path.join(self.rig.logs, "management-kubectl.log"), "a") as log:
            log.write("$ kubectl %s\n%s%s" % (" ".join(words), done.stdout[:2000], done.stderr))
        if check is True and done.returncode != 0:
            raise AssertionError("kubectl %s: %s" % (" ".join(words), done.stderr.strip()))
        if check == "refused":
            assert done.returncode == 1, "kubectl %s was not refused" % " ".join(words)
            return done.stderr
        return done.stdout.strip()

    def apply(self, name, spec, check=True):
        return self.kubectl("-n", "team-live", "apply", "-f", "-", check=check, given=json.dumps({
            "apiVersion": "zcp.io/v1alpha1", "kind": "ClusterMigration",
            "metadata": {"name": name}, "spec": spec}))

    def wish(self, name, check=True, **fields):
        return self.kubectl("-n", "team-live", "patch", "clm", name, "--type=merge", "-p",
                            json.dumps({"spec": fields}), check=check)

    def find(self, name):
        """None if there is no such object, or nobody answers."""
        text = self.kubectl("-n", "team-live", "get", "clm", name, "-o", "json",
                            "--ignore-not-found", check=False)
        return json.loads(text) if text else None

    def delete(self, name, wait=False):
        self.kubectl("-n", "team-live", "delete", "clm", name, "--wait=%s" % str(wait).lower())
