"""What is evaluated: data, a model, methods at layers, measures. A small TOML file, or these dataclasses.

They are pydantic's: whatever is wrong in one is told in one line as soon as it is made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from captum_extract_aggregate._common.errors import InvalidValueError, is_file
from captum_extract_aggregate.evaluation.data_kinds import DATA_KINDS
from captum_extract_aggregate.evaluation.plan_values import (
    Arguments,
    Flag,
    List,
    Number,
    Positive,
    Text,
    TextOrNumbers,
    Whole,
    between,
    choices,
    expected,
    in_one_line,
    one_of,
    told,
)

Kind = Annotated[
    Text,
    AfterValidator(one_of(DATA_KINDS.names)),
    Field(json_schema_extra=lambda schema: schema.update(enum=DATA_KINDS.names())),
]
Resize = Literal["", "short", "square", "crop"]
RESIZES = choices(Resize)
_MOST_SCENES, _LARGEST_SIZE, _MOST_STEPS = 10_000_000, 16_384, 10_000
_STRICT = ConfigDict(extra="forbid")


Steps = Annotated[
    int,
    Strict(),
    AfterValidator(between(1, _MOST_STEPS)),
    Field(json_schema_extra={"minimum": 1, "maximum": _MOST_STEPS}),
]


def _one_or_three(numbers: tuple[float, ...]) -> tuple[float, ...]:
    if len(numbers) not in (0, 1, 3):
        raise expected("one number or three")
    return numbers


def _above_zero(numbers: tuple[float, ...]) -> tuple[float, ...]:
    if len(numbers) not in (0, 1, 3) or any(v <= 0 for v in numbers):
        raise expected("one number or three above 0")
    return numbers


@in_one_line("data")
@dataclass(frozen=True, config=_STRICT)
class DataPlan:
    """Says which images are explained.

    A key that says nothing of a kind is an error where the images are opened.

    Attributes:
        kind: `"scenes"` (embedded), `"voc"` (torchvision's `VOCDetection`), `"coco"` (`CocoDetection`), `"folder"`
            (`ImageFolder`), `"list"` (a text file: `path <tab> class index` on each line), `"custom"`, `"grid"` (of
            pictures of any of these), or one that `registry.register_dataset` named.
        root: the folder of voc, coco and folder; of the paths in a list (default: the list's own folder).
        file: the list; COCO's annotations.
        dataset: for custom, `FILE.py:FUNCTION` or `MODULE:FUNCTION` that returns a data set of
            `(tensor or PIL picture, class index or PointingPairs or None)`.
        arguments: for that function. Of a grid: `of`, a table as this one, says of which pictures (those of one known
            class each; of voc and coco square ones, unless it says otherwise); `cells` how many a side has (3);
            `confidence` how sure the model must be of the class of each (.9; 0: it need only be right).
        year, image_set: of VOC. seed: of the scenes and grids. split: of the scenes.
        n: how many images at most; 0: all (of scenes and grids 100). start, every: begin at this image, take every so
            many.
        resize: `"short"`: the short side to `size`, the whole image; `"square"`: to `size` x `size`, the whole image;
            `"crop"`: as the model was trained, a square from the middle. "": short for voc and coco, else crop (for a
            model that was trained on whole pictures, as many of Hugging Face's, square).
        size: in pixels; 0: the model's.
        mean, std: normalisation; empty: the model's.
    """

    kind: Kind = "scenes"
    root: Text = ""
    file: Text = ""
    dataset: Text = ""
    arguments: Arguments = field(default_factory=dict)
    year: Text = "2007"
    image_set: Text = "test"
    seed: Whole = 0
    split: Text = "test"
    n: Whole = 0
    start: Whole = 0
    every: Positive = 1
    resize: Resize = ""
    size: Annotated[Whole, Field(le=_LARGEST_SIZE)] = 0
    mean: Annotated[List[Number], AfterValidator(_one_or_three)] = ()
    std: Annotated[List[Number], AfterValidator(_above_zero)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in DATA_KINDS[self.kind].needed:
            if not getattr(self, name):
                raise InvalidValueError(f"{name} is empty; expected it for data of the kind {self.kind!r}")
        if self.kind == "scenes" and self.start + self.n * self.every > _MOST_SCENES:
            raise InvalidValueError(
                f"n is {self.n}, with start {self.start} and every {self.every}; expected scenes up to number "
                f"{_MOST_SCENES:,}"
            )
        return self


@in_one_line("model")
@dataclass(frozen=True, config=_STRICT)
class ModelPlan:
    """Says which model is explained.

    Attributes:
        name: `scene-vgg`, `scene-resnet`, `scene-vit`, a torchvision model, `timm:NAME`, a local folder of Hugging
            Face's transformers, or `FILE.py:FUNCTION` / `MODULE:FUNCTION`.
        weights: `DEFAULT`, a state dict file, or `random`.
        num_classes: of a torchvision or timm model that differs from the usual.
        head: a file with the `weight` and `bias` of a linear head that takes the classifier's place.
    """

    name: Text = "scene-resnet"
    weights: Text = ""
    num_classes: Whole = 0
    head: Text = ""


@in_one_line("combination")
@dataclass(frozen=True, config=_STRICT)
class CombinationPlan:
    """The maps of a method's layers as one: `mode` is product or sum; `weights` uniform, linear, a number per layer,
    or a JSON file of `LayerWeights`. `label` names it in the tables."""

    mode: Literal["product", "sum"] = "product"
    weights: TextOrNumbers = "uniform"
    label: Text = ""


@in_one_line("meta_saliency")
@dataclass(frozen=True, config=_STRICT)
class MetaPlan:
    """Says how `MetaSaliency` is applied to a method."""

    lr: Number = 1e-3
    ascent: Flag = False
    loss_func: Text = "cross_entropy"
    steps: Steps = 1


@in_one_line("method")
@dataclass(frozen=True, config=_STRICT)
class MethodPlan:
    """Says which method makes maps, of which layers.

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

    method: Text
    label: Text = ""
    layers: List[Text] = ()
    arguments: Arguments = field(default_factory=dict)
    channels: Literal["sum", "max_abs", "abs_sum"] = "sum"
    combine: List[CombinationPlan] = ()
    meta_saliency: MetaPlan | None = None
    interpolation: Literal["bilinear", "nearest"] = "bilinear"


@in_one_line("measure")
@dataclass(frozen=True, config=_STRICT)
class MeasurePlan:
    """Says which measure is taken: a name (see `list_measures`) or `FILE.py:FUNCTION`, its arguments, and its `label`
    in the tables."""

    measure: Text
    label: Text = ""
    arguments: Arguments = field(default_factory=dict)


@in_one_line("run")
@dataclass(frozen=True, config=_STRICT)
class RunPlan:
    """Says how an evaluation is run.

    Attributes:
        batch_size: images that are explained together; results belong to batches, so it is part of what is computed.
        seed: of everything drawn.
        device: `"cpu"`, `"cuda"`, ...; under torchrun each process takes the GPU of its local rank.
        threads: of each process on the CPU. Sums round differently with another number of threads; 1 gives the same
            digits everywhere, and torchrun uses the other cores.
        on_error: `"stop"` at an image that cannot be read, or `"skip"` and count it.
    """

    batch_size: Positive = 8
    seed: Whole = 0
    device: Text = "cpu"
    threads: Positive = 1
    on_error: Literal["stop", "skip"] = "stop"


@in_one_line("")
@dataclass(frozen=True, config=_STRICT)
class Plan:
    """Images x methods x layers x measures. `layers` are those of methods that name none; empty: `default_layers`."""

    methods: List[MethodPlan]
    measures: List[MeasurePlan]
    data: DataPlan = field(default_factory=DataPlan)
    model: ModelPlan = field(default_factory=ModelPlan)
    run: RunPlan = field(default_factory=RunPlan)
    layers: List[Text] = ()
    title: Text = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for what, labels in (
            ("methods", [m.label or m.method for m in self.methods]),
            ("measures", [m.label or m.measure for m in self.measures]),
        ):
            if not labels:
                raise InvalidValueError(f"{what} is empty; expected at least one {what[:-1]}")
            twice = next((label for label in labels if labels.count(label) > 1), None)
            if twice is not None:
                raise InvalidValueError(f"{what} names {twice!r} twice; expected a different label for each")
        return self

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan as plain values, those that differ from their defaults."""
        return _without_defaults(self)

    def hash(self) -> str:
        """Returns sixteen hexadecimal digits that change with whatever is computed (so neither with `title` nor
        `on_error`)."""
        plain = dataclasses.asdict(self) | {"title": ""}
        plain["run"] |= {"on_error": ""}  # says which images there are numbers of, but not which numbers
        content = json.dumps(plain, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def load_plan(path: str | Path) -> Plan:
    """Returns the plan in a TOML file. Relative paths in it are as seen from where the command runs.

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
    """Returns the plan in nested dictionaries and lists, as TOML and JSON give them."""
    try:
        return TypeAdapter(Plan).validate_python(content)
    except ValidationError as error:
        raise InvalidValueError(told(error, Plan)) from None


def plan_schema() -> dict[str, Any]:
    """Returns the JSON schema of plans, by which an editor completes and checks a TOML or JSON file.

    Example:
        >>> from captum_extract_aggregate.evaluation import plan_schema
        >>> plan_schema()["$defs"]["DataPlan"]["properties"]["kind"]["enum"][:3]
        ['scenes', 'voc', 'coco']
    """
    return TypeAdapter(Plan).json_schema()


def given(part: Any) -> dict[str, Any]:
    """Returns the keys of a plan's part whose values differ from their defaults, or that have none."""
    found = {}
    for f in dataclasses.fields(part):
        own = getattr(part, f.name)
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if own != default:
            found[f.name] = own
    return found


def _without_defaults(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_without_defaults(v) for v in value]
    if not dataclasses.is_dataclass(value):
        return value
    return {name: _without_defaults(own) for name, own in given(value).items()}
