"""What a layer's type tells of its channels: at which side they are, and how many there are."""

from __future__ import annotations

from torch import nn

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.MultiheadAttention)


def is_channels_first(module: nn.Module | None) -> bool:
    """Returns a layer with channels first, or a sequence of modules that begins and ends with one (but for
    activations)."""
    if module is None or type(module).forward is not nn.Sequential.forward:
        return isinstance(module, _CHANNELS_FIRST) or is_layer_norm_2d(module)
    held = [child for child in module.children() if not _is_elementwise(child)]
    return bool(held) and is_channels_first(held[0]) and is_channels_first(held[-1])


def _is_elementwise(module: nn.Module) -> bool:
    return type(module).__module__ in ("torch.nn.modules.activation", "torch.nn.modules.dropout") and not isinstance(
        module, (nn.MultiheadAttention, nn.Softmax, nn.GLU)
    )


def is_layer_norm_2d(module: nn.Module | None) -> bool:
    """Returns a LayerNorm over the channels of N K H W: torchvision's and timm's networks define one by that name, and
    Hugging Face's and ConvNeXt's own one that is told so."""
    return isinstance(module, nn.LayerNorm) and (
        "2d" in type(module).__name__.lower() or getattr(module, "data_format", None) == "channels_first"
    )


def _is_over_positions(module: nn.Module) -> bool:
    """Tells whether a LayerNorm runs over more than the channels, so that it tells nothing of where they are."""
    return isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1


def holds(root: nn.Module | None, side: str) -> bool:
    """Tells whether a module is or holds a layer with channels at that side, "first" or "last"."""
    return root is not None and any(
        _side(module) == side and not _is_over_positions(module) for module in root.modules()
    )


def _side(module: nn.Module) -> str | None:
    """Returns where a layer has its channels, if its type tells."""
    if isinstance(module, _CHANNELS_FIRST) or is_layer_norm_2d(module):
        return "first"
    return "last" if isinstance(module, (*_CHANNELS_LAST, nn.RNNBase)) else None


def widths(root: nn.Module | None) -> set[int]:
    """Returns the numbers of channels that a module and the layers in it expect; of a linear layer also what it
    gives."""
    if root is None:
        return set()
    found = {width for module in root.modules() for width in widths_of(module)}
    return found | {root.out_features} if isinstance(root, nn.Linear) else found


def widths_of(module: nn.Module) -> set[int]:
    """Returns the numbers of channels of one layer. What a linear layer gives may be the number of classes, and is left
    out."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return {module.in_channels, module.out_channels}
    if isinstance(module, nn.Linear):
        return {module.in_features}
    if isinstance(module, nn.LayerNorm):
        return set() if _is_over_positions(module) else {module.normalized_shape[-1]}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return {module.num_features}
    if isinstance(module, nn.GroupNorm):
        return {module.num_channels}
    if isinstance(module, nn.MultiheadAttention):
        return {module.embed_dim}
    if isinstance(module, nn.RNNBase):
        return {module.input_size, (1 + module.bidirectional) * (module.proj_size or module.hidden_size)}
    return set()
