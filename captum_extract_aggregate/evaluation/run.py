"""Carrying out a plan: resumable at any instant, on one process or on many."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_extract_aggregate.draws import seeded
from captum_extract_aggregate.evaluation.images import Sample, UnreadableError
from captum_extract_aggregate.evaluation.measures import POINTING, Batch, Column, randomization
from captum_extract_aggregate.evaluation.plan import Plan
from captum_extract_aggregate.evaluation.prepare import Measurement, Prepared, batch_of, prepare
from captum_extract_aggregate.evaluation.store import (
    BatchRows,
    ImageRow,
    MapRow,
    Results,
    Row,
    TargetRow,
    Writer,
    done_batches,
)
from captum_extract_aggregate.evaluation.team import Team
from captum_extract_aggregate.metrics.pointing_game import centre_map
from captum_extract_aggregate.metrics.randomization import find_stages, randomized
from captum_extract_aggregate.metrics.similarity import find_similarity
from captum_extract_aggregate.undo import Undo

CENTRE, WHOLE_IMAGE = "centre", "image"


def run(plan: Plan, results: str | Path | None = None, show_progress: bool = True) -> Results:
    """Evaluates what is not yet in the folder `results`, and returns all of it.

    Killed and started again it continues, and gives what an uninterrupted run gives. Under torchrun the processes share
    the images, each writing a file of its own, and give what one process gives, to the last digit.

    Args:
        plan: what to evaluate; see `load_plan`.
        results: a folder, made if it is not there; on several machines one that all of them see. None: one in the
            current folder, named by the plan's hash.
        show_progress: a bar with rate and remaining time.

    Raises:
        ValueError: for a plan that cannot be carried out, an image that cannot be read (unless the plan says to skip
            it), or a folder with damaged or foreign results.
    """
    folder = Path(f"results-{plan.hash()}" if results is None else results)
    with Undo() as undo, undo:
        undo.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(plan.run.threads)
        with Team(plan.run.device) as team:
            with seeded(plan.run.seed):
                prepared = prepare(plan, team.device)
            folder.mkdir(parents=True, exist_ok=True)
            batches = prepared.batches()
            with Writer(folder, team.rank, plan, prepared.images.count, prepared.fingerprint()) as writer:
                team.wait()  # every file is there, and locked against other runs
                done = done_batches(folder, plan)
                team.wait()  # nobody writes before everybody has read what is done
                left = [i for i in range(len(batches)) if i not in done]
                _work(prepared, batches, left[team.rank :: team.world], team, writer, show_progress)
            team.wait()
    return Results(folder)


def _work(
    prepared: Prepared, batches: Sequence[range], mine: Sequence[int], team: Team, writer: Writer, show: bool
) -> None:
    total = sum(len(batches[i]) for i in mine)
    with tqdm(total=total, unit="image", desc="Evaluation", disable=None if show and team.leads else True) as bar:
        for i in mine:
            with seeded(prepared.plan.run.seed + batches[i].start):  # whoever computes it, and whatever came before
                found = evaluate_batch(prepared, batches[i], team.device)
            writer.add(i, found)
            bar.update(len(batches[i]))


def evaluate_batch(prepared: Prepared, images: range, device: torch.device) -> BatchRows:
    """All rows of one batch of images."""
    found = BatchRows([], [], [], [])
    by_size: dict[tuple[int, ...], list[Sample]] = defaultdict(list)
    for i in images:
        try:
            sample = prepared.images.read(i)
        except UnreadableError as error:
            if prepared.plan.run.on_error == "stop":
                raise ValueError(f'{error}; with on_error = "skip" it is left out and counted') from None
            found.images.append(ImageRow(i, "", -1, str(error)))
            continue
        found.images.append(ImageRow(i, sample.name, sample.label, ""))
        by_size[tuple(sample.x.shape)].append(sample)
    for samples in by_size.values():
        _evaluate(prepared, batch_of(prepared, samples, device), found)
    return found


def _evaluate(prepared: Prepared, batch: Batch, found: BatchRows) -> None:
    found.targets.extend(_targets(batch))
    columns = prepared.columns(batch.x, batch.targets)
    found.maps.extend(_maps(batch, columns))
    for measure in prepared.measures:
        found.rows.extend(_rows(prepared, batch, columns, measure))


def _rows(prepared: Prepared, batch: Batch, columns: Sequence[Column], measure: Measurement) -> Iterator[Row]:
    if measure.function is randomization:
        yield from _randomized(prepared, batch, columns, measure)
        return
    if measure.plan.measure in POINTING:
        columns = [*columns, _centre(batch)]
    for column in columns:
        for example, target, detail, value in measure.function(batch, column, **measure.plan.arguments):
            image = batch.samples[example].image
            yield Row(image, target, column.method, column.layer, measure.label, detail, value)


def _centre(batch: Batch) -> Column:
    """The baseline of the pointing game; of odd sizes, so that resizing keeps the maximum in the middle."""
    m = centre_map((batch.x.shape[2], batch.x.shape[3])).expand(len(batch.samples), -1, -1, -1)
    return Column(CENTRE, WHOLE_IMAGE, [m] * batch.targets.shape[1])


def _randomized(prepared: Prepared, batch: Batch, columns: Sequence[Column], measure: Measurement) -> Iterator[Row]:
    """Every stage of the randomised network explained once, by all methods together."""
    given: dict[str, Any] = {
        "order": "cascading",
        "init": "normal",
        "similarity": "spearman",
        "n_seeds": 1,
        "layers": (),
    }
    given |= measure.plan.arguments
    compare = find_similarity(given["similarity"])
    stages = find_stages(batch.model, given["layers"] or None, (batch.x,), ())
    best = batch.targets[:, :1]
    values = torch.full(
        (given["n_seeds"], len(stages), len(columns), len(batch.samples)), torch.nan, dtype=torch.float64
    )
    states = randomized(batch.model, stages, given["order"], given["init"], given["n_seeds"], prepared.plan.run.seed)
    with contextlib.closing(states):
        for s, i in states:
            for c, (column, now) in enumerate(zip(columns, prepared.columns(batch.x, best))):
                values[s, i, c] = compare(column.at_image_size(0, batch), now.at_image_size(0, batch)).double().cpu()
    means = values.nanmean(0)
    for i, (name, _) in enumerate(stages):
        for c, column in enumerate(columns):
            for example, sample in enumerate(batch.samples):
                value, target = float(means[i, c, example]), int(batch.best[example])
                yield Row(sample.image, target, column.method, column.layer, measure.label, f"{i:03d} {name}", value)


def _targets(batch: Batch) -> Iterator[TargetRow]:
    for i, sample in enumerate(batch.samples):
        present = {} if sample.pairs is None else dict(zip(sample.pairs.classes, sample.pairs.difficult))
        best, worst = batch.targets[i, :2].tolist()
        for target in sorted(set(batch.targets[i].tolist())):
            role = "best" if target == best else "worst" if target == worst else ""
            score = float(batch.scores[i, target])
            is_there, is_difficult = target in present, present.get(target, False)
            yield TargetRow(sample.image, target, score, is_there, is_difficult, len(present), role)


def _maps(batch: Batch, columns: Sequence[Column]) -> Iterator[MapRow]:
    for position, column in enumerate(columns):
        height, width = column.maps[0].shape[2:]
        size = batch.x.shape[2], batch.x.shape[3]
        yield MapRow(column.method, column.layer, position, height, width, *size, batch.samples[0].image)


def maps_of(prepared: Prepared, image: int, device: torch.device) -> tuple[Sample, Tensor, list[Column], Batch]:
    """One image of a plan explained again, for pictures: the image, its picture in [0, 1], all maps, and its batch."""
    sample = prepared.images.read(image)
    batch = batch_of(prepared, [sample], device)
    return sample, prepared.images.picture(sample.x), prepared.columns(batch.x, batch.targets), batch
