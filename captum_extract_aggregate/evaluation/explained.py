"""What measures look at: images that are explained together, and the maps of one method at one layer."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor, nn

from captum_extract_aggregate.evaluation.datasets import to_image_size
from captum_extract_aggregate.evaluation.images import Sample

Value = tuple[int, int, str, float]  # example, class, detail, value


class MethodAtLayer(NamedTuple):
    """Names a method at a layer."""

    method: str
    layer: str


CENTRE = MethodAtLayer("centre", "image")  # the baseline of the pointing games, in place of a method at a layer


@dataclass(frozen=True)
class ImageBatch:
    """Holds images of one size, and the classes that are explained.

    Attributes:
        model: the network. x: its inputs, `N x C x H x W`. samples: what is known of each image. scores: `N x classes`.
        targets: N x T, the best class first, the worst second, then whatever else is in the image (filled up with the
            best).
        seed: of whatever is drawn for these images. run_seed: of whatever is drawn alike for all images.
    """

    model: nn.Module
    x: Tensor
    samples: Sequence[Sample]
    scores: Tensor
    targets: Tensor
    seed: int
    run_seed: int = 0

    @property
    def best(self) -> Tensor:
        """Each image's highest scoring class."""
        return self.targets[:, 0]

    def objects(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yields each class in each image whose objects are known, and where it is: example, class, mask."""
        for i, sample in enumerate(self.samples):
            if sample.pairs is not None:
                for target, mask in zip(sample.pairs.classes, sample.pairs.masks):
                    yield i, target, mask

    def values(self, detail: str, values: Tensor) -> Iterator[Value]:
        """Yields one value for each example, of its best class."""
        for i, value in enumerate(values.tolist()):
            yield i, int(self.best[i]), detail, float(value)

    def copied(self) -> ImageBatch:
        """Returns the same batch in tensors of its own, and with the same model."""
        x, scores, targets = (t.detach().clone() for t in (self.x, self.scores, self.targets))
        return replace(self, x=x, samples=copy.deepcopy(self.samples), scores=scores, targets=targets)


@dataclass(frozen=True)
class Column:
    """Holds one method at one layer: its maps for each of the T targets, `N x 1 x h x w`."""

    method: str
    layer: str
    maps: Sequence[Tensor]
    interpolation: str = "bilinear"

    @property
    def place(self) -> MethodAtLayer:
        """The method and the layer."""
        return MethodAtLayer(self.method, self.layer)

    def copied(self) -> Column:
        """Returns the same column in tensors of its own."""
        return replace(self, maps=[m.detach().clone() for m in self.maps])

    def at_image_size(self, t: int, batch: ImageBatch) -> Tensor:
        """Returns the maps of target t at the input's size."""
        return to_image_size(self.maps[t], (batch.x.shape[2], batch.x.shape[3]), self.interpolation)

    def of(self, example: int, target: int, batch: ImageBatch) -> Tensor:
        """Returns the map `1 x h x w` of a class of one image."""
        t = batch.targets[example].tolist().index(target)
        return self.maps[t][example] if self.interpolation == "bilinear" else self.at_image_size(t, batch)[example]
