"""Control groups with a memory limit, of either version, where they can be made."""

import contextlib
import os
import pathlib
import time

from bed import Skipped

PLACES = (
    # Folder, limit, processes.
    (pathlib.Path("/sys/fs/cgroup"), "memory.max"),
    (pathlib.Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
)


@contextlib.contextmanager
def memory_group(limit_bytes):
    """A group with this limit; gives a function that moves the calling process into it."""
    folder, name = place()
    group = folder / f"ringway-faults-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(limit_bytes))
    except OSError as why:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise Skipped(f"no control group can be made: {why}") from why
    try:
        yield Group(group)
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def place():
    for folder, name in PLACES:
        if name == "memory.max" and (folder / "cgroup.controllers").exists():
            with contextlib.suppress(OSError):
                if "memory" in (folder / "cgroup.subtree_control").read_text().split():
                    return folder, name
        elif (folder / name).exists():
            return folder, name
    raise Skipped("no control groups with a memory controller here")


class Group:
    def __init__(self, folder):
        self.folder = folder

    def enter(self):
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def kills(self):
        """How many processes of the group the kernel has killed."""
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                for line in (self.folder / name).read_text().splitlines():
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        return 0

    def peak(self):
        """The most that was charged to the group, in bytes."""
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            with contextlib.suppress(OSError):
                return int((self.folder / name).read_text())
        return 0
