"""Draws docs/decomposition.png: what activities and biases of a trained ViT-Tiny contribute, plain and balanced.

    python benchmarks/decomposition_figure.py vit_tiny_patch16_224-imagenet.pth

The weights and the picture are those of transformers_figure.py. For each map it prints the share of its positive mass
in the upper half, and what activities and biases of all depths sum to.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from transformers_figure import CAT, COFFEE, cat_above_coffee

import captum_extract_aggregate as cea

BLOCKS = (2, 5, 8, 10)
OUT = Path(__file__).parents[1] / "docs" / "decomposition.png"


def biased(model: nn.Module) -> list[str]:
    """Returns the layers that add biases at tokens: calls of layers that are behind no pooling."""
    return [name for name in cea.bias_layers(model) if "out_proj" not in name and "heads" not in name]


def maps_of(model: nn.Module, x: Tensor, target: int, balanced: bool) -> dict[str, Tensor]:
    """Returns the maps of one class by the titles of their columns."""

    def of(method: cea.CaptureAttribution) -> cea.CaptureAttribution:
        return cea.LibraGrad(method) if balanced else method

    names = [f"encoder.layers.encoder_layer_{i}" for i in BLOCKS]
    activities = of(cea.ActivityAttribution(model, names)).attribute(x, target=target)
    if balanced:
        terms = cea.LibraGrad(cea.FullGrad(model)).bias_terms(x, target=target)
        biases = [term.map for term in terms if term.map is not None]
        elsewhere = float(sum(term.elsewhere for term in terms))
        print(f"    biases: {len(biases)} of {len(terms)} have places, {elsewhere:+.3f} of the score lies elsewhere")
    else:
        biases = cea.BiasAttribution(model, biased(model)).attribute(x, target=target)
    return {
        **{f"activities,\nblock {i + 1}": m for i, m in zip(BLOCKS, activities)},
        "biases": sum(biases),
        "AggregatedActivity": of(cea.AggregatedActivity(model)).attribute(x, target=target),
        "FullGrad": of(cea.FullGrad(model, include_input=False)).attribute(x, target=target),
    }


def main(weights: str, output: Path) -> None:
    """Draws the figure and prints the numbers."""
    model = VisionTransformer(224, 16, 12, 3, 192, 768).eval()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    picture = cat_above_coffee()
    x = ((picture - 0.5) / 0.5)[None]
    rows = [(target, balanced) for target in (CAT, COFFEE) for balanced in (False, True)]
    figure, axes = plt.subplots(4, len(BLOCKS) + 4, figsize=(1.3 * (len(BLOCKS) + 4), 5.6), layout="constrained")
    for line, (target, balanced) in zip(axes, rows):
        name = f"class {target}, {'balanced' if balanced else 'plain'}"
        print(f"{name}: score {float(model(x)[0, target].detach()):.2f}")
        line[0].imshow(picture.permute(1, 2, 0))
        line[0].set_ylabel(name.replace(", ", "\n"), fontsize=8)
        for axis, (title, m) in zip(line[1:], maps_of(model, x, target, balanced).items()):
            limit, half = float(m.abs().max()), m.shape[2] // 2
            signed = bool((m < 0).any())
            axis.imshow(m[0, 0], cmap="RdBu_r" if signed else "viridis", vmin=-limit if signed else None, vmax=limit)
            positive = m.clamp(min=0)
            share = float(positive[..., :half, :].sum() / positive.sum())
            print(f"    {title.replace(chr(10), ' '):22} {share:.2f} above, sum {float(m.sum()):+.3f}")
            if (target, balanced) == rows[0]:
                axis.set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(output, dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--output", type=Path, default=OUT)
    given = parser.parse_args()
    main(given.weights, given.output)
