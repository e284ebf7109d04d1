"""Meta against plain maps over the training of a scene network (R20's Figures 10 and 11)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.tensors import upsample
from captum_extract_aggregate.attr import MetaSaliency, NormGrad
from captum_extract_aggregate.data.scene_models import build_scene_model
from captum_extract_aggregate.data.train_scenes import load_scenes, train
from captum_extract_aggregate.metrics import spearman
from captum_extract_aggregate.reproduction.charts import curves
from captum_extract_aggregate.reproduction.findings import Finding, Outcome, markdown, mean_sd, smaller
from captum_extract_aggregate.reproduction.setting import Setting

_SCENES, _EPOCHS, _RATE = 3000, 8, 2.5e-3


def over_training(setting: Setting) -> Outcome:
    """Trains a fresh scene network; after every epoch, the similarity of NormGrad's maps with and without the step, and
    how sensitive both are to the class, on images of the training set and on held-out ones."""
    statement = "held-out images: meta-saliency makes NormGrad more sensitive to the class, at the end of training"
    if not setting.model.name.startswith("scene-"):
        return Outcome([], [Finding(statement, None, effect="training takes the network's own training data")])
    quick = setting.is_quick
    n, epochs = setting.sizes["stages"], 3 if quick else _EPOCHS
    images, classes = load_scenes(600 if quick else _SCENES, 1, "train", setting.show_progress)
    held_out, held_out_classes = load_scenes(n, 2, "test", setting.show_progress)
    sets = {"train": (images[:n], classes[:n]), "held out": (held_out, held_out_classes)}
    torch.manual_seed(0)
    model = build_scene_model(setting.model.name.removeprefix("scene-"))
    rows: list[list[str]] = []
    means: dict[str, list[float]] = {}
    last: dict[str, tuple[list[float], list[float]]] = {}

    def look(epoch: int) -> None:
        contiguous = build_scene_model(setting.model.name.removeprefix("scene-")).eval()
        contiguous.load_state_dict(model.state_dict())
        cells = []
        for name, (x, y) in sets.items():
            agreement, plain, meta = _measures(contiguous, setting.layers[2], x)
            right = _accuracy(contiguous, x, y)
            cells += [f"{right:.3f}", mean_sd(agreement), mean_sd(plain), mean_sd(meta)]
            for what, values in (("plain", plain), ("meta", meta), ("meta and plain agree", agreement)):
                means.setdefault(f"{what}, {name}", []).append(float(np.nanmean(values)))
            last[name] = plain, meta
        rows.append([str(epoch), *cells])

    train(model, images, classes, epochs, 0, look, setting.show_progress)
    header = ["epoch"]
    for name in sets:
        header += [
            f"{name}: classes right",
            "meta and plain agree",
            "plain, best and worst class",
            "meta, best and worst",
        ]
    picture = setting.folder / f"r20-fig10-{setting.name}.png"
    ticks = [row[0] for row in rows]
    curves(picture, ticks, means, {}, f"{setting.name}: Spearman over the epochs of training ({setting.layers[2]})", {})
    findings = []
    for name, said in (("train", "training images"), ("held out", "held-out images")):
        plain, meta = ({(i, 0): v for i, v in enumerate(values)} for values in last[name])
        findings.append(smaller(statement.replace("held-out images", said), meta, plain))
    return Outcome([markdown(header, rows)], findings, [picture])


def _measures(model: nn.Module, layer: str, x: Tensor) -> tuple[list[float], list[float], list[float]]:
    """Returns for each image: agreement of plain and meta map of the best class, and for both best against worst
    class."""
    with torch.no_grad():
        scores = model(x)
    method = NormGrad(model, layer)
    step = MetaSaliency(method, lr=_RATE, loss_func="binary_cross_entropy")
    size = (x.shape[2], x.shape[3])
    best, worst = scores.argmax(1), scores.argmin(1)
    plain = [upsample(method.attribute(x, target=t), size) for t in (best, worst)]
    meta = [upsample(step.attribute(x, target=t), size) for t in (best, worst)]
    return spearman(plain[0], meta[0]).tolist(), spearman(*plain).tolist(), spearman(*meta).tolist()


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, classes: Tensor) -> float:
    """Returns the share of classes whose presence is told rightly."""
    return float(((model(x) > 0) == (classes > 0.5)).double().mean())
