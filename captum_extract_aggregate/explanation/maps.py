"""The maps of all methods for some classes of one picture, and which method it was that could not make one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from captum.attr import Attribution
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError, is_out_of_memory, said

if TYPE_CHECKING:
    from captum_extract_aggregate.visualization.rows import Rows


def maps_of(methods: Mapping[str, Attribution], x: Tensor, targets: Sequence[int]) -> list[Rows]:
    """Returns maps by method and layer for each class; our error, which names the method, where one cannot explain."""
    from captum_extract_aggregate.visualization.rows import maps_by_target

    try:
        return maps_by_target(methods, x, list(targets))
    except (ValueError, TypeError):
        raise
    except Exception as error:  # whatever Captum's own methods, or the model, raise
        name = next((n for n, method in methods.items() if _fails(method, x, targets[0])), ", ".join(methods))
        cure = "; expected later --layers, or a smaller --size" * is_out_of_memory(error)
        raise InvalidValueError(f"method {name!r} cannot explain this model: {said(error)}{cure}") from error


def _fails(method: Attribution, x: Tensor, target: int) -> bool:
    from captum_extract_aggregate.visualization.rows import maps_by_target

    try:
        maps_by_target({"": method}, x, [target])
    except Exception:
        return True
    return False
