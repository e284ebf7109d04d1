"""Walking down an autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch.autograd.graph import Node


def _everywhere(node: Node) -> bool:
    return True


def nodes_below(tops: Iterable[Node | None], through: Callable[[Node], bool] = _everywhere) -> Iterator[Node]:
    """Yields the nodes at and below some nodes, each once; the walk goes on below those that `through` accepts."""
    met: set[Node] = set()
    waiting = list(tops)
    while waiting:
        node = waiting.pop()
        if node is not None and node not in met:
            met.add(node)
            yield node
            if through(node):
                waiting += [lower for lower, _ in node.next_functions]
