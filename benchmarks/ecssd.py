"""ECSSD's pictures with exact masks of what is salient, and the class that a network sees: its own best one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from captum_extract_aggregate.data import PointingPairs
from captum_extract_aggregate.data.models_by_name import load_subject
from captum_extract_aggregate.data.pointing_pairs import pairs_of
from captum_extract_aggregate.evaluation import DataPlan
from captum_extract_aggregate.evaluation.data_openers import Preprocess


class Salient:
    """Is a data set of `(picture, PointingPairs)`: the mask belongs to the network's best class."""

    def __init__(self, root: str, model: str, weights: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.paths = sorted((Path(root) / "images").glob("*.jpg"))
        self.masks = Path(root) / "masks"
        subject = load_subject(model, weights, 0)
        self.network = subject.model
        self.preprocess = Preprocess(DataPlan(resize="square", mean=mean, std=std), subject)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, PointingPairs]:
        path = self.paths[index]
        picture = Image.open(path).convert("RGB")
        pixels = torch.tensor(list(Image.open(self.masks / f"{path.stem}.png").convert("L").getdata()))
        mask = pixels.reshape(picture.height, picture.width) > 127
        with torch.no_grad():
            best = int(self.network(self.preprocess(picture)[None])[0].argmax())
        return picture, pairs_of({best: mask}, [best], (picture.height, picture.width))


def salient(**arguments: Any) -> Salient:
    """Returns the data set, as plans of the kind `custom` ask for it."""
    return Salient(**arguments)
