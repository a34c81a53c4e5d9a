"""The command line of loadtest/run."""
from __future__ import annotations

import argparse
import datetime
import json
import shutil
import signal
import sys
from pathlib import Path

from . import bars, host, install, peers, report, rows
from .bench import Bench
from .load import TOOLS
from .rounds import Rounds
from .summary import summarise

REPOSITORY = TOOLS.parent
SYSCALL_ROWS = ("get1k_64", "get1k_512", "get64k", "post4k")
EXIT_FAILURES = 1


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.list:
        print("\n".join(f"{row.name:15} {row.title}" for row in rows.ALL))
        return 0
    if options.render:
        print(report.markdown(json.loads(options.render.read_text())), end="")
        return 0
    end_cleanly_on_signals()
    host.raise_file_limit()
    if not options.no_install:
        install.ensure("envoy" in options.peers)
    install.build_tools()
    return compare(options)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="loadtest/run", description="Measures ringway against other gateways.")
    names = lambda text: [name for name in text.split(",") if name]  # noqa: E731
    parser.add_argument("--rows", type=names, default=list(rows.NAMES), help="comma-separated, also `wires` and `engine`; default: all")
    parser.add_argument("--peers", type=names, default=list(peers.NAMES), help="comma-separated; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=4, metavar="S", help="seconds per measurement, whole")
    parser.add_argument("--workers", type=int, default=1, choices=(1, 2))
    parser.add_argument("--retries", type=int, default=3, help="how often a noisy round is repeated")
    parser.add_argument("--allow-noise", action="store_true", help="keep noisy rounds (to try things out)")
    parser.add_argument("--syscalls", action="store_true", help="also count system calls, in runs of their own")
    parser.add_argument("--ringway", type=Path, default=REPOSITORY / "target" / "release" / "ringway")
    parser.add_argument("--upstream", choices=peers.UPSTREAM_NAMES, default="nginx")
    parser.add_argument("--output", type=Path, help="directory; default: loadtest/results/<date>-<commit>")
    parser.add_argument("--keep", action="store_true", help="copy the summary to loadtest/results/committed")
    parser.add_argument("--no-install", action="store_true")
    parser.add_argument("--list", action="store_true", help="show the rows and end")
    parser.add_argument("--render", type=Path, metavar="JSON", help="print the Markdown of a results.json and end")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.peers if name not in peers.NAMES]
    if unknown:
        parser.error(f"unknown peer {', '.join(unknown)}; there are {', '.join(peers.NAMES)}")
    return options


def end_cleanly_on_signals() -> None:
    """SIGTERM and SIGHUP unwind like Ctrl-C, so that everything started is ended."""
    def leave(number: int, _frame) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)


def compare(options: argparse.Namespace) -> int:
    now = datetime.datetime.now().astimezone()
    commit = host.git_commit(REPOSITORY)
    directory = options.output or TOOLS / "results" / f"{now:%Y-%m-%d-%H%M}-{commit}"
    chosen_rows, chosen_peers = rows.choose(options.rows), usable_peers(options)
    directory.mkdir(parents=True, exist_ok=True)
    upstream = peers.make_upstream(options.upstream, options.ringway)
    result = {
        "date": now.isoformat(timespec="seconds"), "commit": commit, "machine": host.describe(),
        "versions": {peer.name: peer.version() for peer in [*chosen_peers, upstream]},
    }
    with Bench(directory, options.workers, max(1, round(options.duration))) as bench:
        result["setting"] = setting(options, bench)
        rounds = Rounds(bench, chosen_peers, options.rounds, options.retries, options.allow_noise)
        try:
            run(rounds, upstream, chosen_rows, options.syscalls)
        finally:
            save(directory, result, rounds)
    if options.keep:
        keep(directory)
    return finish(directory, result)


def usable_peers(options: argparse.Namespace) -> list:
    """Those asked for that can run here; says which cannot and why."""
    usable = []
    for name in options.peers:
        peer = peers.make(name, options.ringway, install.VENV)
        reason = peer.missing()
        if reason:
            print(f"leaving out {name}: {reason}", file=sys.stderr)
        else:
            usable.append(peer)
    if not usable:
        raise SystemExit("loadtest: there is no peer to measure")
    return usable


def setting(options: argparse.Namespace, bench: Bench) -> dict:
    return {
        "workers": options.workers, "rounds": options.rounds, "seconds": bench.seconds, "upstream": options.upstream,
        "allow_noise": options.allow_noise, "proxy_cores": sorted(bench.cores.proxy),
        "load_cores": sorted(bench.cores.load), "cores_shared": bench.cores.shared,
    }


def run(rounds: Rounds, upstream, chosen_rows: list, count_syscalls: bool) -> None:
    rounds.bench.start_upstream(upstream)
    for row in chosen_rows:
        rounds.run_row(row)
    if count_syscalls:
        print("\n== system calls per request", flush=True)
        for row in chosen_rows:
            if row.name in SYSCALL_ROWS:
                rounds.run_syscalls(row)


def save(directory: Path, result: dict, rounds: Rounds) -> None:
    """Also called when the run is broken off: what was measured until then is not lost."""
    result.update(
        records=rounds.records, discarded=rounds.discarded, failures=rounds.failures, syscalls=rounds.syscalls,
        summary=summarise(rounds.records),
    )
    result["bars"] = bars.check(result["summary"], rounds.syscalls)
    report.write(directory, result)


def keep(directory: Path) -> None:
    for name in ("results.md", "results.json"):
        shutil.copy(directory / name, TOOLS / "results" / "committed" / f"{directory.name}{Path(name).suffix}")


def finish(directory: Path, result: dict) -> int:
    """Says where the results are; failure when a measurement failed, not when a bar was missed."""
    missed = [bar["what"] for bar in result["bars"] if not bar["met"]]
    print(f"\nresults: {directory}/results.md")
    if missed:
        print("bars missed:\n  " + "\n  ".join(missed))
    if result["failures"]:
        print(f"{len(result['failures'])} measurements failed", file=sys.stderr)
        return EXIT_FAILURES
    return 0
