#!/bin/sh
# Turns a fresh server into a node. Run once by cloud-init, as root.
#
# Reads /etc/zcp/server.json and /etc/zcp/kubeadm.yaml; on a control-plane server also
# /etc/zcp/bundle.json, which says where the cluster's keys are fetched, once.
# Says on the console how it ends: "zcp: joined" or "zcp: failed: ...".
# A canary also has /etc/zcp/probe.json: what it tries, on the console before it joins, in case it
# cannot, and by its Node from then on.
set -eu
umask 077

# Longer than zcp waits for a server to join; then it is replaced anyway.
DEADLINE=$(($(date +%s) + 1800))
WORK=/run/zcp

say() {
    echo "zcp: $*"
    if [ -w /dev/console ]; then echo "zcp: $*" >/dev/console || true; fi
}

fail() {
    say "failed: $*"
    exit 1
}

# Pauses before another try; ends the script when there is no time left.
again() {
    [ "$(date +%s)" -lt "$DEADLINE" ] || fail "$*: out of time"
    say "$*: trying again"
    sleep 5
}

# One field of a JSON file. cloud-init is written in Python, so Python is there.
field() {
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$1" "$2"
}

# The server's id: Nova gives it to the firmware.
server_id() {
    tr 'A-F' 'a-f' </sys/class/dmi/id/product_uuid 2>/dev/null | tr -d ' \n'
}

# The address from which the API endpoint is reached.
node_ip() {
    ip route get "$1" 2>/dev/null | sed -n 's/.* src \([^ ]*\).*/\1/p' | head -n 1
}

configure_kubelet() {
    endpoint=$(field /etc/zcp/server.json endpoint)
    host=$(echo "${endpoint%:*}" | tr -d '[]')
    while [ -z "$(server_id)" ]; do again "read the server's id"; done
    while [ -z "$(node_ip "$host")" ]; do again "find a route to $host"; done
    echo "KUBELET_EXTRA_ARGS=--provider-id=openstack:///$(server_id) --node-ip=$(node_ip "$host")" \
        >/etc/default/kubelet
    chmod 0644 /etc/default/kubelet
}

# Writes the files of a fetched bundle, and nothing outside the folder of keys.
unpack_bundle() {
    python3 - "$1" <<'PYTHON'
import json, os, sys

FOLDER = "/etc/kubernetes/pki/"
for file in json.load(open(sys.argv[1]))["files"]:
    path = os.path.normpath(file["path"])
    if not path.startswith(FOLDER):
        sys.exit("a file of the bundle lies outside " + FOLDER)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    mode = int(file["mode"], 8)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w") as out:
        os.fchmod(handle, mode)
        out.write(file["content"])
PYTHON
}

# Fetches the keys. The token is used up by the answer, so an answer that was cut off is final.
fetch_bundle() {
    url=$(field /etc/zcp/bundle.json url)
    field /etc/zcp/bundle.json ca >"$WORK/ca.pem"
    # From files, since arguments can be seen by every process.
    echo "Authorization: Bearer $(field /etc/zcp/bundle.json token)" >"$WORK/header"
    echo "{\"server_id\":\"$(server_id)\"}" >"$WORK/body"
    while :; do
        status=$(curl --silent --show-error --connect-timeout 5 --max-time 30 --proto =https \
            --cacert "$WORK/ca.pem" --header "@$WORK/header" \
            --header 'Content-Type: application/json' --data-binary "@$WORK/body" \
            --output "$WORK/bundle" --write-out '%{http_code}' "$url" || true)
        case "$status" in
        200) break ;;
        425 | 429 | 5?? | 000 | '') again "fetch keys (HTTP ${status:-none})" ;;
        *) fail "fetch keys: HTTP $status" ;;
        esac
    done
    unpack_bundle "$WORK/bundle" || fail "unpack keys"
    rm -f "$WORK/bundle" "$WORK/header" /etc/zcp/bundle.json
}

# A worker may try again from scratch. A member may not: an interrupted one can have left a mark
# in etcd, which only zcp can judge.
run_kubeadm() {
    if grep -q '^kind: InitConfiguration' /etc/zcp/kubeadm.yaml; then
        kubeadm init --config /etc/zcp/kubeadm.yaml --skip-token-print || fail "kubeadm init"
    elif [ "$(field /etc/zcp/server.json role)" = control-plane ]; then
        kubeadm join --config /etc/zcp/kubeadm.yaml || fail "kubeadm join"
    else
        until kubeadm join --config /etc/zcp/kubeadm.yaml; do
            again "kubeadm join"
            kubeadm reset --force >/dev/null 2>&1 || true
        done
    fi
}

# Tries what a node needs; see the script itself.
probe() {
    python3 /usr/local/lib/zcp/probe "$1" "$(cat /etc/zcp/probe.json)"
}

mkdir -p "$WORK"
configure_kubelet
if [ -e /etc/zcp/probe.json ]; then say "probe: $(probe first 2>&1 | tail -n 1)"; fi
if [ -e /etc/zcp/bundle.json ]; then fetch_bundle; fi
run_kubeadm
rm -f /etc/zcp/kubeadm.yaml
say "joined"
if [ -e /etc/zcp/probe.json ]; then probe canary >/dev/null 2>&1 & fi
