"""F03: 2 upgrades under load, the second 1 s after the first: 0 refused, 0 lost, 0 closed unannounced."""

import json
import os
import signal
import subprocess
import time

from bed import BINARY, check, eventually
from continuity import CONFIG, Load

SECONDS = 60
SHORT = False


def upgrade(gateway):
    command = [BINARY, "upgrade", "--admin", gateway.admin_address, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    check(done.returncode == 0, lambda: f"upgrade: code {done.returncode}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)["pid"]


def run(bed):
    config = "server: {drain_timeout: 6s}\n" + CONFIG % bed.origin()
    # The process that is left in the end is another one than the bed knows: this run judges its rest.
    gateway = bed.gateway(config, settles=False)
    first, pids = gateway.pid, []
    load = Load(gateway.address, fresh=4, kept=10, slow=5)
    try:
        time.sleep(2)
        pids.append(upgrade(gateway))
        time.sleep(1)
        pids.append(upgrade(gateway))
        time.sleep(4)
        counts = load.stop()
        check(counts["refused"] == counts["lost"] == counts["cut"] == 0, f"{counts}")
        check(counts["announced"] >= 10 and counts["slow"] >= 5, f"{counts}")
        check(gateway.metric("ringway_upgrades_total", result="done") == 2, "two upgrades are not counted")
        gateway.process.wait(15)
        check(gateway.process.returncode == 0, f"the first process ended with {gateway.process.returncode}")
        eventually("only the last process is left", lambda: not os.path.exists(f"/proc/{pids[0]}"), 15)
        gateway.pid = pids[1]
        settled = gateway.settle()
    finally:
        load.stop()
        for pid in pids:
            if os.path.exists(f"/proc/{pid}"):
                os.kill(pid, signal.SIGKILL)
    return f"process {first} to {pids[0]} to {pids[1]}; {counts}; {settled}"
