"""F19: mixed traffic, reloads, clients that leave, for RINGWAY_SOAK_MINUTES (1): memory and descriptors stay flat."""

import os
import random
import socket
import struct
import time

from bed import check
from continuity import CONFIG, Load

MINUTES = float(os.environ.get("RINGWAY_SOAK_MINUTES", "1"))
SECONDS = 60 * MINUTES + 30
SHORT = False

# An hour may bring a MiB (F19); what a minute shows is whether anything is kept that should not be.
SLOPE_MIB_PER_HOUR = 1
NOISE_BYTES = 2 << 20


def odd_client(address):
    """One that leaves in the midst of something."""
    sent = random.choice([
        b"", b"GET / HTTP/1.1\r\nHo", b"GET /slow/3000 HTTP/1.1\r\nHost: t\r\n\r\n",
        b"POST /post HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n" + b"x" * 5000,
        b"POST /post HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"\x16\x03\x01\x02\x00" * 40,
        b"GET /bytes/1000000 HTTP/1.1\r\nHost: t\r\n\r\n", b"BAD\r\n\r\n",
    ])
    with socket.create_connection(address, 5) as client:
        client.sendall(sent)
        if random.random() < 0.5:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def run(bed):
    config = (CONFIG % bed.origin()).replace("prefix: /, respond: {body: here}", "prefix: /, service: origin")
    gateway = bed.gateway(config)
    load = Load(gateway.address, fresh=3, kept=6, slow=2)
    samples, begun, odd, reloads = [], time.monotonic(), 0, 0
    try:
        while (passed := time.monotonic() - begun) < 60 * MINUTES:
            for _ in range(10):
                odd_client(gateway.address)
                odd += 1
            if passed > 5 * (reloads + 1):
                reloads += 1
                check(gateway.reload(config + f"  - {{path: /r{reloads % 5}, respond: 204}}\n").status == 200, "a reload")
            samples.append((passed, gateway.memory(), gateway.fds()))
            time.sleep(0.2)
    finally:
        counts = load.stop()
    check(counts["lost"] == counts["cut"] == counts["refused"] == 0, f"{counts}")
    late = [sample for sample in samples if sample[0] > 60 * MINUTES / 3]
    half = len(late) // 2
    first, second = (sorted(part)[len(part) // 2] for part in
                     ([memory for _, memory, _ in late[:half]], [memory for _, memory, _ in late[half:]]))
    allowed = NOISE_BYTES + SLOPE_MIB_PER_HOUR * (MINUTES / 60) * 2**20
    check(second - first <= allowed, f"memory grows: {first >> 10} to {second >> 10} KiB in the middle of both halves")
    return (f"{MINUTES:g} min: {counts['answered'] + counts['slow']} requests, {odd} clients that left, {reloads} reloads; "
            f"{first >> 10} KiB in the first half, {second >> 10} in the second")
