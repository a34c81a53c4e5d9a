"""The least that a proxy on ringway's runtime can cost: what the kernel and the runtime take."""
from __future__ import annotations

from pathlib import Path

from .base import Peer, Spec


class Floor(Peer):
    name = "floor"
    layer4 = True

    def __init__(self, ringway: Path) -> None:
        self.binary = ringway.parent / "examples" / "floor"

    def missing(self) -> str | None:
        return None if self.binary.exists() else f"{self.binary} is not built (cargo build --release --example floor)"

    def version(self) -> str:
        return "floor"

    def files(self, spec: Spec) -> dict[str, str]:
        return {}

    def command(self, spec: Spec) -> list:
        return [self.binary, f"127.0.0.1:{spec.port}", f"127.0.0.1:{spec.upstream_port}"]
