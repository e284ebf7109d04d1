"""Grid pointing on a trained ViT-Tiny: four classes in one picture; which share of a map's positive mass is in the
right cell? Chance is 0.25.

    python benchmarks/transformers_grid.py vit_tiny_patch16_224-imagenet.pth FOLDER [--grids 60]

FOLDER holds pictures and `labels.tsv` (file, index of the class, name). Of the pictures those take part that the
network, alone and in a cell of half the side, is surest of; each is the upper left, upper right, ... cell of one grid.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.transforms.functional import center_crop, resize, to_tensor

import captum_extract_aggregate as cea
from captum_extract_aggregate import rules

BLOCKS = (2, 5, 8, 10, 11)
SIDE = 224


def confident(model: nn.Module, folder: Path, wanted: int) -> list[tuple[Tensor, int]]:
    """Returns the pictures of the highest probability of their class, `3 x 112 x 112` each, one for each class."""
    found = []
    for line in (folder / "labels.tsv").read_text().splitlines():
        name, index = line.split("\t")[:2]
        if not index.isdigit():
            continue
        picture = to_tensor(center_crop(resize(Image.open(folder / name).convert("RGB"), SIDE), [SIDE, SIDE]))
        with torch.no_grad():
            p = float(model(((picture - 0.5) / 0.5)[None])[0].softmax(0)[int(index)])
        small = F.interpolate(picture[None], (SIDE // 2, SIDE // 2), mode="bilinear", antialias=True)[0]
        found.append((p, int(index), small))
    found.sort(key=lambda item: -item[0])
    return [(small, index) for _, index, small in found[:wanted]]


def grids(pictures: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Returns pictures of four cells, and the classes of their cells."""
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0)).tolist()
    images, classes = [], []
    for four in zip(*[iter(order)] * 4):
        a, b, c, d = (pictures[i][0] for i in four)
        images.append(torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1))
        classes.append([pictures[i][1] for i in four])
    return (torch.stack(images) - 0.5) / 0.5, torch.tensor(classes)


def share(m: Tensor, cell: int) -> Tensor:
    """Returns the share of positive mass in a cell, for each map; NaN where there is none."""
    positive = m.clamp(min=0)
    side = m.shape[-1] // 2
    rows, columns = side * (cell // 2), side * (cell % 2)
    inside = positive[..., rows : rows + side, columns : columns + side].sum((1, 2, 3))
    return inside / positive.sum((1, 2, 3))


def methods(model: nn.Module, x: Tensor) -> dict[tuple[str, int], cea.CaptureAttribution]:
    """Returns each cell of the table: a method at a depth."""
    attention = list(cea.attention_layers(model, x))
    gamma = {nn.Conv2d: rules.Gamma(0.25), nn.Linear: rules.Gamma(0.05)}
    found: dict[tuple[str, int], cea.CaptureAttribution] = {}
    for i in BLOCKS:
        block = f"encoder.layers.encoder_layer_{i}"
        plain = {
            "linear approximation": cea.LinearApproximation(model, block),
            "NormGrad": cea.NormGrad(model, block),
            "GradCAM": cea.GradCAM(model, block),
        }
        for name, method in plain.items():
            found[name, i] = method
            found[f"LibraGrad of {name}", i] = cea.LibraGrad(method)
        found["LRP", i] = cea.LRP(model, block, rules=gamma)
        found["LeGrad", i] = cea.LeGrad(model, attention[i])
        found["attention x gradient", i] = cea.GradientWeightedAttention(model, attention[i])
    return found


def main(weights: str, folder: Path, count: int) -> None:
    """Prints the table."""
    model = VisionTransformer(224, 16, 12, 3, 192, 768).eval()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    x, classes = grids(confident(model, folder, 4 * count))
    print(f"{len(x)} grids, {classes.numel()} cells\n")
    every = methods(model, x[:1])
    shares: dict[tuple[str, int], list[Tensor]] = {key: [] for key in every}
    for batch, of_cells in zip(x.split(10), classes.split(10)):
        maps = cea.attribute_together_per_target(every, batch, list(of_cells.T))
        for cell, of_cell in enumerate(maps):
            for key, m in of_cell.items():
                shares[key].append(share(m, cell))
    print("| method | " + " | ".join(f"block {b + 1}" for b in BLOCKS) + " |\n|---|" + "---|" * len(BLOCKS))
    for name in dict.fromkeys(name for name, _ in every):
        found = [torch.cat(shares[name, i]) for i in BLOCKS]
        cells = [f"{float(v.nanmean()):.3f}" if not v.isnan().all() else "zero" for v in found]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--grids", type=int, default=60)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    main(given.weights, given.folder, given.grids)
