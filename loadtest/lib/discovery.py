"""Two runs of one command each.

`updates`: 10,000 endpoints in 1,000 services, ten of their lists replaced each second, beside the plain path: CPU per
request, p99 and memory against the same gateway while nothing changes.

`revive`: one endpoint of three is killed and started again under wrk; the shares of all three over time become a plot. Then
all are killed and one is started: how long clients wait to be told, and until they are served.
"""
from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from . import host, install, load, plot
from .process import Supervisor, _stat_fields, TICKS_PER_S, read_stat, tree_memory, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
ENDPOINTS_PER_SERVICE = 10
COUNTS = {"sets": "ringway_discovery_updates_total", "reloads": "ringway_config_reloads_total"}
START_TIMEOUT_S = 60.0
DEAD_MS = 10.0
"""So long a client may wait to be told that all are dead (F29)."""
ALLOWED = 1.05
"""Updates may cost this much of the quiet figure (proof 5 of the upstreams' issue)."""


class Bed:
    """Processes, cores and a directory; leaves none of them behind."""

    def __init__(self, binary: Path, workers: int) -> None:
        self.binary, self.workers = binary.resolve(), workers
        self.cores, self.supervisor = host.choose_cores(workers), Supervisor()
        self.directory = tempfile.TemporaryDirectory(prefix="discovery-")
        self.scratch = Path(self.directory.name)

    def __enter__(self) -> Bed:
        # What this program does itself must not be done on the gateway's core.
        self.before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores.load)
        return self

    def __exit__(self, *_what) -> None:
        os.sched_setaffinity(0, self.before)
        self.supervisor.stop_all()
        self.directory.cleanup()

    def origin(self, address: str, name: str) -> subprocess.Popen:
        command = [self.binary, "demo-upstream", "--listen", address, "--name", name]
        return self.supervisor.start(command, self.cores.load, stderr=subprocess.DEVNULL)

    def configure(self, text: str) -> None:
        _replace(self.scratch / "ringway.yaml", text)

    def gateway(self, sections: dict, admin: int) -> subprocess.Popen:
        """Starts it and waits until it is ready."""
        path, log = self.scratch / "ringway.yaml", self.scratch / "ringway.log"
        self.configure(_yaml(sections))
        with open(log, "w") as file:
            started = self.supervisor.start([self.binary, "run", "-c", path], self.cores.proxy, stderr=file)
        ready = lambda: started.poll() is not None or _ask(admin, "/ready") is not None  # noqa: E731
        if not wait_until(ready, START_TIMEOUT_S, 0.05) or started.poll() is not None:
            raise SystemExit(f"discovery: the gateway does not start\n{log.read_text()[-2000:]}")
        return started


def _replace(path: Path, text: str) -> None:
    """Its readers find the old text or the new one."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def _yaml(sections: dict) -> str:
    """As people write it: lists of mappings have a line for each key."""
    lines = []
    for key, value in sections.items():
        if not (isinstance(value, list) and value and isinstance(value[0], dict)):
            lines.append(f"{key}: {json.dumps(value)}")
            continue
        lines.append(f"{key}:")
        for item in value:
            signs = ["  - "] + ["    "] * len(item)
            lines += [f"{sign}{name}: {json.dumps(of)}" for sign, (name, of) in zip(signs, item.items())]
    return "\n".join(lines) + "\n"


def _ask(admin: int, path: str):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}{path}", timeout=10) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def _metric(admin: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


# -- updates ----------------------------------------------------------------------------------------------------------

class Lists:
    """The endpoint lists of the services, one file each. A turn moves one address of one list."""

    def __init__(self, directory: Path, services: int, port: int) -> None:
        self.directory, self.services, self.port = directory, services, port
        self.turn = 0
        for service in range(services):
            _replace(self.path(service), self.text(service, 0))

    def path(self, service: int) -> Path:
        return self.directory / f"s{service}.yaml"

    def text(self, service: int, moved: int) -> str:
        first = service * ENDPOINTS_PER_SERVICE
        numbers = [first + at for at in range(ENDPOINTS_PER_SERVICE - 1)]
        # The last one comes from a range of its own, and is another one after each turn.
        last = f"127.200.{moved % 250}.{1 + service % 250}"
        addresses = [f"127.{1 + n // 62_500}.{n // 250 % 250}.{1 + n % 250}" for n in numbers] + [last]
        return "".join(f"- {address}:{self.port}\n" for address in addresses)

    def next(self):
        """Composes the next turn; what it returns makes it."""
        self.turn += 1
        service = self.turn % self.services
        path, text = self.path(service), self.text(service, 1 + self.turn // self.services)
        return lambda: _replace(path, text)


class File:
    """The configuration. A turn changes a time of one service, or the priority of one route, or nothing."""

    def __init__(self, bed: Bed, sections: dict, what: str, pid: int) -> None:
        self.bed, self.sections, self.what, self.pid, self.turn = bed, sections, what, pid, 0

    def next(self):
        """Composes the next turn; what it returns makes it."""
        self.turn += 1
        text = None
        if self.what != "nothing":
            items = self.sections["services" if self.what == "service" else "routes"]
            # The first one is the plain path's.
            item, number = items[1 + self.turn % (len(items) - 1)], 1 + self.turn % 50
            item |= {"timeouts": {"connect": f"{number}s"}} if self.what == "service" else {"priority": number}
            text = _yaml(self.sections)

        def turn() -> None:
            if text is not None:
                self.bed.configure(text)
            os.kill(self.pid, signal.SIGHUP)

        return turn


class Updating:
    """Makes turns at a steady rate while it is entered, of each source one. They are composed before: that takes longer
    than all that the gateway does with them."""

    def __init__(self, sources: list, per_second: float, seconds: float) -> None:
        # Some more, as the load begins a little later and ends a little later.
        self.turns = [[source.next() for source in sources] for _ in range(int(per_second * (seconds + 2)))]
        self.pause_s = 1 / per_second
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Updating:
        self.thread.start()
        return self

    def __exit__(self, *_what) -> None:
        self.over.set()
        self.thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        for turn in self.turns:
            if self.over.wait(max(0.0, due - time.monotonic())):
                return
            due += self.pause_s
            for change in turn:
                change()


def _thread_cpu_s(pid: int) -> tuple[float, float]:
    """CPU seconds of the workers, and of all other threads, those that have ended too: the process has what they used."""
    workers = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = _stat_fields(f"{task}/stat")
        if fields is None:
            continue
        used = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        try:
            name = (task / "comm").read_text()
        except OSError:
            name = ""
        if name.startswith("worker"):
            workers += used
    return workers, read_stat(pid).cpu.total_s - workers


def _waited_ms(pid: int) -> float:
    """So long the workers were ready to run and had no core, since they started."""
    tasks = [task for task in Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().startswith("worker")]
    return sum(int((task / "schedstat").read_text().split()[1]) for task in tasks) / 1e6


def _phase(bed: Bed, pid: int, port: int, rate: float, seconds: float, paths: Path) -> dict:
    """The constant-rate generator's figures, and what the gateway used meanwhile."""
    before, begin_s = _thread_cpu_s(pid), time.monotonic()
    whole_before, waited_before_ms = read_stat(pid).cpu.total_s, _waited_ms(pid)
    result = load.run_rate(bed, port, 64, rate, seconds, paths)
    workers, others = (after - was for after, was in zip(_thread_cpu_s(pid), before))
    count, took_s = max(result.requests, 1), time.monotonic() - begin_s
    return {
        "worker_us": workers * 1e6 / count,
        "whole_us": (read_stat(pid).cpu.total_s - whole_before) * 1e6 / count,
        "other_share": others / took_s, "waited_ms": (_waited_ms(pid) - waited_before_ms) / took_s,
        "p50_us": result.report["p50_us"], "p99_us": result.report["p99_us"],
        "errors": sum(result.errors().values()), "rss_mib": tree_memory(pid).rss_kib / 1024,
    }


def updates(options) -> int:
    host.raise_file_limit()
    install.BUILT.mkdir(exist_ok=True)
    install.build_tools()
    with Bed(options.ringway, options.workers) as bed:
        port, admin, upstream = (host.free_port() for _ in range(3))
        bed.origin(f"0.0.0.0:{upstream}", "up")
        lists = Lists(bed.scratch, options.services, upstream)
        services = [{"name": "plain", "endpoints": [f"127.0.0.1:{upstream}"]}]
        services += [{"name": f"s{n}", "discovery": [{"file": str(lists.path(n))}]} for n in range(options.services)]
        routes = [{"name": "plain", "prefix": "/1k", "service": "plain"}]
        routes += [{"name": f"s{n}", "prefix": f"/s{n}/", "service": f"s{n}"} for n in range(options.services)]
        sections = {
            "server": {"workers": options.workers}, "admin": {"listen": f"127.0.0.1:{admin}"},
            "discovery": {"wait": "30s"}, "logging": {"level": "error", "access_log": {"format": "off"}},
            "listeners": [{"address": f"127.0.0.1:{port}"}], "services": services, "routes": routes,
        }
        started = bed.gateway(sections, admin)
        file = File(bed, sections, options.change, started.pid)
        paths = bed.scratch / "paths"
        paths.write_text("/1k\n")
        peak = load.run_wrk(bed, load.Wrk(64), port, 2)
        rate = options.rate or peak.requests / (peak.report["duration_us"] / 1e6) / 2
        print(f"{options.services} services, {options.services * ENDPOINTS_PER_SERVICE} endpoints; "
              f"{rate:,.0f} requests/s; {options.per_second:g} updates/s", flush=True)
        kinds = ["quiet", "updates"] + (["updates and reloads"] if options.reloads else [])
        figures = {kind: [] for kind in kinds}
        for number in range(options.rounds):
            for kind in kinds[number % len(kinds):] + kinds[:number % len(kinds)]:
                before = [_metric(admin, name) for name in COUNTS.values()]
                if kind == "quiet":
                    found = _phase(bed, started.pid, port, rate, options.seconds, paths)
                else:
                    sources = [lists, file] if "reloads" in kind else [lists]
                    with Updating(sources, options.per_second, options.seconds):
                        found = _phase(bed, started.pid, port, rate, options.seconds, paths)
                # The file watch sees a change after 0.7 s at most; the next phase begins when all is quiet.
                time.sleep(1.5)
                found |= {key: _metric(admin, name) - was for (key, name), was in zip(COUNTS.items(), before)}
                figures[kind].append(found)
                print(f"  {kind:<20} " + _line(found), flush=True)
        return _judge(figures, options)


def _line(found: dict) -> str:
    return (f"worker {found['worker_us']:6.2f} µs/request, whole {found['whole_us']:6.2f}, other threads "
            f"{found['other_share'] * 100:5.1f} % of a core, worker waited {found['waited_ms']:5.1f} ms a second, "
            f"p50 {found['p50_us']:7.0f} µs, p99 {found['p99_us']:7.0f}, "
            f"RSS {found['rss_mib']:6.1f} MiB, {found['sets']:.0f} sets, "
            f"{found['reloads']:.0f} reloads, {found['errors']} errors")


def _judge(figures: dict, options) -> int:
    middle = lambda kind, key: statistics.median(found[key] for found in figures[kind])  # noqa: E731
    print("\n| | " + " | ".join(figures) + " |\n" + "|---" * (len(figures) + 1) + "|")
    for key in ("worker_us", "whole_us", "waited_ms", "p50_us", "p99_us", "rss_mib", "sets", "reloads", "errors"):
        print(f"| {key} | " + " | ".join(f"{middle(kind, key):,.2f}" for kind in figures) + " |")
    # Of one kind, for the first change makes room that the next ones use.
    busiest = list(figures.values())[-1]
    first, last = busiest[0]["rss_mib"], busiest[-1]["rss_mib"]
    print(f"resident: {figures['quiet'][0]['rss_mib']:.1f} MiB at first, {first:.1f} behind the first {list(figures)[-1]}, "
          f"{last:.1f} at last")
    faults = []
    for kind in list(figures)[1:]:
        for key in ("worker_us", "whole_us", "p99_us"):
            ratio = middle(kind, key) / max(middle("quiet", key), 0.01)
            print(f"{kind}: {key} × {ratio:.3f} of quiet")
            if ratio > ALLOWED:
                faults.append(f"{kind}: {key} is over {ALLOWED:g} × quiet")
    if last > first * 1.05 + 1:
        faults.append(f"resident memory grew from {first:.1f} to {last:.1f} MiB")
    if any(found["errors"] for all_found in figures.values() for found in all_found):
        faults.append("requests failed")
    if any(found["sets"] for found in figures["quiet"]):
        faults.append("something changed while nothing should")
    if min(found["sets"] for found in figures["updates"]) < options.per_second * options.seconds * 0.8:
        faults.append("not all updates were taken up")
    print("\n".join(f"NOT MET: {fault}" for fault in faults) or "met")
    return 1 if faults else 0


# -- revive -----------------------------------------------------------------------------------------------------------

def revive(options) -> int:
    with Bed(options.ringway, options.workers) as bed:
        port, admin, *ports = (host.free_port() for _ in range(5))
        addresses = [f"127.0.0.1:{number}" for number in ports]
        origins = [bed.origin(address, f"up{at}") for at, address in enumerate(addresses)]
        bed.gateway({
            "server": {"workers": options.workers}, "admin": {"listen": f"127.0.0.1:{admin}"},
            "logging": {"level": "error", "access_log": {"format": "off"}},
            "listeners": [{"address": f"127.0.0.1:{port}"}],
            "services": [{
                "name": "up", "endpoints": addresses, "slow_start": f"{options.slow_start}s",
                "health_check": {"path": "/1k", "interval": "1s", "timeout": "500ms"},
            }],
            "routes": [{"path": "/*", "service": "up"}],
        }, admin)
        whole_s = options.before + options.dead + options.after
        print(f"revive: {whole_s:.0f} s of load, then all are killed", flush=True)
        wrk = bed.supervisor.start(load.Wrk(16).command(port, whole_s), bed.cores.load,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        begin_s, samples, marks = time.monotonic(), [], []
        steps = [(options.before, "killed"), (options.before + options.dead, "started again")]
        while (now_s := time.monotonic() - begin_s) < whole_s - 0.5:
            if steps and now_s >= steps[0][0]:
                _, word = steps.pop(0)
                if word == "killed":
                    bed.supervisor.stop(origins[2], signal.SIGKILL)
                else:
                    origins[2] = bed.origin(addresses[2], "up2")
                marks.append((time.monotonic() - begin_s, word))
            samples.append(_sample(admin, begin_s, addresses))
            time.sleep(options.step)
        out, err = wrk.communicate(timeout=30)
        report = json.loads(err)
        events = _events(admin, addresses[2])
        dead = _all_dead(bed, port, origins, addresses)
    return _revived(options, samples, marks, report, events, addresses) + _told(dead)


def _all_dead(bed: Bed, port: int, origins: list, addresses: list) -> dict:
    """Kills all that are left, times what clients are told then, starts one again and times that (F29)."""
    for origin in origins:
        bed.supervisor.stop(origin, signal.SIGKILL)
    ask = lambda: _status(port)  # noqa: E731
    if not wait_until(lambda: ask()[0] == 503, 30, 0.01):
        raise SystemExit("discovery: all are dead, and nobody is told")
    told = [ask() for _ in range(300)]
    begin_s = time.monotonic()
    bed.origin(addresses[1], "up1")
    back = wait_until(lambda: ask()[0] == 200, 30, 0.005)
    return {"statuses": sorted({status for status, _, _ in told}), "ms": sorted(ms for _, ms, _ in told),
            "retry_after": sorted({after or "" for _, _, after in told}),
            "back_s": time.monotonic() - begin_s if back else None}


def _status(port: int) -> tuple:
    """One request on a connection of its own: status, milliseconds, Retry-After."""
    begin_s = time.monotonic()
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        client.request("GET", "/1k")
        answer = client.getresponse()
        answer.read()
        return answer.status, 1_000 * (time.monotonic() - begin_s), answer.getheader("Retry-After")
    finally:
        client.close()


def _told(dead: dict) -> int:
    middle, longest, back_s = dead["ms"][len(dead["ms"]) // 2], dead["ms"][-1], dead["back_s"]
    faults = []
    if dead["statuses"] != [503] or dead["retry_after"] == [""]:
        faults.append(f"answers {dead['statuses']}, Retry-After {dead['retry_after']}")
    if longest > DEAD_MS:
        faults.append(f"an answer took {longest:.1f} ms, {DEAD_MS} are allowed")
    # One interval of a second, its jitter, and the start of the endpoint.
    if back_s is None or back_s > 1.5:
        faults.append(f"it is back after {back_s} s, with a check each second")
    print(f"all dead: 503 in {middle:.2f} ms ({longest:.2f} at most, connection included); one started: "
          f"200 after {back_s or 0:.2f} s")
    print("\n".join(f"NOT MET: {fault}" for fault in faults) or "met")
    return 1 if faults else 0


def _sample(admin: int, begin_s: float, addresses: list) -> dict:
    endpoints = {one["address"]: one for one in _ask(admin, "/services/up/endpoints") or []}
    at_s = time.monotonic() - begin_s
    return {
        "at_s": at_s, "failed": _failed(admin),
        "requests": [endpoints[address]["opened"] + endpoints[address]["reused"] for address in addresses],
        "states": [endpoints[address]["state"] for address in addresses],
    }


def _failed(admin: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("gateway_requests_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'status="5' in line or 'status="4' in line)


def _events(admin: int, address: str) -> list:
    return [event["what"] for event in _ask(admin, "/events") or [] if event.get("endpoint") == address]


def _revived(options, samples: list, marks: list, report: dict, events: list, addresses: list) -> int:
    rates = []
    for before, after in zip(samples, samples[1:]):
        took_s = after["at_s"] - before["at_s"]
        counted = [(late - early) / took_s for early, late in zip(before["requests"], after["requests"])]
        rates.append({"at_s": (before["at_s"] + after["at_s"]) / 2, "rates": counted,
                      "failed": (after["failed"] - before["failed"]) / took_s})
    dead_s, back_s = (at_s for at_s, _ in marks)
    out = [one for one in samples if one["at_s"] > dead_s and one["states"][2] != "healthy"]
    up = [one for one in samples if one["at_s"] > back_s and one["states"][2] == "healthy"]
    detected_s, healthy_s = (some[0]["at_s"] if some else None for some in (out, up))
    for at_s, word in ((detected_s, "left alone"), (healthy_s, "asked again")):
        if at_s is not None:
            marks.append((at_s, word))
    errors = {key: count for key, count in report.items() if key.startswith("errors_") and count}
    share = lambda some: [sum(one["rates"][2] for one in some), sum(sum(one["rates"]) for one in some)]  # noqa: E731
    end = share([one for one in rates if one["at_s"] > rates[-1]["at_s"] - 5])
    faults = []
    if errors or any(one["failed"] for one in rates):
        faults.append(f"requests failed: {errors or 'seen by the gateway'}")
    if detected_s is None or healthy_s is None:
        faults.append("the endpoint was not left alone, or not asked again")
    else:
        alone = [one for one in rates if detected_s + 1 < one["at_s"] < back_s]
        early = [one for one in rates if healthy_s + 0.5 < one["at_s"] < healthy_s + options.slow_start * 0.25]
        if sum(one["rates"][2] for one in alone) > 0:
            faults.append("the dead endpoint was asked after it was left alone")
        part, whole = share(early)
        if not 0 < part < whole * 0.25:
            faults.append(f"no slow start: {part:.0f} of {whole:.0f} in its first quarter")
    if not 0.28 < end[0] / max(end[1], 1) < 0.39:
        faults.append(f"it has not come back to its third: {end[0]:.0f} of {end[1]:.0f}")
    if options.svg:
        title = f"One of three endpoints is killed and started again (slow start {options.slow_start} s)"
        names = ["first endpoint", "second endpoint", "the one that is killed"]
        series = [(names[at], [(one["at_s"], one["rates"][at]) for one in rates]) for at in range(3)]
        series.append(("failed requests", [(one["at_s"], one["failed"]) for one in rates]))
        options.svg.write_text(plot.lines(title, "seconds", "requests per second", series, sorted(marks)))
        print(f"wrote {options.svg}")
    print(f"{report['requests']:,} requests, errors {errors or 0}; killed at {dead_s:.1f} s, left alone after "
          f"{(detected_s or 0) - dead_s:.2f} s; started at {back_s:.1f} s, asked again after {(healthy_s or 0) - back_s:.2f} s; "
          f"its last share {100 * end[0] / max(end[1], 1):.1f} %; events {events}")
    print("\n".join(f"NOT MET: {fault}" for fault in faults) or "met")
    return 1 if faults else 0


def main(arguments: list) -> int:
    parser = argparse.ArgumentParser(prog="loadtest/discovery", description=__doc__.split("\n\n")[0])
    parser.add_argument("--ringway", type=Path, default=ROOT / "target" / "release" / "ringway")
    parser.add_argument("--workers", type=int, default=1)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("updates", help="10,000 endpoints that change, beside the plain path")
    one.add_argument("--services", type=int, default=1_000)
    one.add_argument("--per-second", type=float, default=10.0)
    one.add_argument("--rate", type=float, help="requests/s; half of the peak if not given")
    one.add_argument("--seconds", type=float, default=10.0)
    one.add_argument("--rounds", type=int, default=5)
    one.add_argument("--reloads", action="store_true", help="a third kind of phase: with as many reloads besides")
    one.add_argument("--change", choices=("service", "route", "nothing"), default="service",
                     help="what of the file is another one at each reload")
    other = verbs.add_parser("revive", help="one endpoint of three is killed and started again")
    other.add_argument("--before", type=float, default=5)
    other.add_argument("--dead", type=float, default=6)
    other.add_argument("--after", type=float, default=24)
    other.add_argument("--slow-start", type=int, default=12)
    other.add_argument("--step", type=float, default=0.5)
    other.add_argument("--svg", type=Path)
    options = parser.parse_args(arguments)
    if not options.ringway.exists():
        raise SystemExit(f"discovery: {options.ringway} is not built (cargo build --release)")
    return updates(options) if options.verb == "updates" else revive(options)
