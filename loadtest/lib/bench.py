"""What one run of the bench owns: processes, cores, directories, the upstream, and gateways while they are measured."""
from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import host, peers, routes, wire
from .peers import Peer, Spec
from .process import Supervisor, wait_until

READY_TIMEOUT_S = 20.0


class PeerError(Exception):
    """A gateway did not start or answer; the text has the end of what it logged."""


@dataclass
class Running:
    """A started gateway. `reload` swaps in the next route table."""

    peer: Peer
    spec: Spec
    process: subprocess.Popen
    generation: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return self.spec.port

    def reload(self) -> None:
        self.generation += 1
        self.peer.reload(self.spec, self.pid, self.generation)


class Bench:
    """Use as a context manager: on leaving, whatever the reason, no process and no scratch file stays behind."""

    def __init__(self, results: Path, workers: int, seconds: float) -> None:
        self.results, self.workers, self.seconds = results, workers, seconds
        self.cores = host.choose_cores(workers)
        self.supervisor = Supervisor()
        self.upstream: Running | None = None
        memory = Path("/dev/shm")
        self.scratch = Path(tempfile.mkdtemp(prefix="loadtest-", dir=memory if os.access(memory, os.W_OK) else None))
        self.scratch.chmod(0o755)  # workers of nginx drop their rights and must reach the files
        self.certificate = wire.Certificate.make(self.scratch)
        self.backends: dict[str, Running] = {}
        self.message = self.scratch / "grpc-message.bin"
        self.message.write_bytes(wire.grpc_frame())

    def __enter__(self) -> Bench:
        os.sched_setaffinity(0, self.cores.load)
        return self

    def __exit__(self, *_) -> None:
        self.supervisor.stop_all()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def start_upstream(self, peer: Peer) -> None:
        spec = self._spec("upstream", 0, {"workers": 1})
        self.upstream = self._start(peer, spec, self.cores.load)
        self.keep_configuration(peer, spec, "upstream")

    def upstream_of(self, row) -> Running:
        """What stands behind the gateways in this row; those that few rows need are started when one does."""
        if row.back == "h1":
            return self.upstream
        if row.back not in self.backends:
            peer = peers.make_backend(row.back)
            spec = self._spec(peer.name, 0, {"front": wire.Front(http2=True), "back": row.back})
            self.backends[row.back] = self._start(peer, spec, self.cores.load)
            self.keep_configuration(peer, spec, "upstream")
        return self.backends[row.back]

    @contextlib.contextmanager
    def running(self, peer: Peer, row, **changes):
        """Starts `peer` for `row` on the proxy's cores, waits until it answers, and ends it afterwards."""
        spec = self.spec_for(peer, row, **changes)
        running = self._start(peer, spec, self.cores.proxy)
        try:
            self.keep_configuration(peer, spec, row.name)
            yield running
        finally:
            self.supervisor.stop(running.process)
            shutil.rmtree(spec.directory, ignore_errors=True)

    def spec_for(self, peer: Peer, row, **changes) -> Spec:
        values = {"workers": self.workers, "routes": row.routes, "series": row.series, "reloadable": row.reloadable,
                  "front": row.front, "back": row.back, "certificate": self.certificate}
        return self._spec(peer.name, self.upstream_of(row).port, {**values, **changes})

    def launch(self, peer: Peer, spec: Spec, cores: set) -> subprocess.Popen:
        """Starts the process and does not wait for anything."""
        with open(spec.directory / "output.log", "ab") as log:
            return self.supervisor.start(peer.command(spec), cores, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def keep_configuration(self, peer: Peer, spec: Spec, label: str) -> None:
        """Copies what the peer read to the results; long route tables are cut."""
        for name, text in peer.files(spec).items():
            target = self.results / "configs" / label / peer.name / name
            if name.endswith(".bin") or target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_shortened(text))

    def _spec(self, label: str, upstream_port: int, values: dict) -> Spec:
        directory = Path(tempfile.mkdtemp(prefix=f"{label}-", dir=self.scratch))
        directory.chmod(0o755)
        return Spec(directory, host.free_port(), host.free_port(), upstream_port, **values)

    def _start(self, peer: Peer, spec: Spec, cores: set) -> Running:
        peer.write(spec)
        running = Running(peer, spec, self.launch(peer, spec, cores))
        wait_until(lambda: running.process.poll() is not None or probe(spec) == 200, READY_TIMEOUT_S)
        if running.process.poll() is None and probe(spec) == 200:
            return running
        self.supervisor.stop(running.process)
        raise PeerError(f"{peer.name} does not answer: {_log_end(spec.directory)}")


def probe(spec: Spec) -> int:
    """The status of one request of the kind that the gateway is for."""
    if spec.back == "grpc":
        return wire.get_status(spec.port, spec.front, wire.GRPC_PATH, wire.grpc_frame())
    return wire.get_status(spec.port, spec.front, "/1k" if spec.routes <= 1 else routes.paths(spec.routes)[0])


def _shortened(text: str, lines_max: int = 250, columns_max: int = 2_000) -> str:
    lines = [line[:columns_max] for line in text.splitlines()]
    if len(lines) > lines_max:
        half = lines_max // 2
        lines = lines[:half] + [f"… {len(lines) - 2 * half:,} lines left out …"] + lines[-half:]
    return "\n".join(lines) + "\n"


def _log_end(directory: Path) -> str:
    parts = []
    for name in ("output.log", "error.log"):
        with contextlib.suppress(OSError):
            parts.append((directory / name).read_text(errors="replace").strip()[-800:])
    return " ".join(" ".join(parts).split()) or "it logged nothing"
