"""HPACK against the PyPI package `hpack`, which shares nothing with ours: random lists of fields pass from a client by the
gateway to an endpoint and back, each side with a table of its own that changes its size. Four coders of ours (requests
and responses, read and written) meet four of theirs."""

import os
import random
import socket
import struct
import sys
import threading
import time

from gateway import gateway, skip

try:
    import hpack
except ImportError:
    skip("hpack is not installed")

CONFIG = """
server: {workers: 1}
admin: {enabled: false}
listeners: [{address: "127.0.0.1:0", protocols: [http1, h2c], limits: {requests_max: 1000000}}]
services: [{name: up, protocol: h2, endpoints: ["127.0.0.1:PORT"], pool: {requests_max: 1000000}}]
routes: [{name: all, path: /*, service: up}]
"""

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
TABLE_SIZE, TABLE_DEFAULT = 1, 4096
CONNECTIONS, ROUNDS = 10, 50
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NAMES = ["accept", "accept-encoding", "cache-control", "etag", "link", "user-agent", "vary", "x-a", "x-request", "a" * 60]
SECRETS = ["authorization", "x-secret"]
# What may stand in a value; none at either end, where blanks do not count.
LETTERS = [chr(byte) for byte in range(0x21, 0x7F)] + [chr(byte) for byte in range(0x80, 0x100)]


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def value(rng):
    kind = rng.randrange(6)
    if kind == 0:
        return ""
    if kind == 1:
        return str(rng.randrange(10 ** rng.randrange(1, 12)))
    if kind == 2:
        # What an entry of the table holds just so, or just not.
        return "v" * rng.choice([126, 127, 128, 254, 255, 256, 1000, 2000, 4000])
    if kind == 3:
        return rng.choice(["gzip, br", "no-cache", "text/html", "a b", "\x7f".replace("\x7f", "~") * 20])
    return "".join(rng.choice(LETTERS) for _ in range(rng.randrange(1, 60)))


def fields(rng, known):
    """Some fields; many of them stood in an earlier list, so that tables are of use."""
    found = []
    for _ in range(rng.randrange(0, 14)):
        if known and rng.random() < 0.5:
            found.append(rng.choice(known))
        else:
            found.append((rng.choice(NAMES + SECRETS), value(rng)))
    known.extend(found)
    del known[:-60]
    return found


def own(headers, names=frozenset(NAMES + SECRETS)):
    """Those fields that are ours, in order."""
    return [(name, value) for name, value in headers if name in names]


class Peer:
    """One end of a connection, with the coders of the package. All bytes are text of Latin-1 here."""

    def __init__(self, stream, rng):
        self.stream, self.rng = stream, rng
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.settimeout(60)
        self.file = stream.makefile("rb")
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder(max_header_list_size=1 << 20)
        self.allowed, self.pending = TABLE_DEFAULT, []

    def settings(self):
        """Another size for the table of what comes, which holds once it is acknowledged."""
        size = self.rng.choice([0, 1, 32, 100, 500, 4096, 5000, 65536])
        self.pending.append(size)
        self.stream.sendall(frame(SETTINGS, 0, 0, struct.pack(">HI", TABLE_SIZE, size)))

    def resize(self):
        """Another size, or two of them, for the table of what goes: within what the gateway allows."""
        for _ in range(self.rng.randrange(1, 3)):
            self.set_size(self.rng.choice([0, 64, 300, 2000, 4096]))

    def set_size(self, size):
        # The package forgets a change behind which the same size is set once more.
        if size != self.encoder.header_table_size:
            self.encoder.header_table_size = size

    def send(self, stream, headers, end=True):
        secret = [
            hpack.NeverIndexedHeaderTuple(name, value) if name in SECRETS else hpack.HeaderTuple(name, value)
            for name, value in ((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)
        ]
        block = self.encoder.encode(secret, huffman=self.rng.random() < 0.7)
        cut = self.rng.randrange(len(block) + 1) if self.rng.random() < 0.3 else len(block)
        assert cut <= 16384
        flags = END_STREAM if end else 0
        if cut == len(block):
            return self.stream.sendall(frame(HEADERS, flags | END_HEADERS, stream, block))
        self.stream.sendall(frame(HEADERS, flags, stream, block[:cut]) + frame(CONTINUATION, END_HEADERS, stream, block[cut:]))

    def next(self):
        """The next head: its stream and its fields. None at the connection's end."""
        block = b""
        while True:
            head = self.file.read(9)
            if len(head) < 9:
                return None
            length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            stream = int.from_bytes(head[5:], "big")
            payload = self.file.read(length)
            if kind == SETTINGS and flags & ACK and self.pending:
                # From here on their blocks keep to it, and say so first where it became less.
                self.decoder.max_allowed_table_size = self.pending.pop(0)
            elif kind == SETTINGS and not flags & ACK:
                self.met(payload)
                self.stream.sendall(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                self.stream.sendall(frame(PING, ACK, 0, payload))
            elif kind == GOAWAY or kind == RESET:
                raise AssertionError(f"frame {kind} for stream {stream}: {payload}")
            elif kind in (HEADERS, CONTINUATION):
                assert not flags & 0x28, "padding or priority"
                block += payload
                if flags & END_HEADERS:
                    decoded = self.decoder.decode(block, raw=True)
                    return stream, [(name.decode("latin-1"), value.decode("latin-1")) for name, value in decoded]

    def met(self, payload):
        for at in range(0, len(payload), 6):
            identifier, size = struct.unpack(">HI", payload[at : at + 6])
            if identifier == TABLE_SIZE:
                self.set_size(size)


class Endpoint:
    """Answers each request with random fields, and remembers what came and what went."""

    def __init__(self, seed):
        self.seed, self.seen, self.sent, self.faults = seed, {}, {}, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        at = 0
        while True:
            stream, _ = self.listener.accept()
            at += 1
            threading.Thread(target=self.serve, args=(stream, random.Random(self.seed + at)), daemon=True).start()

    def serve(self, stream, rng):
        try:
            self.answer(stream, rng)
        except OSError:
            # The gateway's end.
            pass
        except Exception as error:
            self.faults.append(repr(error))
            stream.close()

    def answer(self, stream, rng):
        peer, known = Peer(stream, rng), []
        assert peer.file.read(len(PREFACE)) == PREFACE
        stream.sendall(frame(SETTINGS, 0, 0))
        while (met := peer.next()) is not None:
            number, headers = met
            path = dict(headers)[":path"]
            self.seen[path] = own(headers)
            if rng.random() < 0.1:
                peer.settings()
            if rng.random() < 0.1:
                peer.resize()
            self.sent[path] = fields(rng, known)
            status = rng.choice(["200", "200", "201", "404", "503", "299"])
            peer.send(number, [(":status", status), *self.sent[path]])


def talk(address, endpoint, seed, count):
    """Requests on one connection, several at once; what arrives is what was sent, on both sides."""
    rng, known, number, told = random.Random(seed), [], 1, {}
    with socket.create_connection(address, 60) as stream:
        peer = Peer(stream, rng)
        stream.sendall(PREFACE + frame(SETTINGS, 0, 0))
        for turn in range(count):
            if rng.random() < 0.1:
                peer.settings()
            if rng.random() < 0.1:
                peer.resize()
            for _ in range(rng.randrange(1, 6)):
                path = f"/{seed}/{number}"
                told[number] = (path, fields(rng, known))
                base = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "hpack.test")]
                peer.send(number, [*base, *told[number][1]])
                number += 2
            while told:
                met, headers = peer.next()
                path, sent = told.pop(met)
                where = f"seed {seed}, turn {turn}, stream {met}"
                assert endpoint.seen[path] == sent, (where, "request", sent, endpoint.seen[path])
                assert own(headers) == endpoint.sent[path], (where, "response", endpoint.sent[path], own(headers))
    return (number - 1) // 2


def main():
    asked = os.environ.get("RINGWAY_SEED")
    seeds = [int(asked)] if asked else list(range(CONNECTIONS))
    endpoint = Endpoint(seeds[0] * 1000)
    with gateway(CONFIG.replace("PORT", str(endpoint.port))) as running:
        host, port = running.listening[0].rsplit(":", 1)
        passed = 0
        for seed in seeds:
            try:
                passed += talk((host, int(port)), endpoint, seed, ROUNDS)
            except Exception:
                print(f"seed {seed}; at the endpoint: {endpoint.faults}")
                raise
        assert not endpoint.faults, endpoint.faults
    print(f"HPACK: {passed} requests and as many responses on {len(seeds)} connections, every field as it was sent")


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.1f} s", file=sys.stderr)
