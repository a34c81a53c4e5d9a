"""F07: kill -9, twenty times: whoever starts the gateway again has the first 200 within 1 s."""

import time

from bed import check, free_port

SECONDS = 60
SHORT = False

ROUNDS = 20
CONFIG = 'listeners: ["127.0.0.1:%d"]\nroutes: [{prefix: /, respond: {body: here}}]\n'


def run(bed):
    config = CONFIG % free_port()
    gateway = bed.gateway(config, settles=False)
    clients = bed.clients(20, gateway.address, b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
    gaps = []
    for _ in range(ROUNDS):
        gateway.process.kill()
        begun = time.monotonic()
        gateway.process.wait()
        gateway = bed.gateway(config, settles=False)
        check(gateway.get("/").status == 200, "not served after the restart")
        gaps.append(time.monotonic() - begun)
        clients.close()
        clients.open(20, b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
    clients.close()
    gateway.settles = True
    check(max(gaps) < 1, f"the longest gap was {max(gaps):.2f} s")
    return f"{ROUNDS} times; gap {1000 * sum(gaps) / ROUNDS:.0f} ms on average, {1000 * max(gaps):.0f} ms at most"
