"""The command line of loadtest/flamegraph."""
from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from . import flame, host, install, load, peers, rows
from .bench import Bench
from .main import REPOSITORY, end_cleanly_on_signals
from .process import tree

FREQUENCY_HZ = 1999
WARMUP_S = 1


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    end_cleanly_on_signals()
    host.raise_file_limit()
    if options.pid:
        text = record_attached(options)
        title = f"pid {options.pid}"
    else:
        text = record_under_load(options)
        title = f"{options.peer}, {options.row}"
    stacks = flame.fold(text)
    if not stacks:
        raise SystemExit("flamegraph: perf saw no samples; is the gateway idle?")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(flame.svg(stacks, f"{title}: CPU time, {options.seconds:g} s"))
    print(flame.top(stacks))
    print(f"\nflame graph: {options.output}")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="loadtest/flamegraph", description="Draws where a gateway's CPU time goes.")
    parser.add_argument("--peer", choices=peers.NAMES, default="ringway")
    parser.add_argument("--row", choices=rows.NAMES, default="get1k_64", help="the load to put on it (a wrk row)")
    parser.add_argument("--pid", type=int, help="a gateway that already runs under load; --peer and --row are ignored")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--ringway", type=Path, default=REPOSITORY / "target" / "release" / "ringway")
    parser.add_argument("--upstream", choices=peers.UPSTREAM_NAMES, default="nginx")
    parser.add_argument("--output", "-o", type=Path, default=install.TOOLS / "results" / "flamegraph.svg")
    return parser.parse_args(arguments)


def record_under_load(options: argparse.Namespace) -> str:
    """Starts the gateway with its upstream, loads it, and records meanwhile."""
    install.ensure(options.peer == "envoy")
    peer = peers.make(options.peer, options.ringway, install.VENV)
    row = rows.choose([options.row])[0]
    if peer.missing() or row.kind != "wrk":
        raise SystemExit(f"flamegraph: {peer.missing() or 'this row is not a wrk row'}")
    with Bench(options.output.parent / "flamegraph", options.workers, options.seconds) as bench:
        bench.start_upstream(peers.make_upstream(options.upstream, options.ringway))
        with bench.running(peer, row) as running:
            data = bench.scratch / "perf.data"
            wrk = row.load(bench.scratch)
            load.run_wrk(bench, wrk, running.port, WARMUP_S)
            perf = _record(bench, running.pid, data, options.seconds)
            load.run_wrk(bench, wrk, running.port, options.seconds + 1)
            perf.wait()
            return _script(data)


def record_attached(options: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "perf.data"
        subprocess.run(_record_command(options.pid, data, options.seconds), check=True, stderr=subprocess.DEVNULL)
        return _script(data)


def _record(bench: Bench, pid: int, data: Path, seconds: float) -> subprocess.Popen:
    """Starts perf, just before the load; it ends by itself before the load does."""
    return bench.supervisor.start(_record_command(pid, data, seconds), bench.cores.load, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)


def _record_command(pid: int, data: Path, seconds: float) -> list[str]:
    """cpu-clock needs no hardware counters, which virtual machines often lack; -g walks frame pointers."""
    pids = ",".join(str(member) for member in tree(pid))
    return ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY_HZ), "-g", "-p", pids, "-o", str(data),
            "--", "sleep", str(seconds)]


def _script(data: Path) -> str:
    run = subprocess.run(["perf", "script", "-i", data, "-F", "comm,pid,tid,time,ip,sym,dso"], capture_output=True,
                         text=True, errors="replace")
    if run.returncode != 0:
        raise SystemExit(f"flamegraph: perf script: {run.stderr.strip()[-500:]}")
    return run.stdout
