"""F14: a client with 300 connections asks for everything; the p99 of one with 4 connections at most doubles."""

import asyncio
import time

from bed import check, within

SECONDS = 25
SHORT = True

WORK_MS = 50
SPAN_SECONDS = 5
CONFIG = """
services:
  - name: origin
    endpoints: ["%s"]
    limits: {requests_max: 40, pending_max: 40}
routes:
  - path: "/origin/*"
    strip_prefix: true
    service: origin
    policies:
      - concurrency_limit: {requests_max: 20, pending_max: 20, key: "header:X-Client"}
  - {prefix: /, respond: {body: here}}
"""


async def client(address, name, until, pause_seconds, times):
    """Asks again as soon as it was answered, or after a pause when it was refused."""
    reader, writer = await asyncio.open_connection(*address)
    request = f"GET /origin/slow/{WORK_MS} HTTP/1.1\r\nHost: test\r\nX-Client: {name}\r\n\r\n".encode()
    while time.monotonic() < until:
        begun = time.monotonic()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line)
        await reader.readexactly(int(fields["content-length"]))
        served = head.split()[1] == b"200"
        times.append((served, (time.monotonic() - begun) * 1000))
        if not served:
            await asyncio.sleep(pause_seconds)
    writer.close()


async def load(address, hot):
    until, cold_times, hot_times = time.monotonic() + SPAN_SECONDS, [], []
    cold = [client(address, "cold", until, 0, cold_times) for _ in range(4)]
    hot = [client(address, "hot", until, 0.5, hot_times) for _ in range(hot)]
    await asyncio.gather(*cold, *hot)
    return cold_times, hot_times


def p99(times):
    return sorted(ms for _, ms in times)[len(times) * 99 // 100]


def run(bed):
    gateway = bed.gateway(CONFIG % bed.origin())
    alone, _ = asyncio.run(load(gateway.address, 0))
    beside, hot = asyncio.run(load(gateway.address, 300))
    check(all(served for served, _ in alone + beside), "the small client was refused")
    refused = sum(not served for served, _ in hot)
    check(refused > 100, f"only {refused} requests of the hot client were refused")
    within(p99(beside), 2 * p99(alone), f"p99 {p99(alone):.1f} ms alone, {p99(beside):.1f} ms beside the hot client")
    return (f"p99 {p99(alone):.1f} ms alone, {p99(beside):.1f} ms beside it ({len(beside)} requests); of the hot "
            f"client {len(hot) - refused} served, {refused} refused")
