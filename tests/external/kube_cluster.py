#!/usr/bin/env python3
"""A real Kubernetes API with its etcd, on loopback: for tests/e2e/kubernetes.rs and record_kube.py.

As a program it prints a line of JSON about itself once it serves, takes one order a line on its standard input, in JSON
(`{"do": "kill"}`, `{"do": "ask", "method": "GET", "path": "/version"}`), and answers each with a line; it ends with its
input. The two programs are in `target/tools` (`tests/external/build_kube` builds them) or where KUBE_BIN says.
"""
from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ADMIN_TOKEN = "admin-of-the-tests"
PATIENCE_S = 120.0


def programs() -> tuple[Path, Path] | None:
    """etcd and kube-apiserver, where both are there."""
    at = Path(os.environ.get("KUBE_BIN") or ROOT / "target" / "tools")
    found = at / "etcd", at / "kube-apiserver"
    return found if all(os.access(path, os.X_OK) for path in found) else None


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Cluster:
    """Ends its processes with its scope."""

    def __init__(self) -> None:
        found = programs()
        if found is None:
            raise SystemExit("kube_cluster: etcd and kube-apiserver are not built (tests/external/build_kube)")
        self.etcd_program, self.api_program = found
        self.scope = tempfile.TemporaryDirectory(prefix="kube-")
        self.dir = Path(self.scope.name)
        self.etcd = self.api = None
        self.etcd_port = self.port = 0

    def __enter__(self) -> Cluster:
        try:
            self._certificates()
            self._start_etcd()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_what) -> None:
        for process in (self.api, self.etcd):
            if process is not None:
                process.kill()
                process.wait()
        self.scope.cleanup()

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.dir, check=True, capture_output=True)

    def _certificates(self) -> None:
        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        self._openssl("req", "-x509", *ec, "-days", "2", "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.crt")
        self._openssl("req", *ec, "-subj", "/CN=kube-apiserver", "-keyout", "api.key", "-out", "api.csr")
        (self.dir / "names").write_text("subjectAltName=DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1\n"
                                        "extendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n")
        self._openssl("x509", "-req", "-in", "api.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", "2", "-extfile", "names", "-out", "api.crt")
        # Someone who is known by a certificate of the cluster's authority.
        (self.dir / "usage").write_text("extendedKeyUsage=clientAuth\nbasicConstraints=CA:FALSE\n")
        self._openssl("req", *ec, "-subj", "/O=system:masters/CN=operator", "-keyout", "user.key", "-out", "user.csr")
        self._openssl("x509", "-req", "-in", "user.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", "2", "-extfile", "usage", "-out", "user.crt")
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "sa.key")
        self._openssl("ec", "-in", "sa.key", "-pubout", "-out", "sa.pub")
        # What was asked about slices, one line each, in audit.log.
        rules = [{"level": "Metadata", "resources": [{"group": "discovery.k8s.io"}]}, {"level": "None"}]
        (self.dir / "audit.json").write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
        (self.dir / "tokens.csv").write_text(f'{ADMIN_TOKEN},admin,admin,"system:masters"\nstranger,stranger,stranger\n')

    def _spawn(self, name: str, command: list) -> subprocess.Popen:
        log = open(self.dir / f"{name}.log", "ab")
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.dir)

    def _log(self, name: str) -> str:
        return (self.dir / f"{name}.log").read_text(errors="replace")[-3000:]

    def _start_etcd(self) -> None:
        # Somebody else may take a port before it is used.
        for _ in range(10):
            self.etcd_port, peer = free_ports(2)
            here, there = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{peer}"
            self.etcd = self._spawn("etcd", [
                self.etcd_program, "--data-dir", self.dir / "etcd", "--listen-client-urls", here,
                "--advertise-client-urls", here, "--listen-peer-urls", there, "--initial-advertise-peer-urls", there,
                "--initial-cluster", f"default={there}", "--unsafe-no-fsync", "--log-level", "warn",
            ])
            if self._wait(self.etcd, lambda: self._etcd("/health") is not None):
                return
        raise SystemExit(f"kube_cluster: etcd does not start\n{self._log('etcd')}")

    def start(self) -> None:
        """Starts the API; at the same port when it ran before."""
        for _ in range(1 if self.port else 10):
            port = self.port or free_ports(1)[0]
            self.api = self._spawn("api", [
                self.api_program, f"--etcd-servers=http://127.0.0.1:{self.etcd_port}", f"--secure-port={port}",
                "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
                "--tls-cert-file=api.crt", "--tls-private-key-file=api.key", "--client-ca-file=ca.crt",
                "--token-auth-file=tokens.csv", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/24",
                "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=sa.pub",
                "--service-account-signing-key-file=sa.key", "--disable-admission-plugins=ServiceAccount",
                "--audit-policy-file=audit.json", "--audit-log-path=audit.log", "--etcd-compaction-interval=0", "--request-timeout=5s", "--profiling=false",
            ])
            # The namespace comes with the server's first round of upkeep.
            is_up = lambda: (self.try_ask("GET", "/readyz") or (0,))[0] == 200 \
                and self.try_ask("GET", "/api/v1/namespaces/default")[0] == 200  # noqa: E731
            self.port = port
            if self._wait(self.api, is_up):
                return
            self.port = 0
        raise SystemExit(f"kube_cluster: kube-apiserver does not start\n{self._log('api')}")

    def kill(self) -> None:
        """Ends the API at once; what it knows is in etcd."""
        self.api.send_signal(signal.SIGKILL)
        self.api.wait()

    def stop(self) -> None:
        """Ends the API as an operator does."""
        self.api.terminate()
        self.api.wait()

    @staticmethod
    def _wait(process: subprocess.Popen, is_up) -> bool:
        end = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < end:
            if is_up():
                return True
            time.sleep(0.05)
        if process.poll() is None:
            process.kill()
            process.wait()
        return False

    def _etcd(self, path: str, body=None):
        client = http.client.HTTPConnection("127.0.0.1", self.etcd_port, timeout=10)
        try:
            client.request("POST" if body is not None else "GET", path, body and json.dumps(body))
            return json.load(client.getresponse())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            client.close()

    def compact(self) -> int:
        """Forgets all versions but the present one: what was expired before is gone now."""
        key = base64.b64encode(b"/").decode()
        revision = int(self._etcd("/v3/kv/range", {"key": key})["header"]["revision"])
        self._etcd("/v3/kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def connect(self, timeout_s: float = 30) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=self.dir / "ca.crt")
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout_s, context=context)

    def ask(self, method: str, path: str, body=None, token: str = ADMIN_TOKEN, kind: str = "application/json"):
        client = self.connect()
        try:
            fields = {"Authorization": f"Bearer {token}", "Content-Type": kind}
            client.request(method, path, None if body is None else json.dumps(body), fields)
            answer = client.getresponse()
            return answer.status, answer.read()
        finally:
            client.close()

    def try_ask(self, method: str, path: str):
        try:
            return self.ask(method, path)
        except (OSError, http.client.HTTPException):
            return None

    def facts(self) -> dict:
        status, version = self.ask("GET", "/version")
        return {"port": self.port, "dir": str(self.dir), "token": ADMIN_TOKEN, "pid": self.api.pid,
                "version": json.loads(version)["gitVersion"] if status == 200 else "?"}


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Cluster() as cluster:
        print(json.dumps(cluster.facts()), flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            match order.pop("do"):
                case "ask":
                    status, body = cluster.ask(**order)
                    print(json.dumps({"status": status, "body": json.loads(body or b"null")}), flush=True)
                case "kill" | "stop" | "start" | "compact" as word:
                    getattr(cluster, word)()
                    print("{}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
