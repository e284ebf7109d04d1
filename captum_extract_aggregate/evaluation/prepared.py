"""All that a plan names, built: what is computed, for which images, and by what."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.evaluation.explained import CENTRE, Column, ImageBatch
from captum_extract_aggregate.evaluation.explainer import Explainer, Stages
from captum_extract_aggregate.evaluation.guard import Keeper
from captum_extract_aggregate.evaluation.images import Images, Sample
from captum_extract_aggregate.evaluation.measure_spec import Interpretation, MeasureSpec
from captum_extract_aggregate.evaluation.methods import INPUT, Method, digest, explain_together, make_ready, remade
from captum_extract_aggregate.evaluation.plan import MeasurePlan, Plan
from captum_extract_aggregate.evaluation.read_ahead import Ahead, Look, look_at
from captum_extract_aggregate.evaluation.sources import sources

Cell = tuple[str, str, str]  # method, layer, measure
_MOST_CASES = 1000  # of images' sizes, of which it is remembered what a pass gives


@dataclass(frozen=True)
class Measurement:
    """Is a measure that is ready to be called."""

    plan: MeasurePlan
    spec: MeasureSpec
    code: Mapping[str, str] = field(default_factory=dict)  # of one's own, a digest of each file

    @property
    def label(self) -> str:
        """Its name in the tables."""
        return self.plan.label or self.plan.measure

    def marked(self) -> str:
        """Returns a digest of whatever its numbers depend on, besides the maps."""
        return digest(self.plan.measure, self.plan.arguments, self.code)

    @property
    def is_users(self) -> bool:
        """Whether it is one of the user's own."""
        return self.spec.is_users

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of its function, which may do to them whatever it likes."""
        return self.spec.defaults() | copy.deepcopy(self.plan.arguments)


@dataclass(frozen=True)
class Prepared:
    """Holds all that a plan names, built."""

    plan: Plan
    model: nn.Module
    images: Images
    methods: tuple[Method, ...]
    measures: tuple[Measurement, ...]
    keeper: Keeper | None = None  # of the model, where code of the user's own is given it
    wanted: frozenset[Cell] | None = None  # None: all cells
    of_signs: bool = False  # the model has one output, and its signs are the classes
    stages: Stages = field(default_factory=dict)  # of its randomisation, those that have been looked for
    # By the images' number and size, and methods: whether a pass that explains gives the scores of a forward by itself.
    tells_scores: dict[tuple[object, ...], bool] = field(default_factory=dict)
    ahead: Ahead | None = None  # what reads images before their turn

    def inputs(self) -> dict[str, str]:
        """Returns a digest of each thing that a plan only names: weights, code, files; by what to call it."""
        digest = hashlib.blake2b(digest_size=8)
        for name, value in self.model.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        found = {"the network's weights": digest.hexdigest()}
        if ":" in self.plan.model.name and not self.plan.model.name.startswith("timm:"):
            code = sources(self.plan.model.name, self.model)
            found |= {f"the model's code in {path!r}": mark for path, mark in code.items()}
        for measure in self.measures:
            found |= {f"the code of measure {measure.label!r} in {path!r}": m for path, m in measure.code.items()}
        return found

    def told(self) -> dict[str, dict[str, Any]]:
        """Returns what measures of the user's own say of how their numbers are read, by label."""
        said = {measure.label: measure.spec.as_dict() for measure in self.measures if measure.is_users}
        return {label: facts for label, facts in said.items() if facts != Interpretation().as_dict()}

    def cells(self) -> dict[Cell, str]:
        """Returns what is computed for each batch: every measure of every column, with a digest of what it depends
        on."""
        found: dict[Cell, str] = {}
        for method in self.methods:
            for layer, mark in method.marks().items():
                found |= {(method.label, layer, m.label): digest(mark, m.marked()) for m in self.measures}
        centred = [m for m in self.measures if m.spec.null == "centre"]
        return found | {(*CENTRE, m.label): digest(m.marked()) for m in centred}

    def only(self, cells: Collection[Cell]) -> Prepared:
        """Returns the part of it that computes some cells alone, from no more layers than that takes."""
        wanted = frozenset(cells)
        columns: dict[str, set[str]] = {method.label: set() for method in self.methods}
        for method, layer, _ in wanted:
            columns.setdefault(method, set()).add(layer)
        methods = [self._only(method, columns[method.label]) for method in self.methods]
        return replace(self, methods=tuple(m for m in methods if m is not None), wanted=wanted)

    def _only(self, method: Method, columns: set[str]) -> Method | None:
        is_whole = method.joined or method.layers == (INPUT,) or any(c.label in columns for c in method.combinations)
        kept = tuple(layer for layer in method.layers if layer in columns)
        if not columns or is_whole or kept == method.layers:
            return method if columns else None
        return make_ready(replace(method.plan, layers=kept, combine=()), (), self.model)

    def wants(self, cell: Cell) -> bool:
        """Tells whether a cell is to be computed."""
        return self.wanted is None or cell in self.wanted

    def keys(self) -> list[str]:
        """For each batch a digest of which images are in it."""
        return [digest(b.start, b.stop, [self.images.name(i) for i in b]) for b in self.batches()]

    def batches(self) -> list[range]:
        """Returns the images that are explained together; none by itself, if it can be helped."""
        n, size = self.images.count, self.plan.run.batch_size
        starts = list(range(0, n, size))
        if size > 1 and len(starts) > 1 and n - starts[-1] == 1:
            starts.pop()
        return [range(a, b) for a, b in zip(starts, [*starts[1:], n])]

    @property
    def may_read_ahead(self) -> bool:
        """Whether no code of the user's own reads the images, or works meanwhile: it may draw, or go to another
        folder."""
        return not self.images.is_users and self.keeper is None

    def expect(self, batch: range) -> None:
        """Says which images will be looked at next."""
        if self.ahead is not None:
            self.ahead.expect(batch)

    def look(self, i: int) -> Look:
        """Returns what is seen of an image."""
        return look_at(self.images, i) if self.ahead is None else self.ahead.look(i)

    def explainer(self, batch: ImageBatch) -> Explainer:
        """Returns what explains a batch again, also on other networks that have the model's layers."""
        return Explainer(batch, self._columns_of, self.stages)

    def _columns_of(self, model: nn.Module, x: Tensor, targets: Tensor) -> list[Column]:
        methods = self.methods if model is self.model else [remade(method, model) for method in self.methods]
        return explain_together(methods, model, x, targets, self.of_signs)

    def columns(self, x: Tensor, targets: Tensor) -> list[Column]:
        """Returns the maps of all methods at all layers, from as few passes as they can share."""
        return explain_together(self.methods, self.model, x, targets, self.of_signs)

    def explained(self, samples: Sequence[Sample], device: torch.device) -> tuple[ImageBatch, list[Column]]:
        """Returns images of one size, and the maps of all methods at all layers.

        A pass that explains also tells the scores, where it gives those of a forward by itself, bit for bit: PyTorch
        may compute otherwise where gradients are asked for, which depends on the network and the images' number and
        size. So the first batch of each shape is compared.
        """
        case = len(samples), *samples[0].x.shape, *((method.label, method.layers) for method in self.methods)
        is_told = self.tells_scores.get(case)
        own = None if is_told else self.batch(samples, device)
        if own is not None and is_told is False:
            return own, self.columns(own.x, own.targets)
        x = stacked(samples, device) if own is None else own.x
        found: list[ImageBatch] = []

        def choose(output: Any) -> Tensor:
            if own is not None:
                if len(self.tells_scores) >= _MOST_CASES:
                    self.tells_scores.clear()
                self.tells_scores[case] = torch.equal(output.detach().float(), own.scores)
            found.append(own or self._of_scores(samples, x, output))
            return found[0].targets

        columns = explain_together(self.methods, self.model, x, choose, self.of_signs)
        return found[0], columns

    def batch(self, samples: Sequence[Sample], device: torch.device) -> ImageBatch:
        """Returns images of one size with their scores, of a forward by itself, and the classes to explain."""
        x = stacked(samples, device)
        with torch.no_grad():
            return self._of_scores(samples, x, self.model(x))

    def _of_scores(self, samples: Sequence[Sample], x: Tensor, output: Tensor) -> ImageBatch:
        scores = output.detach().float().clone()  # which the next forward may overwrite
        if not torch.isfinite(scores).all():
            raise InvalidValueError(
                f"the model's scores of {samples[0].name!r} and its neighbours are NaN or infinite; expected finite"
            )
        seed = self.plan.run.seed
        targets = targets_of(samples, scores.cpu()).to(x.device)
        return ImageBatch(self.model, x, samples, scores, targets, seed + samples[0].image, seed)


def stacked(samples: Sequence[Sample], device: torch.device) -> Tensor:
    """Returns images of one size as one tensor."""
    return torch.stack([sample.x for sample in samples]).to(device)


def targets_of(samples: Sequence[Sample], scores: Tensor) -> Tensor:
    """Returns the N x T classes to explain: best, worst, and what else is in the image (filled up with the best)."""
    rows = []
    for sample, own in zip(samples, scores):
        first = [int(own.argmax()), int(own.argmin())]
        present = sample.pairs.classes if sample.pairs is not None else []
        if present and max(present) >= len(own):
            raise InvalidValueError(
                f"image {sample.name!r} holds class {max(present)}, but the model has {len(own)} classes; expected a "
                "model of the data's classes (see model.head)"
            )
        rows.append(first + [c for c in present if c not in first])
    longest = max(map(len, rows))
    return torch.tensor([row + row[:1] * (longest - len(row)) for row in rows])
