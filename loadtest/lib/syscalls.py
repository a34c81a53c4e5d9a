"""System calls per request, counted in two ways.

strace gives every call by name but makes each dear, so the gateway is slow and gathers more work per call than it
would in freedom. Tracepoints (perf stat) leave it nearly alone and also count operations put on an io_uring, but
need root and tracefs. Both are reported where both work.
"""
from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from . import load
from .bench import Bench, Running
from .peers import Peer
from .process import tree, wait_until
from .rows import Row

SECONDS = 2
ATTACH_TIMEOUT_S = 5.0
TRACEPOINTS = {
    "all": "raw_syscalls:sys_enter",
    "io_uring_enter": "syscalls:sys_enter_io_uring_enter",
    "ring_operations": "io_uring:io_uring_submit_req",
}
STRACE_LINE = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$")


def count(bench: Bench, peer: Peer, row: Row) -> dict:
    """Calls per request of `peer` under the row's load, from strace and, where it works, from tracepoints."""
    wrk = row.load(bench.scratch)
    with bench.running(peer, row) as running:
        load.run_wrk(bench, wrk, running.port, 1)
        traced = _with_strace(bench, running, wrk)
        free = _with_tracepoints(bench, running, wrk)
    return {"strace": traced, "tracepoints": free}


def in_words(record: dict) -> str:
    traced, free = record["strace"], record["tracepoints"]
    top = ", ".join(f"{name} {rate:.2f}" for name, rate in list(traced["by_name"].items())[:6])
    text = f"strace {traced['per_request']:.2f}/request ({top})"
    return text + (f"; tracepoints {free['all']:.2f}, io_uring_enter {free['io_uring_enter']:.2f}" if free else "")


def _with_strace(bench: Bench, running: Running, wrk: load.Wrk) -> dict:
    """Attached before the load starts and until it ends, so that requests and calls belong together."""
    output = Path(tempfile.mkstemp(dir=bench.scratch)[1])
    pids = [part for pid in tree(running.pid) for part in ("-p", pid)]
    tracer = bench.supervisor.start(["strace", "-c", "-f", "-o", output, *pids], bench.cores.proxy | bench.cores.load,
                                    stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _is_traced(running.pid), ATTACH_TIMEOUT_S)
        time.sleep(0.2)
        result = load.run_wrk(bench, wrk, running.port, SECONDS)
    finally:
        bench.supervisor.stop(tracer, signal.SIGINT)
    calls = dict(_strace_calls(output.read_text()))
    requests = max(result.requests, 1)
    by_name = {name: calls[name] / requests for name in sorted(calls, key=calls.get, reverse=True)}
    return {
        "requests": result.requests,
        "per_request": sum(by_name.values()),
        "io_uring_enter": by_name.get("io_uring_enter", 0.0),
        "by_name": {name: rate for name, rate in by_name.items() if rate >= 0.001},
    }


def _with_tracepoints(bench: Bench, running: Running, wrk: load.Wrk) -> dict | None:
    """None where the kernel or our rights do not allow it."""
    output = Path(tempfile.mkstemp(dir=bench.scratch)[1])
    events = ",".join(TRACEPOINTS.values())
    pids = ",".join(str(pid) for pid in tree(running.pid))
    try:
        tracer = bench.supervisor.start(["perf", "stat", "-x", ";", "-o", output, "-e", events, "-p", pids],
                                        bench.cores.load, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        return None
    try:
        time.sleep(0.3)
        result = load.run_wrk(bench, wrk, running.port, SECONDS)
        if tracer.poll() is not None:
            return None
    finally:
        bench.supervisor.stop(tracer, signal.SIGINT)
    counts = _perf_counts(output.read_text())
    requests = max(result.requests, 1)
    return {"requests": result.requests, **{key: counts.get(event, 0) / requests for key, event in TRACEPOINTS.items()}}


def _is_traced(pid: int) -> bool:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("TracerPid:"):
                return line.split()[1] != "0"
    return False


def _strace_calls(text: str):
    for line in text.splitlines():
        match = STRACE_LINE.match(line)
        if match and match[2] != "total":
            yield match[2], int(match[1])


def _perf_counts(text: str) -> dict:
    counts = {}
    for line in text.splitlines():
        fields = line.split(";")
        if len(fields) > 2 and fields[0].isdigit():
            counts[fields[2]] = int(fields[0])
    return counts
