"""The wires of a row: what the load side speaks to the gateway, what the gateway speaks to the upstream, and the probes
that find out whether a gateway answers on such a wire."""
from __future__ import annotations

import socket
import ssl
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

HOST = "bench.test"
GRPC_PATH = "/bench.Echo/Unary"
GRPC_MESSAGE_BYTES = 100


@dataclass(frozen=True)
class Front:
    """What clients speak."""

    tls: bool = False
    http2: bool = False

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for `HOST`, the same for all peers: ECDSA, P-256."""

    chain: Path
    key: Path
    both: Path
    """Key and chain in one file, as HAProxy wants them."""

    @classmethod
    def make(cls, directory: Path) -> Certificate:
        made = cls(directory / "chain.pem", directory / "key.pem", directory / "both.pem")
        command = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "30", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST},IP:127.0.0.1",
            "-keyout", made.key, "-out", made.chain,
        ]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"loadtest: openssl makes no certificate: {done.stderr.strip()}")
        made.both.write_text(made.chain.read_text() + made.key.read_text())
        for file in (made.chain, made.key, made.both):
            file.chmod(0o644)  # it lives in the scratch directory, for the minutes of a run
        return made


def grpc_frame() -> bytes:
    """One uncompressed message: a protobuf with one field of bytes."""
    message = b"\x0a" + bytes([GRPC_MESSAGE_BYTES - 2]) + b"x" * (GRPC_MESSAGE_BYTES - 2)
    return struct.pack(">BI", 0, len(message)) + message


class WireError(Exception):
    """The other side did not speak as it should."""


def connect(port: int, front: Front, timeout_s: float = 5) -> socket.socket:
    """A connection on which a request can be sent. The certificate is not verified: it is not what is measured."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
    if not front.tls:
        return plain
    try:
        return _context(front).wrap_socket(plain, server_hostname=HOST)
    except Exception:
        plain.close()
        raise


_CONTEXTS: dict[Front, ssl.SSLContext] = {}


def _context(front: Front) -> ssl.SSLContext:
    if front not in _CONTEXTS:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["h2"] if front.http2 else ["http/1.1"])
        _CONTEXTS[front] = context
    return _CONTEXTS[front]


def exchange(connection: socket.socket, front: Front, path: str = "/1k", post: bytes | None = None) -> int:
    """The first request of a connection; reads the whole answer and returns its status."""
    return _exchange_h2(connection, front, path, post) if front.http2 else _exchange_h1(connection, path)


def get_status(port: int, front: Front = Front(), path: str = "/1k", post: bytes | None = None) -> int:
    """The status of one request on a new connection; 0 when nobody answers."""
    try:
        with connect(port, front) as connection:
            return exchange(connection, front, path, post)
    except (OSError, WireError, ValueError):
        return 0


def is_closed(connection: socket.socket) -> bool:
    """Whether the gateway has closed it. What it may still send on an idle connection is read and dropped."""
    connection.setblocking(False)  # with a timeout set, Python itself would wait for bytes
    try:
        while True:
            if connection.recv(4096) == b"":
                return True
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def _exchange_h1(connection: socket.socket, path: str) -> int:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    received = b""
    while b"\r\n\r\n" not in received:
        received += _read(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    left = _content_length(head) - len(body)
    while left > 0:
        left -= len(_read(connection))
    return int(head.split(b" ", 2)[1])


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise WireError("an answer without Content-Length")


DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS, ACK, PADDED, PRIORITY = 0x1, 0x4, 0x1, 0x8, 0x20
STATUS_OF_INDEX = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}


def _exchange_h2(connection: socket.socket, front: Front, path: str, post: bytes | None) -> int:
    fields = [(b":method", b"POST" if post else b"GET"), (b":scheme", front.scheme.encode()),
              (b":authority", HOST.encode()), (b":path", path.encode())]
    if post:
        fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    block = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in fields)
    out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, b"")
    out += _frame(HEADERS, END_HEADERS | (0 if post else END_STREAM), 1, block)
    out += _frame(DATA, END_STREAM, 1, post) if post else b""
    connection.sendall(out)
    received, status = b"", 0
    while True:
        while len(received) < 9 or len(received) < 9 + int.from_bytes(received[:3], "big"):
            received += _read(connection)
        length, kind, flags = int.from_bytes(received[:3], "big"), received[3], received[4]
        stream, payload = int.from_bytes(received[5:9], "big") & 0x7FFF_FFFF, received[9:9 + length]
        received = received[9 + length:]
        if kind == SETTINGS and not flags & ACK:
            connection.sendall(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            connection.sendall(_frame(PING, ACK, 0, payload))
        elif kind == GOAWAY or (kind == RST_STREAM and stream == 1):
            raise WireError("the gateway gave the stream up")
        elif kind == HEADERS and stream == 1 and status == 0:
            status = _status(payload, flags)
        if stream == 1 and kind in (DATA, HEADERS) and flags & END_STREAM:
            return status


def _status(payload: bytes, flags: int) -> int:
    """The status of a header block, which comes first and indexed; 1 for one that is spelled out."""
    at = (1 if flags & PADDED else 0) + (5 if flags & PRIORITY else 0)
    while at < len(payload) and payload[at] & 0xE0 == 0x20:
        # A change of the table's size, whose number may go on.
        more = payload[at] & 0x1F == 0x1F
        at += 1
        while more and at < len(payload):
            more = payload[at] & 0x80 != 0
            at += 1
    return STATUS_OF_INDEX.get(payload[at] & 0x7F, 1) if at < len(payload) and payload[at] & 0x80 else 1


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _read(connection: socket.socket) -> bytes:
    chunk = connection.recv(65_536)
    if not chunk:
        raise WireError("the gateway closed the connection")
    return chunk
