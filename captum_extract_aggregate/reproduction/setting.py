"""On which network and which images an experiment runs, and where what it finds is kept."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate.attr import MetaSaliency
from captum_extract_aggregate.attr.by_name import make_method
from captum_extract_aggregate.attr.layer_weights import LayerWeights, accuracy_weights, feature_spread_weights
from captum_extract_aggregate.data.models_by_name import NamedModel, load_subject
from captum_extract_aggregate.data.network_weights import replace_head
from captum_extract_aggregate.evaluation import (
    DataPlan,
    MeasurePlan,
    MethodPlan,
    ModelPlan,
    Plan,
    Results,
    RunPlan,
    run,
)
from captum_extract_aggregate.evaluation.datasets import open_images
from captum_extract_aggregate.evaluation.images import Images, Sample, UnreadableError
from captum_extract_aggregate.evaluation.prepare import first_readable
from captum_extract_aggregate.reproduction.cuts import Cut, cuts_of

Made = TypeVar("Made")

# Images for each kind of experiment: explained once; explained at every stage of a randomised network or a step of
# training; pixels removed.
SIZES = {"maps": 200, "stages": 40, "removal": 80}
QUICK = {"maps": 60, "stages": 6, "removal": 24}
DATA = ("scenes", "voc", "coco", "imagenet")
_ROUNDING = 1e-3
_MOST_CUTS = 12, 3  # of which a map each is measured; in a quick run


@dataclass(frozen=True)
class Setting:
    """Holds a network, images, and what belongs to them: the tolerance of the pointing game, pixels removed at a
    time."""

    name: str
    model: ModelPlan
    data: DataPlan
    folder: Path
    wanted_layers: tuple[str, ...] = ()
    has_objects: bool = True
    tolerance: float = 15
    step: int = 1024
    loss: str = "cross_entropy"
    sizes: dict[str, int] = field(default_factory=lambda: dict(SIZES))
    show_progress: bool = True

    @property
    def is_quick(self) -> bool:
        """Whether a quick run was asked for, or as few images."""
        return self.sizes["maps"] < 100

    @functools.cached_property
    def network(self) -> nn.Module:
        """The network."""
        return self._opened[0]

    @functools.cached_property
    def _opened(self) -> tuple[nn.Module, Images, NamedModel]:
        subject = load_subject(self.model.name, self.model.weights, self.model.num_classes)
        if self.model.head:
            replace_head(subject.model, self.model.head)
        return subject.model, open_images(self.data, subject), subject

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """What pixels in [0, 1] are normalised with: mean and standard deviation."""
        subject = self._opened[2]
        return tuple(self.data.mean or subject.mean), tuple(self.data.std or subject.std)

    @functools.cached_property
    def _made(self) -> dict[str, Any]:
        return {}

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """Returns what was made under a name, which several figures show; makes it the first time."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]  # type: ignore[no-any-return]

    @functools.cached_property
    def first(self) -> Sample:
        """The first image that can be read."""
        return first_readable(self._opened[1])

    def picture(self, x: Tensor) -> Tensor:
        """Returns the pixels in [0, 1] of an input, `3 x H x W`."""
        return self._opened[1].picture(x)

    def best(self, x: Tensor) -> Tensor:
        """Returns the class with the highest score of each input, `N`."""
        with torch.no_grad():
            return self.network(x).argmax(1)

    def method(self, plan: MethodPlan, network: nn.Module | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        """Returns a function of inputs and classes that gives a plan's map of its one layer (or of all together).

        Of the setting's network, or of another one with its layers.
        """
        model = network or self.network
        layers: list[Any] = [
            None if name == "input" else model.get_submodule(name) for name in plan.layers or self.layers
        ]
        made: Any = make_method(plan.method, model, layers, **plan.arguments)
        if plan.meta_saliency is not None:
            how = plan.meta_saliency
            made = MetaSaliency(made, lr=how.lr, ascent=how.ascent, loss_func=how.loss_func, model=model)  # type: ignore[arg-type]

        def attribute(x: Tensor, targets: Tensor) -> Tensor:
            found = made.attribute(x, target=targets)
            single: Tensor = found[0] if isinstance(found, (list, tuple)) else found
            return single.abs().sum(1, keepdim=True) if plan.channels == "abs_sum" else single.sum(1, keepdim=True)

        return attribute

    def samples(self, n: int) -> Iterator[Sample]:
        """Returns at most n images, evenly spread; those that cannot be read are left out."""
        images = self._opened[1]
        n = min(n, images.count)
        for i in range(n):
            with contextlib.suppress(UnreadableError):
                yield images.read(round(i * (images.count - 1) / max(1, n - 1)))

    @functools.cached_property
    def layers(self) -> tuple[str, ...]:
        """Layers from the input to the output, at most four."""
        if self.wanted_layers:
            return self.wanted_layers
        found = list(default_layers(self.network, self.first.x[None]))
        return tuple(found[round(i * (len(found) - 1) / 3)] for i in range(4)) if len(found) > 4 else tuple(found)

    @functools.cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Every layer that nothing bypasses, from the input to the output: of a VGG every convolution, of a ResNet the
        stem and the end of every block."""
        return cuts_of(self.network, self.first.x[None])

    @property
    def shown_cuts(self) -> tuple[Cut, ...]:
        """Some of them, evenly spread, the last two among them: those of which a map each is measured."""
        most = _MOST_CUTS[self.is_quick]
        if len(self.cuts) <= most:
            return self.cuts
        before = self.cuts[:-2]
        chosen = [before[round(i * (len(before) - 1) / max(1, most - 3))] for i in range(most - 2)]
        return tuple(dict.fromkeys((*chosen, *self.cuts[-2:])))

    @functools.cached_property
    def stages(self) -> tuple[str, ...]:
        """Blocks that are randomised one after the other: the parts of the network that hold parameters."""
        names = {module: name for name, module in self.network.named_modules()}
        return tuple(names[block] for block in network_blocks(self.network))

    @functools.cached_property
    def rectifies(self) -> bool:
        """Whether rules for rectifiers have something to act on: guided backprop differs from the gradient.

        Where it does not (GELU in a ViT), gradients can be balanced instead.
        """
        x, at = self.first.x[None], ("input",)
        guided = self.method(MethodPlan("guided", layers=at))(x, self.best(x))
        plain = self.method(MethodPlan("gradient", layers=at, arguments={"aggregate": "sum"}))(x, self.best(x))
        return float((guided - plain).abs().max()) > _ROUNDING * float(plain.abs().max())

    def supports(self, method: MethodPlan) -> str:
        """Returns why a method does not run on this network; nothing if it does."""
        x = self.first.x[None]
        try:
            layers: list[nn.Module | None] = [
                None if name == "input" else self.network.get_submodule(name) for name in method.layers or self.layers
            ]
            make_method(method.method, self.network, layers, **method.arguments).attribute(x, target=0)  # type: ignore[attr-defined]
        except (ValueError, TypeError) as error:
            return str(error)
        return ""

    def evaluate(
        self, methods: Sequence[MethodPlan], measures: Sequence[MeasurePlan], size: str, data: DataPlan | None = None
    ) -> Results:
        """Returns an evaluation, kept in the output folder: asked for again, it is there."""
        data = data or self.data
        n = min(self.sizes[size], data.n) if data.n else self.sizes[size]
        every = data.every
        if data.kind in ("folder", "list"):  # in the order of their classes, or in any
            every *= max(1, self._opened[1].count // n)
        plan = Plan(
            tuple(m for m in methods if not self.supports(m)),
            tuple(measures),
            replace(data, n=n, every=every),
            self.model,
            RunPlan(batch_size=8, on_error="skip"),
            self.layers,
        )
        return run(plan, self.folder / "results" / plan.hash(), self.show_progress)

    @functools.cached_property
    def spread_weights(self) -> LayerWeights:
        """R20's feature spread."""
        return feature_spread_weights(self.network, self.layers, _Loader(self), show_progress=False)

    @functools.cached_property
    def probe_weights(self) -> LayerWeights:
        """R20's accuracy of a linear probe."""
        return accuracy_weights(self.network, self.layers, _Loader(self), show_progress=False)

    def batches(self, n: int, size: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields at most n images in batches of one shape, with the classes that are known to be in each: zeros and
        ones (as in the pointing game, VOC's objects marked difficult do not count), or the index of its only one, -1
        for none.

        Raises ValueError where the network has not as many classes as the data.
        """
        known = len(self._opened[1].classes)
        if known and known != self.classes:
            raise InvalidValueError(
                f"the model has {self.classes} classes, and the data {known}; expected a model of the data's classes, "
                "in their order (see head)"
            )
        held: list[Sample] = []
        for sample in self.samples(n):
            if held and (len(held) == size or sample.x.shape != held[0].x.shape):
                yield self._batch(held)
                held = []
            held.append(sample)
        if held:
            yield self._batch(held)

    def _batch(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        x = torch.stack([sample.x for sample in samples])
        if not self.has_objects:
            return x, torch.tensor([sample.label for sample in samples])
        there = torch.zeros(len(x), self.classes)
        for i, sample in enumerate(samples):
            there[i, list(sample.pairs.classes) if sample.pairs else []] = 1
        return x, there

    @functools.cached_property
    def classes(self) -> int:
        """The number of classes that the network knows."""
        with torch.no_grad():
            return int(self.network(self.first.x[None]).shape[1])


def network_blocks(module: nn.Module) -> list[nn.Module]:
    """Returns the parts that hold parameters; sequences are taken apart."""
    parts = [network_blocks(m) if isinstance(m, nn.Sequential) else [m] for m in module.children()]
    return [m for part in parts for m in part if any(True for _ in m.parameters())]


class _Loader:
    """Gives images one by one, with a class each; gone through as often as needed. Images without a class are left
    out."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.n = setting, 2 * setting.sizes["maps"]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for sample in self.setting.samples(self.n):
            if sample.label >= 0:
                yield sample.x[None], torch.tensor([sample.label])


def voc_like(setting: Setting) -> DataPlan:
    """Returns the data with images of one size, as pixel removal against other images' maps needs them."""
    return replace(setting.data, resize="square") if setting.data.kind in ("voc", "coco") else setting.data
