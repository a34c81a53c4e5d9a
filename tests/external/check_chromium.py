"""A page in headless Chromium, over HTTP/2 and TLS through the gateway: it makes gRPC-Web calls to a grpcio server and
speaks WebSocket with an echo of the package `websockets`, and writes into itself what came of it."""

import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from gateway import BINARY, gateway, skip

try:
    import grpc  # noqa: F401
    import check_grpc
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosedError
except ImportError:
    skip("grpcio or websockets is not installed")

CONFIG = """
server: {workers: 2, drain_timeout: 2s}
listeners:
  - {address: "127.0.0.1:0", limits: {body_bytes_max: 32MiB}, tls: {cert: DIR/dev.test.crt, key: DIR/dev.test.key}}
admin: {listen: "127.0.0.1:0"}
logging: {access_log: {format: json, path: "{folder}/access.log"}}
services:
  - {name: calls, protocol: h2, endpoints: ["127.0.0.1:CALLS"]}
  - {name: sockets, endpoints: ["127.0.0.1:SOCKETS"]}
routes:
  - {name: page, path: /page, respond: {content_type: text/html, body: PAGE}}
  - {name: calls, path: /test.Calls/*, service: calls, grpc_web: true}
  - {name: sockets, path: /socket/*, service: sockets, upgrade: [websocket]}
"""

# Each outcome is a value that only the right thing gives; whatever goes wrong is written down as it is.
SCRIPT = """
const frame = (message) => {
  const bytes = new Uint8Array(5 + message.length);
  new DataView(bytes.buffer).setUint32(1, message.length);
  bytes.set(message, 5);
  return bytes;
};
const unframe = (bytes) => {
  const messages = [], trailers = {};
  for (let at = 0; at < bytes.length; ) {
    const length = new DataView(bytes.buffer, bytes.byteOffset + at + 1).getUint32(0);
    const payload = bytes.subarray(at + 5, at + 5 + length);
    if (bytes[at] & 0x80)
      for (const line of new TextDecoder().decode(payload).trim().split("\\r\\n")) {
        const [name, ...rest] = line.split(":");
        trailers[name] = rest.join(":").trim();
      }
    else messages.push(payload);
    at += 5 + length;
  }
  return {messages, trailers};
};
const hex = async (bytes) => {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
};
const base64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
const call = async (method, message, text) => {
  const kind = text ? "application/grpc-web-text+proto" : "application/grpc-web+proto";
  const body = text ? base64(frame(message)) : frame(message);
  const response = await fetch("/test.Calls/" + method, {method: "POST", body, headers: {"content-type": kind, "x-grpc-web": "1"}});
  let bytes = new Uint8Array(await response.arrayBuffer());
  if (text) {
    // One base64 text behind the other, each with its own padding.
    const parts = new TextDecoder().decode(bytes).match(/.{4}/g) || [];
    bytes = Uint8Array.from(parts.map(atob).join(""), (char) => char.charCodeAt(0));
  }
  const {messages, trailers} = unframe(bytes);
  return {
    http: response.status, kind: response.headers.get("content-type"),
    messages: await Promise.all(messages.map(hex)),
    status: trailers["grpc-status"] ?? response.headers.get("grpc-status"),
    trailer: trailers["x-trailer"],
  };
};
const socket = (path, sizes) => new Promise((done, failed) => {
  const opened = new WebSocket("wss://" + location.host + path, ["echo"]);
  opened.binaryType = "arraybuffer";
  const got = [];
  const next = () => got.length < sizes.length
    ? opened.send(got.length % 2 ? "u\\u00fc".repeat(sizes[got.length] / 3) : pattern(sizes[got.length]))
    : opened.close(4000, "done");
  opened.onopen = next;
  opened.onerror = () => failed(new Error("websocket"));
  opened.onmessage = ({data}) => {
    got.push(typeof data === "string" ? "text " + data.length : "bytes " + data.byteLength);
    next();
  };
  opened.onclose = ({code, reason, wasClean}) => done({got, code, reason, wasClean, protocol: opened.protocol});
});
const pattern = (length) => Uint8Array.from({length}, (_, at) => (at * 7) & 255);
const main = async () => {
  const out = {page: performance.getEntriesByType("navigation")[0].nextHopProtocol};
  for (const text of [false, true]) {
    out["echo" + text] = await call("Echo", new TextEncoder().encode("hello"), text);
    out["count" + text] = await call("Count", new TextEncoder().encode("20"), text);
    out["fail" + text] = await call("Fail", new Uint8Array(), text);
  }
  out.large = await call("Echo", pattern(1 << 20), false);
  out.many = (await Promise.all(Array.from({length: 40}, (_, n) => call("Echo", new TextEncoder().encode("n" + n), false))))
    .map((one) => one.messages[0]);
  out.socket = await socket("/socket/a", [0, 3, 125, 126, 65536, 300000, 1 << 20]);
  const calls = performance.getEntriesByType("resource").filter((entry) => entry.name.includes("/test.Calls/"));
  out.calls = [...new Set(calls.map((entry) => entry.nextHopProtocol))];
  return out;
};
main().catch((error) => ({error: String(error)})).then((out) => {
  document.getElementById("out").textContent = JSON.stringify(out);
});
"""

PAGE = f'<!doctype html><meta charset=utf-8><title>begun</title><pre id=out></pre><script>{SCRIPT}</script>'
PATIENCE_SECONDS = 120
SIZES = [0, 3, 125, 126, 65536, 300000, 1 << 20]


async def echo(connection):
    # Whoever closes with a code of its own ends this with an error.
    with contextlib.suppress(ConnectionClosedError):
        async for message in connection:
            await connection.send(message)


def start_sockets():
    loop = asyncio.new_event_loop()

    async def begin():
        server = await serve(echo, "127.0.0.1", 0, max_size=None, subprotocols=["echo"])
        return server.sockets[0].getsockname()[1]

    threading.Thread(target=loop.run_forever, daemon=True).start()
    return asyncio.run_coroutine_threadsafe(begin(), loop).result(20)


class Driver:
    """chromedriver, by the plain HTTP of WebDriver; what it has started ends with it."""

    def __init__(self, folder):
        command = ["chromedriver", "--port=0", f"--log-path={folder}/chromedriver.log"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        for line in self.process.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                self.port = int(found[1])
                return
        raise AssertionError("chromedriver does not start")

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        value = json.loads(response.read())["value"]
        assert response.status == 200, value
        return value

    def end(self):
        # The whole group: the browser's processes too, whatever has become of them.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)


def browse(chromium, folder, url, fingerprint):
    """What the page has written into itself."""
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    arguments += ["--disable-background-networking", "--disable-component-update", "--disable-extensions"]
    arguments += ["--disable-dev-shm-usage", "--no-proxy-server", f"--user-data-dir={folder}/profile"]
    # This certificate and no other is believed, as if its authority stood in the system's store.
    arguments += [f"--ignore-certificate-errors-spki-list={fingerprint}", "--host-resolver-rules=MAP dev.test 127.0.0.1"]
    options = {"goog:chromeOptions": {"binary": chromium, "args": arguments}}
    driver = Driver(folder)
    try:
        session = "/session/" + driver.ask("POST", "/session", {"capabilities": {"alwaysMatch": options}})["sessionId"]
        driver.ask("POST", session + "/url", {"url": url})
        read = {"script": "return document.getElementById('out').textContent", "args": []}
        due = time.monotonic() + PATIENCE_SECONDS
        while not (written := driver.ask("POST", session + "/execute/sync", read)):
            assert time.monotonic() < due, "the page does not come to an end"
            time.sleep(0.1)
        driver.ask("DELETE", session)
        return json.loads(written)
    finally:
        driver.end()


def fingerprint(certificate):
    """The hash of the certificate's key, as Chromium names it."""
    public = subprocess.run(["openssl", "x509", "-in", certificate, "-pubkey", "-noout"], capture_output=True, check=True).stdout
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "der"], input=public, capture_output=True, check=True).stdout
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


def digest(message):
    return hashlib.sha256(message).hexdigest()


def judge(out):
    assert "error" not in out, out
    assert out["page"] == "h2", f"the page came over {out['page']}"
    assert out["calls"] == ["h2"], out["calls"]
    for text in ["false", "true"]:
        kind = "application/grpc-web" + ("-text" if text == "true" else "")
        echoed, counted, failed = (out[name + text] for name in ["echo", "count", "fail"])
        assert echoed["http"] == 200 and echoed["kind"].startswith(kind), echoed
        assert echoed["messages"] == [digest(b"hello")] and echoed["status"] == "0" and echoed["trailer"] == "t", echoed
        assert counted["messages"] == [digest(str(n).encode()) for n in range(20)] and counted["status"] == "0", counted
        assert failed["messages"] == [] and failed["status"] == "5", failed
    assert out["large"]["messages"] == [digest(bytes(at * 7 & 255 for at in range(1 << 20)))], out["large"]
    assert out["many"] == [digest(f"n{n}".encode()) for n in range(40)], "calls were mixed up"
    met = out["socket"]
    wanted = [f"text {size // 3 * 2}" if at % 2 else f"bytes {size}" for at, size in enumerate(SIZES)]
    assert met["got"] == wanted, met
    assert (met["code"], met["reason"], met["wasClean"], met["protocol"]) == (4000, "done", True, "echo"), met


def main():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium or not shutil.which("chromedriver") or not shutil.which("openssl"):
        skip("chromium, chromedriver or openssl is not installed")
    # What Chromium keeps is removed even while its last processes still write.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        command = [BINARY, "cert", "dev.test", "127.0.0.1", "--authority", f"{folder}/ca", "--out", name]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        calls = check_grpc.Calls()
        server, port = check_grpc.start_server(calls)
        text = CONFIG.replace("DIR", name).replace("CALLS", str(port)).replace("SOCKETS", str(start_sockets()))
        with gateway(text.replace("PAGE", json.dumps(PAGE))) as running:
            url = f"https://dev.test:{running.listening[0].rsplit(':', 1)[1]}/page"
            judge(browse(chromium, name, url, fingerprint(folder / "dev.test.crt")))
            running.process.terminate()
            running.process.wait(30)
            lines = [json.loads(line) for line in (running.folder / "access.log").read_text().splitlines()]
        server.stop(None)
        called = [line for line in lines if line["route"] == "calls"]
        assert len(called) == 47 and all(line["status"] == 200 for line in called), len(called)
        tunnels = [line for line in lines if line["route"] == "sockets"]
        assert len(tunnels) == 1, tunnels
    protocol = "a stream of HTTP/2" if tunnels[0]["status"] == 200 else "an upgrade of HTTP/1.1"
    print(f"Chromium: page and 47 calls over h2, WebSocket over {protocol}")


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.1f} s", file=sys.stderr)
