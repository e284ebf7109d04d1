"""Quantus's metrics for methods of this package and of Captum, and in plans. Quantus itself is not imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_extract_aggregate.metrics.explanations import Explanation, MapReader, explainer_of


def quantus_explainer(make: Callable[[nn.Module], Explanation]) -> Callable[..., np.ndarray[Any, Any]]:
    """Returns a method as the `explain_func` that Quantus's metrics take.

    Quantus explains copies of the network, too, whose parameters it has changed: so it needs what makes a method for a
    network, rather than a method.

    Args:
        make: gives the method for a network, such as `lambda model: NormGrad(model, "layer3")`: name layers, as a
            module belongs to one network.

    Returns:
        A function `(model, inputs, targets, **kwargs)` that gives maps `N x 1 x H x W` of the input's size as an array.

    Example:
        >>> import numpy as np
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.metrics import quantus_explainer
        >>> explain_func = quantus_explainer(lambda model: cea.NormGrad(model, "layer3"))
        >>> explain_func(cea.load_scene_model("resnet"), np.zeros((2, 3, 96, 96)), np.array([1, 2])).shape
        (2, 1, 96, 96)
    """

    def explain(model: nn.Module, inputs: Any, targets: Any, **kwargs: Any) -> np.ndarray[Any, Any]:
        method = make(model)
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
        x = torch.as_tensor(np.array(inputs)).to(like)
        target = torch.as_tensor(np.array(targets)).to(like.device)
        maps = MapReader(method, (model,)).maps(explainer_of(method)(x, target=target), (x,))
        return maps.cpu().numpy()

    return explain


def from_quantus(metric: Callable[..., Any]) -> Callable[[Tensor, Tensor, Tensor, nn.Module], Tensor]:
    """Returns a Quantus metric as a measure of a plan: a function of maps, inputs, targets and the model.

    Of metrics that give one number per example, from maps that are there. What it makes of them is its own: whether it
    normalises by the batch, say. Arrays are copies, as some metrics write to them.

    Args:
        metric: such as `quantus.Sparseness(normalise=False)`.

    Example:
        >>> import numpy as np, torch
        >>> from captum_extract_aggregate.evaluation import register_measure, unregister_measure
        >>> from captum_extract_aggregate.metrics import from_quantus
        >>> largest = lambda model, x_batch, y_batch, a_batch, **kwargs: a_batch.max((1, 2, 3))  # in place of Quantus's
        >>> _ = register_measure("largest", better="higher")(from_quantus(largest))
        >>> unregister_measure("largest")
        >>> from_quantus(largest)(torch.ones(2, 1, 4, 4), torch.ones(2, 3, 4, 4), torch.tensor([0, 1]), None).tolist()
        [1.0, 1.0]
    """

    def measure(maps: Tensor, inputs: Tensor, targets: Tensor, model: nn.Module) -> Tensor:
        arrays = (t.detach().cpu().numpy().copy() for t in (inputs, targets, maps))
        x, y, a = arrays
        values = metric(model=model, x_batch=x, y_batch=y, a_batch=a, device=str(inputs.device))
        return torch.as_tensor(np.asarray(values, dtype=np.float64)).reshape(-1)

    return measure
