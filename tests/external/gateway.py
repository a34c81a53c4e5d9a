"""Starts the gateway for the external checks: real process, free ports, ended whatever happens."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("RINGWAY", str(ROOT / "target/debug/ringway"))
START_SECONDS = 60


def skip(why):
    print(f"skipped: {why}")
    sys.exit(0)


class Gateway:
    def __init__(self, process):
        self.process = process
        self.listening = []
        self.admin = None
        self.lines = []
        self.ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("message") == "listening":
                self.listening.append(event["address"])
            elif event.get("message") == "admin listening":
                self.admin = event["address"]
            elif event.get("message") == "ready":
                self.ready.set()
        self.ready.set()

    def url(self, path):
        return f"http://{self.listening[0]}{path}"

    def admin_url(self, path):
        return f"http://{self.admin}{path}"


@contextlib.contextmanager
def gateway(config):
    """The gateway with this configuration; its ports should be 0."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "ringway.yaml"
        path.write_text(config.replace("{folder}", folder))
        process = subprocess.Popen([BINARY, "run", "-c", str(path), "--workers", "2"], stderr=subprocess.PIPE, text=True)
        try:
            running = Gateway(process)
            assert running.ready.wait(START_SECONDS) and running.listening, "".join(running.lines)
            running.folder = pathlib.Path(folder)
            yield running
        finally:
            process.terminate()
            try:
                code = process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert code == 0, f"exit code {code}"


def curl(*arguments):
    """Status, header fields (lower-case names) and body."""
    command = ["curl", "-si", "--max-time", "60", *arguments]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    head, _, body = output.partition("\n\n") if "\r\n\r\n" not in output else output.partition("\r\n\r\n")
    lines = head.splitlines()
    fields = dict((name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:]))
    return int(lines[0].split()[1]), fields, body
