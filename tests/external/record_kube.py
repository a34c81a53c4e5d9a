#!/usr/bin/env python3
"""Records what a real Kubernetes API server answers to the gateway's requests, into tests/fixtures/kubernetes/recorded.json.

Run it by hand after tests/external/build_kube; tests/e2e/recorded.rs plays the answers back to the gateway. Each exchange
has its request's target, the status, and the body in the pieces in which it came. Nothing is edited.
"""
import json
import sys
from pathlib import Path
from urllib.parse import quote

from kube_cluster import ADMIN_TOKEN, ROOT, Cluster

SLICES = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
ASK = SLICES + "?labelSelector=kubernetes.io%2Fservice-name%3Dusers"
OUT = ROOT / "tests" / "fixtures" / "kubernetes" / "recorded.json"


def slice_of(name: str, port: int, *endpoints: dict) -> dict:
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "users"}},
            "ports": [{"name": "http", "port": port}, {"name": "metrics", "port": 9}], "endpoints": list(endpoints)}


def endpoint(ip: str, ready: bool = True, serving: bool = True, **more) -> dict:
    return {"addresses": [ip], "conditions": {"ready": ready, "serving": serving, "terminating": not ready}, **more}


class Recorder:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.found = cluster, {}

    def put(self, body: dict) -> None:
        path = f"{SLICES}/{body['metadata']['name']}"
        there = self.cluster.ask("GET", path)[0] == 200
        status, text = self.cluster.ask("PUT" if there else "POST", path if there else SLICES, body)
        assert status in (200, 201), text

    def open(self, target: str, token: str = ADMIN_TOKEN):
        """The connection, and the answer whose head has come."""
        client = self.cluster.connect()
        client.request("GET", target, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"})
        return client, client.getresponse()

    def keep(self, name: str, target: str, client, answer) -> dict:
        chunks = []
        # A chunk as it was sent: read1 gives no more than one.
        while piece := answer.read1(1 << 20):
            chunks.append(piece.decode())
        client.close()
        chunked = answer.getheader("Transfer-Encoding") == "chunked"
        self.found[name] = {"target": target, "status": answer.status, "chunked": chunked,
                            "type": answer.getheader("Content-Type"), "body": chunks}
        print(f"{name}: {answer.status}, {sum(map(len, chunks))} bytes in {len(chunks)} pieces", flush=True)
        return self.found[name]

    def get(self, name: str, target: str, token: str = ADMIN_TOKEN) -> dict:
        kept = self.keep(name, target, *self.open(target, token))
        return json.loads("".join(kept["body"]))


def record(cluster: Cluster) -> dict:
    recorder = Recorder(cluster)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    assert cluster.ask("POST", "/api/v1/namespaces", namespace)[0] == 201
    recorder.get("empty", ASK + "&limit=250")
    pod = {"kind": "Pod", "name": "users-1", "namespace": "shop"}
    recorder.put(slice_of("a", 8080, endpoint("10.0.0.1", zone="eu-1a", nodeName="node-7", targetRef=pod)))
    recorder.put(slice_of("b", 8080, endpoint("10.0.0.2"), endpoint("10.0.0.3", ready=False)))
    recorder.put(slice_of("c", 8081, endpoint("10.0.0.4")))
    whole = recorder.get("list", ASK + "&limit=250")
    first = recorder.get("page 1", ASK + "&limit=2")
    follows = first["metadata"]["continue"]
    recorder.get("page 2", f"{ASK}&limit=2&continue={quote(follows, safe='')}")

    watch = ASK + "&watch=1&allowWatchBookmarks=true&timeoutSeconds={}&resourceVersion={}"
    from_list = watch.format(6, whole["metadata"]["resourceVersion"])
    client, answer = recorder.open(from_list)
    recorder.put(slice_of("a", 8080, endpoint("10.0.0.1", ready=False)))
    recorder.put(slice_of("d", 8080, endpoint("10.0.0.5", zone="eu-1b")))
    assert cluster.ask("DELETE", f"{SLICES}/c")[0] == 200
    # The server ends it when its time is over, and sends a bookmark before.
    events = [json.loads(line) for line in "".join(recorder.keep("watch", from_list, client, answer)["body"]).splitlines()]
    kinds = [event["type"] for event in events]
    assert kinds == ["MODIFIED", "ADDED", "DELETED", "BOOKMARK"], kinds
    recorder.get("unauthorized", ASK + "&limit=250", "nobody")
    recorder.get("forbidden", ASK + "&limit=250", "stranger")

    # All that is old is forgotten, by a server that starts anew and by its store.
    recorder.put(slice_of("e", 8080, endpoint("10.0.0.6")))
    cluster.stop()
    cluster.start()
    recorder.put(slice_of("e", 8080, endpoint("10.0.0.7")))
    cluster.compact()
    after = watch.format(6, events[-1]["object"]["metadata"]["resourceVersion"])
    recorder.keep("watch that expired", after, *recorder.open(after))
    old = f"{ASK}&limit=2&continue={quote(follows, safe='')}"
    recorder.keep("page that expired", old, *recorder.open(old))
    recorder.get("list after", ASK + "&limit=250")
    return {"version": cluster.facts()["version"], "exchanges": recorder.found}


def main() -> int:
    with Cluster() as cluster:
        OUT.write_text(json.dumps(record(cluster), indent=1) + "\n")
    print(f"wrote {OUT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
