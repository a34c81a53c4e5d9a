"""F08: 256 descriptors, 400 clients that send half a head: new requests and /ready are served, CPU under 5 %."""

import time

from bed import check, within

SECONDS = 20
SHORT = True

CONFIG = """
services: [{name: origin, endpoints: ["%s"]}]
routes:
  - {path: "/origin/*", strip_prefix: true, service: origin}
  - {prefix: /, respond: {body: here}}
"""
HALF_HEAD = b"GET / HTTP/1.1\r\nHost: half"


def run(bed):
    gateway = bed.gateway(CONFIG % bed.origin(), descriptors=256)
    check(gateway.get("/origin/1k").status == 200, "the origin does not answer")
    bed.clients(400, gateway.address, HALF_HEAD)
    slowest = 0.0
    before, begun = gateway.cpu_seconds(), time.monotonic()
    for at in range(20):
        for path in ("/", "/origin/1k"):
            asked = time.monotonic()
            answer = gateway.get(path, 5)
            slowest = max(slowest, time.monotonic() - asked)
            check(answer.status == 200, f"request {at} to {path}: {answer.status} {answer.body[:80]}")
        check(gateway.admin("/ready", seconds=5).status == 200, f"/ready {at} is not served")
        time.sleep(0.1)
    share = (gateway.cpu_seconds() - before) / (time.monotonic() - begun)
    within(share, 0.05, f"{share:.1%} of a core is used while descriptors are short")
    return f"40 requests served, slowest {slowest * 1000:.0f} ms, CPU {share:.2%}, {gateway.fds()} of 256 descriptors"
