"""HAProxy."""
from __future__ import annotations

import os
import shutil
import signal

from .. import routes
from .base import Peer, Spec, first_line_of

CONFIG = """\
global
  nbthread {workers}
  maxconn 7000
{log_target}

defaults
  mode http
  option http-keep-alive
  option splice-auto
  http-reuse always
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout http-request 10s
  timeout http-keep-alive 300s
  maxconn 7000
{log_format}

frontend public
  bind 127.0.0.1:{port} backlog 4096{shards}{wire}
  option forwardfor
  http-request set-header X-Forwarded-Proto {scheme}
{choice}

backend up
  server one 127.0.0.1:{upstream_port} pool-max-conn 1024 pool-purge-delay 300s{upstream_wire}
"""

LOG_FORMAT = (
    '  log global\n  log-format \'{"time":"%t","client":"%ci","method":"%HM","uri":"%HU","status":%ST,"bytes":%B,'
    '"ms":%Ta,"upstream":"%s","upstream_ms":%Tr}\''
)


class Haproxy(Peer):
    name = "haproxy"

    def missing(self) -> str | None:
        return None if shutil.which("haproxy") else "haproxy is not installed"

    def version(self) -> str:
        return first_line_of(["haproxy", "-v"]).split()[2]

    def files(self, spec: Spec) -> dict[str, str]:
        logs = spec.series == "log"
        config = CONFIG.format(
            **vars(spec),
            log_target="  log stdout format raw local0 info" if logs else "  # no log",
            log_format=LOG_FORMAT if logs else "  no log",
            shards=" shards by-thread" if spec.workers > 1 else "",
            choice=self._choice(spec),
            scheme=spec.front.scheme,
            wire=self._wire(spec),
            upstream_wire="" if spec.back == "h1" else " proto h2",
        )
        table = "".join(f"{prefix} up\n" for prefix in routes.prefixes(spec.routes, spec.generation))
        return {"haproxy.cfg": config, "routes.map": table}

    def command(self, spec: Spec) -> list:
        return ["haproxy", "-W" if spec.reloadable else "-db", "-f", spec.directory / "haproxy.cfg"]

    def signal_reload(self, spec: Spec, pid: int) -> None:
        os.kill(pid, signal.SIGUSR2)

    @staticmethod
    def _wire(spec: Spec) -> str:
        if spec.front.tls:
            protocols = "h2,http/1.1" if spec.front.http2 else "http/1.1"
            return f" ssl crt {spec.certificate.both} alpn {protocols}"
        return " proto h2" if spec.front.http2 else ""

    @staticmethod
    def _choice(spec: Spec) -> str:
        if spec.routes <= 1:
            return "  default_backend up"
        return f"  use_backend %[path,map_beg({spec.directory}/routes.map)]"
