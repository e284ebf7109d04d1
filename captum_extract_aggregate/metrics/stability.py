"""How much a map changes where the input hardly does.

Of several neighbours the largest value counts. One number per example (float64); lower is better, and a map that is
always the same (the centre of the picture) has 0, so that these measures say nothing by themselves. By
`local_lipschitz_estimate` an edge detector, too, is better than nearly every method; by the relative measures, for
which its zeros count as `eps`, it is worse.

Sources: Agarwal et al., Rethinking Stability for Attribution-based Explanations (2022), equations 2, 3 and 5;
Alvarez-Melis and Jaakkola, On the Robustness of Interpretability Methods (2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from captum._utils.common import _format_additional_forward_args
from captum.attr import Attribution
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.progress import each
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.input_positions import InputLayout, Size, check_input_layout, check_size
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate._engine.model_state import without_fused_attention
from captum_extract_aggregate._engine.session import open_session
from captum_extract_aggregate.metrics.explanations import (
    Explanation,
    MapReader,
    check_mode,
    explainer_of,
    scores_of,
)
from captum_extract_aggregate.metrics.perturbation import check_inputs

_EPS = 1e-6


def relative_input_stability(x: Tensor, near: Tensor, maps: Tensor, near_maps: Tensor, eps: float = _EPS) -> Tensor:
    r"""Returns the largest relative change of the map per relative change of the input; `N`.

    :math:`\max_{x'} \|(e_x - e_{x'}) / e_x\|_2 / \max(\|(x - x') / x\|_2, \epsilon)`, element by element. It changes
    with neither the map's nor the input's scale, but where they hold zeros, which count as `eps`.

    Args:
        x: inputs, `N x ...`.
        near: of their neighbours, `N x ...`, or `S x N x ...` of several.
        maps: explanations of `x`, `N x ...`. near_maps: of the neighbours, for the same classes.
        eps: what a zero counts as, and the least change.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import relative_input_stability
        >>> x, near = torch.tensor([[2.0, 4.0]]), torch.tensor([[2.0, 5.0]])
        >>> relative_input_stability(x, near, torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.5]])).item()
        2.0
    """
    return _largest(_relative, x, near, maps, near_maps, eps, "x")


def relative_representation_stability(
    representations: Tensor, near_representations: Tensor, maps: Tensor, near_maps: Tensor, eps: float = _EPS
) -> Tensor:
    """Returns the largest relative change of the map per relative change of what a layer gives out; `N`.

    It is `relative_input_stability` of representations.

    Args:
        representations: a layer's outputs, `N x ...`. near_representations: of the neighbours.
        maps, near_maps, eps: as for `relative_input_stability`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import relative_representation_stability
        >>> maps, near_maps = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.5]])
        >>> relative_representation_stability(torch.tensor([[4.0]]), torch.tensor([[5.0]]), maps, near_maps).item()
        2.0
    """
    return _largest(_relative, representations, near_representations, maps, near_maps, eps, "representations")


def relative_output_stability(
    outputs: Tensor, near_outputs: Tensor, maps: Tensor, near_maps: Tensor, eps: float = _EPS
) -> Tensor:
    r"""Returns the largest relative change of the map per change of the model's outputs; `N`.

    :math:`\max_{x'} \|(e_x - e_{x'}) / e_x\|_2 / \max(\|h(x) - h(x')\|_2, \epsilon)`, with the logits h.

    Args:
        outputs: `N x ...`. near_outputs: of the neighbours, `N x ...`, or `S x N x ...` of several.
        maps, near_maps, eps: as for `relative_input_stability`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import relative_output_stability
        >>> maps, near_maps = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.5]])
        >>> relative_output_stability(torch.tensor([[2.0]]), torch.tensor([[3.0]]), maps, near_maps).item()
        0.5
    """
    return _largest(_absolute, outputs, near_outputs, maps, near_maps, eps, "outputs")


def local_lipschitz_estimate(x: Tensor, near: Tensor, maps: Tensor, near_maps: Tensor) -> Tensor:
    r"""Returns the largest change of the map per change of the input; `N`.

    :math:`\max_{x'} \|e_x - e_{x'}\|_2 / \|x - x'\|_2`. It is proportional to the map's scale: compare maps of one
    scale. NaN where a neighbour is the input itself.

    Args:
        x, near, maps, near_maps: as for `relative_input_stability`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> from captum_extract_aggregate.metrics import local_lipschitz_estimate
        >>> x, near = torch.tensor([[2.0, 4.0]]), torch.tensor([[2.0, 5.0]])
        >>> local_lipschitz_estimate(x, near, torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.5]])).item()
        0.5
    """
    x, near = _rows(x, near, "x")
    maps, near_maps = _rows(maps, near_maps, "maps")
    apart = _absolute(x, near, 0)
    return torch.where(apart > 0, _absolute(maps, near_maps, 0) / apart, torch.nan).amax(0)


class Stability(NamedTuple):
    """For each example, `relative_input_stability`, `relative_output_stability` and `local_lipschitz_estimate` over the
    same neighbours, how many of these had the input's decision, and `relative_representation_stability` at the layer
    that was named (else NaN)."""

    relative_input: Tensor
    relative_output: Tensor
    lipschitz: Tensor
    neighbours: Tensor
    relative_representation: Tensor


def stability(
    explanation_func: Explanation | Attribution,
    model: Callable[..., Any],
    inputs: Tensor,
    target: Any = None,
    n_samples: int = 10,
    radius: float = 0.05,
    eps: float = _EPS,
    seed: int = 0,
    layer: str | nn.Module | None = None,
    additional_forward_args: Any = None,
    show_progress: bool = False,
    size: Size | None = None,
    layout: InputLayout = "auto",
    **kwargs: Any,
) -> Stability:
    """Returns how much maps change within a small cube around each input, by several measures over the same
    explanations.

    Neighbours add noise that is uniform within the radius. Those of another decision (highest scoring class) do not
    count: there the map may well change. Where none is left, values are NaN.

    Args:
        explanation_func: an attribution object, its `attribute`, or any function `(inputs, target=..., **kwargs)`.
        model: gives the class scores, `N x classes`, or one score each.
        inputs, target, additional_forward_args, kwargs: for the explainer.
        n_samples: how many neighbours; they are explained one after the other.
        radius: the largest change of a value.
        eps: as for `relative_input_stability`.
        seed: of the noise, which is the same for every example, so that an example alone has what it has in company.
        layer: a layer of the model, or its name, whose outputs are the representation that
            `relative_representation_stability` relates the change to; they are kept of the forwards that the scores
            take. None: it is NaN.
        show_progress: show a progress bar.
        size, layout: of the input, where its shape does not tell its positions from its channels: as for
            `LayerCombination`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.metrics import stability
        >>> model = cea.load_scene_model("resnet")
        >>> images = torch.stack([image for image, _ in cea.DigitScenes(n=2)])
        >>> explain, best = cea.NormGrad(model, "layer3"), model(images).argmax(1)
        >>> found = stability(explain, model, images, best, n_samples=2, layer="avgpool")
        >>> found.lipschitz.shape, found.relative_representation.shape
        (torch.Size([2]), torch.Size([2]))
    """
    check_mode(model)
    kwargs |= {} if target is None else {"target": target}
    kwargs |= {} if additional_forward_args is None else {"additional_forward_args": additional_forward_args}
    explain, extra = explainer_of(explanation_func), _format_additional_forward_args(additional_forward_args) or ()
    reader = MapReader(explanation_func, (model,), check_size(size), check_input_layout(layout))
    noises = noise_fields(check_inputs(inputs), n_samples, check_radius(radius), seed, uniform=True)
    own = seen_by(model, inputs, layer, extra)
    maps = reader.maps(explain(inputs, **kwargs), (inputs,))
    found: list[Tensor] = []
    with Undo() as undo, undo:
        open_session(undo, model)
        for noise in each(noises, "Stability", show_progress, total=n_samples):
            near = inputs + noise
            seen = seen_by(model, near, layer, extra)
            found.append(stability_of(own, seen, maps, reader.maps(explain(near, **kwargs), (near,)), eps))
    return largest_stability(found)


class Seen(NamedTuple):
    """Holds inputs, the model's scores of them, and what one of its layers gives out, if one was asked for."""

    inputs: Tensor
    scores: Tensor
    representation: Tensor | None


def seen_by(
    model: Callable[..., Any], inputs: Tensor, layer: str | nn.Module | None = None, extra: tuple[Any, ...] = ()
) -> Seen:
    """Returns what a model makes of inputs, in one forward."""
    module = None if layer is None else find_layer(layer, model)
    if module is None:
        return Seen(inputs, scores_of(model, (inputs,), extra), None)
    outputs: list[Any] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:  # a copy: what follows may write to it
        outputs.append(output.clone() if isinstance(output, Tensor) else output)

    with Undo() as undo, undo:
        without_fused_attention(undo)  # it runs an encoder's layers without calling their parts
        undo.hook(module, "register_forward_hook", keep)
        scores = scores_of(model, (inputs,), extra)
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or len(outputs[0]) != len(inputs):
        got = f"ran {len(outputs)} times" if len(outputs) != 1 else f"gives a {type(outputs[0]).__name__}"
        if len(outputs) == 1 and isinstance(outputs[0], Tensor):
            got = f"gives {tuple(outputs[0].shape)} for {len(inputs)} examples"
        raise InvalidValueError(
            f"layer is {layer if isinstance(layer, str) else type(layer).__name__!r}, which {got}; expected one that "
            "runs once, and gives a tensor with the examples in its first dimension"
        )
    return Seen(inputs, scores, outputs[0].reshape(len(inputs), -1))


def stability_of(own: Seen, near: Seen, maps: Tensor, near_maps: Tensor, eps: float = _EPS) -> Tensor:
    """Returns four measures of one neighbour of each example, `4 x N`; NaN where it has another decision."""
    lipschitz = local_lipschitz_estimate(own.inputs, near.inputs, maps, near_maps)
    representation = torch.full_like(lipschitz, torch.nan)
    if own.representation is not None and near.representation is not None:
        representation = relative_representation_stability(
            own.representation, near.representation, maps, near_maps, eps
        )
    values = torch.stack(
        [
            relative_input_stability(own.inputs, near.inputs, maps, near_maps, eps),
            relative_output_stability(own.scores, near.scores, maps, near_maps, eps),
            lipschitz,
            representation,
        ]
    )
    return values.masked_fill(own.scores.argmax(1) != near.scores.argmax(1), torch.nan)


def largest_stability(found: list[Tensor]) -> Stability:
    """Returns the largest of the values `4 x N` of several neighbours, those that are defined."""
    values = torch.stack(found)
    largest = values.nan_to_num(-torch.inf).amax(0)
    largest = largest.masked_fill(values.isnan().all(0), torch.nan)
    return Stability(largest[0], largest[1], largest[2], (~values[:, 0].isnan()).sum(0), largest[3])


def noise_fields(x: Tensor, n_samples: int, scale: Any, seed: int, uniform: bool = False) -> list[Tensor]:
    """Returns noise for inputs, the same for every example: uniform within the scale, or normal with that deviation."""
    if isinstance(n_samples, bool) or not isinstance(n_samples, int) or n_samples < 1:
        raise InvalidValueError(f"n_samples is {n_samples!r}; expected an integer of at least 1")
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand if uniform else torch.randn
    fields = [draw(x.shape[1:], generator=generator) for _ in range(n_samples)]
    return [scale * (2 * field - 1 if uniform else field).to(x) for field in fields]


def check_radius(radius: Any) -> float:
    """Returns the largest change of a value, or our error."""
    if isinstance(radius, bool) or not isinstance(radius, (int, float)) or not 0 < radius < float("inf"):
        raise InvalidValueError(f"radius is {radius!r}; expected a number above 0, in the inputs' units")
    return float(radius)


def _largest(
    change: Callable[[Tensor, Tensor, float], Tensor],
    x: Tensor,
    near: Tensor,
    maps: Tensor,
    near_maps: Tensor,
    eps: float,
    name: str,
) -> Tensor:
    x, near = _rows(x, near, name)
    maps, near_maps = _rows(maps, near_maps, "maps")
    return (_relative(maps, near_maps, eps) / change(x, near, eps).clamp(min=eps)).amax(0)


def _relative(a: Tensor, b: Tensor, eps: float) -> Tensor:
    return ((a - b) / torch.where(a == 0, eps, a)).norm(dim=-1)


def _absolute(a: Tensor, b: Tensor, eps: float) -> Tensor:
    return (a - b).norm(dim=-1)


def _rows(t: Any, near: Any, name: str) -> tuple[Tensor, Tensor]:
    """Returns tensors as `1 x N x n` and `S x N x n`."""
    for one in (t, near):
        if not isinstance(one, Tensor) or one.ndim < 2:
            got = tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__
            raise InvalidTypeError(f"{name} is {got}; expected a tensor with the examples in its first dimension")
    several = near if near.ndim == t.ndim + 1 else near[None]
    if several.shape[1:] != t.shape:
        raise InvalidValueError(
            f"{name} has shape {tuple(t.shape)}, and that of the neighbours {tuple(near.shape)}; expected one shape, "
            "or neighbours x that shape"
        )
    return t.detach().double().flatten(1)[None], several.detach().double().flatten(2)
