#!/bin/bash
# The tour that `make demo` takes: a cluster is made on one simulated cloud and moved to another,
# a second one is moved half way and turned back. What is counted at the end comes from the clouds
# and the clusters themselves, not from zcpd.
#
#   OUTPUT=json    the last line is one JSON object with the figures
#   SPEED=20       how many times faster than real clouds everything happens
#   BIN=folder     where zcpd and zcpctl are
#   KEEP=1         keep the state folder

set -euo pipefail

SPEED=${SPEED:-20}
BIN=${BIN:-${CARGO_TARGET_DIR:-target}/debug}
STATE=$(mktemp -d "${TMPDIR:-/tmp}/zcp-demo.XXXXXX")
# Postgres does not run as root; its own user has to get through.
chmod 711 "$STATE"
DEV=
BEGAN=$SECONDS

BOLD= PLAIN=
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then BOLD=$'\e[1m' PLAIN=$'\e[0m'; fi

say() { printf '\n%s[%d s] %s%s\n' "$BOLD" $((SECONDS - BEGAN)) "$*" "$PLAIN"; }
fail() { echo "demo: $*" >&2; exit 1; }

finish() {
    local code=$?
    trap - EXIT INT TERM
    # zcpd dev, and a zcpctl that still waits.
    local job
    for job in $(jobs -p); do kill -TERM "$job" 2>/dev/null || true; done
    wait 2>/dev/null || true
    if [ $code -ne 0 ]; then
        echo "demo: failed; the end of the logs:" >&2
        tail -n 20 "$STATE"/*.log >&2 || true
    fi
    if [ "${KEEP:-}" = 1 ]; then echo "demo: the state is kept in $STATE" >&2; else rm -rf "$STATE"; fi
    exit $code
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

zcpctl() { "$BIN/zcpctl" "$@"; }
get() { curl -sfS --max-time 20 "$@"; }
# Runs Python with the JSON of stdin in `value`.
json() { python3 -c 'import json,sys
value = json.load(sys.stdin)
'"$1"; }

# --- what the clouds and clusters say, asked of themselves --------------------------------------

# A token of the project that zcp works in on one cloud: it sees all that zcp made there.
cloud_login() {
    local url=$1 answer
    answer=$(get -D - -o /dev/null -X POST "$url/identity/v3/auth/tokens" -H 'content-type: application/json' -d '{"auth":{
        "identity":{"methods":["password"],"password":{"user":{"name":"kaas","domain":{"id":"default"},"password":"lab"}}},
        "scope":{"project":{"name":"kaas","domain":{"id":"default"}}}}}')
    tr -d '\r' <<<"$answer" | sed -n 's/^x-subject-token: //Ip'
}

# How many servers a cloud has whose names fit: cloud_servers CLOUD PATTERN
cloud_servers() {
    get "${CLOUD[$1]}/compute/v2.1/servers?name=$2" -H "x-auth-token: ${TOKEN[$1]}" \
        | json 'print(len(value["servers"]))'
}

# How many servers and ports there are on both clouds.
everything() {
    local cloud servers=0 ports=0
    for cloud in east west; do
        servers=$((servers + $(get "${CLOUD[$cloud]}/compute/v2.1/servers" -H "x-auth-token: ${TOKEN[$cloud]}" | json 'print(len(value["servers"]))')))
        ports=$((ports + $(get "${CLOUD[$cloud]}/network/v2.0/ports" -H "x-auth-token: ${TOKEN[$cloud]}" | json 'print(len(value["ports"]))')))
    done
    echo "$servers $ports"
}

# Servers that a cloud was ever asked for.
servers_ever() { get "$CONTROL/_sim/clouds/$1/counters" | json 'print(value["servers_ever"])'; }

# kube CLUSTER METHOD PATH [curl arguments]: asks the cluster's own API, with the kubeconfig that
# zcpctl gives.
kube() {
    local name=$1 method=$2 path=$3
    shift 3
    local folder=$STATE/kube-$name
    if [ ! -d "$folder" ]; then
        mkdir -m 700 "$folder"
        zcpctl cluster kubeconfig "$name" --ttl 10m >"$folder/config"
        local part
        for part in certificate-authority client-certificate client-key; do
            sed -n "s/^ *$part-data: *\"\\{0,1\\}\\([A-Za-z0-9+\\/=]*\\)\"\\{0,1\\} *$/\\1/p" "$folder/config" | base64 -d >"$folder/$part"
        done
        sed -n 's/^ *server: *"\{0,1\}\([^"]*\)"\{0,1\} *$/\1/p' "$folder/config" >"$folder/server"
    fi
    get -X "$method" "$(cat "$folder/server")$path" --cacert "$folder/certificate-authority" \
        --cert "$folder/client-certificate" --key "$folder/client-key" "$@"
}

nodes() { kube "$1" GET /api/v1/nodes | json 'print(len(value["items"]))'; }
cordons() { kube "$1" GET /api/v1/nodes | json 'print(sum(1 for n in value["items"] if n["spec"].get("unschedulable")))'; }
nodes_ready() { kube "$1" GET /api/v1/nodes | json 'print(sum(1 for n in value["items"] if any(c["type"] == "Ready" and c["status"] == "True" for c in n["status"].get("conditions", []))))'; }
pods_ready() { kube "$1" GET /apis/apps/v1/namespaces/default/deployments/web | json 'print(value["status"].get("readyReplicas", 0))'; }

# A Deployment with a PodDisruptionBudget, as an owner would apply them.
deploy() {
    kube "$1" POST /apis/apps/v1/namespaces/default/deployments -o /dev/null -H 'content-type: application/json' -d '{
        "apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},
        "spec":{"replicas":4,"selector":{"matchLabels":{"app":"web"}},
            "template":{"metadata":{"labels":{"app":"web"}},
                "spec":{"containers":[{"name":"web","image":"registry.example/web:1"}]}}}}'
    kube "$1" POST /apis/policy/v1/namespaces/default/poddisruptionbudgets -o /dev/null -H 'content-type: application/json' -d '{
        "apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":"web"},
        "spec":{"minAvailable":3,"selector":{"matchLabels":{"app":"web"}}}}'
    local look
    for look in $(seq 100); do
        [ "$(pods_ready "$1")" = 4 ] && return
        sleep 0.2
    done
    fail "the Deployment of $1 does not get ready"
}

# --- the tour -----------------------------------------------------------------------------------

say "zcpd dev: Postgres, two simulated clouds, the service"
"$BIN/zcpd" dev --state "$STATE" --speed "$SPEED" >"$STATE/dev.log" 2>&1 &
DEV=$!
for _ in $(seq 600); do
    grep -q '^zcpd dev: ready' "$STATE/dev.log" && break
    kill -0 "$DEV" 2>/dev/null || fail "zcpd dev has ended: $(cat "$STATE/dev.log")"
    sleep 0.1
done
grep -q '^zcpd dev: ready' "$STATE/dev.log" || fail "zcpd dev is not ready after a minute"
export ZCP_PROFILE=$STATE/zcpctl.toml
zcpctl cloud list

declare -A CLOUD TOKEN
CONTROL=$(json 'print(value["control"])' <"$STATE/sim/sim.json")
for cloud in east west; do
    CLOUD[$cloud]=$(json "print(value['clouds']['$cloud'])" <"$STATE/sim/sim.json")
    TOKEN[$cloud]=$(cloud_login "${CLOUD[$cloud]}")
done

say "two clusters on east: one control-plane server and four workers each"
zcpctl cluster create shop --cloud east --offering 1.36.2 --pool name=web,count=4,label=team=shop --wait --timeout 60s &
zcpctl cluster create back --cloud east --offering 1.36.2 --pool name=web,count=4 --wait --timeout 60s
wait $!
say "a Deployment of four pods in each, of which three must always be ready"
deploy shop
deploy back
echo "shop: $(nodes_ready shop) nodes and $(pods_ready shop) pods are ready, says its API"

say "shop moves from east to west: a canary tries west, one node goes, then the rest; then the old nodes go"
moved=$SECONDS
zcpctl migration start shop --to west --waves 1,25%,100% --soak 1s --hold 1s --wait --timeout 60s
moved=$((SECONDS - moved))
migrated_phase=$(zcpctl migration get shop -o json | json 'print(value["phase"])')
migrated_nodes=$(cloud_servers west '^shop-web-')
echo "shop: $migrated_nodes workers on west, $(cloud_servers east '^shop-web-') on east, $(pods_ready shop) of 4 pods ready"

say "back moves half way: after 50 % it waits for somebody's approval"
zcpctl migration start back --to west --no-canary --waves 50%,100% --soak 1s --hold 1s --gate 1=approval --wait --timeout 60s
echo "back: $(cloud_servers west '^back-web-') new workers on west, $(cordons back) old ones cordoned"

say "nobody approves: back turns back"
before=$(($(servers_ever east) + $(servers_ever west)))
zcpctl migration rollback back --yes --reason "the owner changed their mind"
zcpctl migration watch back --timeout 60s --to-the-end
made=$(($(servers_ever east) + $(servers_ever west) - before))
back_phase=$(zcpctl migration get back -o json | json 'print(value["phase"])')
# The new nodes served no more when it was rolled back; their servers and Node objects go after.
for _ in $(seq 100); do
    [ "$(cloud_servers west '^back-web-') $(nodes back)" = "0 5" ] && break
    sleep 0.2
done
left_cordons=$(($(cordons back) + $(cordons shop)))
echo "back: $(cloud_servers east '^back-web-') workers on east, $(cloud_servers west '^back-web-') on west, $(pods_ready back) of 4 pods ready, $left_cordons cordons left"

say "both clusters are deleted; the clouds are asked what is left"
zcpctl cluster delete shop --yes --wait --timeout 60s &
zcpctl cluster delete back --yes --wait --timeout 60s
wait $!
read -r servers ports <<<"$(everything)"
echo "$servers servers and $ports ports are left on both clouds"

[ "$migrated_phase" = succeeded ] || fail "shop ended as $migrated_phase"
[ "$migrated_nodes" = 4 ] || fail "shop has $migrated_nodes workers on west"
[ "$back_phase" = rolled_back ] || fail "back ended as $back_phase"
[ "$made $servers $ports $left_cordons" = "0 0 0 0" ] || fail "made $made servers by rolling back; left: $servers servers, $ports ports, $left_cordons cordons"

say "done"
if [ "${OUTPUT:-}" = json ]; then
    printf '{"migrated":{"nodes":%d,"seconds":%d,"phase":"%s"},"rolled_back":{"phase":"%s","new_servers_made_by_rollback":%d},"leaked":{"servers":%d,"ports":%d,"cordons":%d}}\n' \
        "$migrated_nodes" "$moved" "$migrated_phase" "$back_phase" "$made" "$servers" "$ports" "$left_cordons"
fi
