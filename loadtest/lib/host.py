"""The machine: which cores, which ports, how quiet it is, and what it is."""
from __future__ import annotations

import os
import platform
import random
import resource
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import process

FILES_WANTED = 65_536
FILES_MIN = 19_000
"""HAProxy refuses to start unless twice its `maxconn` fits; the idle row needs 5,000 client connections."""

PORT_RANGE = (10_000, 31_999)
"""Below the ephemeral range, so that no outgoing connection of the load tool takes a port that we chose."""

KTHREADD = 2 if os.path.exists("/proc/2/comm") and Path("/proc/2/comm").read_text() == "kthreadd\n" else -1


@dataclass(frozen=True)
class Cores:
    """Who runs where. `shared`: the machine is too small to keep the load off the proxy's cores."""

    proxy: set
    load: set
    shared: bool


def choose_cores(workers: int) -> Cores:
    """The first cores are the proxy's, one each worker; the next is for the load tool and the upstream."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("loadtest: at least two cores are needed, one for the proxy and one for the load")
    if len(cores) < workers:
        raise SystemExit(f"loadtest: {workers} workers need {workers} cores")
    if len(cores) == workers:
        return Cores(set(cores), set(cores), True)
    return Cores(set(cores[:workers]), {cores[workers]}, False)


def raise_file_limit() -> None:
    """Raises the descriptor limit that all children inherit, as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for soft, ceiling in ((FILES_WANTED, max(hard, FILES_WANTED)), (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, ceiling))
            break
        except (ValueError, OSError):
            continue
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < FILES_MIN:
        raise SystemExit(f"loadtest: the descriptor limit is under {FILES_MIN}: raise it with ulimit -n")


def free_port(taken: set = set()) -> int:  # noqa: B006 - shared on purpose: no port twice in one run
    """A loopback port nobody listens on."""
    while True:
        port = random.randint(*PORT_RANGE)
        if port in taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        taken.add(port)
        return port


class NoiseProbe:
    """How much CPU others used since the probe was made, in cores: foreign processes plus what the host stole.

    Kernel threads are left out, because most of what they do here is done for the processes measured.
    """

    def __init__(self) -> None:
        self.begin_s = time.monotonic()
        self.foreign_s, self.steal_s = _foreign_cpu_s(), _steal_s()

    def foreign_cores(self) -> float:
        wall_s = max(time.monotonic() - self.begin_s, 1e-3)
        used_s = max(0.0, _foreign_cpu_s() - self.foreign_s) + max(0.0, _steal_s() - self.steal_s)
        return used_s / wall_s


def wait_for_quiet(limit: float, patience_s: float) -> bool:
    """Waits until others use less than `limit` of a core for a second; False when they never did."""
    deadline = time.monotonic() + patience_s
    while True:
        probe = NoiseProbe()
        time.sleep(1.0)
        if probe.foreign_cores() <= limit:
            return True
        if time.monotonic() > deadline:
            return False


def cores_busy_s(cores: set) -> float:
    """Busy seconds of these cores since boot, softirq included: also what the kernel does on nobody's account."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, irq, softirq = (int(field) for field in fields[:7])
            total += user + nice + system + irq + softirq
    return total / process.TICKS_PER_S


def describe() -> dict:
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "kernel": platform.release(),
        "distribution": _os_name(),
        "tcp_congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
    }


def git_commit(directory: Path) -> str:
    """The short commit, with `-dirty` when tracked files differ; `nogit` outside a repository."""
    def git(*arguments: str) -> str:
        run = subprocess.run(["git", "-C", directory, *arguments], capture_output=True, text=True)
        return run.stdout.strip() if run.returncode == 0 else ""

    commit = git("rev-parse", "--short=10", "HEAD")
    if not commit:
        return "nogit"
    return commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")


def _foreign_cpu_s() -> float:
    stats = process.all_stats()
    ours = set(process.tree(os.getpid(), stats))
    return sum(
        stat.cpu.total_s for stat in stats.values()
        if stat.pid not in ours and KTHREADD not in (stat.pid, stat.parent)
    )


def _steal_s() -> float:
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / process.TICKS_PER_S


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _os_name() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()
