"""F01: 8 reloads under load: new connections, 10 kept ones, 5 three-second requests: 0 lost, 0 closed."""

import time

from bed import check
from continuity import CONFIG, Load

SECONDS = 40
SHORT = False


def run(bed):
    config = CONFIG % bed.origin()
    gateway = bed.gateway(config)
    load = Load(gateway.address, fresh=4, kept=10, slow=5)
    slowest = 0.0
    try:
        for turn in range(8):
            time.sleep(1)
            asked = time.monotonic()
            answer = gateway.reload(config + f"  - {{path: /added-{turn}, respond: {{body: added}}}}\n")
            slowest = max(slowest, time.monotonic() - asked)
            check(answer.status == 200, lambda: f"reload {turn}: {answer.status} {answer.body[:200]}")
            check(gateway.get(f"/added-{turn}").status == 200, f"reload {turn} is answered and does not serve")
        time.sleep(3)
    finally:
        counts = load.stop()
    check(counts["refused"] == counts["lost"] == counts["cut"] == counts["announced"] == 0, f"{counts}")
    check(counts["slow"] >= 10, f"three-second requests do not come through: {counts}")
    return f"{counts}, slowest reload {slowest * 1000:.0f} ms"
