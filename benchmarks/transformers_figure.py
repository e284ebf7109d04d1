"""Draws docs/transformers.png: two classes of one picture explained by a trained ViT-Tiny, by method and depth.

    python benchmarks/transformers_figure.py vit_tiny_patch16_224-imagenet.pth
    python benchmarks/transformers_figure.py WEIGHTS --picture cat_dog.png --classes 243 282 --output figure.png

The file is a state dictionary of torchvision's `VisionTransformer(224, 16, 12, 3, 192, 768)`, trained on ImageNet with
mean = std = 0.5. The picture is, unless another is given, scikit-image's cat above its cup of coffee (both CC0). For
each map it prints the share of its positive mass in the upper half, and for the activities of one depth how far they
and the biases are from the score.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.transforms.functional import to_tensor

import captum_extract_aggregate as cea
from captum_extract_aggregate import rules

BLOCKS = (2, 5, 8, 10, 11)
OUT = Path(__file__).parents[1] / "docs" / "transformers.png"
CAT, COFFEE = 282, 967


def cat_above_coffee() -> Tensor:
    """Returns the picture, `3 x 224 x 224`, in [0, 1]."""
    halves = []
    for pixels, rows, columns in (
        (skimage.data.chelsea(), (0, 225), (0, 450)),
        (skimage.data.coffee(), (60, 360), (0, 600)),
    ):
        part = torch.tensor(pixels).permute(2, 0, 1)[None, :, slice(*rows), slice(*columns)].float() / 255
        halves.append(F.interpolate(part, (112, 224), mode="bilinear", antialias=True).clamp(0, 1)[0])
    return torch.cat(halves, 1)


def methods(model: nn.Module, x: Tensor) -> dict[str, cea.CaptureAttribution]:
    """Returns the methods by the titles of their rows, each at all depths."""
    blocks = [f"encoder.layers.encoder_layer_{i}" for i in BLOCKS]
    attention = list(cea.attention_layers(model, x))
    linear = cea.LinearApproximation(model, blocks)
    return {
        "linear approximation": linear,
        "... balanced": cea.LibraGrad(linear),
        "LRP": cea.LRP(model, blocks, rules={nn.Conv2d: rules.Gamma(0.25), nn.Linear: rules.Gamma(0.05)}),
        "GradCAM": cea.GradCAM(model, blocks),
        "LeGrad": [cea.LeGrad(model, attention[i]) for i in BLOCKS],
    }


def maps_of(method: cea.CaptureAttribution | list[cea.LeGrad], x: Tensor, target: int) -> list[Tensor]:
    """Returns a map for each depth; LeGrad, which joins layers, has an object for each."""
    if isinstance(method, list):
        return [single.attribute(x, target=target) for single in method]
    return method.attribute(x, target=target)


def main(weights: str, picture: Tensor, classes: list[int], output: Path) -> None:
    """Draws the figure and prints the numbers."""
    model = VisionTransformer(224, 16, 12, 3, 192, 768).eval()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    x = ((picture - 0.5) / 0.5)[None]
    with torch.no_grad():
        scores = model(x)[0]
    rows, half = methods(model, x), picture.shape[1] // 32
    figure, axes = plt.subplots(
        len(rows), 2 * len(BLOCKS) + 1, figsize=(1.25 * (2 * len(BLOCKS) + 1), 1.35 * len(rows)), layout="constrained"
    )
    for side, target in enumerate(classes):
        print(f"class {target}: score {float(scores[target]):.2f}, rank {int((scores > scores[target]).sum()) + 1}")
        for line, (name, method) in zip(axes, rows.items()):
            shares = []
            for k, (block, m) in enumerate(zip(BLOCKS, maps_of(method, x, target))):
                axis = line[1 + side * len(BLOCKS) + k]
                limit = float(m.abs().max()) or 1
                axis.imshow(m[0, 0], cmap="RdBu_r", vmin=-limit, vmax=limit)
                if name == next(iter(rows)):
                    axis.set_title(f"class {target}\nblock {block + 1}", fontsize=8)
                positive = m.clamp(min=0)
                shares.append(f"{float(positive[..., :half, :].sum() / positive.sum()):.2f}")
            print(f"  {name:22} share in the upper half by block: {' '.join(shares)}")
    for line, name in zip(axes, rows):
        line[0].imshow(picture.permute(1, 2, 0))
        line[0].set_ylabel(name, fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(output, dpi=90)
    plain = cea.ActivityAttribution(model, [f"encoder.layers.encoder_layer_{i}" for i in BLOCKS])
    for name, method in {"plain": plain, "balanced": cea.LibraGrad(plain)}.items():
        deltas = method.compute_convergence_delta(x, target=classes[0])
        print(f"{name}: missing to the score by block", *(f"{float(delta):+.2g}" for delta in deltas))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--classes", type=int, nargs=2, default=[CAT, COFFEE])
    parser.add_argument("--output", type=Path, default=OUT)
    given = parser.parse_args()
    image = (
        to_tensor(Image.open(given.picture).convert("RGB").resize((224, 224))) if given.picture else cat_above_coffee()
    )
    main(given.weights, image, given.classes, given.output)
