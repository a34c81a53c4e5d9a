"""F57: nested quantifiers in routes: the longest target that a client may send costs less than 10 ms of CPU."""

import socket

from bed import check, within

SECONDS = 40
SHORT = True

# What an expression sees is at most `target_bytes_max`, 8 KiB.
TARGET_BYTES = 8 * 1024 - 16
REQUESTS = 100
CONFIG = """
routes:
  - {regex: "^/(a+)+$", respond: 204}
  - {regex: "^/(a|aa)+$", respond: 204}
  - {regex: "^/(.*)*b(.*)*c(.*)*d$", respond: 204}
  - {regex: "^/([a-z]+)*[0-9]{10,20}!$", respond: 204}
  - {prefix: /, respond: {body: here}}
"""
TARGETS = tuple((text * TARGET_BYTES)[:TARGET_BYTES - 1] + b"!" for text in (b"a", b"ab", b"bc", b"abcd0"))


def run(bed):
    gateway = bed.gateway(CONFIG, workers=1)
    dearest = 0.0
    for target in TARGETS:
        client = socket.create_connection(gateway.address, 30)
        before = gateway.cpu_seconds()
        for _ in range(REQUESTS):
            client.sendall(b"GET /%s HTTP/1.1\r\nHost: t\r\n\r\n" % target)
            got = b""
            while not got.endswith(b"here"):
                part = client.recv(65536)
                check(part and got[:12] in (b"", b"HTTP/1.1 200"), f"{(got + part)[:100]}")
                got += part
        dearest = max(dearest, (gateway.cpu_seconds() - before) / REQUESTS * 1000)
        client.close()
    within(dearest, 10, f"{dearest:.1f} ms of CPU for one request")
    return f"{len(TARGETS)} kinds of 8 KiB before 4 nested expressions: {dearest:.2f} ms of CPU for a request at most"
