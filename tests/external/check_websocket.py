"""Speaks WebSocket through the gateway with the PyPI package `websockets`, on both sides: handshake, text and binary of
all sizes, fragments, compression, pings, the closing handshake from either side, many at once, and a stop."""

import asyncio
import json
import os
import threading

from gateway import curl, gateway, skip

try:
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosedError, InvalidStatus
except ImportError:
    skip("websockets is not installed")

CONFIG = """
server: {drain_timeout: 2s}
listeners: [{address: "127.0.0.1:0", limits: {tunnels_max: 300}}]
admin: {listen: "127.0.0.1:0"}
logging: {access_log: {format: json, path: "{folder}/access.log"}}
services: [{name: echo, endpoints: ["127.0.0.1:PORT"]}]
routes:
  - {name: chat, path: /chat/*, service: echo, upgrade: [websocket]}
  - {name: plain, path: /plain, service: echo}
"""

SIZES = [0, 1, 125, 126, 127, 4096, 65535, 65536, 1 << 20]


async def echo(connection):
    if connection.request.path.endswith("/bye"):
        await connection.close(4001, "bye")
        return
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosedError:
        # Closed with a code of the test's own, or cut by the stop at the end.
        pass


async def exchange(url):
    async with connect(url, max_size=None) as client:
        for size in SIZES:
            for message in [os.urandom(size), "ü" * (size // 2)]:
                await client.send(message)
                assert await client.recv() == message, f"{size} bytes changed"
        # One message in several frames.
        await client.send(part for part in ["a", "b" * 70000, "c"])
        assert await client.recv() == "a" + "b" * 70000 + "c"
        latency = await (await client.ping())
        assert latency >= 0
        await client.close(4000, "done")
        assert (client.close_code, client.close_reason) == (4000, "done")


async def main(running, url):
    await exchange(url + "/chat/a")
    async with connect(url + "/chat/bye") as client:
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (4001, "bye"), client.close_code
    try:
        async with connect(url + "/plain"):
            raise AssertionError("opened on a route that allows nothing")
    except InvalidStatus as refused:
        assert refused.response.status_code in (400, 426), refused
    clients = [await connect(url + f"/chat/{at}") for at in range(200)]
    for at, client in enumerate(clients):
        await client.send(f"mine {at}")
    for at, client in enumerate(clients):
        assert await client.recv() == f"mine {at}", "messages were mixed up"
    await asyncio.gather(*(client.close() for client in clients))
    left = await connect(url + "/chat/left")
    await left.send("open")
    assert await left.recv() == "open"
    return left


async def ended(client):
    try:
        await asyncio.wait_for(client.recv(), 10)
        raise AssertionError("a message from nowhere")
    except ConnectionClosedError:
        pass


def start_server(loop):
    async def begin():
        server = await serve(echo, "127.0.0.1", 0, max_size=None)
        return server.sockets[0].getsockname()[1]

    threading.Thread(target=loop.run_forever, daemon=True).start()
    return asyncio.run_coroutine_threadsafe(begin(), loop).result(10)


servers = asyncio.new_event_loop()
port = start_server(servers)
clients = asyncio.new_event_loop()
threading.Thread(target=clients.run_forever, daemon=True).start()
with gateway(CONFIG.replace("PORT", str(port))) as running:
    url = running.url("").replace("http:", "ws:")
    left = asyncio.run_coroutine_threadsafe(main(running, url), clients).result(60)
    _, _, page = curl(running.admin_url("/metrics"))
    total = lambda name: sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name + "{"))
    assert total("ringway_worker_tunnels_opened_total") == 203, page
    assert total("ringway_worker_tunnels_open") == 1, page
    running.process.terminate()
    asyncio.run_coroutine_threadsafe(ended(left), clients).result(20)
    running.process.wait(20)
    lines = [json.loads(line) for line in (running.folder / "access.log").read_text().splitlines()]

tunnels = [line for line in lines if line["status"] == 101]
assert len(tunnels) == 203, len(tunnels)
assert [line["reason"] for line in tunnels if "reason" in line] == ["draining"], "one tunnel was open at the stop"
assert max(line["bytes_in"] for line in tunnels) > 1 << 20
print("websocket: ok")
