"""A plan made ready: model, images, methods and measures, each checked before any work starts."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from captum.attr import Attribution, LayerAttribution
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, is_file, is_out_of_memory, said
from captum_extract_aggregate._common.seeding import seeded
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate._engine.one_output import check_logit, give_both_signs, has_one_output
from captum_extract_aggregate.attr import MetaSaliency, attribute_together_per_target
from captum_extract_aggregate.attr.by_name import WITH_LAYERS, check_method, make_method
from captum_extract_aggregate.attr.combination import combine_maps, normalized_weights
from captum_extract_aggregate.data.models_by_name import load_subject, replace_head
from captum_extract_aggregate.evaluation.datasets import Images, Sample, UnreadableError, open_images
from captum_extract_aggregate.evaluation.guard import Keeper, undisturbed
from captum_extract_aggregate.evaluation.measures import (
    POINTING,
    Batch,
    Column,
    find_measure,
    randomization,
    try_measure,
)
from captum_extract_aggregate.evaluation.plan import CombinationPlan, DataPlan, MeasurePlan, MetaPlan, MethodPlan, Plan
from captum_extract_aggregate.evaluation.sources import sources
from captum_extract_aggregate.metrics.randomization import find_stages

INPUT = "input"
CENTRE, WHOLE_IMAGE = "centre", "image"  # the baseline of the pointing games, in place of a method at a layer
Cell = tuple[str, str, str]  # method, layer, measure
_ROUNDING = 1e-5  # of a float32 sum over many channels, relative to the largest value


@dataclass(frozen=True)
class Combination:
    """A combination of a method's layers: `weights` sum to 1."""

    label: str
    mode: str
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Method:
    """A method with its attribution objects (Captum's own take a layer each) and the names of its layers."""

    plan: MethodPlan
    attributions: tuple[Attribution, ...]
    layers: tuple[str, ...]
    combinations: tuple[Combination, ...]
    joined: tuple[str, ...] = ()  # the layers that one map is made of

    @property
    def label(self) -> str:
        """Its name in the tables."""
        return self.plan.label or self.plan.method

    def marks(self) -> dict[str, str]:
        """For each of its columns, by name, a digest of whatever its numbers depend on."""
        own = replace(self.plan, label="", layers=(), combine=())
        found = {layer: _digest(own, self.joined) for layer in self.layers}
        return found | {c.label: _digest(own, c.mode, c.weights, self.layers) for c in self.combinations}

    def columns(self, found: Sequence[Sequence[Any]], size: tuple[int, int]) -> Iterator[Column]:
        """From what each of its attribution objects gave for each target, a column per layer and combination."""
        by_target = [[self._single(m) for part in maps for m in _listed(part)] for maps in found]
        for j, layer in enumerate(self.layers):
            yield Column(self.label, layer, [maps[j] for maps in by_target], self.plan.interpolation)
        for combination in self.combinations:
            how = (combination.weights, combination.mode, self.layers)
            combined = [combine_maps(maps, size, *how) for maps in by_target]
            yield Column(self.label, combination.label, combined)

    def _single(self, map_: Tensor) -> Tensor:
        if map_.ndim != 4:
            raise InvalidValueError(
                f"{self.label} gives maps of shape {tuple(map_.shape)}; expected N x K x height x width"
            )
        if self.plan.channels == "max_abs":
            return levelled(map_.abs().amax(1, keepdim=True))
        return levelled((map_.abs() if self.plan.channels == "abs_sum" else map_).sum(1, keepdim=True))


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def levelled(maps: Tensor) -> Tensor:
    """Maps that are constant but for rounding as constant ones, which measures know to be undefined.

    Where global pooling follows, a gradient is the same everywhere; scaled to [0, 1], its last digits would be a map.
    """
    flat = maps.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    is_flat = (high - low) <= _ROUNDING * flat.abs().amax(1)
    return torch.where(is_flat[:, None, None, None], low[:, None, None, None], maps)


def _listed(maps: Any) -> list[Tensor]:
    if isinstance(maps, Tensor):
        return [maps]
    return [single for part in maps for single in _listed(part)]


@dataclass(frozen=True)
class Measurement:
    """A measure, ready to be called."""

    plan: MeasurePlan
    function: Callable[..., Any]
    code: Mapping[str, str] = field(default_factory=dict)  # of one's own, a digest of each file

    @property
    def label(self) -> str:
        """Its name in the tables."""
        return self.plan.label or self.plan.measure

    def marked(self) -> str:
        """A digest of whatever its numbers depend on, besides the maps."""
        return _digest(self.plan.measure, self.plan.arguments, self.code)

    @property
    def is_users(self) -> bool:
        """Whether it is one of the user's own."""
        return ":" in self.plan.measure


@dataclass(frozen=True)
class Prepared:
    """All that a plan names, built."""

    plan: Plan
    model: nn.Module
    images: Images
    methods: tuple[Method, ...]
    measures: tuple[Measurement, ...]
    keeper: Keeper | None = None  # of the model, where code of the user's own is given it
    wanted: frozenset[Cell] | None = None  # None: all cells
    of_signs: bool = False  # the model has one output, and its signs are the classes

    def inputs(self) -> dict[str, str]:
        """A digest of each thing that a plan only names: weights, code, files; by what to call it."""
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

    def cells(self) -> dict[Cell, str]:
        """What is computed for each batch: every measure of every column, with a digest of what it depends on."""
        found: dict[Cell, str] = {}
        for method in self.methods:
            for layer, mark in method.marks().items():
                found |= {(method.label, layer, m.label): _digest(mark, m.marked()) for m in self.measures}
        pointing = [m for m in self.measures if m.plan.measure in POINTING]
        return found | {(CENTRE, WHOLE_IMAGE, m.label): _digest(m.marked()) for m in pointing}

    def only(self, cells: Collection[Cell]) -> Prepared:
        """The part of it that computes some cells alone, from no more layers than that takes."""
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
        return _method(replace(method.plan, layers=kept, combine=()), (), self.model)

    def wants(self, cell: Cell) -> bool:
        """Whether a cell is to be computed."""
        return self.wanted is None or cell in self.wanted

    def keys(self) -> list[str]:
        """For each batch a digest of which images are in it."""
        return [_digest(b.start, b.stop, [self.images.name(i) for i in b]) for b in self.batches()]

    def batches(self) -> list[range]:
        """The images that are explained together; none by itself, if it can be helped."""
        n, size = self.images.count, self.plan.run.batch_size
        starts = list(range(0, n, size))
        if size > 1 and len(starts) > 1 and n - starts[-1] == 1:
            starts.pop()
        return [range(a, b) for a, b in zip(starts, [*starts[1:], n])]

    def columns(self, x: Tensor, targets: Tensor) -> list[Column]:
        """The maps of all methods at all layers, from as few passes as they can share."""
        wanted = [*targets.T.contiguous()]
        size = (x.shape[2], x.shape[3])
        plain: dict[str, Attribution] = {}
        meta: dict[MetaPlan, dict[str, Attribution]] = {}
        for i, method in enumerate(self.methods):
            group = plain if method.plan.meta_saliency is None else meta.setdefault(method.plan.meta_saliency, {})
            group |= {f"{i}/{j}": attribution for j, attribution in enumerate(method.attributions)}
        found: list[dict[str, Any]] = [{} for _ in wanted]
        if plain:
            for into, maps in zip(found, _explained(plain, x, wanted)):
                into.update(maps)
        for how, group in meta.items():
            together = _Together(self.model, group)
            given = asdict(how) | ({"loss_func": "binary_cross_entropy"} if self.of_signs else {})
            wrapped = MetaSaliency(together, **given, model=self.model, vectorized=False)
            for into, target in zip(found, wanted):
                into.update(zip(group, together.unpacked(wrapped.attribute(x, target=target))))
        columns: list[Column] = []
        for i, method in enumerate(self.methods):
            names = [f"{i}/{j}" for j in range(len(method.attributions))]
            columns += method.columns([[maps[name] for name in names] for maps in found], size)
        return columns


def _explained(methods: Mapping[str, Attribution], x: Tensor, targets: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Each target's maps. Captum's own methods may draw: each from the seed anew, whichever others there are."""
    captums = {name: m for name, m in methods.items() if type(m).__module__.startswith("captum.")}
    ours = {name: m for name, m in methods.items() if name not in captums}
    found: list[dict[str, Any]] = attribute_together_per_target(ours, x, targets) if ours else [{} for _ in targets]
    for name, method in captums.items():
        with seeded(torch.initial_seed()):
            for into, maps in zip(found, attribute_together_per_target({name: method}, x, targets)):
                into.update(maps)
    return found


class _Together(LayerAttribution):
    """Several methods as one, so that one step of meta-saliency serves them all."""

    def __init__(self, model: nn.Module, methods: dict[str, Attribution]) -> None:
        super().__init__(model, model)
        self.methods = methods
        self._lengths: list[int] = []

    def attribute(self, inputs: Tensor, target: Any) -> list[Tensor]:  # type: ignore[override]
        (maps,) = _explained(self.methods, inputs, [target])
        listed = [_listed(m) for m in maps.values()]
        self._lengths = [len(some) for some in listed]
        return [m for some in listed for m in some]

    def unpacked(self, maps: Sequence[Tensor]) -> list[list[Tensor]]:
        """The list that `attribute` gave, by method."""
        rest = iter(maps)
        return [[next(rest) for _ in range(length)] for length in self._lengths]


def prepare(plan: Plan, device: torch.device) -> Prepared:
    """Builds all that a plan names; raises ValueError with one clear line for whatever is wrong."""
    with undisturbed():
        measures = tuple(_measurement(m) for m in plan.measures)
        for measure in plan.measures:
            try_measure(measure)
        for method in plan.methods:
            check_method(method.method, tuple(WITH_LAYERS))
        subject = load_subject(plan.model.name, plan.model.weights, plan.model.num_classes)
    if plan.model.head:
        replace_head(subject.model, plan.model.head)
    images = open_images(plan.data, subject)
    model = subject.model.to(device).eval()
    sample = first_readable(images)
    scores = _check_runs(model, sample.x[None].to(device))
    of_signs = has_one_output(scores, 1)
    if of_signs:
        check_logit(model, (sample.x[None].to(device),), ())
        give_both_signs(model)
    classes = 2 if of_signs else scores.shape[1]
    if not plan.model.head and plan.model.num_classes not in (0, classes):
        raise InvalidValueError(
            f"model.num_classes is {plan.model.num_classes}, but {plan.model.name!r} gives {classes} scores"
        )
    _check_measures(plan, images, classes)
    defaults = plan.layers or _default_layers(plan, model, sample.x[None].to(device))
    for name in set(plan.layers) - {INPUT}:
        find_layer(name, model)  # our error for an unknown one, though every method may have layers of its own
    methods = tuple(_method(m, defaults, model) for m in plan.methods)
    keeper = Keeper(model) if any(measure.is_users for measure in measures) else None
    prepared = Prepared(plan, model, images, methods, measures, keeper, of_signs=of_signs)
    _check_explains(prepared, sample, device)
    return prepared


def _measurement(plan: MeasurePlan) -> Measurement:
    return Measurement(plan, find_measure(plan), sources(plan.measure) if ":" in plan.measure else {})


def _default_layers(plan: Plan, model: nn.Module, x: Tensor) -> tuple[str, ...]:
    return () if all(m.layers for m in plan.methods) else tuple(default_layers(model, x))


def _check_measures(plan: Plan, images: Images, classes: int) -> None:
    for measure in plan.measures:
        if measure.measure in POINTING and not images.has_objects:
            raise InvalidValueError(
                f"measure {measure.measure!r} needs whole images with known objects, but data of the kind "
                f"{plan.data.kind!r}{_how(plan.data)} has none; expected scenes, voc or coco with resize short or "
                "square, or a data set of your own that gives PointingPairs"
            )
        if measure.measure in POINTING and images.classes and classes != len(images.classes):
            raise InvalidValueError(
                f"the model has {classes} classes, and the data {len(images.classes)} (the first is "
                f"{images.classes[0]!r}); expected a model of the data's classes, in their order (see model.head)"
            )
        shuffles, together = measure.arguments.get("n_shuffles", 1), min(plan.run.batch_size, images.count)
        if measure.measure == "removal_contrast" and shuffles >= together:
            raise InvalidValueError(
                f"run.batch_size is {plan.run.batch_size}, but removal_contrast takes other images' maps from "
                f"the batch: n_shuffles is {shuffles}, and {together} image(s) go together; expected more"
            )
        if (
            measure.measure == "removal_contrast"
            and plan.data.kind in ("voc", "coco")
            and plan.data.resize in ("", "short")
        ):
            raise InvalidValueError(
                "data.resize is 'short', but removal_contrast takes the maps of other images of the same size; "
                "expected 'square' or 'crop'"
            )


def _how(data: DataPlan) -> str:
    return f" with resize {data.resize!r}" if data.resize else ""


def first_readable(images: Images) -> Sample:
    """The first image that can be read."""
    error: UnreadableError | None = None
    for i in range(min(images.count, 20)):
        try:
            return images.read(i)
        except UnreadableError as caught:
            error = error or caught
    raise InvalidValueError(f"none of the first images can be read; {error}")


def _check_runs(model: nn.Module, x: Tensor) -> Tensor:
    """What the model says of one image: class scores, or one score."""
    try:
        with torch.no_grad():
            scores = model(x)
    except Exception as error:
        raise InvalidValueError(
            f"the model does not run on an image of shape {tuple(x.shape)} ({type(error).__name__}: {error}); expected "
            "one that does: see data.size and data.resize"
        ) from error
    is_given = isinstance(scores, Tensor) and (scores.ndim == 2 or has_one_output(scores, 1))
    if not is_given:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise InvalidValueError(f"the model gives {got}; expected scores, images x classes, or one score an image")
    return scores


def _check_explains(prepared: Prepared, sample: Sample, device: torch.device) -> None:
    """One image explained by every method: whatever a method cannot do is said before any work starts."""
    batch = batch_of(prepared, [sample], device)
    for method in prepared.methods:
        alone = replace(prepared, methods=(method,))
        try:
            alone.columns(batch.x, batch.targets[:, :1])
        except (ValueError, TypeError) as error:
            raise InvalidValueError(f"method {method.label!r} cannot explain this model: {error}") from error
        except Exception as error:  # whatever Captum's own methods, or the model, raise
            cure = "; one image is too much: take later layers, or a smaller data.size" * is_out_of_memory(error)
            raise InvalidValueError(
                f"method {method.label!r} cannot explain this model: {said(error)}{cure}"
            ) from error
    for measure in prepared.measures:
        if measure.function is randomization:
            find_stages(prepared.model, measure.plan.arguments.get("layers") or None, (batch.x,), ())


def _method(plan: MethodPlan, defaults: tuple[str, ...], model: nn.Module) -> Method:
    names = plan.layers or defaults
    layers = [None if name == INPUT else find_layer(name, model) for name in names]
    where = f"method {plan.label or plan.method!r}"
    try:
        if plan.method.startswith("captum:") and len(layers) > 1 and _takes_layer(plan.method):
            made = tuple(make_method(plan.method, model, [layer], **plan.arguments) for layer in layers)
        else:
            made = (make_method(plan.method, model, layers, **plan.arguments),)
    except (ValueError, TypeError) as error:
        raise InvalidValueError(f"{where}: {error}") from None
    except Exception as error:  # whatever Captum's own methods refuse a model with
        raise InvalidValueError(f"{where}: {said(error)}") from error
    (first, *_) = made
    joined: tuple[str, ...] = ()
    if getattr(first, "joins_layers", False):
        names, joined = ("all layers",), names
    elif not hasattr(first, "layer"):
        names = (INPUT,)
    combinations = tuple(_combination(c, names, layers, model, where) for c in plan.combine)
    columns = [*names, *(c.label for c in combinations)]
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise InvalidValueError(
            f"{where} names {twice!r} twice; expected every layer once, and combinations with labels of their own"
        )
    return Method(plan, made, tuple(names), combinations, tuple(joined))


def _takes_layer(name: str) -> bool:
    import captum.attr

    method = getattr(captum.attr, name.removeprefix("captum:"), None)
    return method is not None and "layer" in inspect.signature(method).parameters


def _combination(
    plan: CombinationPlan, names: Sequence[str], layers: Sequence[nn.Module | None], model: nn.Module, where: str
) -> Combination:
    if len(names) != len(layers) or len(names) < 2:
        raise InvalidValueError(
            f"{where} gives {len(names)} map(s), so there is nothing to combine; expected several layers"
        )
    weights: Any = plan.weights
    if isinstance(weights, str) and weights.endswith(".json"):
        path = Path(weights)
        if not is_file(path):
            raise InvalidValueError(f"weights is {weights!r}, and there is no such file")
        weights = _stored_weights(path, names)
    label = plan.label or f"{plan.mode}, {plan.weights if isinstance(plan.weights, str) else 'own weights'}"
    try:
        return Combination(label, plan.mode, normalized_weights(weights, list(layers), model))
    except TypeError as error:
        raise InvalidValueError(f"{where}: {error}") from None


def _stored_weights(path: Path, names: Sequence[str]) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text("utf-8"))["weights"].items()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidValueError(f"weights {str(path)!r} is no file that LayerWeights.save wrote: {error!r}") from None
    return {name: weight for name, weight in stored if name in names}


def targets_of(samples: Sequence[Sample], scores: Tensor) -> Tensor:
    """N x T classes to explain: the best, the worst, and whatever else is in the image (filled up with the best)."""
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


def batch_of(prepared: Prepared, samples: Sequence[Sample], device: torch.device) -> Batch:
    """Images of one size with their scores and the classes to explain."""
    x = torch.stack([sample.x for sample in samples]).to(device)
    with torch.no_grad():
        scores = prepared.model(x).float()
    if not torch.isfinite(scores).all():
        raise InvalidValueError(
            f"the model's scores of {samples[0].name!r} and its neighbours are NaN or infinite; expected finite"
        )
    targets = targets_of(samples, scores.cpu()).to(device)
    return Batch(prepared.model, x, samples, scores, targets, prepared.plan.run.seed + samples[0].image)
