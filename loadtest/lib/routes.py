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
    """One path under each prefix that is the same in all generations. The one of a single route is as long as those of
    10,000: a longer request line costs every proxy something, and rows are compared."""
    if count <= 1:
        return ["/team-1/service-5001/v1/items"]
    return [prefix + "items" for prefix in prefixes(count)[:-1]]
