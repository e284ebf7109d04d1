"""Tokens as the grid of patches that they were cut from."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.arrangements import LayoutFunction
from captum_extract_aggregate._engine.surroundings import Surroundings


def grid_of_tokens(activation: Tensor, around: Surroundings) -> LayoutFunction:
    prefix, height, width = _token_grid(activation.shape[1], around)
    return lambda t: t[:, prefix:].unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _token_grid(tokens: int, around: Surroundings) -> tuple[int, int, int]:
    """Returns how many leading tokens have no position, and the height and width of the grid of the others."""
    if any(hasattr(model, "reroll") for model in around.models):
        raise InvalidValueError(
            f"{around.name} gives tokens in an order of the model's own (it has a `reroll`), not row by row; expected "
            "layout=lambda t: ... that returns batch x channels x height x width"
        )
    if len(around.image) == 2:
        prefixes = around.known.prefixes
        for exact in (True, False):
            for prefix in prefixes:
                for height, width in _patch_grids(around.image, exact):
                    if height * width == tokens - prefix:
                        return prefix, height, width
    image = "x".join(map(str, around.image)) or "unknown"
    raise InvalidValueError(
        f"{around.name} gives {tokens} tokens, which make no grid of square patches over an input of size {image} "
        "(with no, 1, 2 or 5 leading tokens dropped); expected layout='channels_last' for a plain sequence, or "
        "layout=lambda t: ... that returns batch x channels x height x width"
    )


def _patch_grids(image: tuple[int, ...], exact: bool) -> Iterator[tuple[int, int]]:
    height, width = image
    for patch in range(1, min(height, width) + 1):
        if not exact or (height % patch == 0 and width % patch == 0):
            yield height // patch, width // patch
