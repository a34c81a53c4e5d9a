"""F06: a loop that is stuck is warned of with its stack after 100 ms; after 5 s the process ends by SIGABRT."""

import signal
import socket
import time

from bed import Skipped, check, eventually

SECONDS = 25
SHORT = False

CONFIG = "routes: [{prefix: /, respond: {body: here}}]\n"


def strike(gateway, fault):
    client = socket.create_connection(gateway.address, 5)
    client.sendall(b"GET /.fault/%s HTTP/1.1\r\nHost: t\r\n\r\n" % fault)
    return client


def run(bed):
    gateway = bed.gateway(CONFIG, env={"RINGWAY_FAULTS": "1"}, settles=False)
    if gateway.get("/.fault/panic", 5).status != 0:
        raise Skipped("the build has no faults: make it with --features faults")
    # A process that stands still as a whole is not stuck.
    gateway.signal("STOP")
    time.sleep(6)
    gateway.signal("CONT")
    time.sleep(0.5)
    check(gateway.running() and not gateway.events("worker is stuck"), "a stop of the process is taken for a stuck loop")

    before, begun = len(gateway.events("worker takes no turn")), time.monotonic()
    client = strike(gateway, b"spin/60000")
    eventually("a warning", lambda: len(gateway.events("worker takes no turn")) > before, 2)
    warned = time.monotonic() - begun
    stack = gateway.events("worker takes no turn")[-1]["stack"]
    check("faults::" in stack, f"the stack does not show what spins: {stack}")
    # On a busy machine longer: what the thread waits for a processor does not count.
    code = gateway.process.wait(14)
    ended = time.monotonic() - begun
    client.close()
    check(code == -signal.SIGABRT, f"it ended with {code}")
    last = gateway.events("worker is stuck for good, the process ends")
    check(ended > 4.9 and last and 5000 <= int(last[0]["stuck_ms"]) < 5200, f"it ended after {ended:.1f} s: {last}")
    return f"warned after {warned * 1000:.0f} ms, ended after {ended:.1f} s; 6 s of SIGSTOP are forgiven"
