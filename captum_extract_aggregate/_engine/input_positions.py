"""Which of an input's values lie at which position: what size input-sized maps have, and what a pixel is.

Pictures mostly come as `N x C x H x W`, but also as `N x H x W x C`; signals as `N x C x L`, `N x T x C` or `N x L`;
clips as `N x C x T x H x W` or `N x T x C x H x W`. A map of the input's positions tells how many dimensions they have;
the input's shape, what the model's layers take for channels, and the maps' proportions mostly tell which they are.
Where they do not, nothing is guessed: `size` or `layout` has to say it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate._engine.arrangements import LayoutFunction
from captum_extract_aggregate._engine.layers import model_of

Size = Sequence[int]
InputLayoutName = Literal["auto", "channels_first", "channels_last"]
InputLayout = InputLayoutName | LayoutFunction
INPUT_LAYOUTS = get_args(InputLayoutName)
_FEW = 4  # channels: grey, stereo, colours, colours with opacity


@dataclass(frozen=True)
class Positions:
    """Says the size of the positions, and how each input that has them is brought to `N x C x *S`."""

    size: tuple[int, ...]
    arrange: Mapping[int, LayoutFunction]

    def arranged(self, t: Tensor, which: int = 0) -> Tensor:
        """Returns a tensor laid out as the input `which`, as `N x C x *S`, or our error where only the size is
        known."""
        if which not in self.arrange:
            raise InvalidValueError(
                f"size is {self.size}, and where an input of shape {tuple(t.shape)} has its channels cannot be told; "
                "expected layout='channels_first', 'channels_last', or a function that returns batch x channels x size"
            )
        return self.arrange[which](t)

    def elements(self, t: Tensor) -> Tensor:
        """Returns which of the values of one example of `t` lie at each position: `C x positions` indices."""
        return self.arranged(_indices(t))[0].flatten(1)


@dataclass(frozen=True)
class _Option:
    """Says where the channels of an input may be (None: it has none), and what positions are left."""

    axis: int | None
    channels: int
    size: tuple[int, ...]

    def arrange(self, t: Tensor) -> Tensor:
        return t.unsqueeze(1) if self.axis is None else t.movedim(self.axis, 1)


def check_input_layout(layout: InputLayout) -> InputLayout:
    """Returns `layout` itself if it is one of an input; otherwise our error."""
    if callable(layout) or layout in INPUT_LAYOUTS:
        return layout
    raise InvalidValueError(unknown_name("layout", layout, INPUT_LAYOUTS, ", or a function of the input"))


def check_size(size: Size | None) -> tuple[int, ...] | None:
    """Returns `size` as a tuple of whole numbers above 0; None stays None."""
    if size is None:
        return None
    try:
        numbers = tuple(int(n) for n in size)
    except (TypeError, ValueError):
        numbers = ()
    if not 1 <= len(numbers) <= 3 or min(numbers) < 1 or any(n != m for n, m in zip(numbers, size)):
        raise InvalidValueError(f"size is {size!r}; expected one to three whole numbers above 0, such as (224, 224)")
    return numbers


def find_positions(
    inputs: Sequence[Tensor],
    maps: Sequence[Sequence[int]],
    layout: InputLayout = "auto",
    size: Size | None = None,
    models: Sequence[nn.Module] = (),
    dims: int | None = None,
) -> Positions:
    """Returns the positions of the inputs that maps are brought to.

    Args:
        inputs: tensors, batch first. Of several those with the most dimensions count.
        maps: the maps' own positions, `*s` each; evidence, too, of which are the input's.
        layout: of the input: "auto", "channels_first", "channels_last", or a function that returns `N x C x *S`.
        size: the positions' size, if it is known.
        models: where layers tell which number is one of channels.
        dims: how many dimensions the positions have, where there are no maps.

    Raises:
        ValueError: where the positions cannot be told, or are not the maps'.
    """
    size, layout = check_size(size), check_input_layout(layout)
    most = max(t.ndim for t in inputs)
    counts = {len(m) for m in maps} or {dims or max(1, most - 2)}
    if len(counts) > 1:
        raise InvalidValueError(
            f"maps have {' and '.join(map(str, sorted(counts)))} position dimensions; expected layers whose positions "
            "are the input's, with as many dimensions each"
        )
    (dims,) = counts
    if size is not None and len(size) != dims:
        raise InvalidValueError(
            f"size is {size}, and maps have {dims} position dimensions; expected as many numbers, and layers whose "
            "positions are the input's"
        )
    found = {i: _of_one(t, maps, layout, size, models, dims) for i, t in enumerate(inputs) if t.ndim == most}
    sizes = list(dict.fromkeys(own for own, _ in found.values()))
    if len(sizes) > 1:
        raise InvalidValueError(
            f"inputs hold several tensors with positions, of the sizes {', '.join(map(str, sizes))}, and nothing tells "
            "whose the map is; expected size=, that of the input which the layers see"
        )
    return Positions(sizes[0], {i: arrange for i, (_, arrange) in found.items() if arrange is not None})


def _of_one(
    t: Tensor,
    maps: Sequence[Sequence[int]],
    layout: InputLayout,
    size: tuple[int, ...] | None,
    models: Sequence[nn.Module],
    dims: int,
) -> tuple[tuple[int, ...], LayoutFunction | None]:
    """Returns the size of an input's positions, and how it is brought to `N x C x *S` if that can be told."""
    if callable(layout):
        return _by_function(t, layout, size, dims), layout
    options = list(_options(t, dims, layout))
    if size is not None:
        return size, _only(_distinct([o for o in options if o.size == size]))
    if not options:
        raise InvalidValueError(
            f"a map with {dims} position dimensions cannot be brought to an input of shape {tuple(t.shape)}; expected "
            "as many as the input has: choose layers whose positions are the input's, or give size="
        )
    told = _told(options, maps, models, dims)
    if len({o.size for o in told}) == 1:
        return told[0].size, _only(_distinct(told))
    sizes = " or ".join(str(o.size) for o in _distinct(options))
    known = ", ".join(str(tuple(m)) for m in list(maps)[:3])
    raise InvalidValueError(
        f"inputs hold a tensor of shape {tuple(t.shape)}, whose positions may be {sizes}, and nothing tells for sure "
        f"which{f' (maps are {known})' if known else ''}; expected size=, or the input's layout= ('channels_first', "
        "'channels_last' or a function) where it is taken"
    )


def _only(options: list[_Option]) -> LayoutFunction | None:
    return options[0].arrange if len(options) == 1 else None


def _indices(t: Tensor, device: torch.device | None = None) -> Tensor:
    """Returns the index of each value of one example, in its place."""
    return torch.arange(t[0].numel(), device=t.device if device is None else device).reshape(1, *t.shape[1:])


def _by_function(t: Tensor, layout: LayoutFunction, size: tuple[int, ...] | None, dims: int) -> tuple[int, ...]:
    out = layout(t)
    if not isinstance(out, Tensor) or out.ndim != dims + 2 or len(out) != len(t):
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise InvalidValueError(
            f"layout(inputs) returned {got} for an input of shape {tuple(t.shape)}; expected batch x channels x "
            f"{dims} position dimensions, as the map has"
        )
    index = _indices(t, torch.device("cpu"))  # looked at, for which nobody should wait
    if not torch.equal(layout(index).flatten().sort().values, index.flatten()):
        raise InvalidValueError(
            f"layout leaves values of an input of shape {tuple(t.shape)} out, or changes them; expected a function "
            "that only moves dimensions"
        )
    own = tuple(out.shape[2:])
    if size is not None and size != own:
        raise InvalidValueError(
            f"size is {size}, and layout(inputs) has positions of the size {own}; expected one of the two"
        )
    return own


def _options(t: Tensor, dims: int, layout: str) -> Iterator[_Option]:
    """Yields where the channels may be. In between, they are those of a clip's frames."""
    shape = tuple(t.shape)
    if t.ndim == dims + 1:
        yield _Option(None, 1, shape[1:])
    elif t.ndim == dims + 2:
        axes = {"channels_first": (1,), "channels_last": (t.ndim - 1,)}.get(layout)
        for axis in axes or ((1, 2, t.ndim - 1) if dims == 3 else (1, t.ndim - 1)):
            yield _Option(axis, shape[axis], shape[1:axis] + shape[axis + 1 :])


def _distinct(options: list[_Option]) -> list[_Option]:
    """Leaves out those that come to the same: a dimension of 1 may stand anywhere."""
    return list({(o.size, o.axis if o.channels > 1 else None): o for o in options}.values())


def _told(
    options: list[_Option], maps: Sequence[Sequence[int]], models: Sequence[nn.Module], dims: int
) -> list[_Option]:
    """Returns the options that all evidence allows; none, where it contradicts itself."""
    few = [o for o in options if _has_few_channels(o, dims)]
    if len(few) == 1 and dims > 1:
        return few  # a picture; of a signal, three or four may well be samples
    fitting = _fitting(options, maps)
    if options[0].axis is None:
        return fitting if maps else options  # without channels: only where the maps' proportions are the input's
    if len(options) == 1:
        return options
    options = [o for o in options if set(o.size) != {1}] or options
    counts = _numbers_of_channels(models)
    expected = [o for o in options if o.channels in counts]
    for allowed in (few, expected, fitting):
        options = [o for o in options if o in allowed] if allowed else options
    return options


def _has_few_channels(option: _Option, dims: int) -> bool:
    least = option.channels if option.axis == 1 and dims == 2 else 2 * option.channels + 1
    return option.channels <= _FEW and min(option.size) >= least


def _fitting(options: list[_Option], maps: Sequence[Sequence[int]]) -> list[_Option]:
    """Returns the options with the maps' proportions that are hardly smaller than a map; of those one of a map's very
    size."""
    fitting = [o for o in options if maps and all(fits(m, o.size) for m in maps)]
    return [o for o in fitting if any(tuple(m) == o.size for m in maps)] or fitting


def fits(own: Sequence[int], size: Sequence[int]) -> bool:
    """Tells whether positions `own` may be those of `size` at a lower resolution (borders may add a few)."""
    if len(own) != len(size) or any(n > of + 2 for n, of in zip(own, size)):
        return False
    if len(own) == 1:
        return True
    ratio = size[-2] / size[-1]
    return abs(own[-2] - own[-1] * ratio) <= 2 * max(1, ratio)


def _numbers_of_channels(models: Sequence[nn.Module]) -> set[int]:
    """Returns what the layers take for their inputs' numbers of channels."""
    found: set[int] = set()
    for module in (m for model in models for m in model.modules()):
        if isinstance(module, nn.modules.conv._ConvNd):
            found.add(module.in_channels)
        elif isinstance(module, nn.Linear):
            found.add(module.in_features)
        elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            found.add(module.input_size)
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            found.add(module.num_features)
        elif isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
            found.add(module.normalized_shape[0])
        elif isinstance(module, nn.GroupNorm):
            found.add(module.num_channels)
        elif isinstance(module, nn.MultiheadAttention):
            found.add(module.embed_dim)
    return found


def models_of(*forward_funcs: Callable[..., Any] | None) -> tuple[nn.Module, ...]:
    """Returns the modules behind forward functions, those that can be found."""
    found = (model_of(f) for f in forward_funcs if f is not None)
    return tuple(dict.fromkeys(model for model in found if model is not None))
