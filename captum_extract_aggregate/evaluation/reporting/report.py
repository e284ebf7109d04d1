"""The report of an evaluation, with the maps of chosen images explained anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from captum_extract_aggregate._common.errors import InvalidValueError, make_folder
from captum_extract_aggregate._common.seeding import seeded
from captum_extract_aggregate.evaluation.prepare import Prepared, prepare
from captum_extract_aggregate.evaluation.reporting.maps_page import Entry, write_page
from captum_extract_aggregate.evaluation.reporting.results import write_report
from captum_extract_aggregate.evaluation.runner import maps_of
from captum_extract_aggregate.evaluation.store import Results


def report(results: Results, folder: Path, images: Sequence[int] = ()) -> list[Path]:
    """Writes tables, curves and, if images are chosen, a page of their maps; returns what was written.

    Args:
        results: what an evaluation found, complete or not.
        folder: made if it is not there.
        images: indices of images whose maps the page shows.

    Raises:
        ValueError: for an image that the plan does not have.
    """
    make_folder("output", folder)
    written = write_report(results, folder, images)
    if images:
        written.append(folder / "maps.html")
        write_page(written[-1], results, entries(results, images))
    return written


def entries(results: Results, images: Sequence[int]) -> list[Entry]:
    """The maps of chosen images, for every explained class that is in the image (else for the best class)."""
    wrong = [i for i in images if not 0 <= i < results.expected]
    if wrong:
        raise InvalidValueError(f"images holds {wrong[0]}; expected 0 to {results.expected - 1}")
    device = torch.device("cpu")
    with seeded(results.plan.run.seed):
        prepared = prepare(results.plan, device)
    return [entry for image in images for entry in _entries(prepared, image, device)]


def _entries(prepared: Prepared, image: int, device: torch.device) -> list[Entry]:
    with seeded(prepared.plan.run.seed + image):
        sample, picture, columns, batch = maps_of(prepared, image, device)
    present = sample.pairs.classes if sample.pairs is not None else []
    found = []
    for target in present or [int(batch.best[0])]:
        maps: dict[str, dict[str, torch.Tensor]] = {}
        for column in columns:
            maps.setdefault(column.method, {})[column.layer] = column.of(0, target, batch)
        classes = prepared.images.classes
        name = classes[target] if target < len(classes) else str(target)
        found.append(Entry(image, target, name, picture, maps))
    return found
