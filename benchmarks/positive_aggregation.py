"""Does positive aggregation cost class sensitivity? The table of docs/positive_aggregation.md.

    python benchmarks/positive_aggregation.py > docs/positive_aggregation.md

Uses the embedded scenes, and, where the folder named by CEA_DATA (default ../shared/data) exists, VOC07 test images
with SqueezeNet and a multi-label head.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from scipy.stats import rankdata
from torch import Tensor, nn

import captum_extract_aggregate as cea

DATA = Path(os.environ.get("CEA_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
METHODS = {"GradCAM": cea.GradCAM, "GradCAM_Pos": cea.GradCAMPos, "linear approximation": cea.LinearApproximation}
VOC = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
).split()


@dataclass
class Example:
    """One image, its objects and the tolerance of the pointing game, in pixels of the boxes."""

    x: Tensor
    labels: Tensor
    boxes: Tensor
    size: tuple[int, int]
    tolerance: float


def scenes(n: int) -> Iterator[Example]:
    for image, target in (cea.DigitScenes(n, seed=100)[i] for i in range(n)):
        yield Example(image[None], target["labels"], target["boxes"], (96, 96), 4)


class VocSqueezeNet(nn.Module):
    """SqueezeNet's features under a linear multi-label head on their spatial mean."""

    def __init__(self) -> None:
        super().__init__()
        net = torchvision.models.squeezenet1_1()
        net.load_state_dict(torch.load(DATA / "models/squeezenet1_1-imagenet.pth", weights_only=True))
        head = torch.load(DATA / "models/squeezenet1_1-voc-head.pth", weights_only=True)
        self.features, self.head = net.features, nn.Linear(512, 20)
        self.head.load_state_dict({"weight": head["weight"], "bias": head["bias"]})

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def voc() -> Iterator[Example]:
    from torchvision.transforms.v2 import functional as TF

    for image, annotation in torchvision.datasets.VOCDetection(str(DATA), year="2007", image_set="test"):
        scale = 224 / min(image.size)
        small = TF.resize(image, [round(image.height * scale), round(image.width * scale)], antialias=True)
        x = TF.normalize(
            TF.to_dtype(TF.to_image(small), torch.float32, scale=True), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        )
        objects = annotation["annotation"]["object"]
        boxes = [[float(o["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax")] for o in objects]
        labels = torch.tensor([VOC.index(o["name"]) for o in objects])
        yield Example(x[None], labels, torch.tensor(boxes), (image.height, image.width), 15)


def hit(m: Tensor, example: Example, label: int | None = None) -> bool:
    """Whether the map's first maximum lies less than the tolerance from a box of the class, or of any class."""
    full = F.interpolate(m, example.size, mode="bilinear")[0, 0]
    y, x = divmod(int(full.argmax()), example.size[1])
    boxes = example.boxes if label is None else example.boxes[example.labels == label]
    for x0, y0, x1, y1 in boxes.tolist():
        if math.hypot(max(x0 - x, 0, x - x1), max(y0 - y, 0, y - y1)) < example.tolerance:
            return True
    return False


def spearman(a: Tensor, b: Tensor) -> float:
    ranks = [torch.from_numpy(rankdata(m.flatten().double().numpy())) for m in (a, b)]
    a, b = (r - r.mean() for r in ranks)
    return float((a * b).sum() / (a.norm() * b.norm()))


def study(model: nn.Module, layers: list[str], examples: Iterator[Example]) -> list[str]:
    methods = {name: cls(model, layers) for name, cls in METHODS.items()}
    hits, hits_any, same = ({(name, layer): [] for name in METHODS for layer in layers} for _ in range(3))
    images = 0
    for example in examples:
        images += 1
        with torch.no_grad():
            scores = model(example.x)[0]
        classes = sorted(set(example.labels.tolist()))
        targets = [*classes, int(scores.argmax()), int(scores.argmin())]
        for name, method in methods.items():
            for layer, maps in zip(layers, method.attribute_per_target(example.x, targets)):
                for t, label in enumerate(classes):
                    hits[name, layer].append(hit(maps[:, t], example, label))
                    hits_any[name, layer].append(hit(maps[:, t], example))
                same[name, layer].append(spearman(maps[0, -2], maps[0, -1]))
    pairs = len(next(iter(hits.values())))
    lines = [f"{images} images, {pairs} image-class pairs.", ""]
    lines += [f"| | {' | '.join(layers)} |", "|---" * (len(layers) + 1) + "|"]
    for what, counted, cell in (
        ("hits, % ± s.e.", hits, share),
        ("hits on any object, % ± s.e.", hits_any, share),
        ("Spearman ± s.d.", same, correlation),
    ):
        for name in METHODS:
            lines.append(f"| {name}: {what} | {' | '.join(cell(counted[name, layer]) for layer in layers)} |")
    return lines


def share(values: list[bool]) -> str:
    p = sum(values) / len(values)
    return f"{100 * p:.1f} ± {100 * math.sqrt(p * (1 - p) / len(values)):.1f}"


def correlation(values: list[float]) -> str:
    defined = [value for value in values if not math.isnan(value)]
    undefined = f" ({len(values) - len(defined)} undefined)" if len(defined) < len(values) else ""
    return f"{statistics.mean(defined):.2f} ± {statistics.stdev(defined):.2f}{undefined}"


def main() -> None:
    print(f"""# Positive aggregation and sensitivity to the class

GradCAM weighs channels by their mean gradient, which only means something where a channel acts the same everywhere:
near the output. GradCAM_Pos adds magnitudes, so that nothing cancels; but what speaks against a class then counts like
what speaks for it. Linear approximation keeps sign and position. (Khakzar et al., ICML WHI 2020; Rebuffi et al., CVPR
2020.)

What the tables show:

- GradCAM fails before the last stage: *holds* on all three networks (but for the third stage of the small ResNet).
- Linear approximation does not: *holds*.
- GradCAM_Pos is insensitive to the class, at every stage: *holds*; GradCAM and linear approximation are not.
- GradCAM_Pos does not fail before the last stage: *does not hold* for the class asked for, on which its maximum lies
  hardly more often than GradCAM's. It does find objects, of whatever class, from the second stage of the scene networks
  on, and so does GradCAM; on VOC07 both lag far behind linear approximation there too.

*Hits*: share of image-class pairs whose map's maximum lies on the class's boxes (pointing game; all pairs weigh the
same), or on the boxes of any class. *Spearman*: rank correlation between an image's maps for its highest and its lowest
scoring class; near 0 is class-sensitive, near 1 is not. Constant maps have no correlation and are counted as undefined.

The VOC images at hand carry a detector's output, drawn into their pixels (boxes, class names, scores): they compare
methods on the same images, and say little about clean photographs.

Made by `python benchmarks/positive_aggregation.py` with torch {torch.__version__.split("+")[0]}.
""")
    for name in ("vgg", "resnet"):
        model = cea.load_scene_model(name)
        print(f"## Digit scenes, scene-{name} (tolerance 4 pixels of 96)\n")
        print("\n".join(study(model, list(cea.default_layers(model)), scenes(300))) + "\n")
    if DATA.is_dir():
        print("## VOC07 test images, SqueezeNet with a multi-label head (short side 224, tolerance 15 pixels)\n")
        print("\n".join(study(VocSqueezeNet().eval(), [f"features.{i}" for i in (2, 5, 8, 12)], voc())) + "\n")


if __name__ == "__main__":
    main()
