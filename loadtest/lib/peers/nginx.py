"""NGINX: the HTTP proxy, its layer-4 relay, and the upstream behind all peers."""
from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from .. import routes
from ..wire import Front
from .base import Peer, Spec, first_line_of

MODULE_DIRECTORIES = tuple(Path(name) for name in ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"))

MAIN = """\
daemon off;
worker_processes {workers};
pid {directory}/nginx.pid;
error_log {directory}/error.log error;
"""

EVENTS = "events { worker_connections 16384; use epoll; multi_accept on; }\n"

TEMPORARY = """\
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
"""

PROXY = """\
http {{
{temporary}
{access_log}
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_timeout 300s;
  keepalive_requests 1000000000;
  server_names_hash_bucket_size 128;

  upstream up {{
    server 127.0.0.1:{upstream_port};
    keepalive 512;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
  }}

  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  proxy_set_header X-Forwarded-Proto $scheme;
  # Bodies stream both ways, as in the other peers; nothing is spilled to disk.
  client_max_body_size 16m;
  client_body_buffer_size 128k;
  proxy_request_buffering off;
  proxy_buffer_size 16k;
  proxy_buffers 8 32k;
  proxy_busy_buffers_size 64k;
  proxy_max_temp_file_size 0;

  server {{
    listen 127.0.0.1:{port}{wire} reuseport backlog=4096;
{certificate_lines}{locations}
  }}
}}
"""

CERTIFICATE = """\
    ssl_certificate {chain};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:10m;
"""

ACCESS_LOG = """\
  log_format json_line escape=json '{{"time":"$time_iso8601","client":"$remote_addr","method":"$request_method",'
    '"uri":"$request_uri","status":$status,"bytes":$bytes_sent,"seconds":$request_time,'
    '"upstream":"$upstream_addr","upstream_seconds":"$upstream_response_time","agent":"$http_user_agent"}}';
  access_log {directory}/access.log json_line buffer=64k flush=1s;
"""

STREAM = """\
stream {{
  tcp_nodelay on;
  upstream up {{ server 127.0.0.1:{upstream_port}; }}
  server {{
    listen 127.0.0.1:{port} reuseport backlog=4096;
    proxy_pass up;
  }}
}}
"""

UPSTREAM = """\
http {{
{temporary}
  access_log off;
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_timeout 3600s;
  keepalive_requests 1000000000;
  client_max_body_size 16m;
  open_file_cache max=16 inactive=1h;
  default_type application/octet-stream;
  server {{
    listen 127.0.0.1:{port} reuseport backlog=4096;
    root {directory};
    location / {{ return 200 "{body}"; }}
    location = /64k {{ try_files /64k.bin =404; }}
    location = /1m {{ try_files /1m.bin =404; }}
    # Reads the whole body before it answers; `return` would answer early, which is another case.
    location = /post {{ client_body_buffer_size 1100k; echo_read_request_body; echo -n ok; }}
  }}
}}
"""


class Nginx(Peer):
    name = "nginx"

    def speaks(self, front: Front, back: str) -> bool:
        """It has no HTTP/2 to upstreams but in grpc_pass."""
        return back == "h1" or (back == "grpc" and front.http2)

    def missing(self) -> str | None:
        return None if shutil.which("nginx") else "nginx is not installed"

    def version(self) -> str:
        return first_line_of(["nginx", "-v"]).rpartition("/")[2]

    def files(self, spec: Spec) -> dict[str, str]:
        values = {**vars(spec), "temporary": TEMPORARY.format(directory=spec.directory)}
        values["access_log"] = ACCESS_LOG.format(**values) if spec.series == "log" else "  access_log off;"
        values["wire"] = (" ssl" if spec.front.tls else "") + (" http2" if spec.front.http2 else "")
        values["certificate_lines"] = CERTIFICATE.format(**vars(spec.certificate)) if spec.front.tls else ""
        passed = "grpc_pass grpc://up" if spec.back == "grpc" else "proxy_pass http://up"
        values["locations"] = "\n".join(
            f"    location {prefix} {{ {passed}; }}"
            for prefix in routes.prefixes(spec.routes, spec.generation)
        )
        return {"nginx.conf": MAIN.format(**values) + EVENTS + PROXY.format(**values)}

    def command(self, spec: Spec) -> list:
        return ["nginx", "-p", spec.directory, "-e", spec.directory / "error.log", "-c", spec.directory / "nginx.conf"]

    def signal_reload(self, spec: Spec, pid: int) -> None:
        os.kill(pid, signal.SIGHUP)


class NginxStream(Nginx):
    """The blind relay: what NGINX costs when it does not look at HTTP at all."""

    name = "nginx-stream"
    layer4 = True

    def missing(self) -> str | None:
        return super().missing() or (None if module_path("stream") else "libnginx-mod-stream is not installed")

    def files(self, spec: Spec) -> dict[str, str]:
        load = f"load_module {module_path('stream')};\n"
        return {"nginx.conf": load + MAIN.format(**vars(spec)) + EVENTS + STREAM.format(**vars(spec))}


class NginxUpstream(Nginx):
    """The cheap upstream: a fixed 1 KiB answer, files on tmpfs, and a sink for bodies."""

    name = "upstream-nginx"

    def missing(self) -> str | None:
        return super().missing() or (None if module_path("http_echo") else "libnginx-mod-http-echo is not installed")

    def files(self, spec: Spec) -> dict[str, str]:
        values = {**vars(spec), "temporary": TEMPORARY.format(directory=spec.directory), "body": "x" * 1024}
        load = f"load_module {module_path('http_echo')};\n"
        return {
            "nginx.conf": load + MAIN.format(**values) + EVENTS + UPSTREAM.format(**values),
            "64k.bin": "x" * 65_536,
            "1m.bin": "x" * 1_048_576,
        }


def module_path(name: str) -> Path | None:
    found = (directory / f"ngx_{name}_module.so" for directory in MODULE_DIRECTORIES)
    return next((path for path in found if path.exists()), None)
