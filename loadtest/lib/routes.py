"""The route tables of the `routes…` rows: the same paths for every peer."""
from __future__ import annotations

TEAMS = 37
"""Routes share first segments as real tables do, so that no peer is decided by the first byte alone."""


def prefixes(count: int, generation: int = 0) -> list[str]:
    """`count` path prefixes. The last one bears the generation: every reload brings a table that differs."""
    if count <= 1:
        return ["/"]
    table = [f"/team-{index % TEAMS}/service-{index}/v1/" for index in range(count)]
    return table[:-1] + [f"/team-0/generation-{generation}/v1/"]


def paths(count: int) -> list[str]:
    """One path under each prefix that is the same in all generations."""
    if count <= 1:
        return ["/1k"]
    return [prefix + "items" for prefix in prefixes(count)[:-1]]
