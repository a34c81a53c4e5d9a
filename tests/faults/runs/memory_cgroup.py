"""F10: seven floods in a control group of 256 MiB: resident memory stays under it x 1.1, and nothing is killed."""

import contextlib
import os
import resource
import socket
import ssl
import struct
import subprocess
import time

from bed import Skipped, check, eventually
from groups import memory_group

SECONDS = 240
SHORT = False

LIMIT_BYTES = 256 << 20
# What `memory_limit: auto` makes of it.
SHARE = 0.8
DESCRIPTORS = 60_000
CONFIG = """
server: {timeout: 120s}
listeners:
  - "127.0.0.1:0"
  - {address: "127.0.0.2:0", tls: {cert: "%(pair)s", key: "%(pair)s"}}
services: [{name: origin, endpoints: ["%(origin)s"]}, {name: deaf, endpoints: ["127.0.0.1:%(deaf)d"]}]
routes:
  - {path: /here, respond: {body: here}}
  - {path: "/deaf/*", service: deaf, timeout: 60s}
  - {prefix: /, service: origin, timeout: 60s}
"""
CLIENTS = 15_000


def run(bed):
    if os.geteuid() != 0:
        raise Skipped("only root can make control groups")
    descriptors = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    if descriptors < CLIENTS + 1000:
        raise Skipped(f"only {descriptors} descriptors for {CLIENTS} clients")
    deaf = socket.create_server(("127.0.0.1", 0), backlog=4096)
    with memory_group(LIMIT_BYTES) as group:
        config = CONFIG % {"origin": bed.origin(), "deaf": deaf.getsockname()[1], "pair": certificate(bed.folder)}
        gateway = bed.gateway(config, descriptors=descriptors, before=group.enter, memory_slack=48 << 20)
        check(abs(gateway.metric("ringway_memory_limit_bytes") - SHARE * LIMIT_BYTES) < 100, lambda: f"another limit: {gateway.metric('ringway_memory_limit_bytes')}")
        told = []
        for name, flood in FLOODS.items():
            told.append(f"{name} {one(gateway, group, name, flood)}")
        check(any("level 2" in text for text in told), "no flood came near the limit: the run shows nothing")
        # Uploads to the origin that does not read hold what they hold until their timeout.
        eventually("no request under way", lambda: gateway.metric("ringway_worker_active_requests") == 0, 45)
        settled = gateway.settle()
        peak = group.peak() >> 20
        gateway.end()
    deaf.close()
    return f"resident MiB at most: {', '.join(told)}; the group {peak} MiB at most; {settled}"


def one(gateway, group, name, flood):
    """Runs one flood; tells the peak of resident memory, the highest level and how many requests were refused."""
    watch = Watch(gateway)
    sockets = []
    try:
        for client in flood(gateway):
            sockets.append(client)
            if len(sockets) % 250 == 0:
                watch.look()
        end = time.monotonic() + 4
        while time.monotonic() < end:
            watch.look()
            time.sleep(0.05)
    finally:
        for client in sockets:
            client.close()
    check(gateway.running() and group.kills() == 0, f"{name}: the gateway was killed")
    check(watch.resident < LIMIT_BYTES * 1.1, f"{name}: {watch.resident >> 20} MiB are resident")
    eventually(f"served after {name}", lambda: gateway.get("/here", 2).status == 200, 20)
    return f"{watch.resident >> 20} (level {watch.level:.0f}, {watch.refused} refused)"


class Watch:
    def __init__(self, gateway):
        self.gateway, self.resident, self.level, self.looks, self.refused = gateway, 0, 0, 0, 0

    def look(self):
        check(self.gateway.running(), "the gateway has ended")
        self.resident = max(self.resident, self.gateway.memory())
        self.looks += 1
        if self.looks % 10 == 0:
            self.level = max(self.level, self.gateway.metric("ringway_memory_level"))
            self.ask()

    def ask(self):
        """A request is served, or refused in the proper way; when even its connection is too much, that is cut."""
        answer = self.gateway.get("/here", 5)
        check(answer.status in (0, 200, 503), f"{answer.status} in a flood")
        if answer.status == 503:
            self.refused += 1
            check(answer.fields["Retry-After"] and b'"reason":"memory"' in answer.body, f"not a proper refusal: {answer}")
            ready = self.gateway.admin("/ready").body.decode()
            check("memory" in ready, f"/ready does not tell: {ready}")


def certificate(folder):
    pair, key = folder / "pair.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
                    "-subj", "/CN=flood.test", "-addext", "subjectAltName=DNS:flood.test", "-keyout", key, "-out", pair],
                   check=True, capture_output=True)
    pair.write_bytes(pair.read_bytes() + key.read_bytes())
    return pair


def connections(gateway, count, payload, receive_buffer=None, listener=0):
    """Connections from several addresses, since one has ports for half of them only."""
    host, _, port = gateway.listening[listener].rpartition(":")
    for at in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.bind((f"127.0.0.{2 + at % 8}", 0))
        client.settimeout(5)
        with contextlib.suppress(OSError):
            client.connect((host, int(port)))
            client.setblocking(False)
            client.send(payload) if payload else None
        yield client


def idle(gateway):
    return connections(gateway, CLIENTS, b"GET /here HTTP/1.1\r\nHost: idle\r\n\r\n")


def half_heads(gateway):
    head = b"GET /here HTTP/1.1\r\nHost: half\r\n" + b"".join(b"X-%d: %s\r\n" % (at, b"x" * 2900) for at in range(10))
    return connections(gateway, CLIENTS, head + b"X-Open: ")


def slow_readers(gateway):
    request = b"GET /bytes/8388608 HTTP/1.1\r\nHost: slow\r\n\r\n"
    return connections(gateway, 6_000, request, receive_buffer=4096)


def big_bodies(gateway):
    """Uploads to an origin that does not read."""
    head = b"POST /deaf/a HTTP/1.1\r\nHost: big\r\nContent-Length: 9000000\r\n\r\n"
    return connections(gateway, 4_000, head + b"b" * 200_000)


def half_handshakes(gateway):
    """Clients that say hello and take nothing of what they are told."""
    context, told = ssl.create_default_context(), ssl.MemoryBIO()
    hello = context.wrap_bio(ssl.MemoryBIO(), told, server_hostname="flood.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    return connections(gateway, CLIENTS, told.read(), listener=1)


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET = b"\x82\x86\x01\x05flood"


def half_blocks(gateway):
    """Fields over HTTP/2 that do not end."""
    field = b"\x00\x01x\x7f\x91\x01" + b"y" * 272
    block = frame(1, 0x01, 1, GET + b"\x04\x05/here" + field * 50)
    return connections(gateway, CLIENTS, PREFACE + frame(4, 0, 0, b"") + block)


def shut_windows(gateway):
    """Streams of HTTP/2 whose responses the client has no room for."""
    request = GET + b"\x04\x0e/bytes/8388608"
    streams = b"".join(frame(1, 0x05, 2 * at + 1, request) for at in range(50))
    return connections(gateway, 1_000, PREFACE + frame(4, 0, 0, struct.pack(">HI", 4, 0)) + streams)


FLOODS = {
    "idle": idle, "half heads": half_heads, "slow readers": slow_readers, "half handshakes": half_handshakes,
    "half blocks": half_blocks, "shut windows": shut_windows, "big bodies": big_bodies,
}
