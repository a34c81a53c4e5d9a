"""Speaks WebSocket over HTTP/2 (RFC 8441) through the gateway: `h2` and `wsproto` from PyPI on the client's side,
`websockets` on the endpoint's. Sizes, fragments, many on one connection, closing from either side."""

import asyncio
import os
import socket
import threading

from gateway import gateway, skip

try:
    import h2.config
    import h2.connection
    import h2.events
    import h2.settings
    import wsproto.events as ws
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosedError
    from wsproto.connection import Connection, ConnectionType
except ImportError:
    skip("h2, wsproto or websockets is not installed")

CONFIG = """
listeners: [{address: "127.0.0.1:0", protocols: [http1, h2c]}]
admin: {listen: "127.0.0.1:0"}
services: [{name: echo, endpoints: ["127.0.0.1:PORT"]}]
routes:
  - {name: chat, path: /chat/*, service: echo, upgrade: [websocket], websocket_ping: 200ms}
  - {name: plain, path: /plain, service: echo}
"""

PATIENCE_SECONDS = 60


class Client:
    """One connection of HTTP/2 with WebSockets on its streams."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), PATIENCE_SECONDS)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.streams = {}
        self.statuses = {}
        self.ended = set()
        self.pings = 0
        self.flush()
        while self.http.remote_settings.enable_connect_protocol != 1:
            self.read()

    def flush(self):
        self.socket.sendall(self.http.data_to_send())

    def read(self):
        data = self.socket.recv(65536)
        assert data, "the connection ended"
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.statuses[event.stream_id] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                # The end comes as DATA of nothing, behind the close.
                if event.data:
                    self.streams[event.stream_id][0].receive_data(event.data)
                    self.take(event.stream_id)
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                self.ended.add(event.stream_id)
        self.flush()

    def take(self, stream):
        connection, messages = self.streams[stream]
        for event in connection.events():
            if isinstance(event, ws.Ping):
                self.pings += 1
                self.send_bytes(stream, connection.send(event.response()))
            elif isinstance(event, (ws.BytesMessage, ws.TextMessage)):
                if not messages or messages[-1][1]:
                    messages.append([event.data, event.message_finished])
                else:
                    messages[-1][0] += event.data
                    messages[-1][1] = event.message_finished
            elif isinstance(event, ws.CloseConnection):
                messages.append([event, True])

    def open(self, path):
        stream = self.http.get_next_available_stream_id()
        fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", path)]
        fields += [(":authority", "test"), ("sec-websocket-version", "13")]
        self.http.send_headers(stream, fields)
        self.streams[stream] = (Connection(ConnectionType.CLIENT), [])
        self.flush()
        while stream not in self.statuses:
            self.read()
        return stream, self.statuses[stream]

    def send_bytes(self, stream, data):
        while data:
            room = min(self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size)
            if room == 0:
                self.read()
                continue
            self.http.send_data(stream, data[:room])
            data = data[room:]
            self.flush()

    def send(self, stream, event):
        self.send_bytes(stream, self.streams[stream][0].send(event))

    def message(self, stream):
        messages = self.streams[stream][1]
        while not messages or not messages[0][1]:
            self.read()
        return messages.pop(0)[0]

    def end(self, stream):
        self.http.end_stream(stream)
        self.flush()
        while stream not in self.ended:
            self.read()


async def echo(connection):
    if connection.request.path.endswith("/bye"):
        await connection.close(4001, "bye")
        return
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosedError:
        # With a code of the test's own, or by its end.
        pass


def start_server():
    loop = asyncio.new_event_loop()

    async def begin():
        server = await serve(echo, "127.0.0.1", 0, max_size=None)
        return server.sockets[0].getsockname()[1]

    threading.Thread(target=loop.run_forever, daemon=True).start()
    return asyncio.run_coroutine_threadsafe(begin(), loop).result(PATIENCE_SECONDS)


with gateway(CONFIG.replace("PORT", str(start_server()))) as running:
    client = Client(running.listening[0])
    stream, head = client.open("/chat/a")
    assert head[":status"] == "200", head
    assert "sec-websocket-accept" not in head and "upgrade" not in head, head
    for size in [0, 1, 125, 126, 127, 4096, 65535, 65536, 1 << 18]:
        data, text = os.urandom(size), "ü" * (size // 2)
        client.send(stream, ws.BytesMessage(data=data))
        assert client.message(stream) == data, f"{size} bytes changed"
        client.send(stream, ws.TextMessage(data=text))
        assert client.message(stream) == text, f"{size} bytes of text changed"
    for part, last in [("a", False), ("b" * 70000, False), ("c", True)]:
        client.send(stream, ws.TextMessage(data=part, message_finished=last))
    assert client.message(stream) == "a" + "b" * 70000 + "c"
    while client.pings < 3:
        client.read()
    others = [client.open(f"/chat/{at}")[0] for at in range(50)]
    for at, other in enumerate(others):
        client.send(other, ws.TextMessage(data=f"mine {at}"))
    for at, other in enumerate(others):
        assert client.message(other) == f"mine {at}", "messages were mixed up"
    client.send(stream, ws.CloseConnection(code=4000, reason="done"))
    closed = client.message(stream)
    assert closed.code == 4000, closed
    client.end(stream)
    bye, _ = client.open("/chat/bye")
    closed = client.message(bye)
    assert (closed.code, closed.reason) == (4001, "bye"), closed
    _, refused = client.open("/plain")
    assert refused[":status"] == "501", refused
print("websocket over HTTP/2: ok")
