"""Trains the scene networks: `python -m captum_extract_aggregate.data.train_scenes` (minutes on two CPU cores).

The ViT first learns digits from crops of a quarter of a scene (`load_crops`), where it needs a fifth of the time per
step and finds them at once; from whole scenes alone it learned nothing in the first 300 steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_extract_aggregate.data.scene_models import PATCH, build_scene_model, load_scene_model, save_scene_weights
from captum_extract_aggregate.data.scenes import NUM_CLASSES, SCENE_SIZE, DigitScenes

_EPOCHS = {"vgg": 24, "resnet": 24, "vit": 9}
_CROP_EPOCHS = 5  # of the ViT, before those of whole scenes
_CROP = SCENE_SIZE // 2


def load_scenes(n: int, seed: int, split: str, show_progress: bool = True) -> tuple[Tensor, Tensor]:
    """Returns all images and multi-hot classes of a set of scenes, in memory."""
    scenes = tqdm(DigitScenes(n, seed, split), desc=f"{split} scenes", disable=None if show_progress else True)
    items = [(image, target["classes"]) for image, target in scenes]
    images, classes = zip(*items)
    return torch.stack(images), torch.stack(classes)


def load_crops(n: int, seed: int, split: str, show_progress: bool = True) -> tuple[Tensor, Tensor]:
    """Returns a crop of half the scene's side around every digit of `n` scenes, and the classes of all digits inside.

    A digit is inside if 70 % of its visible pixels are.
    """
    draw = torch.Generator().manual_seed(0)
    crops, classes = [], []
    for image, target in tqdm(DigitScenes(n, seed, split), desc="crops", disable=None if show_progress else True):
        areas = target["masks"].flatten(1).sum(1).clamp(min=1)
        for box in target["boxes"]:
            corner = (box[:2] + box[2:] - _CROP) / 2 + torch.randint(-PATCH, PATCH + 1, (2,), generator=draw)
            left, top = corner.round().int().clamp(0, SCENE_SIZE - _CROP).tolist()
            rows, columns = slice(top, top + _CROP), slice(left, left + _CROP)
            inside = target["masks"][:, rows, columns].flatten(1).sum(1) / areas >= 0.7
            crops.append(image[:, rows, columns])
            classes.append(torch.zeros(NUM_CLASSES).index_fill(0, target["labels"][inside], 1))
    return torch.stack(crops), torch.stack(classes)


def train(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    epochs: int,
    seed: int,
    after_epoch: Callable[[int], None] | None = None,
    show_progress: bool = True,
    lr: float = 2e-3,
) -> None:
    """Trains by AdamW with a one-cycle learning rate on the multi-label loss; small random shifts as the only
    augmentation.

    Crops of scenes (for the ViT alone) go to random places of its grid of tokens instead.
    """
    torch.manual_seed(seed)
    places = (SCENE_SIZE - images.shape[-1]) // PATCH + 1
    model.train().to(memory_format=torch.channels_last)

    def loss_of(chunk: Tensor) -> Tensor:
        x = images[chunk]
        options: dict[str, tuple[int, ...]] = {}
        if places == 1:
            x = x.roll(torch.randint(-6, 7, (2,)).tolist(), (2, 3))
        else:
            options["corner"] = tuple(torch.randint(places, (2,)).tolist())
        with torch.autocast("cpu", torch.bfloat16):  # three times as fast as float32 on a recent CPU
            logits = model(x.to(memory_format=torch.channels_last), **options)
        return nn.functional.binary_cross_entropy_with_logits(logits.float(), classes[chunk])

    def scored(epoch: int) -> None:
        if after_epoch is not None:
            model.eval()
            after_epoch(epoch)
            model.train()

    one_cycle(model.parameters(), len(images), 64, epochs, lr, loss_of, scored, show_progress)
    model.eval()


def one_cycle(
    parameters: Iterable[nn.Parameter],
    examples: int,
    batch: int,
    epochs: int,
    lr: float,
    loss_of: Callable[[Tensor], Tensor],
    after_epoch: Callable[[int], None] = lambda epoch: None,
    show_progress: bool = True,
) -> None:
    """Trains by AdamW with a one-cycle learning rate; `loss_of` gives the loss of the examples with the given
    indices."""
    steps = epochs * (examples // batch)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    with tqdm(total=steps, disable=None if show_progress else True) as progress:
        for epoch in range(epochs):
            for chunk in torch.randperm(examples)[: examples // batch * batch].split(batch):
                loss = loss_of(chunk)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.update()
            progress.set_postfix(epoch=epoch + 1, loss=f"{loss.item():.3f}")
            after_epoch(epoch + 1)


@torch.no_grad()
def mean_average_precision(model: nn.Module, images: Tensor, classes: Tensor) -> float:
    """Returns the mean over the classes of the average precision of the logits."""
    from sklearn.metrics import average_precision_score

    logits = torch.cat([model(chunk) for chunk in images.split(256)])
    return float(average_precision_score(classes.numpy(), logits.numpy(), average="macro"))


def main() -> None:
    """Trains, stores and scores the networks named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["vgg", "resnet", "vit"])
    parser.add_argument("--scenes", type=int, default=16000)
    parser.add_argument("--epochs", type=int, help=f"default: {_EPOCHS}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the weights go; default: into the package")
    options = parser.parse_args()
    training, held_out = load_scenes(options.scenes, 1, "train"), load_scenes(1000, 2, "test")
    for name in options.names:
        torch.manual_seed(options.seed)
        model = build_scene_model(name)
        if name == "vit":
            train(model, *load_crops(options.scenes, 1, "train"), _CROP_EPOCHS, options.seed)
        lr = 1e-3 if name == "vit" else 2e-3
        train(model, *training, options.epochs or _EPOCHS[name], options.seed, lr=lr)
        where = {"folder": options.folder} if options.folder else {}
        path = save_scene_weights(model, name, **where)
        if not options.folder:
            model = load_scene_model(name)  # what is shipped is what is scored
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, mAP {mean_average_precision(model, *held_out):.4f}")


if __name__ == "__main__":
    main()
