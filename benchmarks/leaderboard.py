"""All methods beside each other on real networks and photographs: docs/leaderboard.md and its sortable page.

    python benchmarks/leaderboard.py FOLDER                  # goes on where it was; 16 pictures, then 32
    python benchmarks/leaderboard.py FOLDER --n 64           # more pictures
    python benchmarks/leaderboard.py FOLDER --write          # results and page, from what is there

Networks and photographs are those of the folder named by CEA_DATA (default ../shared/data): ImageNet's classes, and
ECSSD's masks. On a network of your own: captum-extract-aggregate leaderboard.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import skimage.data
from PIL import Image

from benchmarks.leaderboard_page import write
from captum_extract_aggregate.evaluation import DataPlan, MethodPlan, ModelPlan, leaderboard
from captum_extract_aggregate.evaluation.choice.every_method import method_plans

HERE = Path(__file__).parent
DATA = Path(os.environ.get("CEA_DATA", HERE.parent.parent / "shared" / "data"))
HALF, USUAL = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NETWORKS = {  # the network, its weights, normalisation, and the layers to choose from
    "EfficientNet-Lite0": (
        "lite0",
        "tf_efficientnet_lite0-imagenet",
        HALF,
        ("input", "blocks.2", "blocks.4", "blocks.6", "bn2"),
    ),
    "SqueezeNet": (
        "squeezenet",
        "squeezenet1_1-imagenet",
        USUAL,
        ("input", "features.4", "features.7", "features.10", "features.12"),
    ),
    "ViT-Tiny": (
        "vit_tiny",
        "vit_tiny_patch16_224-imagenet",
        HALF,
        ("input", *(f"encoder.layers.encoder_layer_{i}" for i in (3, 7, 10))),
    ),
}
CHEAP, DEAR = ("grids", "pictures", "objects", "networks"), ("removal",)
QUICK = 16  # pictures, up to which what takes many passes is left out
INTEGRATED = MethodPlan(
    f"{HERE / 'leaderboard_methods.py'}:IntegratedGradients16", label="captum:IntegratedGradients, 16 steps"
)


def photographs() -> dict[str, Image.Image]:
    """Returns scikit-image's cat, cup of coffee and rocket, which are free to use (CC0, and NASA's)."""
    cat, coffee, rocket = (Image.fromarray(getattr(skimage.data, n)()) for n in ("chelsea", "coffee", "rocket"))
    return {
        "cat": cat.crop((75, 0, 375, 300)),
        "cup of coffee": coffee.crop((100, 0, 500, 400)),
        "rocket": rocket.crop((110, 0, 537, 427)),
    }


def measure(name: str, folder: Path, n: int, pieces: Sequence[str]) -> None:
    """Measures what FOLDER does not hold yet of one network."""
    build, weights, (mean, std), layers = NETWORKS[name]
    model = ModelPlan(f"{HERE / 'networks.py'}:{build}", str(DATA / "models" / f"{weights}.pth"))
    photos = DataPlan("list", file=str(DATA / "imagenet_sample" / "labels.tsv"), mean=mean, std=std)
    arguments = {"root": str(DATA / "ecssd"), "model": model.name, "weights": model.weights, "mean": mean, "std": std}
    objects = DataPlan("custom", dataset=f"{HERE / 'ecssd.py'}:salient", arguments=arguments, resize="square",
                       every=4, mean=mean, std=std)  # fmt: skip
    methods = [*method_plans(), *([INTEGRATED] if n > QUICK else [])]
    board = leaderboard(model.name, photos, methods=methods, layers=layers, n=n, objects=objects, shown=photographs(),
                        pieces=pieces, title=name, results=folder / name, weights=model.weights, batch_size=4,
                        threads=1, show_progress=sys.stderr.isatty())  # fmt: skip
    print(name, n, board.measures, board.sentence, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--n", nargs="*", type=int, default=[QUICK, 2 * QUICK])
    parser.add_argument("--write", action="store_true", help="results and page from what is there")
    asked = parser.parse_args()
    for n in [] if asked.write else asked.n:
        for pieces in (CHEAP, (*CHEAP, *DEAR)):  # of all networks first what is soon known
            for name in asked.networks:
                measure(name, asked.folder, n, pieces)
    if asked.write:
        write(asked.folder, list(NETWORKS))
