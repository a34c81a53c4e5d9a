"""Calls a grpcio server through the gateway, with grpcio as the client and with a small client of gRPC-Web: unary calls
and all kinds of streams, deadlines, status details, cancellation, large messages, a server that restarts."""

import base64
import concurrent.futures
import http.client
import struct
import subprocess
import sys
import threading
import time

from gateway import BINARY, gateway, skip

try:
    import grpc
except ImportError:
    skip("grpcio is not installed")

CONFIG = """
listeners: [{address: "127.0.0.1:0", PROTOCOLSlimits: {body_bytes_max: 32MiB}}]
admin: {listen: "127.0.0.1:0"}
services:
  - {name: calls, protocol: h2, endpoints: ["127.0.0.1:PORT"]}
  - {name: nobody, protocol: h2, endpoints: ["127.0.0.1:1"]}
routes:
  - {name: calls, path: /test.Calls/*, service: calls, grpc_web: true}
  - {name: limited, path: /test.Limited/*, service: calls, policies: [{rate_limit: {rate: 1/h}}]}
  - {name: nobody, path: /test.Nobody/*, service: nobody}
"""

LARGE = 3 << 20
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Calls(grpc.GenericRpcHandler):
    """Messages are plain bytes: what they mean is no matter of the gateway."""

    def __init__(self):
        self.cancelled = threading.Event()
        self.metadata = {}

    def service(self, details):
        self.metadata = dict(details.invocation_metadata)
        kinds = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Sleep": grpc.unary_unary_rpc_method_handler(self.sleep),
            "Left": grpc.unary_unary_rpc_method_handler(self.left),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Endless": grpc.unary_stream_rpc_method_handler(self.endless),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
        }
        return kinds.get(details.method.rsplit("/", 1)[1])

    def echo(self, request, context):
        context.set_trailing_metadata((("x-trailer", "t"), ("x-trailer-bin", b"\0\xff")))
        context.send_initial_metadata((("x-initial", "i"),))
        return request

    def fail(self, _request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x05"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "nothing at 100 % Ü")

    def sleep(self, request, context):
        left = context.time_remaining()
        context.set_trailing_metadata((("x-left-ms", str(int(left * 1000)) if left is not None else "none"),))
        self.cancelled.wait(float(request))
        return b""

    def left(self, _request, context):
        left = context.time_remaining()
        return b"none" if left is None or left > 1e6 else str(int(left * 1000)).encode()

    def count(self, request, _context):
        for number in range(int(request)):
            yield str(number).encode()

    def endless(self, _request, context):
        context.add_callback(self.cancelled.set)
        while context.is_active():
            yield b"x" * 1000

    def sum(self, requests, _context):
        return str(sum(int(request) for request in requests)).encode()

    def chat(self, requests, _context):
        for request in requests:
            yield request[::-1]


def start_server(calls, port=0, credentials=None):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(32), handlers=[calls], options=OPTIONS)
    address = f"127.0.0.1:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    return server, bound


def frame(message, flag=0):
    return struct.pack(">BI", flag, len(message)) + message


def frames(body):
    while body:
        flag, length = struct.unpack(">BI", body[:5])
        yield flag, body[5 : 5 + length]
        body = body[5 + length :]


def untext(text):
    """One base64 text behind the other."""
    parts, at = b"", 0
    while at < len(text):
        parts += base64.b64decode(text[at : at + 4])
        at += 4
    return parts


def web(address, method, message, text=False, headers=None):
    connection = http.client.HTTPConnection(address, timeout=60)
    kind = "application/grpc-web-text+proto" if text else "application/grpc-web+proto"
    body = frame(message)
    body = base64.b64encode(body) if text else body
    connection.request("POST", method, body, {"Content-Type": kind, "X-Grpc-Web": "1", **(headers or {})})
    response = connection.getresponse()
    assert response.status == 200, response.status
    content_type, got = response.getheader("content-type"), response.read()
    if response.getheader("grpc-status"):
        return [], {"grpc-status": response.getheader("grpc-status"), "grpc-message": response.getheader("grpc-message")}
    assert content_type.startswith(kind.split("+")[0]), content_type
    got = untext(got) if text else got
    messages, trailers = [], {}
    for flag, payload in frames(got):
        if flag & 0x80:
            lines = payload.decode().strip().split("\r\n")
            parts = (line.partition(":") for line in lines if line)
            trailers = {name: value.strip() for name, _, value in parts}
        else:
            messages.append(payload)
    return messages, trailers


def check_web(running, calls):
    address = running.listening[0]
    for text in [False, True]:
        messages, trailers = web(address, "/test.Calls/Echo", b"hello", text)
        assert messages == [b"hello"] and trailers["grpc-status"] == "0" and trailers["x-trailer"] == "t", trailers
        messages, trailers = web(address, "/test.Calls/Count", b"50", text)
        assert messages == [str(n).encode() for n in range(50)] and trailers["grpc-status"] == "0"
        large = bytes(range(256)) * 4096
        assert web(address, "/test.Calls/Echo", large, text)[0] == [large]
        messages, trailers = web(address, "/test.Calls/Fail", b"", text)
        assert messages == [] and trailers["grpc-status"] == "5" and "100 %25" in trailers["grpc-message"], trailers
    assert calls.metadata["x-forwarded-for"].startswith("127.0.0.1")
    _, late = web(address, "/test.Calls/Sleep", b"5", headers={"grpc-timeout": "300m"})
    assert late["grpc-status"] == "4", late
    _, refused = web(address, "/test.Nobody/X", b"")
    assert refused["grpc-status"] == "14", refused


def stub(channel, kind, method):
    return getattr(channel, kind)(f"/test.Calls/{method}")


def expect(code, call):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error
    raise AssertionError(f"no {code}")


def check_calls(channel, calls):
    unary = lambda method: stub(channel, "unary_unary", method)
    reply, call = unary("Echo").with_call(b"hello", metadata=(("x-meta-bin", b"\0\1"),), timeout=60)
    trailers = dict(call.trailing_metadata())
    assert reply == b"hello" and trailers["x-trailer"] == "t" and trailers["x-trailer-bin"] == b"\0\xff"
    assert dict(call.initial_metadata())["x-initial"] == "i" and calls.metadata["x-meta-bin"] == b"\0\1"
    for size in [0, 1, 16_383, 16_384, 65_535, 65_536, LARGE]:
        message = b"m" * size
        assert unary("Echo")(message, timeout=60) == message, size
    error = expect(grpc.StatusCode.NOT_FOUND, lambda: unary("Fail")(b"", timeout=60))
    assert error.details() == "nothing at 100 % Ü", error.details()
    assert dict(error.trailing_metadata())["grpc-status-details-bin"] == b"\x08\x05"
    assert list(stub(channel, "unary_stream", "Count")(b"500", timeout=60)) == [str(n).encode() for n in range(500)]
    assert stub(channel, "stream_unary", "Sum")(iter([str(n).encode() for n in range(500)]), timeout=60) == b"124750"
    check_chat(channel)
    left = int(unary("Left")(b"", timeout=60))
    # grpcio rounds what it sends up.
    assert 30_000 < left <= 60_500, left
    expect(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: unary("Sleep")(b"5", timeout=0.3))
    expect(grpc.StatusCode.UNIMPLEMENTED, lambda: unary("Nothing")(b"", timeout=60))
    many = [unary("Echo").future(str(n).encode(), timeout=60) for n in range(500)]
    assert [call.result() for call in many] == [str(n).encode() for n in range(500)]


def check_chat(channel):
    """Each message is answered before the next one is sent."""
    answered = threading.Semaphore(0)

    def requests():
        for number in range(50):
            yield f"ab{number}".encode()
            assert answered.acquire(timeout=60), "no answer while the request goes on"

    got = []
    for reply in stub(channel, "stream_stream", "Chat")(requests(), timeout=60):
        got.append(reply)
        answered.release()
    assert got == [f"ab{number}".encode()[::-1] for number in range(50)]


def check_own_answers(channel):
    call = lambda path: channel.unary_unary(path)(b"", timeout=60)
    expect(grpc.StatusCode.UNIMPLEMENTED, lambda: call("/test.Unknown/X"))
    error = expect(grpc.StatusCode.UNAVAILABLE, lambda: call("/test.Nobody/X"))
    assert "connect_refused" in error.details(), error.details()
    expect(grpc.StatusCode.UNIMPLEMENTED, lambda: call("/test.Limited/X"))
    expect(grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: call("/test.Limited/X"))


def check_cancel(channel, calls):
    """What the client gives up, the server sees given up, although nothing more is read."""
    calls.cancelled.clear()
    stream = stub(channel, "unary_stream", "Endless")(b"", timeout=60)
    assert next(stream) == b"x" * 1000
    stream.cancel()
    assert calls.cancelled.wait(10), "the server was not told"


def check_restart(address, server, port):
    """A server that stops says so first: no call is lost."""
    echo = lambda n: web(address, "/test.Calls/Echo", str(n).encode())
    assert echo(1)[0] == [b"1"]
    server.stop(5).wait()
    fresh, _ = start_server(Calls(), port)
    for number in range(20):
        assert echo(number)[0] == [str(number).encode()]
    fresh.stop(None)


def serves_h2c():
    """Whether this build serves HTTP/2 to clients without TLS."""
    schema = subprocess.run([BINARY, "config", "schema"], capture_output=True, text=True, check=True)
    return '"h2c"' in schema.stdout


def main():
    calls = Calls()
    server, port = start_server(calls)
    h2c = serves_h2c()
    config = CONFIG.replace("PORT", str(port)).replace("PROTOCOLS", "protocols: [http1, h2c], " if h2c else "")
    with gateway(config) as running:
        address = running.listening[0]
        check_web(running, calls)
        if h2c:
            with grpc.insecure_channel(address, options=OPTIONS) as channel:
                check_calls(channel, calls)
                check_own_answers(channel)
                check_cancel(channel, calls)
        else:
            print("calls by grpcio itself: skipped, clients are not served HTTP/2 here")
        check_restart(address, server, port)
    print("gRPC: calls, streams, deadlines and gRPC-Web pass")


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"{time.monotonic() - started:.1f} s", file=sys.stderr)
