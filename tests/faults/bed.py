"""What the fault runs stand on: gateways, origins and raw clients, and what they leave behind."""

import collections
import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("RINGWAY", str(ROOT / "target/debug/ringway"))
# Figures are those of an optimised build on a machine that does nothing else. An unoptimised build is run to see that
# things happen at all, maybe on a slow machine beside other work: there every wait is longer, and what is measured may
# be so many times as much. A loop that spins takes all of a core, and is found by that too.
SLACK = 8 if "debug" in pathlib.Path(BINARY).parts else 1
START_SECONDS = 20 * SLACK
STOP_SECONDS = 40
# F60: a second after the load is gone the process is idle: below this share of one core over the second that follows.
IDLE_CPU_MAX = 0.01 * SLACK
# A figure that has not moved for so long moves no more by itself.
STEADY_SECONDS = 0.2 if SLACK == 1 else 0.6
# F61: what may stay behind of memory. An allocator keeps some of what it once needed.
MEMORY_SLACK_BYTES = 8 << 20
# F61: how long descriptors and memory may take to come back: linger and the trimming of pools.
SETTLE_SECONDS = 20


class Failed(Exception):
    """The gateway did not do what it should."""


class Skipped(Exception):
    """The run cannot be made here."""


def check(condition, what):
    """Fails the run with `what` unless `condition` holds."""
    if not condition:
        raise Failed(what() if callable(what) else what)


def within(value, most, what):
    """Fails the run with `what` where a figure is above its bound, or above SLACK times that in an unoptimised build."""
    check(value < most * SLACK, what)


def eventually(what, condition, seconds=10):
    """Waits until `condition()` gives something true, and returns that."""
    seconds *= SLACK
    end = time.monotonic() + seconds
    while True:
        got = condition()
        if got:
            return got
        check(time.monotonic() < end, lambda: f"not within {seconds} s: {what}")
        time.sleep(0.01)


def steady(value):
    """What `value` gives when it has been the same for a while."""
    last, since = value(), time.monotonic()
    while time.monotonic() - since < STEADY_SECONDS:
        time.sleep(0.02)
        now = value()
        if now != last:
            last, since = now, time.monotonic()
    return last


def until(value, good, seconds=SETTLE_SECONDS):
    """Waits until `value()` is good, and returns the last one."""
    end = time.monotonic() + seconds * SLACK
    while True:
        got = value()
        if good(got) or time.monotonic() > end:
            return got
        time.sleep(0.1)


Response = collections.namedtuple("Response", "status fields body")


class Bed:
    """Starts what a run needs and ends it, whatever happens."""

    def __init__(self):
        self.stack = contextlib.ExitStack()
        self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="ringway-faults-")))
        self.gateways = []

    def __enter__(self):
        return self

    def __exit__(self, *why):
        self.stack.close()

    def gateway(self, config, **how):
        """Starts a gateway with this configuration. Listeners and the admin listener are put in when left out.

        `workers` (2), `descriptors` (RLIMIT_NOFILE), `driver`, `env`, `before` (called in the new process before the
        binary runs), `memory_slack` (bytes that may stay behind), `settles` (False: not looked at in the end),
        `stdout` (where its standard output goes)."""
        gateway = Gateway(self.folder / f"gateway-{len(self.gateways)}", config, **how)
        self.stack.callback(gateway.end)
        gateway.start()
        self.gateways.append(gateway)
        return gateway

    def origin(self):
        """Starts `ringway demo-upstream` as an origin and returns its address."""
        port = free_port()
        command = [BINARY, "demo-upstream", "--listen", f"127.0.0.1:{port}"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.stack.callback(lambda: (child.kill(), child.wait()))
        eventually("the origin listens", lambda: connects("127.0.0.1", port))
        return f"127.0.0.1:{port}"

    def clients(self, count, address, payload=b"", receive_buffer=None):
        """Opens `count` connections to `address`, sends `payload` on each, and closes all at the end of the run."""
        clients = Clients(address, receive_buffer)
        self.stack.callback(clients.close)
        clients.open(count, payload)
        return clients

    def settle(self):
        """Holds every gateway that still runs to F60 and F61."""
        return "; ".join(filter(None, [g.settle() for g in self.gateways if g.settles and g.running()]))

    def logs(self):
        return "\n".join(f"-- {g.folder.name}\n" + "".join(g.lines[-40:]) for g in self.gateways)


class Gateway:
    """A gateway process."""

    def __init__(self, folder, config, workers=2, descriptors=None, driver=None, env=None, before=None,
                 memory_slack=MEMORY_SLACK_BYTES, settles=True, stdout=subprocess.DEVNULL):
        folder.mkdir()
        self.folder, self.settles, self.memory_slack = folder, settles, memory_slack
        self.idle_max = IDLE_CPU_MAX
        self.config = folder / "ringway.yaml"
        self.write(config)
        self.command = [BINARY, "run", "-c", str(self.config), "--workers", str(workers)]
        if driver:
            self.command += ["--driver", driver]
        self.env = {**os.environ, **(env or {})}
        self.env.pop("NOTIFY_SOCKET", None)
        self.descriptors, self.before, self.stdout = descriptors, before, stdout
        self.process, self.pid = None, None
        self.lines, self.listening, self.admin_address = [], [], None
        self.ready = threading.Event()

    def write(self, config):
        """Writes the configuration; `reload` takes it up."""
        for key, value in (("listeners", '["127.0.0.1:0"]'), ("admin", '{listen: "127.0.0.1:0"}')):
            if not re.search(rf"^{key}:", config, re.M):
                config = f"{key}: {value}\n{config}"
        self.config.write_text(config)

    def start(self):
        def prepare():
            if self.descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))
            if self.before:
                self.before()

        self.process = subprocess.Popen(
            self.command, env=self.env, preexec_fn=prepare, stdin=subprocess.DEVNULL, stdout=self.stdout,
            stderr=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True).start()
        check(self.ready.wait(START_SECONDS) and self.running() and self.listening,
              lambda: "the gateway does not start:\n" + "".join(self.lines))
        self.get("/")
        # Workers open some of theirs in their first turns, which on a busy machine may come behind all this.
        self.fds_before, self.memory_before = steady(self.fds), self.held()

    def _read(self, pipe):
        for line in pipe:
            self.lines.append(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("message") == "listening":
                self.listening.append(event["address"])
            elif event.get("message") == "admin listening":
                self.admin_address = event["address"]
            elif event.get("message") == "ready":
                self.ready.set()
        self.ready.set()

    # What it says.

    @property
    def address(self):
        """Host and port of its first listener."""
        host, _, port = self.listening[0].rpartition(":")
        return host.strip("[]"), int(port)

    def events(self, message):
        """Its log events with this message."""
        found = []
        for line in list(self.lines):
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event.get("message") == message:
                    found.append(event)
        return found

    def get(self, path, seconds=10, fields=None):
        """One request on a connection of its own."""
        return fetch(f"http://{self.listening[0]}{path}", seconds, fields)

    def admin(self, path, method="GET", seconds=10):
        """One request to the admin listener."""
        return fetch(f"http://{self.admin_address}{path}", seconds, method=method)

    def metric(self, name, **labels):
        """The sum of a metric's samples that carry these labels."""
        total = 0.0
        for line in self.admin("/metrics").body.decode().splitlines():
            match = re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line)
            if match and match[1] == name:
                found = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
                if all(found.get(key) == str(value) for key, value in labels.items()):
                    total += float(match[3])
        return total

    # What it uses.

    def running(self):
        return self.process is not None and self.process.poll() is None

    def cpu_seconds(self):
        """Processor time of all its threads so far, to the nanosecond."""
        total = 0
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def cpu_share(self, seconds):
        """Share of one core that it uses over the next `seconds`."""
        before, begun = self.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / (time.monotonic() - begun)

    def takes_at_rest(self):
        """What it takes now is what it may take at rest, besides what any gateway may: with a library that works on its own."""
        self.idle_max = IDLE_CPU_MAX + self.cpu_share(2)

    def fds(self):
        """Its open descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self):
        """Its resident memory, in bytes."""
        return self._status("VmRSS")

    def held(self):
        """What it holds by itself, without the pages of its program: anonymous memory, in bytes."""
        return self._status("RssAnon")

    def _status(self, field):
        """A field of its status, in bytes. A process that has ended has none."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+)", status, re.M)
        check(found, lambda: f"the gateway has ended with {self.process.poll()}")
        return int(found[1]) * 1024

    def settle(self, seconds=1):
        """Waits for descriptors and memory to come back, and looks that it does nothing `seconds` after."""
        time.sleep(1)
        share = until(lambda: self.cpu_share(1), lambda share: share < self.idle_max, seconds - 1)
        check(share < self.idle_max, f"F60: not idle {seconds} s after: {share:.1%} of a core")
        # Idle connections to endpoints are kept on purpose, for as long as `pool` says.
        held = lambda: self.fds() - int(self.metric("ringway_worker_upstream_idle_connections"))
        fds = until(held, lambda fds: fds <= self.fds_before)
        check(fds <= self.fds_before, f"F61: {fds} descriptors are open, {self.fds_before} were before")
        most = self.memory_before + self.memory_slack
        grown = (until(self.held, lambda bytes: bytes <= most) - self.memory_before) / 2**20
        check(grown * 2**20 <= self.memory_slack, f"F61: {grown:.1f} MiB more are held than before")
        return f"idle at {share:.2%}, {fds} descriptors, {grown:+.1f} MiB"

    # What is done to it.

    def signal(self, name):
        """Sends it a signal: `HUP`, `USR2`."""
        self.process.send_signal(getattr(signal, f"SIG{name}"))

    def reload(self, config):
        """Has it take up another configuration; returns the answer."""
        self.write(config)
        return self.admin("/config/reload", method="POST")

    def end(self):
        if self.process is None:
            return
        if self.running():
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Clients:
    """Many connections of one kind."""

    def __init__(self, address, receive_buffer=None):
        self.address, self.receive_buffer, self.sockets = address, receive_buffer, []

    def open(self, count, payload=b""):
        for _ in range(count):
            client = socket.socket()
            if self.receive_buffer:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
            client.settimeout(5 * SLACK)
            with contextlib.suppress(OSError):
                client.connect(self.address)
                if payload:
                    client.sendall(payload)
            client.setblocking(False)
            self.sockets.append(client)

    def still_open(self):
        """How many the gateway has not closed."""
        return sum(is_open(client) for client in self.sockets)

    def close(self):
        for client in self.sockets:
            client.close()
        self.sockets.clear()


def is_open(client):
    """Whether the other side has not closed."""
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def fetch(url, seconds=10, fields=None, method="GET"):
    """One request with a new connection; a status of 0 is a connection that was refused, cut or too slow."""
    request = urllib.request.Request(url, headers=fields or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=seconds * SLACK) as answer:
            return Response(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as answer:
        return Response(answer.code, answer.headers, answer.read())
    except OSError as why:
        return Response(0, {}, str(why).encode())


def connects(host, port):
    try:
        socket.create_connection((host, port), SLACK).close()
        return True
    except OSError:
        return False


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
