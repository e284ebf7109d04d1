"""Carrying out a plan: resumable at any instant, on one process or on many."""

from __future__ import annotations

import contextlib
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_extract_aggregate._common.errors import InvalidValueError, is_out_of_memory, make_folder, said
from captum_extract_aggregate._common.own_code import place_of
from captum_extract_aggregate._common.progress import progress
from captum_extract_aggregate._common.seeding import seeded
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._common.warned_once import show_warnings_once
from captum_extract_aggregate._engine.model_state import keep_modes, without_fused_attention
from captum_extract_aggregate._engine.session import open_session
from captum_extract_aggregate.evaluation.changes import check_images
from captum_extract_aggregate.evaluation.datasets import storable
from captum_extract_aggregate.evaluation.explained import CENTRE, Column, ImageBatch, Value
from captum_extract_aggregate.evaluation.explainer import Explainer
from captum_extract_aggregate.evaluation.guard import undisturbed
from captum_extract_aggregate.evaluation.images import Sample
from captum_extract_aggregate.evaluation.plan import Plan
from captum_extract_aggregate.evaluation.prepare import prepare
from captum_extract_aggregate.evaluation.prepared import Cell, Measurement, Prepared
from captum_extract_aggregate.evaluation.processes import Workers, set_threads
from captum_extract_aggregate.evaluation.read_ahead import reading_ahead
from captum_extract_aggregate.evaluation.store import (
    BatchRows,
    ContentRow,
    ImageRow,
    MapRow,
    Record,
    Results,
    Row,
    TargetRow,
    Writer,
    done_batches,
)
from captum_extract_aggregate.metrics.pointing_game import centre_map

Given = TypeVar("Given", ImageBatch, Column)


def run(plan: Plan, results: str | Path | None = None, show_progress: bool = True) -> Results:
    """Evaluates what is not yet in the folder `results`, and returns all of it.

    Each batch of images is stored as soon as it is done, and after Ctrl-C a line says how many are. Killed and started
    again it continues, and gives what an uninterrupted run gives. With more methods, layers, measures or images it goes
    on with what is there, and gives what a run from scratch gives. Under torchrun the processes share the images, each
    writing a file of its own, and give what one process gives, to the last digit.

    Args:
        plan: what to evaluate; see `load_plan`.
        results: a folder, made if it is not there; on several machines one that all of them see. None: one in the
            current folder, named by the plan's hash.
        show_progress: a bar with rate and remaining time; where there is no terminal, lines.

    Raises:
        ValueError: for a plan that cannot be carried out, an image that cannot be read (unless the plan says to skip
            it), a measure that fails, or a folder with damaged or foreign results: those of a plan that differs
            otherwise, or of weights, code or images that are not what they were.
    """
    folder = Path(f"results-{plan.hash()}" if results is None else results)
    with Undo() as undo, undo:
        show_warnings_once(undo)
        keep_modes(undo)
        undo.callback(torch.set_num_threads, torch.get_num_threads())
        set_threads(plan.run.threads)
        with Workers(plan.run.device) as workers, undisturbed():
            # Fused attention rounds differently from the parts that maps are made of, so that a number would depend on
            # which other layers are explained.
            without_fused_attention(undo)
            with seeded(plan.run.seed):
                prepared = prepare(plan, workers.device)
            make_folder("results", folder)
            wanted, keys = prepared.cells(), prepared.keys()
            record = Record(plan, prepared.images.count, prepared.inputs(), wanted, keys, told=prepared.told())
            speaks = show_progress and workers.leads
            with _telling_what_is_kept(prepared, folder, speaks), Writer(folder, workers.rank) as writer:
                workers.wait()  # every file is there, and locked against other runs
                done = done_batches(folder, plan)
                done.check_inputs(record.inputs)
                check_images(prepared, keys, done, range(workers.rank, len(keys), workers.world))
                workers.wait()  # nobody writes before everybody has read what is done
                missing = [(i, cells) for i, key in enumerate(keys) if (cells := done.missing(key, wanted))]
                writer.begin(done.next(record))
                open_session(undo, prepared.model)
                _work(prepared, keys, missing[workers.rank :: workers.world], workers, writer, speaks)
            workers.wait()
    found = Results(folder, read=workers.leads)  # of all processes, few ask for anything
    if speaks and not missing:
        tqdm.write(f"nothing to do: {found.count()} results of {found.date}")
    return found


@contextlib.contextmanager
def _telling_what_is_kept(prepared: Prepared, folder: Path, speaks: bool) -> Iterator[None]:
    """Says, when Ctrl-C ends the work inside, how much is stored, by whichever process, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if speaks:
            done, wanted, batches = done_batches(folder, prepared.plan), prepared.cells(), prepared.batches()
            left = sum(len(batch) for batch, key in zip(batches, prepared.keys()) if done.missing(key, wanted))
            n = prepared.images.count
            kept = f"stopped: {n - left} of {n} images are stored in {str(folder)!r}; run it again to go on"
            print(kept, file=sys.stderr, flush=True)
        raise


def _work(
    prepared: Prepared,
    keys: Sequence[str],
    mine: Sequence[tuple[int, Mapping[Cell, str]]],
    workers: Workers,
    writer: Writer,
    show: bool,
) -> None:
    batches = prepared.batches()
    parts: dict[frozenset[Cell], Prepared] = {}
    total = sum(len(batches[i]) for i, _ in mine)
    with contextlib.ExitStack() as within:
        bar = within.enter_context(progress(total, "image", "Evaluation", show))
        if prepared.may_read_ahead:
            ahead = within.enter_context(reading_ahead(prepared.images, workers.device, workers.world))
            prepared = replace(prepared, ahead=ahead)
        for n, (i, cells) in enumerate(mine):
            if frozenset(cells) not in parts:
                parts[frozenset(cells)] = prepared.only(cells)
            for coming, _ in mine[n : n + 2]:
                prepared.expect(batches[coming])
            with seeded(prepared.plan.run.seed + batches[i].start):  # whoever computes it, and whatever came before
                found = _found(parts[frozenset(cells)], batches[i], workers.device)
            writer.add(i, found._replace(key=keys[i], cells=cells))
            bar.update(len(batches[i]))


class OutOfMemoryError(InvalidValueError, MemoryError):
    """Says that a batch does not fit into memory."""


def _found(prepared: Prepared, images: range, device: torch.device) -> BatchRows:
    try:
        return evaluate_batch(prepared, images, device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"memory ran out at images {images.start} to {images.stop - 1} ({said(error)}): run.batch_size is "
            f"{prepared.plan.run.batch_size}; expected fewer, later layers, or a smaller data.size"
        ) from error


def evaluate_batch(prepared: Prepared, images: range, device: torch.device) -> BatchRows:
    """Returns all rows of one batch of images."""
    found = BatchRows([], [], [], [], contents := [])
    by_size: dict[tuple[int, ...], list[Sample]] = defaultdict(list)
    for i in images:
        sample, error, content = prepared.look(i)
        contents.append(ContentRow(i, prepared.images.name(i), *content))
        if sample is not None:
            found.images.append(ImageRow(i, storable(sample.name), sample.label, ""))
            by_size[tuple(sample.x.shape)].append(sample)
        elif prepared.plan.run.on_error == "stop":
            raise InvalidValueError(f'{error}; with on_error = "skip" it is left out and counted')
        else:
            found.images.append(ImageRow(i, "", -1, storable(error)))
    for samples in by_size.values():
        _evaluate(prepared, *prepared.explained(samples, device), found)
    return found


def _evaluate(prepared: Prepared, batch: ImageBatch, columns: Sequence[Column], found: BatchRows) -> None:
    found.targets.extend(_targets(batch))
    shown = [c for c in columns if any(prepared.wants((*c.place, m.label)) for m in prepared.measures)]
    found.maps.extend(_maps(batch, shown))
    explain = prepared.explainer(batch)
    explain.sharing = sum("layers" in measure.spec.needs for measure in prepared.measures)
    for measure in prepared.measures:
        explain.sharing -= "layers" in measure.spec.needs
        own = [c for c in columns if prepared.wants((*c.place, measure.label))]
        if measure.spec.null == "centre" and prepared.wants((*CENTRE, measure.label)):
            own.append(_centre(batch))
        if measure.spec.takes == "columns":
            found.rows.extend(_rows_of_all(prepared, explain, own, measure) if own else ())
            continue
        for column in own:
            found.rows.extend(_rows(prepared, batch, column, measure))


def _rows(prepared: Prepared, batch: ImageBatch, column: Column, measure: Measurement) -> list[Row]:
    """Returns a measure's rows of one column; what the measure draws begins with the batch's seed."""
    with _alone(prepared, batch, measure, f" of {column.method} at {column.layer}"), seeded(batch.seed):
        if measure.spec.takes == "maps":
            values = _values_of_maps(batch, column, measure)
        else:
            own, maps = _own(measure, batch), _own(measure, column)
            values = list(measure.spec.function(own, maps, **measure.arguments()))
        return [_row(batch, column, measure, value) for value in values]


def _rows_of_all(prepared: Prepared, explain: Explainer, columns: Sequence[Column], measure: Measurement) -> list[Row]:
    """Returns what a measure says of all columns together; it may have the network, as it then is, explained again."""
    batch = explain.batch
    with _alone(prepared, batch, measure), seeded(torch.initial_seed()):
        own, maps = _own(measure, batch), [_own(measure, column) for column in columns]
        values = list(measure.spec.function(own, maps, explain, **measure.arguments()))
        return [_row(batch, column, measure, value) for column, value in values]


def _own(measure: Measurement, given: Given) -> Given:
    """Returns a copy for a measure of the user's own, whatever it does to it; the package's own does nothing."""
    return given.copied() if measure.is_users else given


def _values_of_maps(batch: ImageBatch, column: Column, measure: Measurement) -> list[Value]:
    """Returns the values of a function of maps, inputs, targets and model, which gets copies: whatever it does to
    them."""
    own = (t.clone() for t in (column.at_image_size(0, batch), batch.x, batch.best))
    values = measure.spec.function(*own, batch.model, **measure.arguments())
    if not isinstance(values, Tensor) or values.shape != (len(batch.samples),):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InvalidValueError(
            f"measure {measure.plan.measure!r} returned {got}; expected {len(batch.samples)} values, one per image"
        )
    return [(i, int(batch.best[i]), "", float(value)) for i, value in enumerate(values.tolist())]


def _row(batch: ImageBatch, column: Column, measure: Measurement, value: Value) -> Row:
    example, target, detail, number = value
    image = batch.samples[example].image
    return Row(image, int(target), column.method, column.layer, measure.label, str(detail), _stored(number))


def _stored(number: float | Tensor) -> float:
    """Returns a number as a file gives it back: SQLite's zeros have no sign."""
    return float(number) + 0.0


@contextlib.contextmanager
def _alone(prepared: Prepared, batch: ImageBatch, measure: Measurement, whose: str = "") -> Iterator[None]:
    """Lets a measure work so that it changes nothing for the next, and its errors say what it was working on."""
    try:
        with undisturbed():
            yield
    except (Exception, SystemExit) as error:  # whatever a measure of one's own raises
        if is_out_of_memory(error):
            raise
        told = f"{error}{place_of(error)}" if isinstance(error, ValueError) else said(error)
        raise InvalidValueError(
            f"measure {measure.label!r} failed on the maps{whose} of image {batch.samples[0].name!r} and its "
            f"neighbours: {told}"
        ) from error
    finally:
        if prepared.keeper is not None and measure.is_users:
            prepared.keeper.restore()


def _centre(batch: ImageBatch) -> Column:
    """Returns the baseline of the pointing game; of odd sizes, so that resizing keeps the maximum in the middle."""
    m = centre_map((batch.x.shape[2], batch.x.shape[3])).expand(len(batch.samples), -1, -1, -1)
    return Column(*CENTRE, [m] * batch.targets.shape[1])


def _targets(batch: ImageBatch) -> Iterator[TargetRow]:
    for i, sample in enumerate(batch.samples):
        present = {} if sample.pairs is None else dict(zip(sample.pairs.classes, sample.pairs.difficult))
        best, worst = batch.targets[i, :2].tolist()
        for target in sorted(set(batch.targets[i].tolist())):
            role = "best" if target == best else "worst" if target == worst else ""
            score = _stored(batch.scores[i, target])
            is_there, is_difficult = target in present, present.get(target, False)
            yield TargetRow(sample.image, target, score, is_there, is_difficult, len(present), role)


def _maps(batch: ImageBatch, columns: Sequence[Column]) -> Iterator[MapRow]:
    for position, column in enumerate(columns):
        height, width = column.maps[0].shape[2:]
        size = batch.x.shape[2], batch.x.shape[3]
        yield MapRow(column.method, column.layer, position, height, width, *size, batch.samples[0].image)


def maps_of(prepared: Prepared, image: int, device: torch.device) -> tuple[Sample, Tensor, list[Column], ImageBatch]:
    """Returns one image of a plan explained again, for pictures: the image, its picture in [0, 1], all maps, and its
    batch."""
    sample = prepared.images.read(image)
    batch, columns = prepared.explained([sample], device)
    return sample, prepared.images.picture(sample.x), columns, batch
