"""What has been told of dimensions so far, and what follows for the dimensions of other tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from torch import Tensor

from captum_extract_aggregate._engine.parts import CHANNELS, FRESH, Dim, Dims, Part, kinds_of, size_of


class Labels:
    """Remembers what operations tell of the inputs' dimensions, and numbers the axes that they make."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._told: dict[tuple[int, ...], str] = {}
        self._fresh = itertools.count(FRESH)

    def of_input(self, number: int, t: Tensor) -> Dims:
        """Returns the parts of an input: the batch where the size fits, else nothing that is known yet."""
        parts = [Part("unknown", n, (10 * number + d,)) for d, n in enumerate(t.shape)]
        if parts and t.shape[0] == self.batch:
            parts[0] = Part("batch", self.batch)
        return tuple((p,) if p.size > 1 else () for p in parts)

    def told(self, dims: Dims) -> Dims:
        """Returns the same where what was unknown may have been told of since."""
        return tuple(
            tuple(p._replace(kind=self._told.get(p.axis, p.kind)) if p.kind == "unknown" else p for p in dim)
            for dim in dims
        )

    def axis(self, size: int) -> Dim:
        """Returns a dimension of positions along an axis that is new."""
        return (Part("axis", size, (next(self._fresh),)),) if size > 1 else ()

    def tell(self, dim: Dim, kind: str) -> Dim:
        """Returns the dimension as one of channels or of positions, and remembers what it was in the inputs."""
        for part in dim:
            if part.kind == "unknown":
                self._told[part.axis] = kind
        return tuple(p._replace(kind=kind) if p.kind in ("unknown", *CHANNELS) else p for p in dim)

    def tell_axes(self, dims: Iterable[Dim]) -> list[Dim]:
        """Returns the dimensions as dimensions of positions."""
        return [self.tell(dim, "axis") for dim in dims]

    def made_channels(self, dims: Dims, at: int) -> Dims | None:
        """Returns the dimensions where an operation takes `at` for the channels, unless others are known to be."""
        others = {p.kind for d, dim in enumerate(dims) if d != at for p in dim}
        if "channel" in others:
            return dims
        if "feature" in others:
            return None
        return tuple(self.tell(dim, "channel" if d == at else "axis") if d else dim for d, dim in enumerate(dims))

    def sized(self, dim: Dim, size: int) -> Dim:
        """Returns the same dimension in another size."""
        if size_of(dim) == size:
            return dim
        if size == 1:
            return ()
        if any(part.shift for part in dim):
            return self.axis(size)
        if len(dim) == 1 and not dim[0].inner:
            return (dim[0]._replace(size=size),)
        kinds, axes = kinds_of(dim), {p.axis[:1] for p in dim}
        if len(axes) == 1 and kinds == {"axis"} and not any(p.inner for p in dim):  # windows of one axis, put together
            return (Part("axis", size, next(iter(axes))),)
        return (Part("channel", size),) if kinds and kinds <= CHANNELS else self.axis(size)

    def resized(self, dims: Dims, shape: Sequence[int]) -> Dims:
        """Returns the dimensions in other sizes, behind those that an operation put in front."""
        new = [self.axis(n) for n in shape[: len(shape) - len(dims)]]
        return (*new, *(self.sized(dim, n) for dim, n in zip(dims, shape[len(new) :])))

    def merged(self, labelled: list[Dims], shape: Sequence[int]) -> Dims | None:
        """Returns what tensors of (but for broadcasting) one shape tell together; None where they contradict."""
        if not labelled:
            return None
        result = list[Dim]()
        for d, size in enumerate(shape, start=-len(shape)):
            if size == 1:
                result.append(())
                continue
            candidates = [dims[d] for dims in labelled if len(dims) >= -d and size_of(dims[d]) == size]
            telling = [dim for dim in candidates if kinds_of(dim) != {"unknown"}] or candidates
            roles = {bool(kinds_of(dim) & CHANNELS) for dim in telling}
            if len(roles) > 1:
                return None
            if roles and telling[0] is not candidates[0]:
                for dim in candidates:
                    self.tell(dim, "channel" if roles == {True} else "axis")
            result.append(telling[0] if telling else self.axis(size))
        return tuple(result)
