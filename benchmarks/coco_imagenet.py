"""ImageNet's classes that have a COCO name, so that a network of ImageNet plays the pointing game on COCO's pictures.

A COCO class's score is the highest logit among its ImageNet classes. Other categories (person, giraffe, fork, ...) have
no counterpart and are left out of the annotations, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# In the order of COCO's numbers, which is that of the outputs.
CLASSES: dict[str, tuple[int, ...]] = {
    "bicycle": (444, 671),
    "car": (436, 468, 511, 609, 627, 656, 661, 751, 817),
    "motorcycle": (665, 670),
    "airplane": (404, 895),
    "bus": (654, 779, 874),
    "train": (466, 547, 705, 820),
    "truck": (555, 569, 675, 717, 864, 867),
    "boat": (472, 484, 554, 576, 625, 724, 780, 814, 871, 914),
    "traffic light": (920,),
    "stop sign": (919,),
    "parking meter": (704,),
    "bench": (703,),
    "bird": (*range(7, 25), *range(80, 101), *range(127, 147)),
    "cat": tuple(range(281, 286)),
    "dog": tuple(range(151, 269)),
    "horse": (339,),
    "sheep": (348, 349),
    "cow": (345,),
    "elephant": (101, 385, 386),
    "bear": tuple(range(294, 298)),
    "zebra": (340,),
    "backpack": (414,),
    "umbrella": (879,),
    "handbag": (748,),
    "tie": (457, 906),
    "skis": (795,),
    "sports ball": (429, 430, 522, 574, 722, 768, 805, 852, 890),
    "tennis racket": (752,),
    "bottle": (440, 720, 737, 898, 907),
    "wine glass": (572,),
    "cup": (504, 968),
    "spoon": (910,),
    "bowl": (659, 809),
    "banana": (954,),
    "apple": (948,),
    "orange": (950,),
    "broccoli": (937,),
    "hot dog": (934,),
    "pizza": (963,),
    "chair": (423, 559, 765),
    "couch": (831,),
    "potted plant": (738,),
    "bed": (564,),
    "dining table": (532,),
    "toilet": (861,),
    "tv": (851,),
    "laptop": (620, 681),
    "mouse": (673,),
    "remote": (761,),
    "keyboard": (508,),
    "cell phone": (487,),
    "microwave": (651,),
    "toaster": (859,),
    "sink": (896,),
    "refrigerator": (760,),
    "clock": (409, 530, 892),
    "vase": (883,),
    "teddy bear": (850,),
    "hair drier": (589,),
}


class OfCoco(nn.Module):
    """Is a network of ImageNet's 1,000 logits that scores COCO's classes, each by its highest ImageNet class.

    Weights that are loaded are the inner network's.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        return torch.stack([logits[:, list(own)].amax(1) for own in CLASSES.values()], 1)

    def load_state_dict(self, state: Any, strict: bool = True, assign: bool = False) -> Any:
        return self.network.load_state_dict(state, strict=strict, assign=assign)


def of_coco(build: Callable[[], nn.Module]) -> nn.Module:
    """Returns a network of COCO's classes."""
    return OfCoco(build())


def restricted(annotations: Path, into: Path) -> Path:
    """Writes COCO's annotations with these categories alone, and the pictures that still have an object."""
    content = json.loads(annotations.read_text(encoding="utf-8"))
    categories = [c for c in content["categories"] if c["name"] in CLASSES]
    if [c["name"] for c in sorted(categories, key=lambda c: c["id"])] != list(CLASSES):
        raise ValueError(f"{annotations} lacks some of the categories, or numbers them in another order")
    known = {c["id"] for c in categories}
    objects = [a for a in content["annotations"] if a["category_id"] in known]
    with_some = {a["image_id"] for a in objects}
    images = [image for image in content["images"] if image["id"] in with_some]
    kept = content | {"categories": categories, "annotations": objects, "images": images}
    path = into / f"{annotations.stem}-imagenet.json"
    path.write_text(json.dumps(kept), encoding="utf-8")
    return path
