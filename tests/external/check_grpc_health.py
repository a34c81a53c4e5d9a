"""Active checks by gRPC's own health service against grpcio's: over h2c and over TLS, for the whole server and for a
service, through all its states."""

import concurrent.futures
import http.client
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

from gateway import gateway, skip

# Handshakes that are meant to fail are no news.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

try:
    import grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
except ImportError:
    skip("grpcio or grpcio-health-checking is not installed")
if not shutil.which("openssl"):
    skip("openssl is not installed")

PATIENCE_SECONDS = 20
STATUS = health_pb2.HealthCheckResponse


def service(name, endpoint, asked="", more=""):
    asked = f"service: {asked}, " if asked else ""
    check = f"{{kind: grpc, {asked}interval: 50ms, rise: 1, fall: 1, timeout: 5s}}"
    return f"  - {{name: {name}, protocol: h2, endpoints: ['{endpoint}'], health_check: {check}{more}}}\n"


def config(plain, healthless, secure, certificate):
    return (
        "listeners: [{address: '127.0.0.1:0'}]\nadmin: {listen: '127.0.0.1:0'}\nservices:\n"
        + service("whole", f"127.0.0.1:{plain}")
        + service("part", f"127.0.0.1:{plain}", "a.B")
        + service("stranger", f"127.0.0.1:{plain}", "no.Such")
        + service("healthless", f"127.0.0.1:{healthless}")
        + service("secure", f"localhost:{secure}", "a.B", f", tls: {{ca: ['{certificate}']}}")
        + service("untrusted", f"localhost:{secure}", "a.B", ", tls: {}")
        + service("plain_to_tls", f"127.0.0.1:{secure}")
        + "routes: [{name: all, path: /*, service: whole}]\n"
    )


def server(credentials=None, with_health=True):
    grpc_server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    servicer = health.HealthServicer()
    if with_health:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, grpc_server)
    if credentials:
        port = grpc_server.add_secure_port("localhost:0", credentials)
    else:
        port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    return grpc_server, servicer, port


def certificate(folder):
    key, cert, rules = folder / "key.pem", folder / "cert.pem", folder / "rules"
    rules.write_text(
        "[req]\ndistinguished_name=name\nx509_extensions=own\nprompt=no\n[name]\nCN=localhost\n"
        "[own]\nsubjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n"
    )
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split()
    command += ["-config", str(rules), "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())]), cert


def checks(admin):
    """The last verdict and the last reason by service."""
    connection = http.client.HTTPConnection(admin, timeout=20)
    connection.request("GET", "/services")
    found = {}
    for one in json.loads(connection.getresponse().read()):
        for checked in one["checks"]:
            last = checked["history"][-1]["why"] if checked["history"] else None
            found[one["name"]] = (checked["verdict"], last)
    return found


def wait_for(admin, **expected):
    """Each service has its verdict, for a reason that holds the text."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = checks(admin)
        wrong = [
            (name, found.get(name))
            for name, (verdict, why) in expected.items()
            if found.get(name, (None,))[0] != verdict or why not in str(found[name][1])
        ]
        if not wrong:
            return
        assert time.monotonic() < until, wrong
        time.sleep(0.05)


def run(running, plain_server, servicer, secure_servicer):
    admin = running.admin
    wait_for(
        admin,
        whole=("up", "None"),
        part=("down", "NOT_SERVING"),
        stranger=("down", "does not know the service `no.Such`"),
        healthless=("down", "no health service"),
        secure=("up", "None"),
        untrusted=("down", "TLS"),
        plain_to_tls=("down", "HTTP/2"),
    )
    servicer.set("a.B", STATUS.SERVING)
    secure_servicer.set("a.B", STATUS.UNKNOWN)
    wait_for(admin, whole=("up", "None"), part=("up", "None"), secure=("down", "UNKNOWN"))
    servicer.set("", STATUS.NOT_SERVING)
    secure_servicer.set("a.B", STATUS.SERVING)
    wait_for(admin, whole=("down", "NOT_SERVING"), part=("up", "None"), secure=("up", "None"))
    # A server that stops well says NOT_SERVING first, then refuses connections.
    servicer.enter_graceful_shutdown()
    wait_for(admin, part=("down", "NOT_SERVING"))
    plain_server.stop(None).wait()
    wait_for(admin, part=("down", "connect"), secure=("up", "None"))


def main():
    with tempfile.TemporaryDirectory() as folder:
        credentials, cert = certificate(pathlib.Path(folder))
        plain_server, servicer, plain = server()
        healthless_server, _, healthless = server(with_health=False)
        secure_server, secure_servicer, secure = server(credentials)
        servicer.set("a.B", STATUS.NOT_SERVING)
        secure_servicer.set("a.B", STATUS.SERVING)
        with gateway(config(plain, healthless, secure, cert)) as running:
            run(running, plain_server, servicer, secure_servicer)
        healthless_server.stop(None)
        secure_server.stop(None)
    print("checks by gRPC's health service: h2c and TLS, all states and failures pass")


if __name__ == "__main__":
    main()
