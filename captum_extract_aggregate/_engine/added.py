"""What one call of a network adds: a bias, a class token, position embeddings."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from captum_extract_aggregate._engine.arrangements import at_positions
from captum_extract_aggregate._engine.parts import Dims


class Added(NamedTuple):
    """Holds what a call adds, times the gradient there, entry by entry.

    `name` is that of the parameter, or of the function and the module that calls it; `given` are the ids of the tensors
    that the call was given beside the signal, `dims` tells of what the dimensions are made, if that was seen.
    """

    name: str
    given: frozenset[int]
    dims: Dims | None
    values: Tensor

    def placed(self, batch: int) -> Tensor | None:
        """Returns it as `N x K x *S`, without what has no position; None where nothing has one."""
        return None if self.dims is None else at_positions(self.values, self.dims, batch)
