"""Child processes: started pinned, measured through /proc, and always ended by pid."""
from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
STOP_GRACE_S = 3.0
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Cpu:
    """CPU seconds."""

    user_s: float = 0.0
    system_s: float = 0.0

    @property
    def total_s(self) -> float:
        return self.user_s + self.system_s

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.user_s + other.user_s, self.system_s + other.system_s)

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user_s - other.user_s, self.system_s - other.system_s)


@dataclass(frozen=True)
class Stat:
    """What /proc/<pid>/stat says. `cpu` is that of all threads and of the children that were waited for."""

    pid: int
    parent: int
    start_ticks: int
    cpu: Cpu


def read_stat(pid: int) -> Stat | None:
    """The process's stat line, or None when it is gone."""
    fields = _stat_fields(f"/proc/{pid}/stat")
    if fields is None:
        return None
    user, system, user_waited, system_waited = (int(field) / TICKS_PER_S for field in fields[11:15])
    return Stat(pid, int(fields[1]), int(fields[19]), Cpu(user + user_waited, system + system_waited))


def all_stats() -> dict[int, Stat]:
    stats = (read_stat(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {stat.pid: stat for stat in stats if stat}


def tree(root: int, stats: dict[int, Stat] | None = None) -> list[int]:
    """`root` and all its living descendants."""
    stats = all_stats() if stats is None else stats
    children: dict[int, list[int]] = {}
    for stat in stats.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        if pid in stats:
            found.append(pid)
        queue.extend(children.get(pid, []))
    return found


def tree_cpu(root: int) -> Cpu:
    """CPU of a process tree. A child that ended is in its parent's sum, so the figure never falls."""
    stats = all_stats()
    return sum((stats[pid].cpu for pid in tree(root, stats)), Cpu())


def thread_cpu_s(root: int) -> dict[int, float]:
    """CPU seconds of each thread in the tree, by thread id."""
    usage: dict[int, float] = {}
    for pid in tree(root):
        with contextlib.suppress(OSError):
            for tid in os.listdir(f"/proc/{pid}/task"):
                fields = _stat_fields(f"/proc/{pid}/task/{tid}/stat")
                if fields is not None:
                    usage[int(tid)] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return usage


@dataclass(frozen=True)
class Memory:
    """KiB, summed over a process tree. The peak is the sum of the processes' own peaks (VmHWM). `anon` is what of the
    PSS is no file's: heap and stacks, without the program's own pages."""

    rss_kib: int
    rss_peak_kib: int
    pss_kib: int
    anon_kib: int


def tree_memory(root: int) -> Memory:
    rss = peak = pss = anon = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            rss += _kib(status, "VmRSS:")
            peak += _kib(status, "VmHWM:")
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            pss += _kib(rollup, "Pss:")
            anon += _kib(rollup, "Pss_Anon:")
    return Memory(rss, peak, pss, anon)


class Supervisor:
    """Owns every process of a run. `stop_all` leaves none behind, not even orphaned grandchildren."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen] = []
        # Orphans (the workers of a killed master) come to us instead of to init, and can be ended.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(self, command: list, cores: set[int], **options) -> subprocess.Popen:
        """Starts `command` pinned to `cores`; they are inherited, so no process sits between us and it."""
        ours = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        try:
            process = subprocess.Popen([str(part) for part in command], start_new_session=True, **options)
        finally:
            os.sched_setaffinity(0, ours)
        self.running.append(process)
        return process

    def stop(self, process: subprocess.Popen, first_signal: int = signal.SIGTERM) -> None:
        """Ends a process and all that it started: asks, waits for `STOP_GRACE_S`, then kills."""
        members = [stat for stat in map(read_stat, tree(process.pid)) if stat]
        if process.poll() is None:
            _signal(process.pid, first_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_GRACE_S)
        for member in members:
            _kill_if_same(member)
        process.wait()
        if process in self.running:
            self.running.remove(process)

    def stop_all(self) -> None:
        for process in list(reversed(self.running)):
            self.stop(process)
        for pid in tree(os.getpid()):
            stat = read_stat(pid)
            if stat and pid != os.getpid():
                _kill_if_same(stat)


def wait_until(condition, timeout_s: float, step_s: float = 0.005) -> bool:
    """Polls until `condition()` is true; False when the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(step_s)
    return False


def _stat_fields(path: str) -> list[str] | None:
    """The fields behind the command name, which may itself hold blanks and brackets."""
    try:
        with open(path) as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def _kib(text: str, key: str) -> int:
    for line in text.splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    return 0


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _kill_if_same(member: Stat) -> None:
    """SIGKILL, unless the pid is gone or belongs to someone else by now; takes the zombie away if it is ours."""
    now = read_stat(member.pid)
    if now and now.start_ticks == member.start_ticks:
        _signal(member.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(member.pid, os.WNOHANG)
