#!/usr/bin/env python3
"""One bad server of two, at the defaults of ringway, NGINX and HAProxy: prints how many of 30 GETs and of 30 POSTs
clients lose, and how many POSTs reached servers twice. Each row has a fresh proxy.

Usage: bad_servers.py [path of ringway]   (nginx and haproxy are left out where they are not installed)
"""

import collections, os, shutil, socket, struct, subprocess, sys, tempfile, threading, time

REQUESTS = 30
MODES = ["refuse", "reset on accept", "close", "garbage", "500", "truncated", "hang", "slow", "header bomb", "103s", "stale"]


def listen():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(256)
    return listener


class Server:
    """A server that is good, or bad in one way. Counts the requests that reach it."""

    def __init__(self, mode):
        self.mode, self.seen = mode, collections.Counter()
        self.listener = listen()
        self.port = self.listener.getsockname()[1]
        if mode == "refuse":
            self.listener.close()
        else:
            threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            if self.mode == "reset on accept":
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stream.close()
                continue
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        try:
            carry = b""
            while True:
                while b"\r\n\r\n" not in carry:
                    piece = stream.recv(65536)
                    if not piece:
                        return
                    carry += piece
                head, _, carry = carry.partition(b"\r\n\r\n")
                length = next((int(l.split(b":")[1]) for l in head.lower().split(b"\r\n") if l.startswith(b"content-length:")), 0)
                while len(carry) < length:
                    carry += stream.recv(65536)
                carry = carry[length:]
                self.seen[head.split(b" HTTP")[0]] += 1
                if not self.answer(stream):
                    return
        except OSError:
            pass
        finally:
            stream.close()

    def answer(self, stream):
        ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        mode = self.mode
        if mode == "close":
            return False
        if mode == "hang":
            stream.recv(1)
            return False
        if mode == "slow":
            for byte in ok:
                stream.sendall(bytes([byte]))
                time.sleep(0.002)
            return True
        bytes_of = {
            "garbage": b"\x16\x03\x01 no HTTP at all\r\n\r\n",
            "500": b"HTTP/1.1 500 Bad\r\nContent-Length: 0\r\n\r\n",
            "truncated": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this",
            "header bomb": b"HTTP/1.1 200 OK\r\n" + b"X-Bomb: boom\r\n" * 20000 + b"Content-Length: 0\r\n\r\n",
            "103s": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000 + ok,
        }
        stream.sendall(bytes_of.get(mode, ok))
        return mode in ("good", "500")


def configuration(peer, port, bad, good):
    if peer == "nginx":
        return f"""daemon off; error_log /dev/null; pid nginx.pid; events {{}}
http {{ access_log off; upstream up {{ server 127.0.0.1:{bad}; server 127.0.0.1:{good}; keepalive 16; }}
server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}"""
    if peer == "haproxy":
        return f"""defaults
 mode http
 timeout connect 5s
 timeout client 60s
 timeout server 60s
frontend f
 bind 127.0.0.1:{port}
 default_backend b
backend b
 balance roundrobin
 server bad 127.0.0.1:{bad}
 server good 127.0.0.1:{good}
"""
    return f"""listeners: ["127.0.0.1:{port}"]
admin: {{enabled: false}}
services: [{{name: up, endpoints: ["127.0.0.1:{bad}", "127.0.0.1:{good}"]}}]
routes: [{{name: all, path: /*, service: up}}]
"""


def start(peer, program, port, bad, good, directory):
    path = os.path.join(directory, "proxy.yaml")
    with open(path, "w") as file:
        file.write(configuration(peer, port, bad, good))
    command = {"nginx": [program, "-p", directory, "-c", path], "haproxy": [program, "-f", path]}
    command = command.get(peer, [program, "run", "--workers", "1", "-c", path])
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process
        except OSError:
            time.sleep(0.01)
    sys.exit(f"{peer} does not listen")


def ask(port, method, number):
    """Whether one request on a connection of its own gets a whole 200."""
    body = b"hello" if method == "POST" else b""
    head = f"{method} /{method}/{number} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    try:
        stream = socket.create_connection(("127.0.0.1", port), timeout=2.5)
        stream.sendall(head.encode() + body)
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
        while answer.startswith(b"HTTP/1.1 1"):
            answer = answer.partition(b"\r\n\r\n")[2]
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = next((int(l.split(b":")[1]) for l in head.lower().split(b"\r\n") if l.startswith(b"content-length:")), len(rest))
        return head.startswith(b"HTTP/1.1 200") and len(rest) >= length
    except OSError:
        return False


def row(peer, program, mode):
    cells = []
    for method in ("GET", "POST"):
        good, bad = Server("good"), Server(mode)
        with tempfile.TemporaryDirectory() as directory:
            listener = listen()
            port = listener.getsockname()[1]
            listener.close()
            process = start(peer, program, port, bad.port, good.port, directory)
            count = 6 if mode == "hang" else REQUESTS
            lost = sum(not ask(port, method, number) for number in range(count))
            process.terminate()
            process.wait()
        twice = sum(1 for line, n in (good.seen + bad.seen).items() if n > 1 and line.startswith(b"POST"))
        cells.append(f"{lost}" + (f" ({twice} twice)" if twice else ""))
        good.listener.close()
        bad.listener.close()
    return "/".join(cells)


def main():
    ringway = sys.argv[1] if len(sys.argv) > 1 else "target/debug/ringway"
    peers = [(name, program) for name, program in
             [("ringway", ringway), ("nginx", shutil.which("nginx")), ("haproxy", shutil.which("haproxy"))] if program]
    print("| bad server of two | " + " | ".join(name for name, _ in peers) + " |\n|---|" + "---|" * len(peers))
    for mode in MODES:
        print(f"| {mode} | " + " | ".join(row(name, program, mode) for name, program in peers) + " |", flush=True)


main()
