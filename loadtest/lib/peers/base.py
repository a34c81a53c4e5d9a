"""What the bench knows of a gateway."""
from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from ..wire import Certificate, Front


@dataclass(frozen=True)
class Spec:
    """One start of a gateway. Every peer turns it into its own configuration."""

    directory: Path
    port: int
    admin_port: int
    upstream_port: int
    workers: int = 1
    routes: int = 1
    series: str = "plain"
    """`plain`: no access log; `log`: a JSON access log on tmpfs; `full`: ringway with rate limit, header changes
    and JSON access log while the peers stay plain."""
    reloadable: bool = False
    generation: int = 0
    front: Front = Front()
    """What its clients speak."""
    back: str = "h1"
    """What it is to speak to the upstream: `h1`, `h2` or `grpc`, which is h2 with trailers; never over TLS."""
    certificate: Certificate | None = None
    """What clients are shown where they speak TLS."""


class Peer:
    """A gateway under test. Subclasses say how it is configured, started and reloaded."""

    name = "?"
    layer4 = False
    """Relays bytes without reading HTTP; it takes part only in the rows where that makes sense."""

    def speaks(self, front: Front, back: str) -> bool:
        """Whether it can stand between such clients and such an upstream."""
        return True

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        raise NotImplementedError

    def version(self) -> str:
        raise NotImplementedError

    def files(self, spec: Spec) -> dict[str, str]:
        """File name → text of everything it reads."""
        raise NotImplementedError

    def command(self, spec: Spec) -> list:
        raise NotImplementedError

    def signal_reload(self, spec: Spec, pid: int) -> None:
        """Tells the running process that its files were replaced."""
        raise NotImplementedError

    def write(self, spec: Spec) -> None:
        """Puts the files in place; each appears whole, by rename."""
        for name, text in self.files(spec).items():
            draft = spec.directory / (name + ".new")
            draft.parent.mkdir(exist_ok=True)
            draft.write_text(text)
            os.replace(draft, spec.directory / name)

    def reload(self, spec: Spec, pid: int, generation: int) -> None:
        self.write(replace(spec, generation=generation))
        self.signal_reload(spec, pid)


def first_line_of(command: list) -> str:
    """The first line that a `--version` command prints, on whichever stream."""
    run = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = [line.strip() for line in run.stdout.splitlines() if line.strip()]
    return lines[0] if lines else "unknown"
