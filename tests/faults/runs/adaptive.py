"""F13: a limit that finds itself falls before an endpoint that does one thing at a time, and rises when it does 32."""

import asyncio
import threading
import time

from bed import check, until

SECONDS = 150
SHORT = False

WORK_SECONDS = 0.004
CLIENTS = 64
START = 20
FALLEN_MAX = START // 2
PATIENCE_SECONDS = 60
CONFIG = """
services:
  - name: origin
    endpoints: ["%s:%d"]
    limits: {requests_max: 200, pending_max: 200, queue_timeout: 10s, adaptive: {min: 1}}
routes:
  - {path: /here, respond: {body: here}}
  - {prefix: /, service: origin}
"""
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Endpoint:
    """Does `places` things at a time; whoever else asks waits in line."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.address, self.places = None, None
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        ready.wait()

    def _run(self, ready):
        asyncio.set_event_loop(self.loop)
        self.places = asyncio.Semaphore(1)
        server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024))
        self.address = server.sockets[0].getsockname()
        ready.set()
        self.loop.run_forever()

    async def _serve(self, reader, writer):
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                async with self.places:
                    await asyncio.sleep(WORK_SECONDS)
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def widen(self, more):
        for _ in range(more):
            self.loop.call_soon_threadsafe(self.places.release)


async def client(address, done, statuses):
    reader, writer = await asyncio.open_connection(*address)
    while not done.is_set():
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
        await reader.readexactly(length)
        statuses[head.split()[1]] = statuses.get(head.split()[1], 0) + 1
    writer.close()


async def load(address, done, statuses):
    await asyncio.gather(*(client(address, done, statuses) for _ in range(CLIENTS)))


def run(bed):
    endpoint = Endpoint()
    gateway = bed.gateway(CONFIG % endpoint.address[:2])
    limit = lambda: gateway.metric("ringway_limit_requests_max")
    check(limit() == START, f"it starts at {limit()}")
    done, statuses = threading.Event(), {}
    loader = threading.Thread(target=lambda: asyncio.run(load(gateway.address, done, statuses)))
    loader.start()
    try:
        begun = time.monotonic()
        fallen = until(limit, lambda now: now <= FALLEN_MAX, PATIENCE_SECONDS)
        fell_in = time.monotonic() - begun
        check(fallen <= FALLEN_MAX, f"the limit is still {fallen:.0f} after {PATIENCE_SECONDS} s")
        endpoint.widen(31)
        risen = until(limit, lambda now: now >= 2 * FALLEN_MAX, PATIENCE_SECONDS)
        check(risen >= 2 * FALLEN_MAX, f"the limit is {risen:.0f} though the endpoint does 32 things at a time")
    finally:
        done.set()
        loader.join(30)
    check(set(statuses) == {b"200"}, f"{statuses}")
    return f"{START} to {fallen:.0f} in {fell_in:.0f} s, to {risen:.0f} when it was widened; {statuses[b'200']} served"
