"""F26: an endpoint is up and down every few hundred ms under load: no GET is lost, log and metrics stay bounded."""

import asyncio
import datetime
import math
import os
import time

from bed import SLACK, check, eventually

# How long it flaps; RINGWAY_FLAP_SECONDS=30 is the whole run.
SPAN_SECONDS = int(os.environ.get("RINGWAY_FLAP_SECONDS", "8"))
SECONDS = SPAN_SECONDS + 15
SHORT = True

PHASE_SECONDS = 0.3
BASE_SECONDS = 0.2
# Between an event and the time in its line, where everything takes long.
CLOCK_SECONDS = 0.5
CLIENTS = 16
CONFIG = """
services:
  - name: up
    endpoints: ["%s", "127.0.0.1:%d"]
    load_balancer: round_robin
    slow_start: 0s
    ejection: {base: 200ms, max: 60s}
routes:
  - {path: "/*", service: up}
"""
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nflapping"


class Flapping:
    """A server that comes and goes at one port, with all its connections."""

    def __init__(self):
        self.server, self.port, self.writers, self.answered, self.falls = None, 0, set(), 0, 0

    async def rise(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    def fall(self):
        self.falls += 1
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    async def serve(self, reader, writer):
        self.writers.add(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.answered += 1
                writer.write(ANSWER)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            writer.close()

    async def flap(self, until):
        while time.monotonic() < until:
            await asyncio.sleep(PHASE_SECONDS)
            self.fall()
            await asyncio.sleep(PHASE_SECONDS)
            await self.rise()


async def client(address, until, counts):
    """Asks again and again over kept connections, some of which it leaves."""
    reader = writer = None
    while time.monotonic() < until:
        if writer is None:
            reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /1k HTTP/1.1\r\nHost: test\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line)
        await reader.readexactly(int(fields["content-length"]))
        counts[head.split()[1]] = counts.get(head.split()[1], 0) + 1
        if fields.get("connection") == "close" or sum(counts.values()) % 50 == 0:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()


async def work(bed, origin):
    flapping, counts = Flapping(), {}
    await flapping.rise()
    # Beside this loop, which answers its first request.
    gateway = await asyncio.to_thread(bed.gateway, CONFIG % (origin, flapping.port))
    series = len(gateway.admin("/metrics").body.splitlines())
    begun, lines = time.monotonic(), len(gateway.lines)
    until = begun + SPAN_SECONDS
    await asyncio.gather(flapping.flap(until), *(client(gateway.address, until, counts) for _ in range(CLIENTS)))
    span = time.monotonic() - begun
    lost = {status.decode(): count for status, count in counts.items() if status != b"200"}
    check(not lost, lambda: f"lost: {lost} of {counts}")
    ejections = gateway.metric("ringway_service_ejections_total", service="up")
    # Each lasts twice as long as the one before, and the next begins when it is over; for three base times between them
    # one doubling is forgotten.
    most = math.floor(math.log2(span / BASE_SECONDS + 1)) + 1 + doubled(gateway.events("endpoint ejected"))
    # Where everything takes long it may not fail three times before it is back.
    check(ejections <= most and (ejections or SLACK > 1), lambda: f"{ejections} ejections in {span:.1f} s, {most} are possible")
    logged = len(gateway.lines) - lines
    check(logged <= 2 * most + 4, lambda: f"{logged} lines of log for {ejections} ejections")
    # Codes and outcomes that had not been there before add a few; nothing grows with time.
    grown = len(gateway.admin("/metrics").body.splitlines()) - series
    check(grown <= 150, lambda: f"{grown} lines more in the metrics")
    # Else its socket would stay open behind this loop, with nobody to answer.
    flapping.fall()
    check(flapping.answered > 0, lambda: f"it was asked {flapping.answered} times in between")
    return flapping, counts, ejections, logged, gateway


def doubled(events):
    """Holds each ejection to the one before; returns how many doublings were forgotten in all."""
    forgotten = 0
    for before, after in zip(events, events[1:], strict=False):
        length, next_length = int(before["ms"]) / 1000, int(after["ms"]) / 1000
        served = (moment(after) - moment(before)).total_seconds() - length
        check(served > -CLOCK_SECONDS, lambda: f"ejected while it was out: {before} {after}")
        most = math.floor((served + CLOCK_SECONDS) / (3 * BASE_SECONDS))
        least = max(BASE_SECONDS, 2 * length / 2**most)
        check(least <= next_length <= 2 * length, lambda: f"not twice as long, less one doubling each 600 ms: {before} {after}")
        forgotten += round(math.log2(2 * length / next_length))
    return forgotten


def moment(event):
    return datetime.datetime.fromisoformat(event["time"].replace("Z", "+00:00"))


def run(bed):
    origin = bed.origin()
    flapping, counts, ejections, logged, gateway = asyncio.run(work(bed, origin))
    eventually("requests go on", lambda: gateway.get("/1k").status == 200)
    return (f"{sum(counts.values())} GETs, none lost, while it fell {flapping.falls} times in {SPAN_SECONDS} s; "
            f"{flapping.answered} answered by it, {ejections:.0f} ejections, {logged} lines of log")
