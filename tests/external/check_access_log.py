"""The combined access log, read by GoAccess where it is installed, and by the pattern that log tools use."""

import json
import re
import shutil
import subprocess

from gateway import curl, gateway

CONFIG = """
listeners: ["127.0.0.1:0"]
admin: {enabled: false}
routes:
  - {name: hello, exact: /hello, respond: {body: hi}}
logging: {access_log: {format: combined, path: "{folder}/access.log"}}
"""
COMBINED = re.compile(
    r'^(\S+) \S+ \S+ \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] '
    r'"((?:[^"\\]|\\.)*)" (\d{3}) (\d+|-) "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"$'
)

with gateway(CONFIG) as running:
    folder = running.folder
    curl(running.url("/hello"), "-A", 'a "quoted" agent \\ with more')
    curl(running.url("/hello?secret=1"), "-e", "http://example.com/")
    curl(running.url("/none"))
    running.process.terminate()
    running.process.wait(40)
    lines = (folder / "access.log").read_text().splitlines()
    assert len(lines) == 3, lines
    for line in lines:
        assert COMBINED.match(line), line
    if shutil.which("goaccess"):
        command = ["goaccess", str(folder / "access.log"), "--log-format=COMBINED", "-o", str(folder / "report.json"),
                   "--no-global-config", "--no-progress", "--ignore-crawlers"]
        subprocess.run(command, check=True, capture_output=True)
        general = json.loads((folder / "report.json").read_text())["general"]
        assert (general["total_requests"], general["failed_requests"]) == (3, 0), general
        print("goaccess reads every line")
    else:
        print("goaccess is not installed: checked by pattern only")
