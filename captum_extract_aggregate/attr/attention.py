r"""Maps from attention weights.

With A the weights of a layer behind their softmax, heads x queries x keys, and F the explained score. Fused kernels are
opened for the pass (`F.scaled_dot_product_attention`, `F.multi_head_attention_forward`, and so `nn.MultiheadAttention`,
timm's `fused_attn`, the sdpa of Hugging Face): nothing of the model is changed.

Sources: Bousselham et al., LeGrad (arXiv 2404.03214, ICCV 2025); Abnar and Zuidema, Quantifying Attention Flow in
Transformers (ACL 2020); Chefer, Gur, Wolf, Generic Attention-model Explainability (ICCV 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.tensors import at_least_float32, upsample
from captum_extract_aggregate._engine.arrangements import at_positions
from captum_extract_aggregate._engine.attention_seen import attention_layers
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.layers import describe
from captum_extract_aggregate._engine.layout import Layout, to_channels_first
from captum_extract_aggregate._engine.parts import CHANNELS
from captum_extract_aggregate._engine.surroundings import Surroundings
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate._engine.token_grid import grid_of_tokens
from captum_extract_aggregate.attr.base import CaptureAttribution
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import named_arguments
from captum_extract_aggregate.attr.layer_types import L
from captum_extract_aggregate.attr.one_pass import Map, Plan, finished


class AttentionAttribution(CaptureAttribution[L]):
    """A method whose map is made of attention weights and their gradients (`of_weights`), a value for each key."""

    has_plain_pass = False  # kernels are opened in it
    differentiates = True

    @named_arguments
    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: L,
        device_ids: list[int] | None = None,
        *,
        layout: Layout = "auto",
        call: int | None = None,
    ) -> None:
        super().__init__(forward_func, layer, device_ids, layout=layout, call=call)
        if None in self._layers():
            raise InvalidTypeError(
                f"layer is or holds None, and {type(self).__name__} is about attention weights; expected layers that "
                "hold attention (attention_layers(model, inputs) lists them)"
            )

    @staticmethod
    def suited_layers(model: nn.Module, inputs: Any) -> dict[str, nn.Module]:
        """Returns the layers that the method goes with."""
        return attention_layers(model, inputs)

    def pass_key(self) -> int:
        """Opened kernels round otherwise than fused ones: only methods like this one share a pass."""
        return 1

    def places(self, layer: nn.Module | None, to_input: bool) -> tuple[Place, ...]:
        if to_input:
            raise InvalidValueError(
                f"attribute_to_layer_input is True, but {type(self).__name__} is about the attention weights inside of "
                "a layer; expected False"
            )
        return (Place(layer, "attention", differentiate=self.differentiates, call=self.call),)

    def of_weights(self, weights: Tensor, gradient: Tensor) -> Tensor:
        """Returns a value for each key, `... x K`, from weights and gradients `... x heads x Q x K`."""
        raise NotImplementedError

    def maps_at(self, places: tuple[Place, ...], evidence: Evidence) -> tuple[Tensor, ...]:
        place, around = places[0], evidence.surroundings(places[0])
        (a,), (g,) = evidence.activations[place], evidence.gradients[place]
        try:
            return (self._as_usual(a, g, around),)
        except InvalidValueError:
            seen = self._as_seen(a, g, around) if self.layout == "auto" else None
            if seen is None:
                raise
            return (seen,)

    def _as_usual(self, a: Tensor, g: Tensor, around: Surroundings) -> Tensor:
        """Returns the map of keys that are all tokens, or those of a Swin transformer's windows."""
        values = self.of_weights(*(_by_example(at_least_float32(t), around) for t in (a, g)))
        if values.ndim == 3:
            return _from_windows(values, around)
        if self.layout == "auto" and _window(around)[0] is not None:
            return _from_windows(values[:, None], around)
        return _on_grid(values, self.layout, around)

    def _as_seen(self, a: Tensor, g: Tensor, around: Surroundings) -> Tensor | None:
        """Returns the map by what the weights' dimensions are made of: any windows, grids, orders of tokens."""
        dims = around.dims(a)
        if dims is None:
            return None
        parts = [part for dim in dims[:-2] for part in dim]
        heads = [d for d, part in enumerate(parts) if part.kind in CHANNELS]
        others = [d for d in range(len(parts)) if d not in heads]

        def by_head(t: Tensor) -> Tensor:
            t = at_least_float32(t).reshape(*(part.size for part in parts), *t.shape[-2:])
            return t.permute(*others, *heads, -2, -1).reshape(
                -1, math.prod(parts[d].size for d in heads), *t.shape[-2:]
            )

        values = self.of_weights(by_head(a), by_head(g))
        around_keys = tuple((parts[d],) for d in others)
        values = values.reshape(*(parts[d].size for d in others), -1)
        return at_positions(values, (*around_keys, dims[-1]), around.batch or 1)


def _by_example(t: Tensor, around: Surroundings) -> Tensor:
    """Returns weights (or their gradients) as `N x heads x Q x K`; of windows, `N x windows x heads x Q x K`."""
    batch = around.batch or 1
    if t.ndim == 3 and len(t) % batch == 0:
        t = t.unflatten(0, (batch, -1))
    if t.ndim == 4 and len(t) != batch and len(t) % batch == 0:
        t = t.unflatten(0, (batch, -1))
    elif t.ndim != 4 or len(t) != batch:
        raise InvalidValueError(
            f"{around.name} has attention weights of shape {tuple(t.shape)}, in an arrangement of the model's own; "
            f"expected {batch} examples (or their windows) x heads x queries x keys"
        )
    return t[..., : t.shape[-1] - _added_keys(around.module)]


def _added_keys(layer: nn.Module | None) -> int:
    """Returns how many keys a layer puts behind those of the tokens, which stand for nothing in the picture."""
    held = [m for m in layer.modules() if isinstance(m, nn.MultiheadAttention)] if layer is not None else []
    return max((int(m.bias_k is not None) + int(m.add_zero_attn) for m in held), default=0)


def _on_grid(values: Tensor, layout: Layout, around: Surroundings) -> Tensor:
    """Returns a value for each key as `N x 1 x H x W`; class and register tokens have no position."""
    tokens = values.unsqueeze(-1)
    arrange = grid_of_tokens(tokens, around) if layout == "auto" else to_channels_first(tokens, layout, around)
    return arrange(tokens)


def _from_windows(values: Tensor, around: Surroundings) -> Tensor:
    """Returns a value for each key of each window, `N x windows x K`, where they lie: shifted windows wrap around."""
    window, shift = _window(around)
    windows, keys = values.shape[1:]
    if window is not None and window[0] * window[1] == keys:
        for height, width in _halved_grids(around.image):
            rows, columns = math.ceil(height / window[0]), math.ceil(width / window[1])
            if rows * columns == windows:
                grid = values.unflatten(2, window).unflatten(1, (rows, columns)).permute(0, 1, 3, 2, 4)
                grid = grid.flatten(3, 4).flatten(1, 2)
                moves = (shift[0] if rows > 1 else 0, shift[1] if columns > 1 else 0)
                return grid.roll(moves, (1, 2))[:, None, :height, :width]
    raise InvalidValueError(
        f"{around.name} attends within {windows} windows of {keys} keys, and nothing tells where they lie; expected "
        "attention between all tokens, or windows that reshapes and permutations cut out of the picture"
    )


def _window(around: Surroundings) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    """Returns the size and the shift of the windows that the layer attends within, if it or a parent says both."""
    size = shift = None
    for module in _inside_out(around):
        size = _pair(getattr(module, "window_size", None)) or size
        shift = _pair(getattr(module, "shift_size", None))
        if shift is not None:
            break
    return (size, shift) if size is not None and shift is not None else (None, (0, 0))


def _inside_out(around: Surroundings) -> Iterator[nn.Module]:
    """Yields a layer, and the modules that hold it."""
    for model in around.models:
        names = {module: name for name, module in model.named_modules()}
        if around.module in names:
            parts = names[around.module].split(".")
            for count in range(len(parts), 0, -1):
                yield model.get_submodule(".".join(parts[:count]))


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(n, int) for n in value)
    return (value[0], value[1]) if is_pair else None


def _halved_grids(image: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yields the grids of a picture at 1, 1/2, 1/4... of its resolution, as hierarchical transformers have them."""
    if len(image) != 2:
        return
    height, width = image
    while height > 0 and width > 0:
        yield height, width
        height, width = (height + 1) // 2 if height > 1 else 0, (width + 1) // 2


def _joined(maps: list[Tensor]) -> Tensor:
    """Returns the mean of several layers' maps, at the resolution of the finest."""
    finest = max((m.shape[2:] for m in maps), key=math.prod)
    return torch.stack([m if m.shape[2:] == finest else upsample(m, finest) for m in maps]).mean(0)


@described("`N x 1 x H x W` on the grid of patches, non-negative, in units of the score", layers=False)
class LeGrad(AttentionAttribution[L]):
    r"""LeGrad: the mean over layers, heads and queries of :math:`(\partial F / \partial A)_+`; `N x 1 x H x W`.

    The maps are on the grid of patches (keys); class and register tokens count as queries, and have no position. For
    layers of several resolutions (Swin) it is the finest grid, to which the others are upsampled bilinearly. Maps of
    windows, grids (MaxViT) and mask units (Hiera) lie where their keys lie, shifts undone; an entry that a mask rules
    out has a gradient, too, and counts.

    What is done otherwise in the authors' code, for CLIP: there each layer's own tokens, averaged, are scored by the
    head, and its attention is differentiated from that score; here the score is the network's own, as given, for all
    layers. Their maps are scaled to [0, 1] at the end; these are not.

    Args:
        forward_func, device_ids, call: as for `ExtractAggregate`.
        layer: a layer that holds attention (`encoder.layers.encoder_layer_8.self_attention`, `blocks.8.attn`...) or a
            block with one in it, or a list of them, which give one map (`attention_layers(model, inputs)` lists them).
        layout: where keys are no patches of the picture: a function of `N x K x 1` that returns `N x 1 x *S`.

    Raises:
        TypeError, ValueError: as `ExtractAggregate`; for a layer without attention, with the nearest that have some;
            and where nothing tells where keys lie.

    Example:
        >>> import torch, torchvision
        >>> import captum_extract_aggregate as cea
        >>> model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32).eval()
        >>> image = torch.rand(1, 3, 32, 32)
        >>> layers = list(cea.attention_layers(model, image))
        >>> cea.LeGrad(model, layers).attribute(image, target=7).shape
        torch.Size([1, 1, 4, 4])

    Source: Bousselham et al., arXiv 2404.03214.
    """

    joins_layers = True

    def of_weights(self, weights: Tensor, gradient: Tensor) -> Tensor:
        return gradient.clamp(min=0).mean((-3, -2))

    def all_maps(self, inputs: Any, evidence: Evidence, plan: Plan) -> Map:
        return finished(_joined([m for places in plan for m in self.maps_at(places, evidence)]), evidence)

    @classmethod
    def get_name(cls) -> str:
        return "LeGrad"


@described("`N x 1 x H x W` on the grid of patches, non-negative, in units of the score")
class GradientWeightedAttention(AttentionAttribution[L]):
    r"""The mean over heads and queries of :math:`(A \, \partial F / \partial A)_+`; `N x 1 x H x W` for each layer.

    Attention times gradient, a cell beside `LeGrad` (gradient alone); the heads' mean is that of Chefer et al., whose
    relevances are multiplied over the layers; here each layer has its own map.

    Args:
        forward_func, layer, device_ids, layout, call: as for `LeGrad`; a list of layers gives a list of maps.

    Raises:
        TypeError, ValueError: as `LeGrad`.

    Example:
        >>> import torch, torchvision
        >>> import captum_extract_aggregate as cea
        >>> model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32).eval()
        >>> layer = "encoder.layers.encoder_layer_1.self_attention"
        >>> cea.GradientWeightedAttention(model, layer).attribute(torch.rand(1, 3, 32, 32), target=7).shape
        torch.Size([1, 1, 4, 4])

    Source: Chefer et al., ICCV 2021, equation 5.
    """

    def of_weights(self, weights: Tensor, gradient: Tensor) -> Tensor:
        return (weights * gradient).clamp(min=0).mean((-3, -2))

    @classmethod
    def get_name(cls) -> str:
        return "Gradient-weighted attention"


@described(
    "`N x 1 x H x W` on the grid of patches, non-negative, without unit; the same for every target",
    first="Explains no class: the target is read, and changes nothing.",
    layers=False,
)
class AttentionRollout(AttentionAttribution[L]):
    r"""Attention rollout: the product over layers of :math:`\frac12 \bar A + \frac12 I`; `N x 1 x H x W`.

    :math:`\bar A` is the mean over heads; the later layer multiplies from the left. The map is the class token's row
    (the first token's) where keys hold tokens without a position, else the mean of all rows. **It does not depend on
    the class**: a baseline.

    Args:
        forward_func, device_ids, layout, call: as for `LeGrad`.
        layer: a list of layers, in any order: they are multiplied in the order in which they run.

    Raises:
        TypeError, ValueError: as `LeGrad`; and for layers whose queries are not their keys, or that attend within
            windows.

    Example:
        >>> import torch, torchvision
        >>> import captum_extract_aggregate as cea
        >>> model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32).eval()
        >>> image = torch.rand(1, 3, 32, 32)
        >>> layers = list(cea.attention_layers(model, image))
        >>> cea.AttentionRollout(model, layers).attribute(image, target=7).shape
        torch.Size([1, 1, 4, 4])

    Source: Abnar and Zuidema, ACL 2020.
    """

    joins_layers = True
    differentiates = False

    def all_maps(self, inputs: Any, evidence: Evidence, plan: Plan) -> Map:
        places = sorted((of[0] for of in plan), key=lambda place: evidence.order[place])
        product: Tensor | None = None
        for place in places:
            step = self._step(evidence.activations[place][0], evidence.surroundings(place), product, evidence)
            product = step if product is None else step @ product
        assert product is not None
        around = evidence.surroundings(places[0])
        rows = product.mean(1)
        grid = _on_grid(rows, self.layout, around)
        if grid[0].numel() < rows.shape[1]:
            grid = _on_grid(product[:, 0], self.layout, around)
        return finished(grid, evidence)

    def _step(self, weights: Tensor, around: Surroundings, below: Tensor | None, evidence: Evidence) -> Tensor:
        is_of_windows = weights.ndim > 4
        mean = weights if is_of_windows else _by_example(at_least_float32(weights), around).mean(-3)
        if mean.ndim != 3 or mean.shape[1] != mean.shape[2] or (below is not None and below.shape != mean.shape):
            raise InvalidValueError(
                f"{describe(around.module, evidence.models)} has attention weights of shape {tuple(weights.shape)}, "
                "which cannot be multiplied over layers; expected layers in which the same tokens attend to each "
                "other, all to all (LeGrad explains others)"
            )
        return (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2

    @classmethod
    def get_name(cls) -> str:
        return "Attention rollout"
