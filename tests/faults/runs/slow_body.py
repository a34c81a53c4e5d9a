"""F38, F39: with the defaults, bodies and heads at a byte a second are ended within 40 s, and whoever is faster is not."""

import selectors
import socket
import time

from bed import check

SECONDS = 75
SHORT = False

CONFIG = """
services: [{name: origin, endpoints: ["%s"]}]
routes:
  - {path: "/origin/*", strip_prefix: true, service: origin}
  - {prefix: /, respond: {body: here}}
"""
POST = b"POST /origin/post HTTP/1.1\r\nHost: a\r\n"
# How each begins, and what follows at a byte a second.
KINDS = {
    "a body with a length": (POST + b"Content-Length: 4000\r\n\r\n", b"x"),
    "a chunk of a body": (POST + b"Transfer-Encoding: chunked\r\n\r\nfa0\r\n", b"x"),
    "the size line of a chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n1;", b"e"),
    "a head": (b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ", b"x"),
}
EACH = 10
MOST_SECONDS = 40
# A body that keeps the least rate of 256 bytes a second, and is done within the 30 s that a request has in all.
FAST_BYTES = 20_000
FAST_STEP = 1000


def run(bed):
    gateway = bed.gateway(CONFIG % bed.origin())
    begun = time.monotonic()
    slow = {}
    for kind, (start, rest) in KINDS.items():
        for client in bed.clients(EACH, gateway.address, start).sockets:
            client.setblocking(False)
            slow[client] = (kind, rest)
    fast = socket.create_connection(gateway.address)
    fast.sendall(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % FAST_BYTES)
    sent, ended = 0, {}
    with selectors.DefaultSelector() as poll:
        for client in slow:
            poll.register(client, selectors.EVENT_READ)
        while slow or sent < FAST_BYTES:
            open_kinds = {kind for kind, _ in slow.values()}
            check(time.monotonic() - begun < MOST_SECONDS + 20, f"{len(slow)} are still open, of {open_kinds}")
            step = time.monotonic() + 1
            while (left := step - time.monotonic()) > 0:
                for key, _ in poll.select(left):
                    poll.unregister(key.fileobj)
                    kind, _ = slow.pop(key.fileobj)
                    ended.setdefault(kind, []).append((time.monotonic() - begun, answer(key.fileobj)))
            for client, (_, rest) in list(slow.items()):
                try:
                    client.send(rest)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # It is seen to be closed with the next look.
            if sent < FAST_BYTES:
                sent += fast.send(b"y" * FAST_STEP)
    fast.settimeout(10)
    check(fast.recv(4096).startswith(b"HTTP/1.1 200"), "a body of 1,000 bytes/s was not taken")
    fast.close()
    for kind, those in ended.items():
        check(all(first.startswith(b"HTTP/1.1 408") for _, first in those), f"{kind}: not answered with 408: {those[0]}")
        last = max(after for after, _ in those)
        check(last < MOST_SECONDS, f"{kind}: the last was ended after {last:.1f} s")
    return ", ".join(f"{kind}: {max(after for after, _ in those):.0f} s" for kind, those in ended.items())


def answer(client):
    try:
        return client.recv(4096)[:40]
    except ConnectionResetError:
        return b"reset"
