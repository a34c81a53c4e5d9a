"""Clients that ask all the time and count what goes wrong: what reloads and upgrades must not disturb."""

import collections
import socket
import threading
import time

CONFIG = """
services: [{name: origin, endpoints: ["%s"], pool: {idle_timeout: 2s}}]
routes:
  - {path: "/slow/*", service: origin}
  - {prefix: /, respond: {body: here}}
"""


class Load:
    """`fresh` clients that come anew for each request, `kept` that keep their connection, `slow` with requests of three
    seconds. Counts: answered, slow, refused, lost (no whole 200), cut (a kept connection closed without a word),
    announced (closed with `Connection: close`)."""

    def __init__(self, address, fresh, kept, slow):
        self.address, self.stopping = address, threading.Event()
        self.counts = collections.Counter(answered=0, slow=0, refused=0, lost=0, cut=0, announced=0)
        self.lock = threading.Lock()
        kinds = [(self._fresh, fresh), (self._kept, kept), (self._slow, slow)]
        self.threads = [threading.Thread(target=kind, daemon=True) for kind, count in kinds for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(20)
        return dict(self.counts)

    def _count(self, what):
        with self.lock:
            self.counts[what] += 1

    def _connect(self):
        try:
            client = socket.create_connection(self.address, 10)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return client
        except OSError:
            self._count("refused")
            time.sleep(0.01)
            return None

    def _fresh(self):
        while not self.stopping.is_set():
            client = self._connect()
            if client:
                with client:
                    answer = ask(client, "/fresh", "Connection: close\r\n")
                    self._count("answered" if answer else "lost")
            time.sleep(0.005)

    def _kept(self):
        client = None
        while not self.stopping.is_set():
            client = client or self._connect()
            if not client:
                continue
            answer = ask(client, "/kept")
            # Every close before this request would have been announced by the answer before it.
            self._count("answered" if answer else "cut")
            if not answer or answer == "closes":
                self._count("announced" if answer else "lost")
                client.close()
                client = None
            time.sleep(0.02)

    def _slow(self):
        while not self.stopping.is_set():
            client = self._connect()
            if client:
                with client:
                    self._count("slow" if ask(client, "/slow/3000") else "lost")


def ask(client, path, more=""):
    """Sends a GET; None without a whole 200, else whether the connection `closes` or is `kept`."""
    try:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n{more}\r\n".encode())
        got = b""
        while b"\r\n\r\n" not in got:
            part = client.recv(65536)
            if not part:
                return None
            got += part
        head, _, body = got.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(fields.get("content-length", "0"))
        while len(body) < length:
            part = client.recv(65536)
            if not part:
                return None
            body += part
    except (OSError, ValueError):
        return None
    if " 200 " not in lines[0] + " ":
        return None
    return "closes" if fields.get("connection", "").lower() == "close" else "kept"
