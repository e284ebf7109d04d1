"""What results hold: rows of several kinds, and the record of what they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.evaluation.plan import Plan, plan_from

Cell = tuple[str, str, str]  # method, layer, measure


class ImageRow(NamedTuple):
    """Holds one image: its name, class (-1: none is known), and why it was skipped ("": it was not)."""

    image: int
    name: str
    label: int
    skipped: str


class TargetRow(NamedTuple):
    """Holds one explained class of an image.

    `present`: the class is in the image; `difficult`: as an object (see `PointingPairs`); `classes`: how many classes
    are in the image; `role`: "best" or "worst" for its highest and its lowest scoring class, else "".
    """

    image: int
    target: int
    score: float
    present: bool
    difficult: bool
    classes: int
    role: str


class MapRow(NamedTuple):
    """Describes a method's map at a layer: its size, and that of the image it belongs to (of the first image seen)."""

    method: str
    layer: str
    position: int
    height: int
    width: int
    image_height: int
    image_width: int
    image: int = 0


class Row(NamedTuple):
    """Holds one number; `detail` tells those of one measure apart (such as `delta_minus` and `delta_plus`)."""

    image: int
    target: int
    method: str
    layer: str
    measure: str
    detail: str
    value: float


class ContentRow(NamedTuple):
    """Holds what an image was made of: its name, a digest of its contents, and the state of its files ("": unknown)."""

    image: int
    name: str
    content: str
    stamp: str


class BatchRows(NamedTuple):
    """What one batch of images gives: to which images (`key`) and measures at layers (`cells`; None: whatever there is)
    it belongs is as in the record."""

    images: list[ImageRow]
    targets: list[TargetRow]
    maps: list[MapRow]
    rows: list[Row]
    contents: Sequence[ContentRow] = ()
    key: str = ""
    cells: Mapping[Cell, str] | None = None


@dataclass(frozen=True)
class Record:
    """Holds a plan, and what it stands for on this machine.

    Attributes:
        plan: the plan. images: how many it has.
        inputs: a digest of each thing that the plan only names, by what to call it.
        cells: for each method, layer and measure a digest of what its numbers depend on; empty: whatever is there.
        keys: for each batch a digest of which images are in it; empty: whatever is there.
        generation: of several plans that a folder was written with, the highest is the one it shows.
        told: what measures of the user's own said of themselves (see `Interpretation`), by label.
    """

    plan: Plan
    images: int
    inputs: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[Cell, str] = field(default_factory=dict)
    keys: Sequence[str] = ()
    generation: int = 1
    told: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def row(self) -> tuple[Any, ...]:
        """Returns the record as it is stored; what measures told stands with the run."""
        cells = [[*cell, mark] for cell, mark in self.cells.items()]
        parts = (json.dumps(part) for part in (dict(self.inputs), cells, list(self.keys)))
        inputs, cells_, keys = parts
        return self.plan.hash(), json.dumps(self.plan.as_dict()), self.images, inputs, self.generation, cells_, keys


def record_of(row: Sequence[Any]) -> Record:
    """Returns a record as it was stored."""
    _, plan, images, inputs, generation, cells, keys = row
    marks = {(method, layer, measure): mark for method, layer, measure, mark in json.loads(cells)}
    return Record(plan_from(json.loads(plan)), images, json.loads(inputs), marks, json.loads(keys), generation)


class ResultsError(InvalidValueError):
    """Says that a folder of results cannot be used, and what to do."""
