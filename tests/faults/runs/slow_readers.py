"""F11, F12: 50 clients that do not read an 8 MiB response hold 32 KiB each at most; at 1 KiB/s memory stays flat."""

import socket
import time

from bed import check, eventually, until

SECONDS = 60
SHORT = False

CONFIG = """
server: {timeout: 120s}
services: [{name: origin, endpoints: ["%s"]}]
routes: [{prefix: /, service: origin, timeout: 120s}]
"""
READERS = 50
HELD_BYTES_MAX = 32 * 1024
REQUEST = b"GET /bytes/8388608 HTTP/1.1\r\nHost: slow\r\n\r\n"


def run(bed):
    gateway = bed.gateway(CONFIG % bed.origin())
    for _ in range(4):
        check(gateway.get("/bytes/8388608").status == 200, "a fast reader is not served")
    time.sleep(5)
    # As many before those that are measured: what a worker keeps whatever the number of its clients is not theirs.
    slow(bed, gateway)
    before = gateway.held()
    readers = slow(bed, gateway)
    each = until(lambda: (gateway.held() - before) / READERS, lambda each: each <= HELD_BYTES_MAX, 10)
    buffers = gateway.metric("ringway_worker_buffers_used") / 2 / READERS
    check(each <= HELD_BYTES_MAX, f"{each / 1024:.1f} KiB and {buffers:.1f} buffers are held for a client that does not read")
    low = high = gateway.held()
    for _ in range(20):
        for client in readers.sockets:
            received(client, 1024)
        time.sleep(1)
        low, high = min(low, gateway.held()), max(high, gateway.held())
    spread = (high - low) / READERS
    check(readers.still_open() == READERS, f"{READERS - readers.still_open()} slow readers were cut")
    check(spread <= HELD_BYTES_MAX, f"memory moved by {spread / 1024:.1f} KiB a client at 1 KiB/s")
    readers.close()
    return f"{buffers:.1f} buffers and {each / 1024:.1f} KiB a client that does not read; at 1 KiB/s it moved by {spread / 1024:.1f} KiB"


def slow(bed, gateway):
    """Clients that ask and do not read. A small window keeps the response out of their own kernel buffers."""
    asked = gateway.metric("ringway_worker_active_requests") + READERS
    readers = bed.clients(READERS, gateway.address, REQUEST, receive_buffer=4096)
    eventually("all are served", lambda: gateway.metric("ringway_worker_active_requests") == asked)
    # Buffers that only the beginning needed are given back within some seconds.
    time.sleep(6)
    return readers


def received(client, most):
    try:
        return len(client.recv(most, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return 0
