"""The upstream for rows that speak HTTP/2 to it: nghttp2's server, without TLS."""
from __future__ import annotations

import shutil

from .. import wire
from .base import Peer, Spec, first_line_of


class Nghttpd(Peer):
    """Serves files. With `trailers` each answer ends like that of a gRPC call."""

    def __init__(self, trailers: bool) -> None:
        self.trailers = trailers
        self.name = "upstream-grpc" if trailers else "upstream-h2"

    def missing(self) -> str | None:
        return None if shutil.which("nghttpd") else "nghttpd is not installed"

    def version(self) -> str:
        return first_line_of(["nghttpd", "--version"]).rpartition("/")[2]

    def files(self, spec: Spec) -> dict[str, str]:
        if not self.trailers:
            return {"1k": "x" * 1024}
        # Its bytes are all below 128.
        return {wire.GRPC_PATH.lstrip("/"): wire.grpc_frame().decode("ascii")}

    def command(self, spec: Spec) -> list:
        trailers = ["--trailer=grpc-status: 0"] if self.trailers else []
        return [
            "nghttpd", "--no-tls", "--address=127.0.0.1", "-n", 1, "-m", 1000, "-d", spec.directory, *trailers,
            spec.port,
        ]
