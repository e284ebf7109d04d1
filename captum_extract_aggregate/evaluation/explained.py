"""What measures look at: images that are explained together, and the maps of one method at one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from captum_extract_aggregate.evaluation.datasets import Sample, to_image_size

Value = tuple[int, int, str, float]  # example, class, detail, value


class MethodAtLayer(NamedTuple):
    """A method at a layer."""

    method: str
    layer: str


CENTRE = MethodAtLayer("centre", "image")  # the baseline of the pointing games, in place of a method at a layer


@dataclass(frozen=True)
class ImageBatch:
    """Images of one size, and the classes that are explained.

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


@dataclass(frozen=True)
class Column:
    """One method at one layer: its maps for each of the T targets, `N x 1 x h x w`."""

    method: str
    layer: str
    maps: Sequence[Tensor]
    interpolation: str = "bilinear"

    @property
    def place(self) -> MethodAtLayer:
        """The method and the layer."""
        return MethodAtLayer(self.method, self.layer)

    def at_image_size(self, t: int, batch: ImageBatch) -> Tensor:
        """The maps of target t at the input's size."""
        return to_image_size(self.maps[t], (batch.x.shape[2], batch.x.shape[3]), self.interpolation)

    def of(self, example: int, target: int, batch: ImageBatch) -> Tensor:
        """The map `1 x h x w` of a class of one image."""
        t = batch.targets[example].tolist().index(target)
        return self.maps[t][example] if self.interpolation == "bilinear" else self.at_image_size(t, batch)[example]
