"""F13: twice the load that a service may take: 90 % of its capacity is served, the rest is told within 10 ms."""

import asyncio
import statistics
import time

from bed import SLACK, check, within

SECONDS = 25
SHORT = True

LIMIT = 20
WORK_MS = 50
CAPACITY = LIMIT * 1000 // WORK_MS
SPAN_SECONDS = 5

CONFIG = """
services:
  - name: origin
    endpoints: ["%s"]
    limits: {requests_max: %d, pending_max: 20, queue_timeout: 200ms}
routes:
  - {path: "/origin/*", strip_prefix: true, service: origin}
  - {prefix: /, respond: {body: here}}
"""
REQUEST = f"GET /origin/slow/{WORK_MS} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


class Load:
    """Requests at fixed times, whatever became of those before."""

    def __init__(self, address):
        self.address, self.idle = address, []
        self.served, self.refused_ms, self.late, self.other = 0, [], 0, []

    async def one(self):
        begun = time.monotonic()
        if self.idle:
            reader, writer = self.idle.pop()
        else:
            reader, writer = await asyncio.open_connection(*self.address)
            begun = time.monotonic()
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line)
        body = await reader.readexactly(int(fields["content-length"]))
        took_ms = (time.monotonic() - begun) * 1000
        self.idle.append((reader, writer))
        status = int(head.split()[1])
        if status == 200:
            self.served += 1
        elif status == 503 and "retry-after" in fields and b"concurrency_limited" in body:
            self.refused_ms.append(took_ms)
        elif status == 503 and "retry-after" in fields and b"queue_timeout" in body:
            self.late += 1
        else:
            self.other.append(status)

    async def run(self, rate):
        tasks, begun = [], time.monotonic()
        for number in range(rate * SPAN_SECONDS):
            due = begun + number / rate
            if due > time.monotonic():
                await asyncio.sleep(due - time.monotonic())
            tasks.append(asyncio.create_task(self.one()))
        await asyncio.gather(*tasks)
        for _, writer in self.idle:
            writer.close()
        return self


def run(bed):
    gateway = bed.gateway(CONFIG % (bed.origin(), LIMIT))
    peak = asyncio.run(Load(gateway.address).run(CAPACITY))
    double = asyncio.run(Load(gateway.address).run(2 * CAPACITY))
    check(not peak.other and not double.other, f"other answers: {(peak.other + double.other)[:5]}")
    share = 0.9 if SLACK == 1 else 0.5
    check(double.served >= share * peak.served, f"{double.served} served at twice the load, {peak.served} at capacity")
    refused = sorted(double.refused_ms)
    check(len(refused) > 100, f"only {len(refused)} were told at once, {double.late} after a wait")
    # The generator shares the machine: the median is the gateway's, the tail may be its own.
    middle, tail = statistics.median(refused), refused[len(refused) * 95 // 100]
    within(middle, 10, f"refused after {middle:.1f} ms in the middle")
    check(gateway.metric("ringway_limit_requests_in_flight") == 0, "places that were not given back")
    return (f"{peak.served} served at capacity, {double.served} at twice the load; {len(refused)} refused, "
            f"median {middle:.1f} ms, p95 {tail:.1f} ms; {double.late} waited in vain")
