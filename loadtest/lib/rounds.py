"""Interleaved rounds: every peer once, then every peer again, so that drift of the machine hits all alike."""
from __future__ import annotations

import sys

from . import host, measure, syscalls
from .bench import Bench, PeerError
from .load import LoadError
from .peers import BASELINE, Peer
from .rows import Row

NOISE_MAX_CORES = 0.10
"""A round in which others used more than this part of a core does not count."""

QUIET_PATIENCE_S = 20.0
DEAD_AFTER = 2
"""A peer that failed a row so often is left out of the row's other rounds."""


class Rounds:
    """Runs rows and gathers `records`, `discarded` rounds and `failures`."""

    def __init__(self, bench: Bench, peers: list[Peer], rounds: int, retries: int, allow_noise: bool) -> None:
        self.bench, self.peers = bench, peers
        self.rounds, self.retries, self.allow_noise = rounds, retries, allow_noise
        self.records: list[dict] = []
        self.discarded: list[dict] = []
        self.failures: list[dict] = []
        self.syscalls: list[dict] = []

    def run_row(self, row: Row) -> None:
        print(f"\n== {row.name}: {row.title}", flush=True)
        for number in range(self.rounds):
            for attempt in range(self.retries + 1):
                if self._round(row, number, final=attempt == self.retries):
                    break

    def run_syscalls(self, row: Row) -> None:
        """Short runs apart from the timed ones, because tracing slows the gateway down."""
        for peer in self._peers_for(row, 0):
            try:
                record = {"row": row.name, "peer": peer.name, **syscalls.count(self.bench, peer, row)}
            except (PeerError, LoadError, OSError) as error:
                self._fail(row, peer, -1, error)
                continue
            self.syscalls.append(record)
            print(f"  syscalls {peer.name:13} {syscalls.in_words(record)}", flush=True)

    def _round(self, row: Row, number: int, final: bool) -> bool:
        """One turn of all peers. False when it was too noisy and has to be repeated."""
        if not self.allow_noise and not host.wait_for_quiet(NOISE_MAX_CORES, QUIET_PATIENCE_S):
            print(f"  round {number + 1}: others keep using the machine", flush=True)
        shared: dict = {}
        self._set_rate(row, number, shared)
        records = [record for peer in self._peers_for(row, number)
                   if (record := self._measure(row, peer, number, shared))]
        noisy = [record for record in records if record["foreign_cores"] > NOISE_MAX_CORES]
        if noisy and not self.allow_noise:
            worst = max(record["foreign_cores"] for record in noisy)
            print(f"  round {number + 1} discarded: others used {worst:.0%} of a core", flush=True)
            self.discarded.append({"row": row.name, "round": number, "foreign_cores": worst, "records": records})
            return final
        self.records.extend(records)
        return True

    def _set_rate(self, row: Row, number: int, shared: dict) -> None:
        """Measures the baseline's peak for the row with a common rate; without it the first peer's."""
        if row.kind != "rate":
            return
        source = min(self._peers_for(row, 0), key=lambda peer: peer.name != BASELINE)
        try:
            shared["rate"] = measure.peak_rate(self.bench, source, row) / 2
        except (PeerError, LoadError) as error:
            self._fail(row, source, number, error)

    def _measure(self, row: Row, peer: Peer, number: int, shared: dict) -> dict | None:
        try:
            figures = measure.measure(self.bench, peer, row, shared)
        except (PeerError, LoadError, OSError) as error:
            self._fail(row, peer, number, error)
            return None
        print(f"  round {number + 1} {peer.name:13} {_in_words(figures)}", flush=True)
        return {"row": row.name, "peer": peer.name, "round": number, **figures}

    def _peers_for(self, row: Row, number: int) -> list[Peer]:
        """Those that can do the row and still live, beginning with another one in each round."""
        failed = [(failure["row"], failure["peer"]) for failure in self.failures]
        able = [peer for peer in self.peers if (row.layer4 or not peer.layer4) and peer.speaks(row.front, row.back)]
        alive = [peer for peer in able if failed.count((row.name, peer.name)) < DEAD_AFTER]
        shift = number % len(alive) if alive else 0
        return alive[shift:] + alive[:shift]

    def _fail(self, row: Row, peer: Peer, number: int, error: Exception) -> None:
        print(f"  round {number + 1} {peer.name:13} FAILED: {error}", file=sys.stderr, flush=True)
        self.failures.append({"row": row.name, "peer": peer.name, "round": number, "error": str(error)})


def _in_words(figures: dict) -> str:
    shown = ("requests_per_s", "rate_per_s", "p50_us", "p99_us", "p999_us", "p99_calm_us", "p99_reload_us", "cpu_us",
             "rss_kib_per_connection", "start_ms", "rss_mib", "rss_peak_mib", "errors", "load_busy")
    return " ".join(f"{key}={figures[key]:.4g}" for key in shown if figures.get(key) is not None)
