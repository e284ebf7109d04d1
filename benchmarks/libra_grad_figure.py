"""Draws docs/transformers.png: a ViT-Tiny's score taken apart with plain and with balanced gradients, by depth.

    python benchmarks/libra_grad_figure.py vit_tiny_patch16_224-imagenet.pth

The file is a state dictionary of torchvision's `VisionTransformer(224, 16, 12, 3, 192, 768)`, trained on ImageNet with
mean = std = 0.5. The picture is scikit-image's cat (`skimage.data.chelsea`, CC0).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import skimage.data
import torch
import torch.nn.functional as F
from torchvision.models import VisionTransformer

import captum_extract_aggregate as cea

BLOCKS = (2, 5, 8, 10)
OUT = Path(__file__).parents[1] / "docs" / "transformers.png"


def picture() -> torch.Tensor:
    """Returns the cat, `1 x 3 x 224 x 224`, in [0, 1]."""
    pixels = torch.tensor(skimage.data.chelsea()).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(pixels[..., 60:360], (224, 224), mode="bilinear", antialias=True).clamp(0, 1)


def main(weights: str) -> None:
    """Draws the figure and prints, for each place, how far activities and biases are from the score."""
    model = VisionTransformer(224, 16, 12, 3, 192, 768).eval()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    image = picture()
    x = (image - 0.5) / 0.5
    with torch.no_grad():
        target = int(model(x).argmax())
        print(f"class {target}, score {float(model(x)[0, target]):.3f}")
    layers = [f"encoder.layers.encoder_layer_{i}" for i in BLOCKS]
    plain = cea.ActivityAttribution(model, layers)
    rows = {"plain gradient": plain, "balanced gradient": cea.LibraGrad(plain)}
    figure, axes = plt.subplots(2, len(BLOCKS) + 1, figsize=(2.1 * (len(BLOCKS) + 1), 4.6), layout="constrained")
    for (name, method), line in zip(rows.items(), axes):
        deltas = method.compute_convergence_delta(x, target=target)
        line[0].imshow(image[0].permute(1, 2, 0))
        line[0].set_ylabel(name)
        for axis, block, map_, delta in zip(line[1:], BLOCKS, method.attribute(x, target=target), deltas):
            tokens = map_[0, 0]
            limit = float(tokens.abs().max())
            axis.imshow(tokens, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.set_title(f"block {block + 1}\nmissing {float(delta):+.2g}", fontsize=9)
            print(f"{name}, block {block + 1}: activities and biases minus the score {float(delta):+.2e}")
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(OUT, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    main(parser.parse_args().weights)
