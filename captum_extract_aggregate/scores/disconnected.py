"""Networks of which it is known by construction which cells of a grid of pictures can have any part in a score.

Source: Rao, Bohle and Schiele, Towards Better Understanding Attribution Methods (CVPR 2022), section 3.1; Better
Understanding Differences in Attribution Methods via Systematic Evaluations (2024), section 3.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.cells import cut, from_cells, into_cells, layout_of, on_tensors, stitched
from captum_extract_aggregate._engine.default_layers import examples
from captum_extract_aggregate._engine.feature_end import feature_end
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate._engine.layout import Layout, check_layout
from captum_extract_aggregate._engine.outputs import find_scores
from captum_extract_aggregate._engine.surroundings import Facts, Surroundings
from captum_extract_aggregate.scores.base import Model, Score


class _OfOneCell(Score):
    """The base: class scores of one cell of `n x n`."""

    def __init__(self, model: Model, n: int, cell: int, layout: Layout) -> None:
        super().__init__(model)
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InvalidValueError(f"n is {n!r}; expected an integer of at least 1: how many cells a side has")
        self.keep(n=n, cell=_checked_cell(cell, n * n), layout=check_layout(layout), facts=Facts((self.scored_model,)))

    def own_arguments(self) -> int:
        return 0

    def forward(self, x: Tensor, cell: int | Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Returns `N x classes`, what the cell's head says; `cell`: one for all grids, or one for each."""
        if not isinstance(x, Tensor) or x.ndim != 4:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InvalidTypeError(f"inputs is {got}; expected grids of pictures, N x C x H x W")
        return self.of_cells(x, _cells(self.kept.cell if cell is None else cell, len(x), self.kept.n**2))

    def of_cells(self, x: Tensor, cells: list[int]) -> Tensor:
        """Returns the scores of one cell of each grid."""
        raise NotImplementedError

    def arranging(self, module: nn.Module, value: Tensor, batch: int, image: tuple[int, ...]) -> Any:
        """Returns how a module's output becomes `N x C x *S`; None where it has no positions."""
        with torch._C.DisableTorchFunction():
            around = Surroundings(module, (self.scored_model,), batch, image, facts=self.kept.facts)
            return layout_of(value, self.kept.layout, around)


class DiFull(_OfOneCell):
    r"""A network that sees every cell of a grid by itself: nothing outside the cell of its score can have a part in it.

    Cell k has a head of its own: :math:`f_{k,c}(x) = z_c(x_k)`, the network's scores of the picture in that cell alone.
    At each layer the activations of all cells stand side by side, as those of one grid, so that a method sees the whole
    grid and may mark cells that cannot matter, as GradCAM does, whose channel weights hold everywhere. The share of a
    map in the cell is `grid_pointing_game`: 1 for whatever uses a gradient at its place.

    Any method takes it, ours or Captum's, at the layers by the network's names: hooks on a layer see grids. Tokens
    without a position (a class token) are no part of them. RectGrad, whose percentile is of a whole layer, refuses it.

    Args:
        model: a classifier of single pictures, of any kind, one of its methods, or a partial of either.
        n: how many cells a side has.
        cell: which cell's head gives the scores, counted row by row; another at each call by
            `additional_forward_args=cell`, one for all or one for each example.
        layout: of the layers' outputs, where it cannot be told: as for `NormGrad`.

    Returns:
        From the call on grids `N x C x nH x nW`, `N x classes`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.metrics import grid_pointing_game
        >>> from captum_extract_aggregate.scores import DiFull
        >>> disconnected = DiFull(cea.load_scene_model("resnet"), n=2, cell=1)
        >>> pictures = torch.stack([image for image, _ in cea.DigitScenes(n=4)])
        >>> grid = torch.cat([torch.cat([*pictures[:2]], 2), torch.cat([*pictures[2:]], 2)], 1)[None]
        >>> maps = cea.LayerCAM(disconnected, "layer3").attribute(grid, target=7)
        >>> maps.shape, grid_pointing_game(maps, [1], n=2).item()
        (torch.Size([1, 1, 48, 48]), 1.0)
    """

    def __init__(self, model: Model, *, n: int = 3, cell: int = 0, layout: Layout = "auto") -> None:
        super().__init__(model, n, cell, layout)

    def of_cells(self, x: Tensor, cells: list[int]) -> Tensor:
        pictures, count = into_cells(x, self.kept.n), self.kept.n**2
        rows = torch.tensor([i * count + cell for i, cell in enumerate(cells)], device=x.device)
        with Undo() as undo, undo:
            for module in _hooked(self.scored_model):
                for kind in ("pre_hook", "hook"):
                    grids = _Grids(self, pictures, rows)
                    undo.hook(module, f"register_forward_{kind}", getattr(grids, f"joined_{kind}"), prepend=True)
                    undo.hook(module, f"register_forward_{kind}", getattr(grids, f"parted_{kind}"))
            return find_scores(self.scored_func(pictures)).index_select(0, rows)


def _hooked(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the modules that somebody looks at."""
    for module in list(model.modules()):
        if module is not model and (module._forward_hooks or module._forward_pre_hooks):
            yield module


class _Grids:
    """Lets the hooks of a module see grids: what comes before them joins the cells, what comes after parts them.

    A tensor without positions is shown for the cells in question alone.
    """

    def __init__(self, whole: DiFull, pictures: Tensor, rows: Tensor) -> None:
        self.whole, self.rows = whole, rows
        self.batch, self.image = len(pictures), tuple(pictures.shape[2:])
        self.ways_back: list[Any] = []

    def _joined(self, module: nn.Module, value: Any) -> Any:
        ways_back: list[Any] = []

        def join(t: Tensor) -> Tensor:
            arrange = self.whole.arranging(module, t, self.batch, self.image)
            if arrange is None:
                ways_back.append(lambda shown: t.index_copy(0, self.rows, shown))
                return t.index_select(0, self.rows)
            grid, back = stitched(t, arrange, self.whole.kept.n)
            ways_back.append(back)
            return grid

        self.ways_back = ways_back
        return on_tensors(join, value, type(module).__name__)

    def _parted(self, module: nn.Module, value: Any) -> Any:
        ways_back = iter(self.ways_back)
        return on_tensors(lambda t: next(ways_back)(t), value, type(module).__name__)

    def joined_hook(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self._joined(module, output)

    def parted_hook(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self._parted(module, output)

    def joined_pre_hook(self, module: nn.Module, args: Any) -> Any:
        return self._joined(module, args)

    def parted_pre_hook(self, module: nn.Module, args: Any) -> Any:
        return self._parted(module, args)


class DiPart(_OfOneCell):
    r"""A network whose head sees one cell of the features of a grid: nothing beyond their receptive fields can have a
    part in its score.

    :math:`f_{k,c}(x) = h_c(\phi(x)_k)`: the features :math:`\phi` are those of the whole grid, and the head h, a
    pooling and a classifier, sees their cell k. Positions outside may matter as far as receptive fields reach over the
    cell's border: not at all where the features end, more and more towards the input. Where attention lets every token
    see every other, nothing is ruled out.

    Args:
        model: a classifier that takes grids of pictures as it takes pictures: with a global pooling, a pooling to a
            fixed size, or a class token, which stays with the cell's tokens.
        n, cell, layout: as for `DiFull`.
        features: the layer at whose output the features end, or its name. None: found by running the network on a grid
            and on a cell: the last layer whose resolution is the picture's, and whose positions reach the score.
        inputs: an example of a grid, by which it is found; None: noise, of the size the network declares for a picture.

    Returns:
        From the call on grids `N x C x nH x nW`, `N x classes`.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.scores import DiPart
        >>> model = DiPart(cea.load_scene_model("resnet"), n=2, cell=3)
        >>> model.features_end
        'layer4'
        >>> maps = cea.LayerCAM(model, "layer4").attribute(torch.rand(1, 3, 192, 192), target=7)
        >>> maps[..., :12, :].any().item()
        False
    """

    def __init__(
        self,
        model: Model,
        *,
        n: int = 3,
        cell: int = 0,
        features: str | nn.Module | None = None,
        inputs: Tensor | None = None,
        layout: Layout = "auto",
    ) -> None:
        super().__init__(model, n, cell, layout)
        end = self._found(inputs) if features is None else find_layer(features, self.scored_model)
        names = {module: name for name, module in self.scored_model.named_modules()}
        if end not in names:
            raise InvalidValueError(f"features is a {type(end).__name__} that is no part of the model; expected one")
        self.keep(end=end, end_name=names[end])

    @property
    def features_end(self) -> str:
        """The name of the layer at whose output the features end."""
        return str(self.kept.end_name)

    def _found(self, inputs: Tensor | None) -> nn.Module:
        n = self.kept.n
        if inputs is not None:
            return feature_end(self.scored_func, self.scored_model, inputs, n, self.kept.layout)
        error: Exception | None = None
        pictures = [x for (x,) in examples(self.scored_model)]
        for grid in [*(from_cells(x.repeat(n * n, 1, 1, 1), n) for x in pictures if x.ndim == 4), *pictures]:
            try:
                return feature_end(self.scored_func, self.scored_model, grid, n, self.kept.layout)
            except Exception as caught:  # whatever the model's own code raises on a size it does not take
                error = error or caught
        raise InvalidValueError(f"{error}; or give inputs=, an example of a grid") from error

    def of_cells(self, x: Tensor, cells: list[int]) -> Tensor:
        with Undo() as undo, undo:
            hook = functools.partial(self._cut, cells, tuple(x.shape[2:]))
            undo.hook(self.kept.end, "register_forward_hook", hook)  # behind those of whoever looks at the layer
            return find_scores(self.scored_func(x))

    def _cut(self, cells: list[int], image: tuple[int, ...], module: nn.Module, args: Any, output: Any) -> Any:
        def own(t: Tensor) -> Tensor:
            arrange = self.arranging(module, t, len(cells), image)
            size = () if arrange is None else tuple(arrange(t).shape[2:])
            if arrange is None or any(side % self.kept.n for side in size):
                raise InvalidValueError(
                    f"features is {self.features_end!r}, whose output has the shape {tuple(t.shape)}; expected a layer "
                    f"whose positions are {self.kept.n} x {self.kept.n} cells"
                )
            if len(set(cells)) == 1:
                return cut(t, arrange, self.kept.n, cells[0])
            parts = [cut(one[None], arrange, self.kept.n, cell) for one, cell in zip(t, cells)]
            return torch.cat(parts)

        return on_tensors(own, output, repr(self.features_end))


def _checked_cell(cell: Any, count: int) -> int:
    if isinstance(cell, bool) or not isinstance(cell, int) or not 0 <= cell < count:
        raise InvalidValueError(f"cell is {cell!r}; expected an index below {count}, counted row by row")
    return cell


def _cells(cell: Any, examples: int, count: int) -> list[int]:
    """Returns a cell for each example."""
    given = cell.reshape(-1).tolist() if isinstance(cell, Tensor) else [cell]
    if len(given) not in (1, examples):
        raise InvalidValueError(f"cell holds {len(given)} cells for {examples} grids; expected one, or one for each")
    checked = [_checked_cell(c, count) for c in given]
    return checked * examples if len(checked) == 1 else checked
