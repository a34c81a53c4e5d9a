"""F20: rings of 8 entries whose every 5th submit fails: 1,000 connections, no request is lost."""

import pathlib
import platform
import shutil
import socket
import subprocess

from bed import Skipped, check

SECONDS = 60
SHORT = False

CONFIG = """
services: [{name: origin, endpoints: ["%s"], pool: {idle_timeout: 1s}}]
routes: [{path: "/*", service: origin}]
"""
CONNECTIONS = 1000
ROUNDS = 3


def shim(folder):
    """The library between the gateway and the kernel, see shim/ring.c."""
    if not shutil.which("cc") or platform.machine() != "x86_64":
        raise Skipped("needs a C compiler and x86_64")
    library = folder / "ring.so"
    source = pathlib.Path(__file__).resolve().parent.parent / "shim" / "ring.c"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return str(library)


def read_response(client):
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            return data
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    while len(body) < length:
        more = client.recv(65536)
        if not more:
            break
        body += more
    return head + b"\r\n\r\n" + body


def run(bed):
    env = {"LD_PRELOAD": shim(bed.folder), "RING_ENTRIES": "8", "RING_ENTER_FAIL": "5"}
    gateway = bed.gateway(CONFIG % bed.origin(), env=env)
    driver = gateway.events("ringway starts")[0]["driver"]
    if "io_uring" not in driver:
        raise Skipped("this kernel has no io_uring")
    # Failing submits keep the loop a little busy for ever: F60 is held at three times its share.
    gateway.idle_max *= 3
    clients = [socket.create_connection(gateway.address, 10) for _ in range(CONNECTIONS)]
    for client in clients:
        client.settimeout(20)
    answered = 0
    for _ in range(ROUNDS):
        for client in clients:
            client.sendall(b"GET /1k HTTP/1.1\r\nHost: t\r\n\r\n")
        for client in clients:
            answered += read_response(client).startswith(b"HTTP/1.1 200")
    for client in clients:
        client.close()
    check(answered == CONNECTIONS * ROUNDS, f"{answered} of {CONNECTIONS * ROUNDS} answered")
    return f"{answered} requests on {CONNECTIONS} connections answered, {driver}"
