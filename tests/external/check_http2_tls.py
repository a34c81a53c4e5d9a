"""HTTP/2 over TLS with ALPN on both sides, by clients and servers that others have written: curl, nghttp, h2load, Python's
ssl and grpcio before; Python's http.server, nghttpd and grpcio behind. Every wire of a client meets every wire of an
endpoint. A tool that is missing costs its part, with a line that says so."""

import contextlib
import http.server
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from gateway import BINARY, gateway, skip

CONFIG = """
admin: {enabled: false}
server: {workers: 2}
listeners:
  - {name: secure, address: "127.0.0.1:0", limits: {body_bytes_max: 32MiB}, tls: {cert: DIR/dev.test.crt, key: DIR/dev.test.key}}
  - {name: plain, address: "127.0.0.2:0", protocols: [http1, h2c], limits: {body_bytes_max: 32MiB}}
logging: {access_log: {path: "{folder}/access.log", format: json}}
services:
SERVICES
routes:
  - {name: fixed, path: /fixed, respond: {body: fixed}}
ROUTES
"""

BODY = os.urandom(1 << 20)
# What h2load asks for, on how many connections and streams.
ASKED, CONNECTIONS, STREAMS = 400, 4, 10


def certificates(folder):
    """An authority of our own, and a certificate for `dev.test` and 127.0.0.1."""
    names = ["dev.test", "127.0.0.1"]
    command = [BINARY, "cert", *names, "--authority", f"{folder}/ca", "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder / "ca/ca.pem"


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it got, or with a page; tells the version and the scheme that it was asked with."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(b"hello\n")

    def do_POST(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.answer(body)

    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-scheme", self.headers.get("x-forwarded-proto", ""))
        self.send_header("x-host", self.headers.get("host", ""))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def python_server(folder, secure):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "dev.test.crt", folder / "dev.test.key")
        context.set_alpn_protocols(["http/1.1"])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def nghttpd(folder, secure):
    """nghttp2's own server, which sends uploads back."""
    (folder / "www").mkdir(exist_ok=True)
    (folder / "www/a").write_text("hello\n")
    secured = [str(folder / "dev.test.key"), str(folder / "dev.test.crt")] if secure else ["--no-tls"]
    for _ in range(5):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        head, tail = (["--no-tls"], []) if not secure else ([], secured)
        command = ["nghttpd", "-a", "127.0.0.1", "-d", str(folder / "www"), "--echo-upload", *head, str(port), *tail]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        due = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < due:
            if accepts(port):
                try:
                    yield port
                finally:
                    process.terminate()
                    process.wait(20)
                return
            time.sleep(0.05)
        process.kill()
        process.wait(20)
    raise AssertionError("nghttpd does not listen")


def run(command, data=None):
    done = subprocess.run(command, input=data, capture_output=True, timeout=120)
    assert done.returncode == 0, (command, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout, done.stderr


class Bed:
    """A running gateway and how its listeners are reached."""

    def __init__(self, running, ca):
        self.ca = str(ca)
        ports = dict(address.rsplit(":", 1) for address in running.listening)
        self.secure, self.plain = int(ports["127.0.0.1"]), int(ports["127.0.0.2"])

    def curl(self, wire, path, *more, data=None):
        """Status line, header fields and body. `wire`: how curl is to speak."""
        secure = wire.endswith("tls")
        port = self.secure if secure else self.plain
        version = {"h1": "--http1.1", "h1-tls": "--http1.1", "h2c": "--http2-prior-knowledge", "h2-tls": "--http2"}[wire]
        url = f"{'https' if secure else 'http'}://dev.test:{port}{path}"
        command = ["curl", "-sS", "-i", "--max-time", "60", version, "--cacert", self.ca, "-H", "Expect:"]
        command += ["--resolve", f"dev.test:{port}:{'127.0.0.1' if secure else '127.0.0.2'}", *more, url]
        out, _ = run(command, data)
        head, _, body = out.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        return lines[0], fields, body


def check_alpn(bed):
    """What a client and the gateway agree on (RFC 7301), with Python's ssl."""

    def agreed(protocols):
        context = ssl.create_default_context(cafile=bed.ca)
        if protocols:
            context.set_alpn_protocols(protocols)
        with socket.create_connection(("127.0.0.1", bed.secure), 20) as plain:
            with context.wrap_socket(plain, server_hostname="dev.test") as secured:
                return secured.selected_alpn_protocol()

    assert agreed(["h2", "http/1.1"]) == "h2"
    assert agreed(["http/1.1", "h2"]) == "h2", "the gateway's order holds"
    assert agreed(["http/1.1"]) == "http/1.1"
    assert agreed([]) is None
    try:
        met = agreed(["spdy/3"])
        raise AssertionError(f"a protocol that nobody speaks was agreed on: {met}")
    except ssl.SSLError as error:
        # Whoever has an older OpenSSL gets the alert without its name.
        assert "ALERT" in str(error).upper() or "APPLICATION_PROTOCOL" in str(error).upper(), error
    print("ALPN: h2 before http/1.1, none, and an alert for what nobody speaks")


def check_wires(bed, endpoints):
    """Every wire of a client before every wire of an endpoint."""
    pairs = 0
    for client in ["h1", "h1-tls", "h2c", "h2-tls"]:
        for endpoint in endpoints:
            status, fields, body = bed.curl(client, f"/{endpoint}/a")
            wanted = "HTTP/2 200" if client.startswith("h2") else "HTTP/1.1 200"
            assert status.startswith(wanted) and body == b"hello\n", (client, endpoint, status, body[:200])
            if "x-scheme" in fields:
                assert fields["x-scheme"] == ("https" if client.endswith("tls") else "http"), (client, endpoint, fields)
                assert fields["x-host"].startswith("dev.test"), fields
            echoed = bed.curl(client, f"/{endpoint}/echo", "--data-binary", "@-", data=BODY)
            assert echoed[0].startswith(wanted) and echoed[2] == BODY, (client, endpoint, echoed[0], len(echoed[2]))
            # Without a length: chunks on HTTP/1, frames alone on HTTP/2.
            chunked = bed.curl(client, f"/{endpoint}/echo", "-T", "-", "-X", "POST", data=BODY[:200_001])
            assert chunked[2] == BODY[:200_001], (client, endpoint, chunked[0], len(chunked[2]))
            nothing = bed.curl(client, f"/{endpoint}/a", "-I")
            assert nothing[0].startswith(wanted[:-3]) and nothing[2] == b"", (client, endpoint, nothing)
            pairs += 1
    print(f"wires: {pairs} pairs of client and endpoint pass, with bodies of {len(BODY)} bytes both ways")


def check_nghttp(bed, endpoints):
    if not shutil.which("nghttp") or not shutil.which("h2load"):
        return print("nghttp, h2load: skipped, not installed")
    url = f"https://127.0.0.1:{bed.secure}"
    for path in ["/fixed", *(f"/{endpoint}/a" for endpoint in endpoints)]:
        out = run(["nghttp", "-nv", "-m", "20", url + path])[0].decode()
        out = re.sub(r"\x1b\[[0-9;]*m", "", out)
        assert "The negotiated protocol: h2" in out, out[:2000]
        assert len(re.findall(r":status: 200", out)) == 20, (path, out[-2000:])
        assert "RST_STREAM" not in out, (path, out[-2000:])
    for path in ["/fixed", *(f"/{endpoint}/a" for endpoint in endpoints)]:
        command = ["h2load", "-n", str(ASKED), "-c", str(CONNECTIONS), "-m", str(STREAMS), url + path]
        out = run(command)[0].decode()
        assert "Application protocol: h2" in out and re.search(r"TLS Protocol: TLSv1\.[23]", out), out
        assert f"{ASKED} succeeded, 0 failed, 0 errored, 0 timeout" in out, (path, out)
        assert f"status codes: {ASKED} 2xx" in out, (path, out)
    print(f"nghttp, h2load: {1 + len(endpoints)} paths over h2 and TLS, nothing failed")


def service(name, port, protocol, secure):
    tls = ", tls: {ca: [DIR/ca/ca.pem], server_name: dev.test}" if secure else ""
    word = "" if protocol == "h1" else f", protocol: {protocol}"
    return f'  - {{name: {name}, endpoints: ["127.0.0.1:{port}"]{word}{tls}}}'


def route(name):
    return f"  - {{name: {name}, path: /{name}/*, service: {name}, rewrite: {{prefix: /}}}}"


def check_http(folder, ca):
    with contextlib.ExitStack() as stack:
        endpoints = {}
        for name, protocol, secure in [("h1", "h1", False), ("h1-tls", "h1", True), ("h2c", "h2", False), ("h2-tls", "h2", True)]:
            if protocol == "h2" and not shutil.which("nghttpd"):
                print(f"endpoints of {name}: skipped, nghttpd is not installed")
                continue
            start = python_server if protocol == "h1" else nghttpd
            endpoints[name] = service(name, stack.enter_context(start(folder, secure)), protocol, secure)
        text = CONFIG.replace("SERVICES", "\n".join(endpoints.values())).replace("ROUTES", "\n".join(map(route, endpoints)))
        running = stack.enter_context(gateway(text.replace("DIR", str(folder))))
        bed = Bed(running, ca)
        check_alpn(bed)
        check_wires(bed, list(endpoints))
        check_nghttp(bed, list(endpoints))


def check_calls(folder, ca, protocol):
    """Calls of grpcio over TLS on both sides: the same ones as without it. `auto` finds out by ALPN that the endpoint
    speaks HTTP/2."""
    try:
        import grpc
        import check_grpc as plain
    except ImportError:
        return print("grpcio over TLS: skipped, not installed")
    calls = plain.Calls()
    pair = ((folder / "dev.test.key").read_bytes(), (folder / "dev.test.crt").read_bytes())
    server, port = plain.start_server(calls, credentials=grpc.ssl_server_credentials([pair]))
    services = [service("calls", port, protocol, True), '  - {name: nobody, protocol: h2, endpoints: ["127.0.0.1:1"]}']
    routes = [
        "  - {name: calls, path: /test.Calls/*, service: calls}",
        "  - {name: limited, path: /test.Limited/*, service: calls, policies: [{rate_limit: {rate: 1/h}}]}",
        "  - {name: nobody, path: /test.Nobody/*, service: nobody}",
    ]
    text = CONFIG.replace("SERVICES", "\n".join(services)).replace("ROUTES", "\n".join(routes))
    with gateway(text.replace("DIR", str(folder))) as running:
        credentials = grpc.ssl_channel_credentials(ca.read_bytes())
        options = [*plain.OPTIONS, ("grpc.ssl_target_name_override", "dev.test")]
        with grpc.secure_channel(f"127.0.0.1:{Bed(running, ca).secure}", credentials, options) as channel:
            plain.check_calls(channel, calls)
            plain.check_own_answers(channel)
            plain.check_cancel(channel, calls)
        assert calls.metadata["x-forwarded-proto"] == "https", calls.metadata
    server.stop(None)
    print(f"grpcio over TLS on both sides, protocol {protocol}: calls, streams, deadlines, cancellation")


def main():
    if not shutil.which("curl") or b"HTTP2" not in run(["curl", "--version"])[0]:
        skip("curl with HTTP/2 is not installed")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ca = certificates(folder)
        check_http(folder, ca)
        for protocol in ("h2", "auto"):
            check_calls(folder, ca, protocol)


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.1f} s", file=sys.stderr)
