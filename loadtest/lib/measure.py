"""One measurement: one peer, one row, one round. Each procedure returns a flat dictionary of figures."""
from __future__ import annotations

import contextlib
import statistics
import threading
import time

from . import host, load, rows
from .bench import Bench, PeerError, Running, probe
from .peers import Peer
from .process import thread_cpu_s, tree_cpu, tree_memory, wait_until

WARMUP_S = 1
SETTLE_S = 0.5
IDLE_WATCH_S = 12.0
PEAK_S = 2
START_TIMEOUT_S = 10.0
START_POLL_S = 0.0003


def measure(bench: Bench, peer: Peer, row: rows.Row, shared: dict) -> dict:
    """Runs the row's procedure. `shared` carries figures between peers of a round (nginx's peak for `rate`)."""
    procedure = {"wrk": _wrk, "rate": _rate, "idle": _idle, "rest": _rest, "reload": _reload,
                 "h2load": _h2load, "handshake": _handshake}[row.kind]
    probe = host.NoiseProbe()
    figures = procedure(bench, peer, row, shared)
    figures["foreign_cores"] = round(probe.foreign_cores(), 3)
    return figures


class Meter:
    """CPU of the gateway, of the upstream and of the cores between two points in time."""

    def __init__(self, bench: Bench, running: Running, row: rows.Row) -> None:
        self.bench, self.running, self.upstream = bench, running, bench.upstream_of(row)
        self.begin_s = time.monotonic()
        self.before = self._read()
        self.threads_before = thread_cpu_s(running.pid)

    def figures(self, result: load.LoadResult) -> dict:
        cpu, upstream, core_s = (after - before for after, before in zip(self._read(), self.before))
        wall_s = time.monotonic() - self.begin_s
        count = max(result.requests, 1)
        load_s = result.tool_cpu_s + upstream.total_s
        shared = self.bench.cores.shared
        return {
            "cpu_us": cpu.total_s * 1e6 / count,
            "cpu_user_us": cpu.user_s * 1e6 / count,
            "cpu_system_us": cpu.system_s * 1e6 / count,
            "core_us": None if shared else core_s * 1e6 / count,
            "proxy_busy": cpu.total_s / wall_s / self.bench.workers,
            "load_busy": None if shared else load_s / wall_s / len(self.bench.cores.load),
            **self._worker_spread(),
        }

    def _read(self) -> tuple:
        return (
            tree_cpu(self.running.pid),
            tree_cpu(self.upstream.pid),
            host.cores_busy_s(self.bench.cores.proxy),
        )

    def _worker_spread(self) -> dict:
        """How far the busiest worker is from the least busy one, in parts of their mean."""
        if self.bench.workers < 2:
            return {}
        used = [after - self.threads_before.get(tid, 0.0) for tid, after in thread_cpu_s(self.running.pid).items()]
        busiest = sorted(used, reverse=True)[:self.bench.workers]
        mean = statistics.fmean(busiest)
        return {"worker_spread": (busiest[0] - busiest[-1]) / mean if mean else 0.0}


def _wrk(bench: Bench, peer: Peer, row: rows.Row, _shared: dict) -> dict:
    wrk = row.load(bench.scratch)
    with bench.running(peer, row) as running:
        load.run_wrk(bench, wrk, running.port, WARMUP_S)
        memory = []
        meter = Meter(bench, running, row)
        result = load.run_wrk(bench, wrk, running.port, bench.seconds, lambda: memory.append(tree_memory(running.pid)))
        figures = meter.figures(result)
        memory.append(tree_memory(running.pid))
        report = result.report
        return {
            "requests_per_s": result.requests / (report["duration_us"] / 1e6),
            "p50_us": report["p50_us"],
            "p99_us": report["p99_us"],
            **figures,
            "rss_peak_mib": max(sample.rss_peak_kib for sample in memory) / 1024,
            "pss_mib": max(sample.pss_kib for sample in memory) / 1024,
            **_errors(result),
        }


def _h2load(bench: Bench, peer: Peer, row: rows.Row, _shared: dict) -> dict:
    h2load = row.h2_load(bench.message)
    with bench.running(peer, row) as running:
        load.run_h2load(bench, h2load, running.port, WARMUP_S)
        memory = []
        meter = Meter(bench, running, row)
        look = lambda: memory.append(tree_memory(running.pid))  # noqa: E731
        result = load.run_h2load(bench, h2load, running.port, bench.seconds, look)
        figures = meter.figures(result)
        look()
        return {
            "requests_per_s": result.requests / (result.report["duration_us"] / 1e6),
            "mean_us": result.report["mean_us"],
            "max_us": result.report["max_us"],
            **figures,
            "rss_peak_mib": max(sample.rss_peak_kib for sample in memory) / 1024,
            "pss_mib": max(sample.pss_kib for sample in memory) / 1024,
            **_errors(result),
        }


def _handshake(bench: Bench, peer: Peer, row: rows.Row, _shared: dict) -> dict:
    with bench.running(peer, row) as running:
        load.run_handshakes(bench, row.handshake, running.port, rows.HANDSHAKES_AT_ONCE, WARMUP_S)
        meter = Meter(bench, running, row)
        result = load.run_handshakes(bench, row.handshake, running.port, rows.HANDSHAKES_AT_ONCE, bench.seconds)
        return {
            "requests_per_s": result.requests / (result.report["duration_us"] / 1e6),
            "p50_us": result.report["p50_us"],
            "p99_us": result.report["p99_us"],
            **meter.figures(result),
            "rss_peak_mib": tree_memory(running.pid).rss_peak_kib / 1024,
            **_errors(result),
        }


def _rate(bench: Bench, peer: Peer, row: rows.Row, shared: dict) -> dict:
    """The first peer of a round (nginx, when it takes part) sets the rate for all."""
    if "rate" not in shared:
        raise PeerError("the peak of nginx is not known")
    with bench.running(peer, row) as running:
        meter = Meter(bench, running, row)
        paths = row.paths_file(bench.scratch)
        result = load.run_rate(bench, running.port, rows.RATE_CONNECTIONS, shared["rate"], bench.seconds, paths)
        return {**_latency(result), "rate_per_s": shared["rate"], **meter.figures(result), **_errors(result)}


def peak_rate(bench: Bench, peer: Peer, row: rows.Row) -> float:
    """Requests/s of `peer` in a closed loop."""
    wrk = row.load(bench.scratch)
    with bench.running(peer, row) as running:
        return _peak(bench, running, wrk)


def _peak(bench: Bench, running: Running, wrk: load.Wrk) -> float:
    load.run_wrk(bench, wrk, running.port, WARMUP_S)
    result = load.run_wrk(bench, wrk, running.port, PEAK_S)
    return result.requests / (result.report["duration_us"] / 1e6)


def _reload(bench: Bench, peer: Peer, row: rows.Row, _shared: dict) -> dict:
    """Latency at half of the peer's own peak, first undisturbed, then with reloads."""
    paths = row.paths_file(bench.scratch)
    with bench.running(peer, row) as running:
        rate = _peak(bench, running, row.load(bench.scratch)) / 2
        calm = load.run_rate(bench, running.port, rows.RATE_CONNECTIONS, rate, bench.seconds, paths)
        meter = Meter(bench, running, row)
        with _reloading(running) as reloads:
            disturbed = load.run_rate(bench, running.port, rows.RATE_CONNECTIONS, rate, bench.seconds, paths)
        figures = meter.figures(disturbed)
        calm_p99, reload_p99 = calm.report["p99_us"], disturbed.report["p99_us"]
        return {
            "rate_per_s": rate,
            "p99_calm_us": calm_p99,
            "p99_reload_us": reload_p99,
            "p99_ratio": reload_p99 / max(calm_p99, 1),
            "p50_us": disturbed.report["p50_us"],
            "p999_us": disturbed.report["p999_us"],
            "reloads": len(reloads),
            "rss_peak_mib": tree_memory(running.pid).rss_peak_kib / 1024,
            **figures,
            **_errors(disturbed),
        }


@contextlib.contextmanager
def _reloading(running: Running):
    """Reloads each `RELOAD_EVERY_S` while the block runs; yields the list of the times at which it did."""
    done, times = threading.Event(), []

    def loop() -> None:
        while not done.wait(rows.RELOAD_EVERY_S):
            running.reload()
            times.append(time.monotonic())

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield times
    finally:
        done.set()
        thread.join()


def _idle(bench: Bench, peer: Peer, row: rows.Row, _shared: dict) -> dict:
    held, count = load.HeldConnections(row.front), row.idle_connections
    with bench.running(peer, row) as running:
        held.open(running.port, 1)
        time.sleep(SETTLE_S)
        before = tree_memory(running.pid)
        try:
            held.open(running.port, count)
            time.sleep(SETTLE_S)
            cpu_before = tree_cpu(running.pid)
            time.sleep(IDLE_WATCH_S)
            # What a peer gives back only after a while counts as given back: these clients stay idle for long.
            after, cpu_s = tree_memory(running.pid), (tree_cpu(running.pid) - cpu_before).total_s
            closed = held.closed_by_peer()
        finally:
            held.close()
        return {
            "rss_kib_per_connection": (after.rss_kib - before.rss_kib) / count,
            "pss_kib_per_connection": (after.pss_kib - before.pss_kib) / count,
            "anon_kib_per_connection": (after.anon_kib - before.anon_kib) / count,
            "rss_mib": after.rss_kib / 1024,
            "cpu_ms_per_s_idle": cpu_s * 1e3 / IDLE_WATCH_S,
            "errors": closed,
            "errors_by_kind": {"closed": closed} if closed else {},
        }


def _rest(bench: Bench, peer: Peer, row: rows.Row, _shared: dict) -> dict:
    starts = [_start_once(bench, peer, row) for _ in range(rows.STARTS)]
    spec = bench.spec_for(peer, row)
    peer.write(spec)
    process = bench.launch(peer, spec, bench.cores.proxy)
    try:
        # Nobody has connected yet: this is the state after a start, not after the first request.
        time.sleep(SETTLE_S * 2)
        memory = tree_memory(process.pid)
    finally:
        bench.supervisor.stop(process)
    return {
        "start_ms": statistics.median(starts),
        "start_ms_min": min(starts),
        "start_ms_max": max(starts),
        "rss_mib": memory.rss_kib / 1024,
        "pss_mib": memory.pss_kib / 1024,
        "anon_mib": memory.anon_kib / 1024,
        "errors": 0,
        "errors_by_kind": {},
    }


def _start_once(bench: Bench, peer: Peer, row: rows.Row) -> float:
    """Milliseconds from the fork to the first 200."""
    spec = bench.spec_for(peer, row)
    peer.write(spec)
    begin_s = time.monotonic()
    process = bench.launch(peer, spec, bench.cores.proxy)
    try:
        ready = wait_until(lambda: probe(spec) == 200, START_TIMEOUT_S, START_POLL_S)
        taken_ms = (time.monotonic() - begin_s) * 1e3
    finally:
        bench.supervisor.stop(process)
    if not ready:
        raise PeerError(f"{peer.name} did not answer within {START_TIMEOUT_S:.0f} s of its start")
    return taken_ms


def _latency(result: load.LoadResult) -> dict:
    keys = ("p50_us", "p99_us", "p999_us", "max_us", "lag_p99_us")
    return {key: result.report[key] for key in keys}


def _errors(result: load.LoadResult) -> dict:
    by_kind = result.errors()
    return {"errors": sum(by_kind.values()), "errors_by_kind": by_kind}
