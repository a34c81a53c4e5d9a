"""F10: four floods in a control group of 256 MiB: resident memory stays under it x 1.1, and nothing is killed."""

import contextlib
import os
import resource
import socket
import time

from bed import Skipped, check, eventually
from groups import memory_group

SECONDS = 180
SHORT = False

LIMIT_BYTES = 256 << 20
DESCRIPTORS = 60_000
CONFIG = """
server: {timeout: 120s}
services: [{name: origin, endpoints: ["%s"]}, {name: deaf, endpoints: ["127.0.0.1:%d"]}]
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
        config = CONFIG % (bed.origin(), deaf.getsockname()[1])
        gateway = bed.gateway(config, descriptors=descriptors, before=group.enter, memory_slack=48 << 20)
        check(abs(gateway.metric("ringway_memory_limit_bytes") - 0.9 * LIMIT_BYTES) < 100, "the group's limit was not found")
        told = []
        for name, flood in FLOODS.items():
            told.append(f"{name} {one(gateway, group, name, flood)}")
        check(any("level 2" in text for text in told), "no flood came near the limit: the run shows nothing")
        # Uploads to the origin that does not read hold what they hold until their timeout.
        eventually("no request under way", lambda: gateway.metric("ringway_worker_active_requests") == 0, 45)
        # For three seconds after the last buffers were freed memory is given back to the kernel, 100 MiB of it.
        settled = gateway.settle(6)
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


def connections(gateway, count, payload, receive_buffer=None):
    """Connections from several addresses, since one has ports for half of them only."""
    for at in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.bind((f"127.0.0.{2 + at % 8}", 0))
        client.settimeout(5)
        with contextlib.suppress(OSError):
            client.connect(gateway.address)
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


FLOODS = {"idle": idle, "half heads": half_heads, "slow readers": slow_readers, "big bodies": big_bodies}
