"""The report of an evaluation: the same bytes for the same results, and the maps of chosen images explained anew."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from captum_extract_aggregate._common.errors import InvalidValueError, make_folder
from captum_extract_aggregate._common.seeding import seeded
from captum_extract_aggregate.evaluation.comparing import compare_groups
from captum_extract_aggregate.evaluation.grouping import groups
from captum_extract_aggregate.evaluation.prepare import prepare
from captum_extract_aggregate.evaluation.prepared import Prepared
from captum_extract_aggregate.evaluation.reporting.charts import draw
from captum_extract_aggregate.evaluation.reporting.csv_files import file_names, write_rows, write_tables
from captum_extract_aggregate.evaluation.reporting.maps_page import Entry, write_page
from captum_extract_aggregate.evaluation.reporting.markdown import PAGE, chosen_images, head, origin, section
from captum_extract_aggregate.evaluation.reporting.report_page import MeasureFound, write_report_page
from captum_extract_aggregate.evaluation.runner import maps_of
from captum_extract_aggregate.evaluation.statistics import Nulls, summarize_group
from captum_extract_aggregate.evaluation.store import Results


def report(results: Results, folder: str | Path, images: Sequence[int] = ()) -> list[Path]:
    """Writes tables, curves, the report as one page and, if images are chosen, their maps; returns what was written.

    Args:
        results: what an evaluation found, complete or not.
        folder: made if it is not there.
        images: indices of images whose maps the page shows.

    Raises:
        ValueError: for an image that the plan does not have.
    """
    folder = Path(folder)
    own = entries(results, images) if images else []
    written = write_report(results, folder, images, own)
    if images:
        written.append(folder / PAGE)
        write_page(written[-1], results, own)
    return written


def write_report(
    results: Results, folder: str | Path, images: Sequence[int] = (), entries: Sequence[Entry] = ()
) -> list[Path]:
    """Writes `report.md`, CSV tables and PNG pictures, and all of it as one page, `report.html`; returns their paths.

    `summary.csv` holds a line for each measure, method and layer, `comparisons.csv` methods in pairs, `rows-*.csv` one
    measure's numbers each, `images.csv` and `targets.csv` what they belong to.

    Args:
        results: complete or not; the report says which.
        folder: made if it is not there.
        images: images whose numbers are listed, with a link to the page of their maps, `maps.html`.
        entries: maps that `report.html` shows.

    Raises:
        ValueError: for an image that the plan does not have.

    Example:
        >>> import dataclasses, tempfile
        >>> from captum_extract_aggregate.evaluation import DataPlan, MeasurePlan, MethodPlan, Plan, run
        >>> from captum_extract_aggregate.evaluation.reporting.report import write_report
        >>> plan = Plan((MethodPlan("normgrad"),), (MeasurePlan("class_sensitivity"),), DataPlan(n=2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     results = run(dataclasses.replace(plan, layers=("layer3",)), folder, show_progress=False)
        ...     [path.name for path in write_report(results, folder)][:2]
        ['report.md', 'summary.csv']
    """
    wrong = [image for image in images if not 0 <= image < results.expected]
    if wrong:
        raise InvalidValueError(f"images holds {wrong[0]!r}; expected image numbers from 0 to {results.expected - 1}")
    folder = Path(folder)
    make_folder("output", folder)
    nulls, names = Nulls(results), file_names(results)
    sections, summaries, comparisons, written = [], [], [], []
    pages: list[MeasureFound] = []
    for measure in results.plan.measures:
        found = groups(results, measure)
        own = [line for group in found for line in summarize_group(group, nulls)]
        compared = compare_groups(found)
        label = measure.label or measure.measure
        pictures = draw(results, found, own, folder, names[label])
        pages.append(MeasureFound(measure, results.interpretation(measure), found, own, compared, pictures))
        sections.append(section(measure, results.interpretation(measure), found, own, compared, pictures))
        written += [write_rows(results, label, folder / f"rows-{names[label]}.csv"), *pictures]
        summaries += own
        comparisons += compared
    text = [*head(results), *itertools.chain(*sections), *chosen_images(results, images), *origin(results)]
    path = folder / "report.md"
    content = re.sub(r"\n{3,}", "\n\n", "\n".join(text))
    path.write_text(content + "\n", encoding="utf-8", newline="\n")
    tables = write_tables(results, summaries, comparisons, folder)
    return [path, *tables, *written, write_report_page(folder / "report.html", results, pages, entries)]


def entries(results: Results, images: Sequence[int]) -> list[Entry]:
    """Returns the maps of chosen images, for every explained class that is in the image (else for the best class)."""
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
