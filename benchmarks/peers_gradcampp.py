"""GradCAM++ of grad-cam, torchcam and this package against the formula in float64.

`pip install grad-cam torchcam && python benchmarks/peers_gradcampp.py` writes docs/peers_gradcampp.md.
"""

import copy
import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from pytorch_grad_cam import GradCAMPlusPlus
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy.stats import spearmanr
from torch import Tensor, nn
from torchcam.methods import GradCAMpp

import captum_extract_aggregate as cea

OUTPUT = Path(__file__).parent.parent / "docs" / "peers_gradcampp.md"


def literal(model: nn.Module, layer: str, x: Tensor, target: int) -> Tensor:
    model = copy.deepcopy(model).double()
    kept = {}
    model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: kept.update(activation=out))
    score = model(x.double())[0, target]
    activation = kept["activation"]
    (g,) = torch.autograd.grad(score, activation)
    denominator = 2 * g**2 + g**3 * activation.sum((2, 3), keepdim=True)
    alpha = torch.where(denominator == 0, 0, g**2 / denominator)
    weights = (alpha * g.relu()).sum((2, 3), keepdim=True)
    return (weights * activation).sum(1).relu().detach()


def of_grad_cam(model: nn.Module, layer: str, x: Tensor, target: int) -> Tensor:
    module, targets = model.get_submodule(layer), [ClassifierOutputTarget(target)]
    with GradCAMPlusPlus(model=model, target_layers=[module]) as method:
        method(input_tensor=x, targets=targets)
        seen = method.activations_and_grads
        map_ = method.get_cam_image(x, module, targets, seen.activations[0].numpy(), seen.gradients[0].numpy())
    model.zero_grad(set_to_none=True)
    return torch.from_numpy(np.maximum(map_, 0))


def of_torchcam(model: nn.Module, layer: str, x: Tensor, target: int) -> Tensor:
    with GradCAMpp(model, target_layer=layer) as method:
        return method(target, model(x))[0]


def ours(model: nn.Module, layer: str, x: Tensor, target: int) -> Tensor:
    return cea.GradCAMPlusPlus(model, layer).attribute(x, target=target)


def scaled(map_: Tensor) -> np.ndarray:
    values = map_.double().flatten().numpy()
    return (values - values.min()) / (values.max() - values.min())


def networks() -> list[tuple[str, nn.Module, list[str], Tensor]]:
    torch.manual_seed(0)
    scene = cea.DigitScenes(1, seed=3)[0][0][None]
    return [
        ("scene-vgg", cea.load_scene_model("vgg"), ["features.13", "features.18"], scene),
        ("scene-resnet", cea.load_scene_model("resnet"), ["layer3", "layer4"], scene),
        (
            "resnet18, random weights",
            torchvision.models.resnet18(weights=None).eval(),
            ["layer3", "layer4"],
            torch.randn(1, 3, 224, 224),
        ),
    ]


def main() -> None:
    libraries: dict[str, Callable[[nn.Module, str, Tensor, int], Tensor]] = {
        f"grad-cam {importlib.metadata.version('grad-cam')}": of_grad_cam,
        f"torchcam {importlib.metadata.version('torchcam')}": of_torchcam,
        "captum_extract_aggregate": ours,
    }
    lines = [f"| network | layer | {' | '.join(libraries)} |", "|---|---|" + "---|" * len(libraries)]
    for name, model, layers, x in networks():
        target = int(model(x).argmax())
        for layer in layers:
            true = scaled(literal(model, layer, x, target))
            cells = []
            for function in libraries.values():
                found = scaled(function(model, layer, x, target))
                cells.append(f"{abs(found - true).max():.4f} ({spearmanr(found, true).statistic:.3f})")
            lines.append(f"| {name} | {layer} | {' | '.join(cells)} |")
    lines += [
        "",
        "Largest deviation of the map, scaled to [0, 1], from the formula in float64, and their rank correlation.",
    ]
    OUTPUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(OUTPUT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
