"""Grids of the pictures of another data set, as plans name them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate.data.grid_images import GridImages
from captum_extract_aggregate.evaluation.data_openers import Opened
from captum_extract_aggregate.evaluation.images import Images, Sample, Source
from captum_extract_aggregate.evaluation.plan import DataPlan

_COUNT = 100


@dataclass(frozen=True)
class GridPlan:
    """Says of which pictures grids are made, and how these are chosen."""

    of: DataPlan
    cells: int = 3
    confidence: float = 0.9
    enlarge: bool = False


def check_grid(arguments: Mapping[str, Any]) -> GridPlan:
    """Returns what `data.arguments` says of grids, or our error; `GridImages` checks the numbers."""
    for name in arguments:
        if name not in (keys := [field.name for field in fields(GridPlan)]):
            raise InvalidValueError(unknown_name("a key of data.arguments", name, keys))
    given = arguments.get("of")
    if not isinstance(given, Mapping):
        raise InvalidTypeError(
            f"data.arguments.of is {given!r}; expected a table that says of which pictures: kind, root, ..."
        )
    try:
        of = DataPlan(**given)
    except ValueError as error:
        raise InvalidValueError(f"data.arguments.of: {error}") from None
    if of.kind == "grid":
        raise InvalidValueError("data.arguments.of is of the kind 'grid'; expected pictures")
    if of.kind in ("voc", "coco") and not of.resize:
        of = replace(of, resize="square")
    enlarge = arguments.get("enlarge", False)
    if not isinstance(enlarge, bool):
        raise InvalidTypeError(f"data.arguments.enlarge is {enlarge!r}; expected true or false")
    return GridPlan(of, arguments.get("cells", 3), arguments.get("confidence", 0.9), enlarge)


class _OneClass(Dataset[tuple[Tensor, int]]):
    """Holds pictures with the class that each shows; of those that show several, or an unknown one, -1."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample = self.images.read(index)
        shown = {sample.label} if sample.pairs is None else set(sample.pairs.classes)
        return sample.x, shown.pop() if len(shown) == 1 else -1


def grids_of(plan: DataPlan, how: GridPlan, images: Images, model: nn.Module) -> Opened:
    """Returns grids of a data set's pictures, chosen as a plan says."""
    count = plan.start + (plan.n or _COUNT) * plan.every
    try:
        known = _OneClass(images)
        grids = GridImages(known, model, how.cells, count, how.confidence, plan.seed, enlarge=how.enlarge)
    except ValueError as error:
        raise InvalidValueError(f"data.arguments: {str(error).replace('n is', 'cells is', 1)}") from error

    def read(index: int, i: int) -> Sample:
        x, pairs = grids[index]
        return Sample(i, name(index), x, pairs.classes[0], pairs)

    def name(index: int) -> str:
        return f"grid {index}"

    def source(index: int) -> Source:
        return _together([images.source(cell) for cell in grids.cells[index]])

    return Opened(count, read, name, source, True, images.classes, images.normalisation, images.is_users)


def _together(sources: Sequence[Source]) -> Source:
    """Returns what several pictures are made of."""
    files = [source.files for source in sources]
    known = [some for some in files if some is not None]
    about = json.dumps([source.about for source in sources])
    return Source(about, tuple(path for some in known for path in some) if len(known) == len(files) else None)
