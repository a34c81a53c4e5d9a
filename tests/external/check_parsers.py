"""Has h11 and llhttp read what the gateway forwards, in both directions: they must see what httparse saw.

The streams come from the simulation `forwarded` (seeded mutations of the fuzz corpora, sent through a whole worker). Per
stream: the same messages with the same method, target or status, fields, body and trailers, and behind them a part of a
message that is neither whole nor wrong. `RINGWAY_CASES` says how many inputs are tried in each direction.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from gateway import ROOT, skip

try:
    import h11
    import httptools
except ImportError:
    skip("h11 and httptools are not installed")

CASES = os.environ.get("RINGWAY_CASES", "6000")
# Larger than any head that the gateway lets through.
HEAD_BYTES_MAX = 1 << 20


def pairs(fields):
    return [(bytes.fromhex(name), bytes.fromhex(value)) for name, value in fields]


class Message:
    def __init__(self, start, fields, body=b"", trailers=()):
        self.start, self.fields, self.body, self.trailers = start, fields, body, list(trailers)

    def same(self, other):
        return vars(self) == vars(other)

    def __repr__(self):
        return repr(vars(self))


def expected(record):
    return [
        Message([bytes.fromhex(part) for part in one["start"]], pairs(one["fields"]), bytes.fromhex(one["body"]),
                pairs(one["trailers"]))
        for one in record["messages"]
    ]


def trimmed(fields):
    """Names in lower case; white space around a value is no part of it."""
    return [(bytes(name).lower(), bytes(value).strip(b" \t")) for name, value in fields]


def by_h11(wire, method):
    """Messages, and whether the rest is an unfinished message."""
    messages, interim = [], []
    while wire:
        if method:
            reader = h11.Connection(h11.CLIENT, HEAD_BYTES_MAX)
            reader.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        else:
            reader = h11.Connection(h11.SERVER, HEAD_BYTES_MAX)
        reader.receive_data(wire)
        message = None
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return messages + interim
            if isinstance(event, h11.Request):
                message = Message([event.method, event.target], trimmed(event.headers))
            elif isinstance(event, h11.InformationalResponse):
                interim.append(Message([str(event.status_code).encode()], trimmed(event.headers)))
            elif isinstance(event, h11.Response):
                message = Message([str(event.status_code).encode()], trimmed(event.headers))
            elif isinstance(event, h11.Data):
                message.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                message.trailers = trimmed(event.headers)
                messages += interim + [message]
                interim = []
                wire = reader.trailing_data[0]
                break
    return messages


class Seen:
    """What llhttp calls back with."""

    def __init__(self):
        self.messages, self.message, self.in_body, self.target = [], None, False, b""

    def on_message_begin(self):
        self.message, self.in_body, self.target = Message([], []), False, b""

    def on_url(self, url):
        self.target += url

    def on_header(self, name, value):
        (self.message.trailers if self.in_body else self.message.fields).append((name, value))

    def on_headers_complete(self):
        self.in_body = True
        if isinstance(self.parser, httptools.HttpRequestParser):
            assert self.parser.get_http_version() == "1.1"
            self.message.start = [self.parser.get_method(), self.target]
        else:
            self.message.start = [str(self.parser.get_status_code()).encode()]

    def on_body(self, body):
        self.message.body += body

    def on_message_complete(self):
        self.message.fields, self.message.trailers = trimmed(self.message.fields), trimmed(self.message.trailers)
        self.messages.append(self.message)


def by_llhttp(wire, method):
    seen = Seen()
    seen.parser = (httptools.HttpResponseParser if method else httptools.HttpRequestParser)(seen)
    seen.parser.feed_data(wire)
    # It knows no HEAD: such an answer ends with its head, and would wait for a body.
    if method == "HEAD" and seen.message is not None and seen.message not in seen.messages and seen.in_body:
        seen.on_message_complete()
    return seen.messages


def unknown_to_llhttp(messages, rest):
    """It has a list of methods; a token that is not on it is legal and not its business."""
    methods = [one.start[0] for one in messages] + [rest.split(b" ")[0]]
    return any(method and not method.isdigit() and method.decode() not in KNOWN_METHODS for method in methods)


KNOWN_METHODS = set(
    "DELETE GET HEAD POST PUT CONNECT OPTIONS TRACE COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND "
    "UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH PURGE MKCALENDAR LINK UNLINK "
    "SOURCE QUERY".split())


def check(path):
    streams = messages = skipped = 0
    for line in path.read_text().splitlines():
        record = json.loads(line)
        wire, method, want = bytes.fromhex(record["wire"]), record["method"], expected(record)
        for one in want:
            one.fields, one.trailers = trimmed(one.fields), trimmed(one.trailers)
        streams += 1
        messages += len(want)
        for name, read in (("h11", by_h11), ("llhttp", by_llhttp)):
            if name == "llhttp" and not method and unknown_to_llhttp(want, wire[len(wire) - record["rest"]:]):
                skipped += 1
                continue
            try:
                got = read(wire, method)
            except Exception as why:
                sys.exit(f"{name} refuses what was sent: {why!r}: {wire!r}")
            if len(got) != len(want) or not all(a.same(b) for a, b in zip(got, want)):
                sys.exit(f"{name} reads\n{got}\ninstead of\n{want}\nin {wire!r}")
    return f"{messages} messages in {streams} streams ({skipped} not for llhttp)"


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(os.environ.get("RINGWAY_RECORDS", folder))
    if "RINGWAY_RECORDS" not in os.environ:
        subprocess.run(
            ["cargo", "test", "--locked", "-q", "--test", "sim", "forwarded"], check=True, cwd=ROOT,
            stdout=subprocess.DEVNULL, env={**os.environ, "RINGWAY_RECORDS": str(folder), "RINGWAY_CASES": CASES})
    for name in ("requests", "responses"):
        print(f"{name}: {check(folder / (name + '.jsonl'))} read alike by httparse, h11 and llhttp")
