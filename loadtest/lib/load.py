"""The load side: wrk (closed loop), the constant-rate generator, and connections that just sit there."""
from __future__ import annotations

import contextlib
import json
import resource
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent
WRK_SCRIPT = TOOLS / "wrk" / "load.lua"
RATE_BINARY = TOOLS / ".build" / "rate"
WRK_TIMEOUT_S = 10
FINISH_GRACE_S = 30


class LoadError(Exception):
    """The load tool failed; the text is what it said."""


@dataclass(frozen=True)
class Wrk:
    """One way of using wrk; `mode` is the argument list of load.lua."""

    connections: int
    path: str = "/1k"
    mode: tuple = ("get",)

    def command(self, port: int, seconds: float) -> list:
        whole_s = max(1, round(seconds))
        return [
            "wrk", "-t1", f"-c{self.connections}", f"-d{whole_s}s", f"--timeout={WRK_TIMEOUT_S}s", "--latency",
            "-s", WRK_SCRIPT, f"http://127.0.0.1:{port}{self.path}", "--", *self.mode,
        ]


@dataclass(frozen=True)
class LoadResult:
    """What the tool reported, and what it used."""

    report: dict
    wall_s: float
    tool_cpu_s: float

    @property
    def requests(self) -> int:
        return self.report["requests"]

    def errors(self) -> dict:
        prefix = "errors_"
        found = {key[len(prefix):]: value for key, value in self.report.items() if key.startswith(prefix)}
        if "unanswered" in self.report:
            found["unanswered"] = self.report["unanswered"]
        return {key: value for key, value in found.items() if value}


def run_wrk(bench, wrk: Wrk, port: int, seconds: float, midway=None) -> LoadResult:
    """Runs wrk to its end. `midway` is called once half way through, to look at the gateway under load."""
    return _run(bench, wrk.command(port, seconds), seconds, midway, lambda out, err: err)


def run_rate(bench, port: int, connections: int, rate: float, seconds: float, paths: Path, during=None) -> LoadResult:
    """Runs the constant-rate generator."""
    command = [RATE_BINARY, port, connections, f"{rate:.1f}", seconds, paths]
    return _run(bench, command, seconds, during, lambda out, err: out)


def _run(bench, command: list, seconds: float, midway, choose) -> LoadResult:
    begin_s, used_before_s = time.monotonic(), _children_cpu_s()
    tool = bench.supervisor.start(command, bench.cores.load, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if midway:
            time.sleep(seconds / 2)
            midway()
        out, err = tool.communicate(timeout=seconds + FINISH_GRACE_S)
    except subprocess.TimeoutExpired as late:
        raise LoadError(f"{command[0]} did not end") from late
    finally:
        bench.supervisor.stop(tool)
    wall_s = time.monotonic() - begin_s
    return LoadResult(_last_json(choose(out, err), err), wall_s, _children_cpu_s() - used_before_s)


def _last_json(text: str, err: str) -> dict:
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                return json.loads(line)
    raise LoadError(f"no result from the load tool: {err.strip()[-500:]}")


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class HeldConnections:
    """Keep-alive connections that each made one request and then stay open."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def open(self, port: int, count: int) -> None:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            self.sockets.append(connection)
            status = exchange(connection)
            if status != 200:
                raise LoadError(f"status {status} on an idle connection")

    def closed_by_peer(self) -> int:
        """How many the gateway has closed meanwhile."""
        return sum(1 for connection in self.sockets if _is_closed(connection))

    def close(self) -> None:
        for connection in self.sockets:
            connection.close()
        self.sockets.clear()


def exchange(connection: socket.socket, path: str = "/1k") -> int:
    """One GET on an open connection; reads the whole answer and returns its status."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench.test\r\n\r\n".encode())
    received = b""
    while b"\r\n\r\n" not in received:
        received += _read(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    left = _content_length(head) - len(body)
    while left > 0:
        left -= len(_read(connection))
    return int(head.split(b" ", 2)[1])


def get_status(port: int, path: str = "/1k") -> int:
    """The status of one GET on a new connection; 0 when nobody answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return exchange(connection, path)
    except (OSError, LoadError):
        return 0


def _read(connection: socket.socket) -> bytes:
    chunk = connection.recv(65_536)
    if not chunk:
        raise LoadError("the gateway closed the connection")
    return chunk


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise LoadError("an answer without Content-Length")


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)  # with a timeout set, Python itself would wait for bytes
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
