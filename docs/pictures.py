"""Draws the picture at the top of the README and of the documentation: `python docs/pictures.py WEIGHTS`.

WEIGHTS is a state dictionary of timm's `tf_efficientnet_lite0`, trained on ImageNet. The photographs are scikit-image's
cat and cup of coffee, both free to use (CC0). All other pictures are drawn while the documentation is built, by
`reproduce --write`, or by a script in `benchmarks/`.
"""

import sys
from pathlib import Path

import numpy as np
import skimage.data
import timm
import torch
from PIL import Image

import captum_extract_aggregate as cea

PICTURE = Path(__file__).parent / "explanation.png"


def cat_above_cup() -> Image.Image:
    """Returns both photographs, halves of one square."""
    cat, cup = (Image.fromarray(pixels) for pixels in (skimage.data.chelsea(), skimage.data.coffee()))
    halves = cat.crop((0, 0, 450, 225)), cup.crop((0, 60, 600, 360))
    return Image.fromarray(
        np.vstack([np.asarray(half.resize((512, 256), Image.Resampling.LANCZOS)) for half in halves])
    )


if __name__ == "__main__":
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(torch.load(sys.argv[1], weights_only=True))
    found = cea.explain(model.eval(), cat_above_cup(), "espresso")
    print(found.summary(), found.save(PICTURE, dpi=75), sep="\n")
