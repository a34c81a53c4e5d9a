"""The load side: wrk (closed loop), the constant-rate generator, and connections that just sit there."""
from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import wire
from .wire import Front

TOOLS = Path(__file__).resolve().parent.parent
WRK_SCRIPT = TOOLS / "wrk" / "load.lua"
BUILT = TOOLS / ".build"
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
    scheme: str = "http"

    def command(self, port: int, seconds: float) -> list:
        whole_s = max(1, round(seconds))
        return [
            "wrk", "-t1", f"-c{self.connections}", f"-d{whole_s}s", f"--timeout={WRK_TIMEOUT_S}s", "--latency",
            "-s", WRK_SCRIPT, f"{self.scheme}://127.0.0.1:{port}{self.path}", "--", *self.mode,
        ]


@dataclass(frozen=True)
class H2load:
    """One way of using h2load: so many connections with so many requests at a time on each."""

    connections: int
    streams: int
    path: str = "/1k"
    scheme: str = "http"
    message: Path | None = None
    """The body of a gRPC call; without it requests are GET."""

    def command(self, port: int, seconds: float) -> list:
        call = ["-d", self.message, "-H", "content-type: application/grpc", "-H", "te: trailers"] if self.message else []
        return [
            "h2load", "-t1", f"-c{self.connections}", f"-m{self.streams}", f"-D{max(1, round(seconds))}", *call,
            f"{self.scheme}://127.0.0.1:{port}{self.path}",
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
    command = [BUILT / "rate", port, connections, f"{rate:.1f}", seconds, paths]
    return _run(bench, command, seconds, during, lambda out, err: out)


def run_handshakes(bench, kind: str, port: int, concurrency: int, seconds: float) -> LoadResult:
    """Makes TLS handshakes of one kind, `full` or `resumed`."""
    return _run(bench, [BUILT / "handshake", port, kind, seconds, concurrency], seconds, None, lambda out, err: out)


def run_h2load(bench, h2load: H2load, port: int, seconds: float, midway=None) -> LoadResult:
    """Runs h2load to its end."""
    return _run(bench, h2load.command(port, seconds), seconds, midway, _h2load_json)


H2LOAD_REQUESTS = re.compile(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
H2LOAD_STATUS = re.compile(r"status codes: (\d+) 2xx")
H2LOAD_RATE = re.compile(r"finished in [\d.]+m?s, ([\d.]+) req/s")
H2LOAD_TIMES = re.compile(r"time for request: +\S+ +(\S+) +(\S+)")
UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6}


def _h2load_json(out: str, err: str) -> str:
    """What h2load says, as the other tools say it. It tells the longest and the mean time, and no percentiles."""
    found = [pattern.search(out) for pattern in (H2LOAD_REQUESTS, H2LOAD_STATUS, H2LOAD_RATE, H2LOAD_TIMES)]
    if not all(found):
        raise LoadError(f"h2load: {(out + err).strip()[-500:]}")
    done, succeeded, failed, errored, timeout = (int(number) for number in found[0].groups())
    rate = float(found[2][1])
    if not succeeded or not rate:
        raise LoadError("h2load: no request succeeded")
    # Streams that are open when the time is over count as failed, and as neither errors nor answers.
    refused = done - int(found[1][1])
    return json.dumps({
        "requests": done, "duration_us": done / rate * 1e6, "max_us": _duration_us(found[3][1]),
        "mean_us": _duration_us(found[3][2]), "errors_status": refused, "errors_timeout": timeout,
        "errors_stream": max(0, errored - _open_at_end(out)),
    })


def _open_at_end(out: str) -> int:
    total = re.search(r"requests: (\d+) total, (\d+) started, (\d+) done", out)
    return int(total[2]) - int(total[3]) if total else 0


def _duration_us(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * UNITS_US[unit]


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
    """Connections that each made one request and then stay open."""

    def __init__(self, front: Front = Front()) -> None:
        self.front = front
        self.sockets: list[socket.socket] = []

    def open(self, port: int, count: int) -> None:
        for _ in range(count):
            try:
                connection = wire.connect(port, self.front, timeout_s=10)
                self.sockets.append(connection)
                status = wire.exchange(connection, self.front)
            except wire.WireError as why:
                raise LoadError(str(why)) from why
            if status != 200:
                raise LoadError(f"status {status} on an idle connection")

    def closed_by_peer(self) -> int:
        """How many the gateway has closed meanwhile."""
        return sum(1 for connection in self.sockets if wire.is_closed(connection))

    def close(self) -> None:
        for connection in self.sockets:
            connection.close()
        self.sockets.clear()
