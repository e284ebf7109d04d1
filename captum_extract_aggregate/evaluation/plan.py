"""What is evaluated: data, a model, methods at layers, measures. A small TOML file, or these dataclasses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
import types
import typing
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captum_extract_aggregate._common.errors import InvalidValueError, is_file, unknown_name

KINDS = ("scenes", "voc", "coco", "folder", "list", "custom")
RESIZES = ("short", "square", "crop")
_LARGEST = 2**53  # whole numbers up to here are exact in every part, JSON and float64 among them
_MOST_SCENES, _LARGEST_SIZE, _MOST_STEPS = 10_000_000, 16_384, 10_000
_SOME = ("n", "start", "every")
_PICTURES = ("resize", "size", "mean", "std", *_SOME)
# Which keys of the data apply to which kind.
_APPLY = {
    "scenes": ("seed", "split", *_SOME),
    "voc": ("root", "year", "image_set", *_PICTURES),
    "coco": ("root", "file", *_PICTURES),
    "folder": ("root", *_PICTURES),
    "list": ("root", "file", *_PICTURES),
    "custom": ("dataset", "arguments", *_PICTURES),
}


@dataclass(frozen=True)
class DataPlan:
    """Which images.

    A key that says nothing of a kind is an error where the images are opened.

    Attributes:
        kind: `"scenes"` (embedded), `"voc"` (torchvision's `VOCDetection`), `"coco"` (`CocoDetection`), `"folder"`
            (`ImageFolder`), `"list"` (a text file: `path <tab> class index` on each line), `"custom"`.
        root: the folder of voc, coco and folder; of the paths in a list (default: the list's own folder).
        file: the list; COCO's annotations.
        dataset: for custom, `FILE.py:FUNCTION` or `MODULE:FUNCTION` that returns a data set of
            `(tensor or PIL picture, class index or PointingPairs or None)`.
        arguments: for that function.
        year, image_set: of VOC. seed, split: of the scenes.
        n: how many images at most; 0: all (of the scenes 100). start, every: begin at this image, take every so many.
        resize: `"short"`: the short side to `size`, the whole image; `"square"`: to `size` x `size`, the whole image;
            `"crop"`: as the model was trained, a square from the middle. "": short for voc and coco, else crop.
        size: in pixels; 0: the model's.
        mean, std: normalisation; empty: the model's.
    """

    kind: str = "scenes"
    root: str = ""
    file: str = ""
    dataset: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    year: str = "2007"
    image_set: str = "test"
    seed: int = 0
    split: str = "test"
    n: int = 0
    start: int = 0
    every: int = 1
    resize: str = ""
    size: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelPlan:
    """Which model.

    Attributes:
        name: `scene-vgg`, `scene-resnet`, `scene-vit`, a torchvision model, `timm:NAME`, or `FILE.py:FUNCTION` /
            `MODULE:FUNCTION`.
        weights: `DEFAULT`, a state dict file, or `random`.
        num_classes: of a torchvision or timm model that differs from the usual.
        head: a file with the `weight` and `bias` of a linear head that takes the classifier's place.
    """

    name: str = "scene-resnet"
    weights: str = ""
    num_classes: int = 0
    head: str = ""


@dataclass(frozen=True)
class CombinationPlan:
    """The maps of a method's layers as one: `mode` is product or sum; `weights` uniform, linear, a number per layer,
    or a JSON file of `LayerWeights`. `label` names it in the tables."""

    mode: str = "product"
    weights: str | tuple[float, ...] = "uniform"
    label: str = ""


@dataclass(frozen=True)
class MetaPlan:
    """Meta-saliency: see `MetaSaliency`."""

    lr: float = 1e-3
    ascent: bool = False
    loss_func: str = "cross_entropy"
    steps: int = 1


@dataclass(frozen=True)
class MethodPlan:
    """One method.

    Attributes:
        method: a name (`captum-extract-aggregate explain --help` lists them), `EXTRACT:AGGREGATE`, or
            `captum:LayerGradCam` and the like for Captum's own.
        label: its name in the tables; empty: `method`.
        layers: names, or `"input"`; empty: the plan's.
        arguments: for the method's class.
        channels: how an input-shaped map becomes one number per pixel: `"sum"`, `"max_abs"` or `"abs_sum"`.
        combine: combinations of its layers' maps, as rows of their own.
        meta_saliency: explain the network after a step of training on the image.
        interpolation: `"bilinear"`, or `"nearest"` for maps brought to the image without smoothing.
    """

    method: str
    label: str = ""
    layers: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    channels: str = "sum"
    combine: tuple[CombinationPlan, ...] = ()
    meta_saliency: MetaPlan | None = None
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class MeasurePlan:
    """One measure: a name (see `MEASURES`) or `FILE.py:FUNCTION`, its arguments, and its `label` in the tables."""

    measure: str
    label: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunPlan:
    """How it is run.

    Attributes:
        batch_size: images that are explained together; results belong to batches, so it is part of what is computed.
        seed: of everything drawn.
        device: `"cpu"`, `"cuda"`, ...; under torchrun each process takes the GPU of its local rank.
        threads: of each process on the CPU. Sums round differently with another number of threads; 1 gives the same
            digits everywhere, and torchrun uses the other cores.
        on_error: `"stop"` at an image that cannot be read, or `"skip"` and count it.
    """

    batch_size: int = 8
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    on_error: str = "stop"


@dataclass(frozen=True)
class Plan:
    """Images x methods x layers x measures. `layers` are those of methods that name none; empty: `default_layers`."""

    methods: tuple[MethodPlan, ...]
    measures: tuple[MeasurePlan, ...]
    data: DataPlan = field(default_factory=DataPlan)
    model: ModelPlan = field(default_factory=ModelPlan)
    run: RunPlan = field(default_factory=RunPlan)
    layers: tuple[str, ...] = ()
    title: str = ""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(Plan)
        for f in dataclasses.fields(self):  # one form, however it was written: Python's users give 1 for 1.0
            object.__setattr__(self, f.name, _value(hints[f.name], getattr(self, f.name), f.name))
        _check(self)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain values, those that differ from their defaults."""
        return _without_defaults(self)

    def hash(self) -> str:
        """Sixteen hexadecimal digits that change with whatever is computed (so neither with `title` nor `on_error`)."""
        plain = dataclasses.asdict(self) | {"title": ""}
        plain["run"] |= {"on_error": ""}  # says which images there are numbers of, but not which numbers
        content = json.dumps(plain, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def load_plan(path: str | Path) -> Plan:
    """The plan in a TOML file. Relative paths in it are as seen from where the command runs.

    Raises ValueError with one clear line for a missing or broken file, a wrong key, or a value of the wrong type.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    path = Path(path)
    if not is_file(path):
        raise InvalidValueError(f"plan is {str(path)!r}, and there is no such file")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidValueError(f"plan {str(path)!r} is not TOML: {error}") from None
    return plan_from(content)


def plan_from(content: dict[str, Any]) -> Plan:
    """The plan in nested dictionaries and lists, as TOML and JSON give them."""
    return _built(Plan, content, "the plan")  # type: ignore[no-any-return]


# --- From plan to plan -----------------------------------------------------------------------------------------------

_FREE = {"title", "on_error", "label"}  # say nothing of a number
_WHICH = {"n", "root", "file", "dataset", "arguments"}  # of the data: which images there are, as is found by looking
_NOT_GIVEN = "(not given)"


def differences(before: Plan, after: Plan) -> Iterator[str]:
    """The keys by which a plan cannot go on with another's results, each with both values.

    Methods and measures are matched by their labels. Which of them there are, at which layers, and how layers are
    combined makes no difference.
    """
    yield from _changed("data", before.data, after.data, _WHICH)
    yield from _changed("model", before.model, after.model)
    yield from _changed("run", before.run, after.run)
    for what in ("methods", "measures"):
        old = {_named(part): part for part in getattr(before, what)}
        for new in getattr(after, what):
            if _named(new) in old:
                where = f"{what[:-1]} {_named(new)!r}"
                yield from _changed(where, old[_named(new)], new, {"layers", "combine"})


def _named(part: MethodPlan | MeasurePlan) -> str:
    return part.label or (part.method if isinstance(part, MethodPlan) else part.measure)


def _changed(where: str, before: Any, after: Any, free: Collection[str] = ()) -> Iterator[str]:
    """Where two parts of a plan differ, but for some of the first's keys."""
    if dataclasses.is_dataclass(before) and dataclasses.is_dataclass(after):
        before, after = ({f.name: getattr(part, f.name) for f in dataclasses.fields(part)} for part in (before, after))
        free = {*free, *_FREE}
    if not isinstance(before, dict) or not isinstance(after, dict):
        if before != after:
            yield f"{where} is {_shown(after)}, was {_shown(before)}"
        return
    for key in dict.fromkeys([*before, *after]):
        if key not in free:
            yield from _changed(f"{where}.{key}", before.get(key, _NOT_GIVEN), after.get(key, _NOT_GIVEN))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# --- From plain values -----------------------------------------------------------------------------------------------


def _built(kind: Any, content: Any, where: str) -> Any:
    if not isinstance(content, dict):
        raise InvalidValueError(f"{where} is {content!r}; expected a table of keys and values")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in content:
        if key not in fields:
            raise InvalidValueError(unknown_name(f"a key of {where}", key, fields))
    for name, f in fields.items():
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in content:
            raise InvalidValueError(f"{where} lacks {name!r}; expected it")
    inside = "" if kind is Plan else f"{where}."
    return kind(**{key: _value(hints[key], value, inside + key) for key, value in content.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InvalidValueError(f"{where} is {value!r}; expected a list")
        return tuple(_value(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        return _table(value, where)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            value = {f.name: getattr(value, f.name) for f in dataclasses.fields(hint)}
        return _built(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST:
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        raise InvalidValueError(f"{where} is {value!r}; expected {names[hint]}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValueError(f"{where} is {value!r}; expected a finite number")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise InvalidValueError(f"{where} is {value}; expected at most {_LARGEST}")
    if isinstance(value, str) and ("\0" in value or value != value.encode("utf-8", "replace").decode("utf-8")):
        raise InvalidValueError(f"{where} is {value!r}; expected text without NUL characters, in UTF-8")
    return value


def _table(value: Any, where: str) -> Any:
    """Arguments, as JSON keeps them."""
    if not isinstance(value, dict):
        raise InvalidValueError(f"{where} is {value!r}; expected a table of keys and values")
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValueError(
            f"{where} is {_shown(value)} ({error}); expected text, numbers, true or false, lists and tables"
        ) from None


def _one_of(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    for choice in choices:
        is_list = typing.get_origin(choice) is tuple
        if choice is not type(None) and is_list == isinstance(value, (list, tuple)):
            return _value(choice, value, where)
    raise InvalidValueError(f"{where} is {value!r}; expected text or a list")


def _without_defaults(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_without_defaults(v) for v in value]
    if not dataclasses.is_dataclass(value):
        return value
    found = {}
    for f in dataclasses.fields(value):
        own = getattr(value, f.name)
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if own != default:
            found[f.name] = _without_defaults(own)
    return found


# --- Checks that need no files ---------------------------------------------------------------------------------------


def _check(plan: Plan) -> None:
    if not plan.methods:
        raise InvalidValueError("methods is empty; expected at least one method")
    if not plan.measures:
        raise InvalidValueError("measures is empty; expected at least one measure")
    _check_data(plan.data)
    for i, method in enumerate(plan.methods):
        _choice(f"methods[{i}].channels", method.channels, ("sum", "max_abs", "abs_sum"))
        steps = method.meta_saliency.steps if method.meta_saliency is not None else 1
        if not 1 <= steps <= _MOST_STEPS:
            raise InvalidValueError(f"methods[{i}].meta_saliency.steps is {steps}; expected 1 to {_MOST_STEPS}")
        _choice(f"methods[{i}].interpolation", method.interpolation, ("bilinear", "nearest"))
        for j, combination in enumerate(method.combine):
            _choice(f"methods[{i}].combine[{j}].mode", combination.mode, ("product", "sum"))
    for what, labels in (
        ("methods", [m.label or m.method for m in plan.methods]),
        ("measures", [m.label or m.measure for m in plan.measures]),
    ):
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise InvalidValueError(f"{what} names {twice!r} twice; expected a different label for each")
    if plan.model.num_classes < 0:
        raise InvalidValueError(f"model.num_classes is {plan.model.num_classes}; expected at least 0")
    run = plan.run
    for name, value, least in (("batch_size", run.batch_size, 1), ("threads", run.threads, 1), ("seed", run.seed, 0)):
        if value < least:
            raise InvalidValueError(f"run.{name} is {value}; expected at least {least}")
    _choice("run.on_error", run.on_error, ("stop", "skip"))


def _check_data(data: DataPlan) -> None:
    _choice("data.kind", data.kind, KINDS)
    if data.resize:
        _choice("data.resize", data.resize, RESIZES)
    needed = {
        "voc": ("root",),
        "coco": ("root", "file"),
        "folder": ("root",),
        "list": ("file",),
        "custom": ("dataset",),
    }
    for name in needed.get(data.kind, ()):
        if not getattr(data, name):
            raise InvalidValueError(f"data.{name} is empty; expected it for data of the kind {data.kind!r}")
    for name, least in (("n", 0), ("start", 0), ("every", 1), ("seed", 0), ("size", 0)):
        if getattr(data, name) < least:
            raise InvalidValueError(f"data.{name} is {getattr(data, name)}; expected at least {least}")
    for name in ("mean", "std"):
        numbers = getattr(data, name)
        if len(numbers) not in (0, 1, 3) or (name == "std" and any(v <= 0 for v in numbers)):
            raise InvalidValueError(
                f"data.{name} is {list(numbers)}; expected one number or three" + " above 0" * (name == "std")
            )
    if data.size > _LARGEST_SIZE:
        raise InvalidValueError(f"data.size is {data.size}; expected at most {_LARGEST_SIZE} pixels")
    if data.kind == "scenes" and data.start + data.n * data.every > _MOST_SCENES:
        raise InvalidValueError(
            f"data.n is {data.n}, with start {data.start} and every {data.every}; expected scenes up to number "
            f"{_MOST_SCENES:,}"
        )


def check_applies(data: DataPlan) -> None:
    """Our error for a key that says nothing of data of this kind: it would be ignored."""
    for f in dataclasses.fields(data):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if f.name not in ("kind", *_APPLY[data.kind]) and getattr(data, f.name) != default:
            raise InvalidValueError(
                f"data.{f.name} is {getattr(data, f.name)!r}, but does not apply to data of the kind {data.kind!r}; "
                f"expected it left out (there are {', '.join(_APPLY[data.kind])})"
            )


def _choice(where: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidValueError(unknown_name(where, value, choices))
