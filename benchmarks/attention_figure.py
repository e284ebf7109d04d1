"""Draws LeGrad, GradCAM, gradient-weighted attention and rollout of a trained ViT-Tiny for a cat and a dog.

`python benchmarks/attention_figure.py DATA PICTURE`: DATA is the folder with `models/` and `photos/`, PICTURE the file
that is written. It prints each map's share of mass in the upper and lower half, for both classes.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torchvision
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.transforms.functional import normalize, to_tensor

import captum_extract_aggregate as cea

CLASSES = {"bull mastiff": 243, "tiger cat": 282}
PLACE = "encoder.layers.encoder_layer_"


def vit_tiny(data: Path) -> torch.nn.Module:
    """Returns the trained network."""
    model = torchvision.models.VisionTransformer(224, 16, 12, 3, 192, 768)
    model.load_state_dict(torch.load(data / "models" / "vit_tiny_patch16_224-imagenet.pth", weights_only=True))
    return model.eval()


def methods(model: torch.nn.Module, x: torch.Tensor) -> dict[str, cea.CaptureAttribution]:
    """Returns the methods by the titles of their columns."""
    layers = list(cea.attention_layers(model, x))
    return {
        "LeGrad, all blocks": cea.LeGrad(model, layers),
        "LeGrad, last block": cea.LeGrad(model, layers[-1]),
        "A x gradient, block 10": cea.GradientWeightedAttention(model, layers[10]),
        "A x gradient, last block": cea.GradientWeightedAttention(model, layers[-1]),
        "GradCAM, block 8": cea.GradCAM(model, f"{PLACE}8"),
        "GradCAM, block 10": cea.GradCAM(model, f"{PLACE}10"),
        "GradCAM, last block": cea.GradCAM(model, f"{PLACE}11"),
        "rollout": cea.AttentionRollout(model, layers),
    }


def main(data: Path, picture: Path) -> None:
    """Draws the figure and prints the numbers."""
    image = to_tensor(Image.open(data / "photos" / "cat_dog.png").convert("RGB").resize((224, 224)))
    model, x = vit_tiny(data), normalize(image, [0.5] * 3, [0.5] * 3)[None]
    with torch.no_grad():
        scores = model(x)[0]
    print("top classes", scores.topk(5).indices.tolist(), {c: round(scores[i].item(), 2) for c, i in CLASSES.items()})
    columns = methods(model, x)
    figure, axes = plt.subplots(2, len(columns) + 1, figsize=(2.2 * (len(columns) + 1), 5), squeeze=False)
    seen: dict[str, list[torch.Tensor]] = {}
    for row, (name, index) in zip(axes, CLASSES.items()):
        row[0].imshow(image.movedim(0, -1))
        row[0].set_title(name, fontsize=9)
        for ax, (title, map_) in zip(row[1:], cea.attribute_together(columns, x, index).items()):
            seen.setdefault(title, []).append(map_)
            mass = map_.sum().item()
            upper = map_[..., :7, :].sum().item() / mass if mass else float("nan")
            print(f"{name:14} {title:26} maximum {map_.max().item():.3g}  in the upper half {upper:.3f}")
            ax.imshow(image.movedim(0, -1))
            ax.imshow(interpolate(map_, (224, 224), mode="bilinear")[0, 0], cmap="jet", alpha=0.5)
            ax.set_title(title, fontsize=8)
    for title, (a, b) in seen.items():
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        print(f"{title:26} correlation of the two classes {correlation:.3f}")
    for ax in axes.flat:
        ax.axis("off")
    figure.tight_layout()
    figure.savefig(picture, dpi=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
