"""F05: a panic costs one connection; a worker that dies is back within 1 s, others see nothing, nobody is refused."""

import socket
import threading
import time

from bed import SLACK, Skipped, check, eventually, within

SECONDS = 30
SHORT = True

CONFIG = "routes: [{prefix: /, respond: {body: here}}]\n"
REQUEST = b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n"


def ask(client):
    """Whether a kept-alive connection is answered once more."""
    try:
        client.sendall(REQUEST)
        return b"200 OK" in client.recv(4096)
    except OSError:
        return False


def kept(gateway, count):
    clients = [socket.create_connection(gateway.address, 5 * SLACK) for _ in range(count)]
    check(all(ask(client) for client in clients), "kept-alive clients are not served")
    return clients


def run(bed):
    gateway = bed.gateway(CONFIG, env={"RINGWAY_FAULTS": "1"})
    if gateway.get("/.fault/panic", 5).status != 0:
        raise Skipped("the build has no faults: make it with --features faults")
    clients = kept(gateway, 8)
    for _ in range(20):
        check(gateway.get("/.fault/panic", 5).status == 0, "a panic is answered")
    check(all(ask(client) for client in clients), "a panic cost more than its own connection")
    check(gateway.metric("ringway_worker_panics_total") == 21, "panics are not counted")

    stop, refused, served = threading.Event(), [], []

    def knock():
        while not stop.is_set():
            try:
                with socket.create_connection(gateway.address, 5 * SLACK) as client:
                    served.append(ask(client))
            except OSError as why:
                refused.append(why)

    knocking = threading.Thread(target=knock)
    knocking.start()
    slowest = 0.0
    try:
        for death in range(1, 4):
            begun = time.monotonic()
            gateway.get("/.fault/worker", 5)
            eventually("the worker is back", lambda: len(gateway.events("worker started again")) >= death)
            slowest = max(slowest, time.monotonic() - begun)
    finally:
        stop.set()
        knocking.join()
    within(slowest, 1, f"a worker was away for {slowest:.2f} s")
    check(not refused, f"{len(refused)} clients were refused: {refused[:1]}")
    restarts = gateway.metric("ringway_worker_restarts_total")
    check(restarts == 3, f"{restarts} restarts are counted")
    for client in clients + kept(gateway, 20):
        client.close()
    return f"21 panics, 3 deaths, back after {slowest * 1000:.0f} ms at most, {len(served)} clients meanwhile, 0 refused"
