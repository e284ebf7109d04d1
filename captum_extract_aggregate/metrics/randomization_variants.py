"""Parameter randomisation, told by complexity (eMPRT) and of maps averaged over noise (sMPRT).

Source: Hedstrom et al., Sanity Checks Revisited: An Exploration to Repair the Model Parameter Randomisation Test
(2024). Of every test from the output on, Binder et al., Shortcomings of Top-Down Randomization-Based Sanity Checks
(CVPR 2023), say that early layers keep their order, so that maps that lean on them change late, whatever they explain.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from captum.attr import Attribution
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate.metrics.complexity import entropy_rise
from captum_extract_aggregate.metrics.explanations import Explanation, explainer_of
from captum_extract_aggregate.metrics.randomization import Initializer, Randomization, parameter_randomization
from captum_extract_aggregate.metrics.similarity import Similarity
from captum_extract_aggregate.metrics.stability import noise_fields


def emprt(
    explanation_func: Explanation | Attribution,
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    target: Any = None,
    init: str | Initializer = "reset",
    bins: int = 100,
    n_seeds: int = 1,
    seed: int = 0,
    **kwargs: Any,
) -> Tensor:
    """Returns how much the entropy of each map's histogram rises, relative to itself, when all parameters are drawn
    anew; `N`.

    Higher is better, by its authors; `entropy_rise` has the formula. Maps are compared with no other map, so that no
    similarity has to be chosen, and the network is explained twice. A constant map after randomisation is a fall.
    A map that never changes, such as an edge detector's, has 0, which is more than most methods have where randomised
    networks give maps of lower entropy.

    Args:
        explanation_func, model, inputs, target, n_seeds, seed, kwargs: as for `parameter_randomization`.
        init: `"reset"`: every layer's own initialiser, as its authors; otherwise as for `parameter_randomization`.
        bins: as for `histogram_entropy`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.metrics import emprt
        >>> model = cea.load_scene_model("resnet")
        >>> images = torch.stack([image for image, _ in cea.DigitScenes(n=2)])
        >>> emprt(cea.NormGrad(model, "layer3"), model, images, target=7).shape
        torch.Size([2])
    """
    rise = functools.partial(entropy_rise, bins=bins)
    once = parameter_randomization(
        explanation_func, model, inputs, target, "at_once", init, rise, n_seeds, seed, **kwargs
    )
    return once.values[0]


def smprt(
    explanation_func: Explanation | Attribution,
    model: nn.Module,
    inputs: Tensor,
    target: Any = None,
    n_samples: int = 50,
    noise: float = 0.1,
    order: str = "cascading",
    init: str | Initializer = "normal",
    similarity: str | Similarity = "spearman",
    n_seeds: int = 1,
    seed: int = 0,
    layers: Sequence[str | nn.Module] | None = None,
    **kwargs: Any,
) -> Randomization:
    """Returns parameter randomisation of maps that are averaged over noisy inputs.

    What shatters a gradient then counts less. Every stage sees the same noise.

    Args:
        explanation_func, model, inputs, target, order, init, similarity, n_seeds, layers, kwargs: as for
            `parameter_randomization`.
        n_samples: how many noisy inputs are explained for each map.
        noise: their standard deviation, as a share of each input's range. The noise is the same for every example but
            for its range.
        seed: of the noise and of the parameters.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.metrics import smprt
        >>> model = cea.load_scene_model("resnet")
        >>> images = torch.stack([image for image, _ in cea.DigitScenes(n=2)])
        >>> found = smprt(cea.NormGrad(model, "layer3"), model, images, 7, n_samples=2, layers=["fc", "layer4"])
        >>> found.stages
        ('fc', 'layer4')
    """
    explain = explainer_of(explanation_func)

    def averaged(x: Tensor, **given: Any) -> Tensor:
        total: Tensor | None = None
        for noisy in noisy_inputs(x, n_samples, noise, seed):
            found = explain(noisy, **given)
            found = found[0] if isinstance(found, (tuple, list)) and len(found) == 1 else found
            if not isinstance(found, Tensor):
                raise InvalidTypeError(f"the explanation is a {type(found).__name__}; expected one map of one layer")
            total = found.detach() if total is None else total + found.detach()
        assert total is not None
        return total / n_samples

    return parameter_randomization(
        averaged, model, inputs, target, order, init, similarity, n_seeds, seed, layers, **kwargs
    )


def noisy_inputs(x: Tensor, n_samples: int, noise: float, seed: int) -> list[Tensor]:
    """Returns inputs with normal noise, whose deviation is a share of each example's range."""
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 < noise < float("inf"):
        raise InvalidValueError(f"noise is {noise!r}; expected a number above 0, a share of each input's range")
    rows = x.flatten(1)
    deviation = noise * (rows.amax(1) - rows.amin(1)).reshape(-1, *(1,) * (x.ndim - 1))
    return [x + deviation * field for field in noise_fields(x, n_samples, 1.0, seed)]
