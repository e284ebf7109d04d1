"""ImageNet networks of torchvision's whose weights lie on this machine already."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse

import torch

# Of several the one that most readers know comes first.
_PREFERRED = ("resnet50", "resnet18", "convnext_tiny", "efficientnet_b0", "mobilenet_v3_large", "mobilenet_v2", "vgg16")


def weights_here() -> dict[str, str]:
    """Returns classifiers of ImageNet by torchvision's name with the name of their weights that torchvision has
    downloaded before, the best known first; nothing is downloaded.

    Example:
        >>> from captum_extract_aggregate.data.weights_here import weights_here
        >>> all(weights.startswith("IMAGENET1K") for weights in weights_here().values())
        True
    """
    from torchvision import models

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    there = {path.name for path in folder.glob("*.pth")} if folder.is_dir() else set()
    if not there:
        return {}
    found: dict[str, str] = {}
    for name in models.list_models(module=models):
        kinds = models.get_model_weights(name)
        usual = [kinds.DEFAULT, *kinds]
        own = [w for w in usual if Path(urlparse(w.url).path).name in there and w.name.startswith("IMAGENET1K_V")]
        if own:
            found[name] = own[0].name
    first = [name for name in _PREFERRED if name in found]
    return {name: found[name] for name in (*first, *(n for n in found if n not in first))}
