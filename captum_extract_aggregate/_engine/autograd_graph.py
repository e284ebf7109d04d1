"""Walking down an autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch.autograd.graph import Node


def nodes_below(tops: Iterable[Node | None], through: Callable[[Node], bool] | None = None) -> list[Node]:
    """Returns the nodes at and below some nodes, each once; the walk goes on below those that `through` (if any)
    accepts."""
    met: dict[Node, None] = {}
    waiting = [node for node in tops if node is not None]
    while waiting:
        node = waiting.pop()
        if node not in met:
            met[node] = None
            if through is None or through(node):
                waiting += [lower for lower, _ in node.next_functions if lower is not None]
    return list(met)
