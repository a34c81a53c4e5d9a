"""Reads /metrics with Prometheus' own Python client, and compares with what was sent."""

import urllib.request

from gateway import curl, gateway, skip

try:
    from prometheus_client.parser import text_string_to_metric_families
except ImportError:
    skip("prometheus_client is not installed")

CONFIG = """
listeners: ["127.0.0.1:0"]
admin: {listen: "127.0.0.1:0"}
routes:
  - {name: hello, exact: /hello, respond: {body: hi}}
"""

with gateway(CONFIG) as running:
    for _ in range(7):
        assert curl(running.url("/hello"))[0] == 200
    for at in range(5):
        assert curl(running.url(f"/none/{at}"))[0] == 404
    page = urllib.request.urlopen(running.admin_url("/metrics")).read().decode()

families = list(text_string_to_metric_families(page))
names = [family.name for family in families]
assert len(names) == len(set(names)), "a family stands twice"
samples = [sample for family in families for sample in family.samples]
keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples]
assert len(keys) == len(set(keys)), "a sample stands twice"
assert all(family.documentation and family.type != "unknown" for family in families), "a family without HELP or TYPE"


def total(name, **labels):
    fits = (s for s in samples if s.name == name and all(s.labels.get(k) == v for k, v in labels.items()))
    return sum(sample.value for sample in fits)


assert total("gateway_requests_total", status="200", path="/hello") == 7, total("gateway_requests_total")
assert total("gateway_requests_total", status="404") == 5
assert total("gateway_errors_total", error_type="no_route") == 5
assert not any("/none/" in value for sample in samples for value in sample.labels.values()), "a client made a label"
for family in (f for f in families if f.type == "histogram"):
    infinite = {tuple(sorted((k, v) for k, v in s.labels.items() if k != "le")): s.value
                for s in family.samples if s.labels.get("le") == "+Inf"}
    counts = {tuple(sorted(s.labels.items())): s.value for s in family.samples if s.name.endswith("_count")}
    assert infinite == counts, f"{family.name}: the last bucket is not the count"
print(f"{len(families)} families, {len(samples)} samples")
