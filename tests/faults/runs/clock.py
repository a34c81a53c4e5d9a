"""F17: the wall clock jumps an hour forth and back, and stops: limits and timeouts keep their rate, certificates are
judged by it."""

import glob
import json
import socket
import ssl
import subprocess
import threading
import time

from bed import Skipped, check

SECONDS = 60
SHORT = False

CONFIG = """
listeners:
  - {address: "127.0.0.1:0", limits: {header_timeout: 1s, idle_timeout: 3s}}
  - {address: "127.0.0.2:0", tls: {cert: "%(pair)s", key: "%(pair)s", client_auth: {mode: required, ca: ["%(pair)s"]}}}
services: [{name: origin, endpoints: ["%(origin)s"], timeouts: {first_byte: 1s}}]
routes:
  - {path: "/origin/*", strip_prefix: true, service: origin}
  - {exact: /limited, policies: [{rate_limit: {rate: 20/s, burst: 5, scope: node}}], respond: {body: in}}
  - {prefix: /, respond: {body: here}}
"""
HOUR = 3600
STOPPED = 1609459200
RATE, BURST = 20, 5
# How long a limit is watched under each clock.
WATCH_SECONDS = 3


def run(bed):
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not found:
        raise Skipped("libfaketime is not installed (Debian: faketime)")
    file = bed.folder / "faketime"
    file.write_text("+0")
    env = {"LD_PRELOAD": found[0], "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
           "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    pair = certificate(bed.folder)
    gateway = bed.gateway(CONFIG % {"origin": bed.origin(), "pair": pair}, env=env)
    # The library opens its file at each call of the clock.
    gateway.takes_at_rest()

    def jump(to):
        # In one piece: the library reads it at every call.
        with open(file, "r+") as opened:
            opened.write(to.ljust(40))

    seen = []
    clocks = [("as it is", "+0", time.time), ("an hour ahead", f"+{HOUR}", lambda: time.time() + HOUR),
              ("an hour behind", f"-{HOUR}", lambda: time.time() - HOUR),
              ("stopped", "2021-01-01 00:00:00", lambda: STOPPED)]
    for name, to, wall in clocks:
        admitted = watch(gateway, lambda: jump(to))
        check(abs(wall_clock(gateway) - wall()) < HOUR / 2, f"{name}: the wall clock did not change, nothing is shown")
        most = BURST + RATE * WATCH_SECONDS
        check(most * 0.8 <= admitted <= most * 1.1 + 1, f"{name}: {admitted} of at most {most} were let in")
        # It holds from now on for a day.
        wanted = "an hour behind" != name != "stopped"
        check(shakes_hands(gateway, pair) == wanted, f"{name}: a client's certificate is taken by another clock")
        seen.append(f"{name}: {admitted} of {most}")
        deadlines(gateway, jump, name)
    jump("+0")
    check(shakes_hands(gateway, pair), "a certificate is refused after the clock came back")
    return ", ".join(seen)


def certificate(folder):
    """The file of a certificate that holds from now on for a day, with its key and its authority."""
    pair, key = folder / "pair.pem", folder / "key.pem"

    def make(name, *more):
        made = folder / f"{name}.pem"
        subprocess.run(["openssl", "req", "-x509", "-new", "-key", key, "-days", "1", "-subj", f"/CN={name}", "-out", made, *more],
                       check=True, capture_output=True)
        return made

    subprocess.run(["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key], check=True)
    authority = make("authority")
    leaf = make("clock.test", "-CA", authority, "-CAkey", key, "-addext", "basicConstraints=CA:FALSE",
                "-addext", "subjectAltName=DNS:clock.test")
    pair.write_bytes(b"".join(part.read_bytes() for part in (key, leaf, authority)))
    return pair


def shakes_hands(gateway, pair):
    """Whether a client that shows this certificate is let in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(pair)
    host, _, port = gateway.listening[1].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 5) as plain, context.wrap_socket(plain) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: clock.test\r\n\r\n")
            return client.recv(4096).startswith(b"HTTP/1.1 200")
    except (ssl.SSLError, ConnectionError):
        return False


def wall_clock(gateway):
    """What the gateway takes for the time of day."""
    return json.loads(gateway.get("/origin/slow/2000").body)["timestamp"]


def watch(gateway, jump):
    """Asks as fast as it goes, with a jump in the middle; returns how many the limit let in."""
    time.sleep(BURST / RATE + 0.1)
    admitted, begun, jumped = 0, time.monotonic(), False
    while (passed := time.monotonic() - begun) < WATCH_SECONDS:
        if passed > WATCH_SECONDS / 3 and not jumped:
            jump()
            jumped = True
        admitted += gateway.get("/limited").status == 200
        time.sleep(0.01)
    return admitted


def deadlines(gateway, jump, name):
    """Deadlines that began before a jump, and end after it, take their time."""
    half, idle = (socket.create_connection(gateway.address) for _ in range(2))
    half.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
    idle.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    check(idle.recv(4096).startswith(b"HTTP/1.1 200"), "not served")
    begun = time.monotonic()
    slow = {}

    def ask(ms):
        slow[ms] = (gateway.get(f"/origin/slow/{ms}").status, time.monotonic() - begun)

    asking = [threading.Thread(target=ask, args=(ms,)) for ms in (600, 3000)]
    [thread.start() for thread in asking]
    for to in (f"+{2 * HOUR}", f"-{2 * HOUR}"):
        time.sleep(0.2)
        jump(to)
    half.settimeout(5)
    check(half.recv(4096).startswith(b"HTTP/1.1 408"), "a half head is not answered with 408")
    took = time.monotonic() - begun
    check(0.95 < took < 1.5, f"{name}: the header deadline of 1 s took {took:.2f} s")
    idle.settimeout(6)
    check(idle.recv(1) == b"", "an idle connection gets bytes")
    took = time.monotonic() - begun
    check(2.9 < took < 4, f"{name}: the idle deadline of 3 s took {took:.2f} s")
    [thread.join() for thread in asking]
    check(slow[600][0] == 200, f"{name}: an answer after 600 ms: {slow[600]}")
    check(slow[3000][0] == 504 and 0.95 < slow[3000][1] < 1.6, f"{name}: no answer within 1 s: {slow[3000]}")
