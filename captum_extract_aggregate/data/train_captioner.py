"""Trains the captioner's decoder: `python -m captum_extract_aggregate.data.train_captioner` (minutes on a CPU core)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_extract_aggregate.data.captioner import (
    SceneCaptioner,
    build_scene_captioner,
    caption_of,
    encode_captions,
    load_scene_captioner,
    masked_log_probabilities,
)
from captum_extract_aggregate.data.scene_models import SceneResNet, save_weights
from captum_extract_aggregate.data.scenes import DigitScenes
from captum_extract_aggregate.data.train_scenes import one_cycle


@torch.no_grad()
def load_features(
    encoder: SceneResNet, n: int, seed: int, split: str, show_progress: bool = True
) -> tuple[Tensor, list[str]]:
    """Returns the encoder's features of a set of scenes, and their true captions."""
    scenes, batch = DigitScenes(n, seed, split), 64
    features, captions = [], []
    for start in tqdm(range(0, n, batch), desc=f"{split} scenes", disable=None if show_progress else True):
        items = [scenes[i] for i in range(start, min(start + batch, n))]
        features.append(encoder.features(torch.stack([image for image, _ in items])))
        captions += [caption_of(target["classes"]) for _, target in items]
    return torch.cat(features), captions


def train(
    captioner: SceneCaptioner,
    features: Tensor,
    captions: Sequence[str],
    epochs: int,
    seed: int,
    show_progress: bool = True,
) -> None:
    """Trains by AdamW with a one-cycle learning rate on the captions' log-probability, each word given the true ones
    before."""
    torch.manual_seed(seed)
    words = encode_captions(captions)
    decoder = [p for name, p in captioner.named_parameters() if not name.startswith("encoder.")]

    def loss_of(chunk: Tensor) -> Tensor:
        logits = captioner.decode(features[chunk], words[chunk, :-1].clamp(min=0))
        return -masked_log_probabilities(logits, words[chunk, 1:]).sum(1).mean()

    one_cycle(decoder, len(features), 128, epochs, 3e-3, loss_of, show_progress=show_progress)


@torch.no_grad()
def accuracies(captioner: SceneCaptioner, features: Tensor, captions: Sequence[str]) -> tuple[float, float]:
    """Returns the shares of captions that are right to the word, and of words (ends included) right after the true
    ones."""
    exact = sum(said == true for said, true in zip(captioner.captions(features), captions)) / len(captions)
    words = encode_captions(captions)
    likeliest = captioner.decode(features, words[:, :-1].clamp(min=0)).argmax(2)
    known = words[:, 1:] >= 0
    return exact, float((likeliest == words[:, 1:])[known].float().mean())


def main() -> None:
    """Trains, stores and scores the decoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=16000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the weights go; default: into the package")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    captioner = build_scene_captioner().eval()
    # Not the scenes that the encoder was trained on: it knows those too well.
    training = load_features(captioner.encoder, options.scenes, 3, "train")
    held_out = load_features(captioner.encoder, 1000, 2, "test")
    train(captioner, *training, options.epochs, options.seed)
    where = {"folder": options.folder} if options.folder else {}
    path = save_decoder(captioner, **where)
    if not options.folder:
        captioner = load_scene_captioner()  # what is shipped is what is scored
    exact, words = accuracies(captioner, *held_out)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, captions right {exact:.4f}, words right {words:.4f}")


def save_decoder(captioner: SceneCaptioner, **where: Path) -> Path:
    """Stores all but the encoder, whose weights are the scene ResNet's."""
    state = {key: value for key, value in captioner.state_dict().items() if not key.startswith("encoder.")}
    return save_weights(state, "scene_captioner", **where)


if __name__ == "__main__":
    main()
