#!/usr/bin/env python3
"""Tries what a node needs, between a canary and one old node of its cluster.

    probe first TARGETS    on the canary before it joins: says once what it reaches
    probe canary TARGETS   on the canary when it has joined: tells it by its Node, round by round
    probe peer TARGETS     on the old node: listens for a while, says once what it found

TARGETS is JSON: from, peer, ports ("tcp/10250", "udp/8472"), api, registry, names, time; what is
missing is not tried. A report is JSON too: {"round", "mtu", "checks": [{"what", "ok", "detail"}],
"heard": {"udp/8472": bytes}}. Nothing is changed but the canary's own annotation. IPv4 only.
"""

import ctypes
import http.client
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

MAGIC = b"zcp-probe "
ROOT = os.environ.get("ZCP_ROOT", "")
PATIENCE = 5  # seconds for one connection
LISTEN = 20  # seconds for which the old node listens
PAUSE = 5  # seconds between two rounds
LIFE = 3600  # seconds: longer than zcp lets a canary live
JUMBO = 9000  # no link that matters carries more
KUBELET = "tcp/10250"


def ports(spec, protocol):
    return [int(text.split("/")[1]) for text in spec.get("ports", []) if text.startswith(protocol)]


def link_mtu(spec):
    route = ["ip", "-o", "route", "get", spec["peer"], "from", spec["from"]]
    words = subprocess.run(route, capture_output=True, text=True, timeout=PATIENCE).stdout.split()
    with open("/sys/class/net/%s/mtu" % words[words.index("dev") + 1]) as file:
        return min(int(file.read()), JUMBO)


def shout(spec, mtu):
    """Sends datagrams that may not be fragmented: a small one, and one as large as the link."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((spec["from"], 0))
        sender.setsockopt(socket.IPPROTO_IP, 10, 3)  # IP_MTU_DISCOVER, IP_PMTUDISC_PROBE
        for port in ports(spec, "udp"):
            for size in (100, mtu):
                try:
                    sender.sendto(MAGIC.ljust(size - 28, b"."), (spec["peer"], port))
                except OSError:
                    pass  # what does not leave is not heard


def only_udp_from(peer):
    """A packet filter of the kernel, so that a busy node's traffic is not read here."""
    steps = [(0x30, 0, 0, 9), (0x15, 0, 3, 17), (0x20, 0, 0, 12),
             (0x15, 0, 1, int.from_bytes(socket.inet_aton(peer), "big")),
             (6, 0, 0, 0xFFFFFFFF), (6, 0, 0, 0)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    return struct.pack("HL", len(steps), ctypes.addressof(code)), code


def listen_for(spec, heard):
    """Sees datagrams come in, whoever owns the port: an overlay's own socket answers nobody."""
    ears = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    program, _code = only_udp_from(spec["peer"])
    ears.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER

    def hear():
        while True:
            packet = ears.recv(65535)
            begin = (packet[0] & 15) * 4
            to_us = socket.inet_ntoa(packet[16:20]) == spec["from"]
            if to_us and packet[begin + 8:].startswith(MAGIC):
                name = "udp/%d" % struct.unpack("!H", packet[begin + 2:begin + 4])
                heard[name] = max(heard.get(name, 0), len(packet))
    threading.Thread(target=hear, daemon=True).start()


def talk(spec, report):
    """Listens and sends from now on."""
    if not spec.get("peer"):
        return
    try:
        report["mtu"] = link_mtu(spec)
        listen_for(spec, report["heard"])
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        report["checks"].append({"what": "listen", "ok": False, "detail": str(error)[:200]})
        return

    def speak():
        while True:
            shout(spec, report["mtu"])
            time.sleep(1)
    threading.Thread(target=speak, daemon=True).start()


def serve(spec):
    """Takes connections where no program of the node does."""
    def accept(server):
        while True:
            server.accept()[0].close()
    for port in ports(spec, "tcp"):
        if "tcp/%d" % port == KUBELET:
            continue
        try:
            server = socket.create_server((spec["from"], port))
        except OSError:
            continue  # somebody serves it already
        threading.Thread(target=accept, args=(server,), daemon=True).start()


def connect(spec, host, port):
    socket.create_connection((host, int(port)), PATIENCE, (spec["from"], 0)).close()


def ask_registry(url):
    try:
        urllib.request.urlopen(url, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        pass  # it answers


def ask_time(server):
    if server == "local":
        show = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        if subprocess.run(show, capture_output=True, text=True, timeout=PATIENCE).stdout.strip() != "yes":
            raise OSError("the clock is not in step with a time server")
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(PATIENCE)
        asker.sendto(b"\x1b" + bytes(47), (server, 123))
        asker.recvfrom(100)


def api(spec):
    """A connection as the kubelet makes it, with its certificate."""
    trust = ssl.create_default_context(cafile=ROOT + "/etc/kubernetes/pki/ca.crt")
    trust.load_cert_chain(ROOT + "/var/lib/kubelet/pki/kubelet-client-current.pem")
    host, port = spec["api"].rsplit(":", 1)
    return http.client.HTTPSConnection(
        host.strip("[]"), int(port), timeout=PATIENCE, context=trust, source_address=(spec["from"], 0))


def download(spec):
    """More than a megabyte over TLS: full packets, in the direction that small tests leave out."""
    connection = api(spec)
    connection.request("GET", "/openapi/v2")
    answer = connection.getresponse()
    size = len(answer.read())
    connection.close()
    return "%d bytes" % size if answer.status == 200 else "HTTP %d" % answer.status


def annotate(spec, report):
    with open(ROOT + "/etc/zcp/server.json") as file:
        name = json.load(file)["node_name"]
    text = json.dumps({"metadata": {"annotations": {"zcp.io/reachability": json.dumps(report)}}})
    connection = api(spec)
    kind = {"Content-Type": "application/merge-patch+json"}
    connection.request("PATCH", "/api/v1/nodes/" + name, text, kind)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != 200:
        raise OSError("annotate: HTTP %d" % answer.status)


def tried(spec, mode):
    """Everything that can be tried now, side by side, as a list of checks."""
    acts = {}
    if spec.get("peer"):
        for port in ports(spec, "tcp"):
            acts["tcp/%d" % port] = lambda port=port: connect(spec, spec["peer"], port)
    if spec.get("api"):
        acts["api"] = lambda: connect(spec, *spec["api"].rsplit(":", 1))
        if mode == "canary":
            acts["download"] = lambda: download(spec)
    if spec.get("registry"):
        acts["registry"] = lambda: ask_registry(spec["registry"])
    for name in spec.get("names", []):
        acts["dns " + name] = lambda name=name: socket.getaddrinfo(name, None) and None
    if spec.get("time"):
        acts["ntp"] = lambda: ask_time(spec["time"])
    checks = {what: {"what": what, "ok": False, "detail": "no answer"} for what in acts}

    def run(what):
        try:
            checks[what] = {"what": what, "ok": True, "detail": acts[what]() or ""}
        except Exception as error:  # whatever it is, it is the finding
            checks[what]["detail"] = (str(error) or type(error).__name__)[:200]
    threads = [threading.Thread(target=run, args=(what,), daemon=True) for what in acts]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 3 * PATIENCE
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    return [dict(check) for check in checks.values()]


def main(mode, spec):
    report = {"round": 1, "mtu": 0, "checks": [], "heard": {}}
    begin = time.monotonic()
    if mode != "first":
        talk(spec, report)
    faults = report["checks"]
    if mode == "canary":
        serve(spec)
    while mode == "canary" and time.monotonic() < begin + LIFE:
        report["checks"] = faults + tried(spec, mode)
        try:
            annotate(spec, dict(report, heard=dict(report["heard"])))
        except (OSError, http.client.HTTPException) as error:
            print("zcp: probe:", error, flush=True)
        time.sleep(PAUSE)
        report["round"] += 1
    report["checks"] = faults + tried(spec, mode)
    if mode == "peer":
        time.sleep(max(0, begin + LISTEN - time.monotonic()))
    print(json.dumps(dict(report, heard=dict(report["heard"]))), flush=True)
    os._exit(0)  # threads that still wait are of no use any more


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
