"""Networks whose weights are on this machine: found by the file's name, nothing else."""

import torch
from torchvision import models

from captum_extract_aggregate.data.weights_here import weights_here


def test_what_lies_in_torchs_folder_is_found_the_best_known_first(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert weights_here() == {}
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for kind in (models.AlexNet_Weights.IMAGENET1K_V1, models.ResNet18_Weights.IMAGENET1K_V1):
        (folder / kind.url.rpartition("/")[2]).touch()
    (folder / "resnet50-99999999.pth").touch()  # of someone else
    assert list(weights_here().items()) == [("resnet18", "IMAGENET1K_V1"), ("alexnet", "IMAGENET1K_V1")]
    (folder / models.ResNet50_Weights.IMAGENET1K_V1.url.rpartition("/")[2]).touch()
    assert next(iter(weights_here().items())) == ("resnet50", "IMAGENET1K_V1")  # the older, which is the one there
