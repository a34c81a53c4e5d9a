"""F01: 1,000 configurations under wrk and long streams: no failed request, flat memory, no limit begun anew."""

import re
import shutil
import signal
import socket
import subprocess
import threading
import time

from bed import SLACK, Skipped, check, eventually
from continuity import Load

SECONDS = 90
SHORT = False

SWAPS, WARM = (1000, 300) if SLACK == 1 else (200, 60)
STREAMS = 5
# Of an hour's 20 tokens for one route, so many are taken before the swaps.
LIMIT, TAKEN = 20, 12
GROWN_BYTES_MAX = 3 << 20
CONFIG = """
listeners: [{address: "127.0.0.1:0", limits: {requests_max: 1000000000}}]
services:
  - {name: origin, endpoints: ["%s"]}
  - {name: streams, endpoints: ["%s:%d"], timeouts: {between_bytes: 60s}}
policies: [{rate_limit: {rate: 100000000/h}}]
routes:
  - {path: /limited, policies: [{rate_limit: {rate: 20/h}}], respond: {body: in}}
  - {path: "/stream/*", service: streams, timeout: 600s}
  - {path: /version, respond: {body: "v%d"}}
  - {prefix: /, service: origin}
"""


class Streams:
    """An origin whose answers are numbers without an end, until it is told to end them."""

    def __init__(self):
        self.listener, self.ending = socket.create_server(("127.0.0.1", 0)), threading.Event()
        self.address = self.listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            number = 0
            while not self.ending.wait(0.02):
                line = b"%d\n" % number
                client.sendall(b"%x\r\n%s\r\n" % (len(line), line))
                number += 1
            client.sendall(b"0\r\n\r\n")
            client.recv(1)


class Reader(threading.Thread):
    """A client of such an answer. Keeps all of it."""

    def __init__(self, address, number):
        super().__init__(daemon=True)
        self.client, self.got = socket.create_connection(address, 30 * SLACK), b""
        self.client.sendall(b"GET /stream/%d HTTP/1.1\r\nHost: t\r\n\r\n" % number)
        self.start()

    def run(self):
        while not self.got.endswith(b"\r\n0\r\n\r\n"):
            part = self.client.recv(65536)
            if not part:
                return
            self.got += part

    def numbers(self):
        """How many numbers came, in their order and to a proper end."""
        head, _, body = self.got.partition(b"\r\n\r\n")
        check(head.startswith(b"HTTP/1.1 200") and body.endswith(b"0\r\n\r\n"), f"a stream is not whole: {self.got[-80:]}")
        text, rest = b"", body
        while rest != b"0\r\n\r\n":
            size, _, rest = rest.partition(b"\r\n")
            text, rest = text + rest[:int(size, 16)], rest[int(size, 16) + 2:]
        seen = [int(line) for line in text.split()]
        check(seen == list(range(len(seen))), "numbers of a stream are lost or out of order")
        return len(seen)


def wrk(gateway):
    """Asks as fast as it can until it is interrupted; then it tells what it saw."""
    command = ["wrk", "-t1", "-c16", f"-d{(SECONDS + 30) * SLACK}s", "--timeout", "10s", f"http://{gateway.listening[0]}/1k"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def told(asking):
    """Requests that were answered. Whatever wrk counts as a failure fails the run."""
    asking.send_signal(signal.SIGINT)
    text = asking.communicate(timeout=30)[0]
    check("Non-2xx" not in text and "Socket errors" not in text, f"wrk saw failures:\n{text}")
    return int(re.search(r"(\d+) requests in", text)[1])


def run(bed):
    if not shutil.which("wrk"):
        raise Skipped("wrk is not installed")
    streams, origin = Streams(), bed.origin()
    config = lambda turn: CONFIG % (origin, *streams.address, turn) + "".join(
        f"  - {{path: /extra-{extra}, respond: 204}}\n" for extra in range(turn % 7))
    gateway = bed.gateway(config(0), workers=2)
    limited = lambda times: sum(gateway.get("/limited").status == 200 for _ in range(times))
    check(limited(TAKEN) == TAKEN, "the limit refuses too early")
    readers = [Reader(gateway.address, number) for number in range(STREAMS)]
    eventually("the streams have begun", lambda: all(b"\n" in reader.got for reader in readers))
    asking, others = wrk(gateway), Load(gateway.address, fresh=2, kept=10, slow=0)
    try:
        begun, warm, most = time.monotonic(), 0, 0
        for turn in range(1, SWAPS + 1):
            answer = gateway.reload(config(turn))
            check(answer.status == 200, lambda: f"swap {turn}: {answer.status} {answer.body[:300]}")
            most = max(most, gateway.held()) if turn > WARM else 0
            warm = gateway.held() if turn == WARM else warm
        took = time.monotonic() - begun
        check(asking.poll() is None, "wrk has ended before the swaps")
        check(gateway.get("/version").body == b"v%d" % SWAPS, "the last swap does not serve")
        requests, counts = told(asking), others.stop()
    finally:
        others.stop()
        asking.kill()
        asking.wait()
    check(counts["refused"] == counts["lost"] == counts["cut"] == counts["announced"] == 0, f"{counts}")
    check(limited(LIMIT) == LIMIT - TAKEN, "a limit was reset, or lost tokens")
    streams.ending.set()
    [reader.join(20) for reader in readers]
    numbers = [reader.numbers() for reader in readers]
    check(min(numbers) > 10, f"the streams stood still: {numbers}")
    [reader.client.close() for reader in readers]
    streams.listener.close()
    check(most - warm <= GROWN_BYTES_MAX, f"memory grew from {warm >> 10} to {most >> 10} KiB")
    check(gateway.metric("gateway_errors_total", error_type="rate_limited") >= LIMIT - TAKEN, "nothing was limited")
    failed = gateway.metric("gateway_errors_total") - gateway.metric("gateway_errors_total", error_type="rate_limited")
    check(failed == 0, f"{failed:.0f} errors are counted")
    return (f"{SWAPS} swaps in {took:.1f} s; wrk: {requests} requests, 0 failed; {counts['answered']} by others, 10 of "
            f"them kept; {STREAMS} streams whole, {sum(numbers)} pieces; {warm >> 10} KiB after {WARM} swaps, "
            f"{most >> 10} at most after")
