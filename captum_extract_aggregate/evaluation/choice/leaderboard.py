"""All methods of a network beside each other, each at its best layer: measured, timed, and shown."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_pil_image

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate.attr.by_name import evenly_spread
from captum_extract_aggregate.data.grid_images import GridImages
from captum_extract_aggregate.data.models_by_name import NamedModel, load_subject
from captum_extract_aggregate.evaluation.checks import check_runs
from captum_extract_aggregate.evaluation.choice.asked import of_other_networks, removal_in_steps, step_of
from captum_extract_aggregate.evaluation.choice.board import Board, Line
from captum_extract_aggregate.evaluation.choice.every_method import admitted, method_plans
from captum_extract_aggregate.evaluation.choice.given import (
    check_count,
    data_plan,
    model_plan,
    register_data,
    results_folder,
)
from captum_extract_aggregate.evaluation.choice.map_strips import map_strips, milliseconds
from captum_extract_aggregate.evaluation.choice.nulls import null_plans
from captum_extract_aggregate.evaluation.choice.per_picture import values_per_picture
from captum_extract_aggregate.evaluation.choice.standing import best_layer
from captum_extract_aggregate.evaluation.choice.sure_cells import CELLS, grids_of
from captum_extract_aggregate.evaluation.data_openers import Preprocess
from captum_extract_aggregate.evaluation.datasets import open_images
from captum_extract_aggregate.evaluation.explained import MethodAtLayer
from captum_extract_aggregate.evaluation.images import Images, UnreadableError
from captum_extract_aggregate.evaluation.methods import INPUT, make_ready
from captum_extract_aggregate.evaluation.plan import DataPlan, MeasurePlan, MethodPlan, ModelPlan, Plan, RunPlan
from captum_extract_aggregate.evaluation.runner import run

PIECES = ("grids", "pictures", "objects", "networks", "removal")
_POOL = 160  # pictures, of which every fourth helps to choose layers
_CHOOSING = 12  # grids
_FEWEST = 8  # pictures
_MOST_LAYERS = 3
_SHOWN = 3  # pictures
_ALL = 10**9
_DATA = "pictures of a leaderboard"


def leaderboard(
    model: str | nn.Module,
    images: str | Path | Tensor | Sequence[Any] | DataPlan,
    *,
    methods: Sequence[str | MethodPlan] = (),
    layers: Sequence[str] = (),
    n: int = 32,
    objects: DataPlan | None = None,
    shown: Mapping[str, Image.Image] | None = None,
    pieces: Sequence[str] = PIECES,
    title: str = "",
    results: str | Path | None = None,
    weights: str = "",
    seed: int = 0,
    batch_size: int = 8,
    device: str = "cpu",
    threads: int = 0,
    show_progress: bool = True,
) -> Board:
    """Returns all methods of a network beside each other, each at its best layer, with what measures say of them.

    A method's layer is that with the largest mean share in the right cell of twelve grids (`grid_pointing_game`), made
    of pictures that are not measured. Then n others are: `grid_pointing_game` (of n grids), `class_sensitivity`,
    `symmetric_relevance_gain` and `removal_contrast` (in ten steps), `sparseness`, `parameter_randomization` (of three
    quarters of them; all layers, `init="matched"`), and `relevance_mass_accuracy` where the objects are known; and the
    time of a map. Beside them stand maps that know nothing: random, the centre, edges. `Board` says what follows.

    Killed and started again it goes on where it stopped; with a larger n it adds pictures.

    Args:
        model: a network, or its name, as plans have it.
        images: a folder with pictures, also in folders inside; pictures (Pillow's) or tensors `C x H x W` as the
            network wants them; or a plan's data. Grids take up to 160 of them.
        methods: names, or a plan's methods; empty: all that the network admits.
        layers: to choose from; empty: the input, for methods that have a map of it, and three of the default layers.
        n: how many pictures are measured.
        objects: a plan's data with objects, for `relevance_mass_accuracy`.
        shown: pictures whose maps are shown, by what to call them; None: the first three that are measured.
        pieces: what is measured, in this order: `"grids"`, `"pictures"` (class sensitivity, sparseness), `"objects"`,
            `"networks"` (randomised), `"removal"`.
        title: what the network is called; empty: its name.
        results: a folder for the numbers and the page; None: nothing is kept but what `Board` holds.
        weights: of a model that is named, as in plans.
        seed: of whatever is drawn. batch_size: pictures at a time. device: as in plans.
        threads: of the CPU; 0: as many as PyTorch takes.
        show_progress: show bars.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.evaluation import leaderboard
        >>> scenes = [image for image, _ in cea.DigitScenes(n=8)]
        >>> given = {"methods": ["gradcam", "hirescam"], "layers": ["layer3"], "pieces": [], "show_progress": False}
        >>> board = leaderboard(cea.load_scene_model("resnet"), scenes, n=2, **given)
        >>> [line.method for line in board.lines]
        ['gradcam', 'hirescam', 'random map', 'centre', 'edges']
    """
    _check(methods, n, pieces)
    with Undo() as undo, undo, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a map is constant or blind to classes, its numbers say
        folder = results_folder(results, undo)
        named = model_plan(model, weights, undo)
        subject = load_subject(named.name, named.weights, named.num_classes)
        data = data_plan(images, _ALL, folder, undo)
        found = open_images(data, subject)
        if found.count < _FEWEST:
            raise InvalidValueError(
                f"images holds {found.count} picture(s); expected at least {_FEWEST}: some to choose the layers, and "
                "others to measure"
            )
        how = RunPlan(batch_size, seed, device, threads or torch.get_num_threads(), "skip")
        asked = _Asked(named, subject, data, found, tuple(layers), n, how, folder, undo, show_progress)
        board = asked.begun([MethodPlan(m) if isinstance(m, str) else m for m in methods] or method_plans(), title)
        board = asked.shown(board, shown)
        for piece in ("", *pieces):
            if piece and (piece != "objects" or objects is not None):
                board = board.with_values(asked.values_of(piece, objects))
            if results is not None:
                board.write(folder)
    return board


def _check(methods: Any, n: Any, pieces: Any) -> None:
    check_count(n)
    if isinstance(methods, str) or not all(isinstance(m, (str, MethodPlan)) for m in methods):
        raise InvalidTypeError(f"methods is {methods!r}; expected a list of names, such as ['gradcam', 'normgrad']")
    for piece in pieces:
        if piece not in PIECES:
            raise InvalidValueError(f"pieces holds {piece!r}; expected some of {', '.join(PIECES)}")


class _Asked:
    """Asks one network's methods; each piece is a run of its own, in a folder of its own."""

    def __init__(
        self,
        model: ModelPlan,
        subject: NamedModel,
        data: DataPlan,
        images: Images,
        layers: tuple[str, ...],
        n: int,
        how: RunPlan,
        folder: Path,
        undo: Undo,
        show: bool,
    ) -> None:
        self.model, self.images, self.n, self.how, self.folder, self.show = model, images, n, how, folder, show
        self.undo, self.preprocess = undo, Preprocess(data, subject)
        self.network = subject.model.to(how.device).eval()
        undo.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(how.threads)
        # Any first part of this order is the first part of a longer one, so that a larger n adds pictures.
        order = torch.randperm(images.count, generator=torch.Generator().manual_seed(how.seed)).tolist()
        pool = order[: max(_POOL, 2 * n)]
        self.choosing, self.measured = pool[::4], [i for k, i in enumerate(pool) if k % 4]
        self.x = self._readable(self.measured, 1)[0][None]
        check_runs(self.network, self.x.to(how.device))
        self.layers = layers or (INPUT, *evenly_spread(default_layers(self.network, self.x), _MOST_LAYERS))
        self.plans: dict[str, MethodPlan] = {}

    def _readable(self, which: Sequence[int], most: int) -> list[Tensor]:
        """Returns the inputs of the first of some pictures that can be read."""
        found: list[Tensor] = []
        for i in which:
            if len(found) < most:
                try:
                    found.append(self.images.read(i).x)
                except UnreadableError:
                    continue
        if not found:
            raise InvalidValueError("images holds no pictures that can be read; expected some")
        return found

    # --- Layers -------------------------------------------------------------------------------------------------------

    def begun(self, plans: Sequence[MethodPlan], title: str) -> Board:
        """Returns the methods that the network admits, each at its best layer."""
        known = admitted(plans, self.network, self.x.to(self.how.device), self.layers)
        open_ = [plan for label, plan in known.plans.items() if len(known.places(label)) > 1]
        shares = self._shares(open_) if open_ else {}
        left_out, same = dict(known.left_out), {}
        chosen: dict[str, str] = {}
        for label, plan in known.plans.items():
            layer = best_layer(shares[label]) if label in shares else known.places(label)[0]
            if layer is None:
                left_out[label] = "its maps of most grids are constant or nowhere positive, at every layer"
                continue
            twin = next((own for own in chosen.items() if known.are_alike(own, (label, layer))), None)
            if twin is not None:
                same[label] = twin[0]
                continue
            chosen[label] = layer
            self.plans[label] = replace(plan, layers=(layer,)) if label in shares else plan
        means = {label: {layer: _mean(v) for layer, v in shares.get(label, {}).items()} for label in chosen}
        lines = [Line(label, layer, shares=means[label]) for label, layer in chosen.items()]
        for plan in null_plans():
            self.plans[plan.label] = plan
            lines.append(Line(plan.label, INPUT, is_null=True))
        return Board(title or self.model.name, tuple(lines), {}, left_out, same, (), _CHOOSING if open_ else 0)

    def _shares(self, plans: Sequence[MethodPlan]) -> dict[str, dict[str, Any]]:
        grids = self._grids("grids to choose by", self.choosing, _CHOOSING)
        if isinstance(grids, str):
            raise InvalidValueError(f"layers cannot be chosen. {grids} Expected more pictures, or layers with one name")
        values = values_per_picture(self._run("layers", plans, [MeasurePlan("grid_pointing_game")], grids))
        found: dict[str, dict[str, Any]] = {}
        for place, own in values["grid_pointing_game"].items():
            found.setdefault(place.method, {})[place.layer] = own
        return found

    def _grids(self, name: str, which: Sequence[int], count: int) -> DataPlan | str:
        made = grids_of(self.network, self.images, which, self.how.seed, self.how.device, count)
        if isinstance(made, GridImages):
            register_data(name, made, self.undo)
            return DataPlan(name)
        return made

    # --- Measures -----------------------------------------------------------------------------------------------------

    def values_of(self, piece: str, objects: DataPlan | None) -> dict[str, dict[MethodAtLayer, Any]]:
        """Returns what a piece's measures give, a number for each picture."""
        plans = list(self.plans.values())
        if piece == "grids":
            grids = self._grids("grids to measure", self.measured, self.n)
            measures = [MeasurePlan("grid_pointing_game")]
            return {} if isinstance(grids, str) else values_per_picture(self._run(piece, plans, measures, grids))
        if piece == "objects":
            assert objects is not None
            measures = [MeasurePlan("relevance_mass_accuracy")]
            return values_per_picture(self._run(piece, plans, measures, replace(objects, n=self.n)))
        n = max(2, 3 * self.n // 4) if piece == "networks" else self.n
        measures = {
            "pictures": [MeasurePlan("class_sensitivity"), MeasurePlan("sparseness")],
            "networks": [of_other_networks(self.network)],
            "removal": [
                MeasurePlan("symmetric_relevance_gain", arguments={"step": step_of(self.x)}),
                removal_in_steps(self.x),
            ],
        }[piece]
        return values_per_picture(self._run(piece, plans, measures, self._pictures(piece, n)))

    def _pictures(self, piece: str, n: int) -> DataPlan:
        name = f"{_DATA}, {piece}"
        register_data(name, [(x, None) for x in self._readable(self.measured, n)], self.undo)
        return DataPlan(name)

    def _run(self, piece: str, plans: Sequence[MethodPlan], measures: Sequence[MeasurePlan], data: DataPlan) -> Any:
        how = self.how
        if piece in ("layers", "grids"):  # of which every class is explained
            how = replace(how, batch_size=max(1, how.batch_size // CELLS**2))
        return run(
            Plan(tuple(plans), tuple(measures), data, self.model, how, self.layers), self.folder / piece, self.show
        )

    # --- Time and maps ------------------------------------------------------------------------------------------------

    def shown(self, board: Board, given: Mapping[str, Image.Image] | None) -> Board:
        """Returns the board with the time of a map, and maps of the pictures given, or of those measured."""
        if given:
            inputs = {name: self.preprocess(picture.convert("RGB")) for name, picture in given.items()}
        else:
            found = self._readable(self.measured, _SHOWN)
            inputs = {f"picture {k}": one for k, one in enumerate(found, 1)}
        x = torch.stack(list(inputs.values()))
        pictures = [to_pil_image(self.images.picture(one)) for one in x]
        methods = [make_ready(self.plans[line.method], (), self.network) for line in board.lines]
        strips = map_strips(methods, self.network, x.to(self.how.device), pictures)
        times = milliseconds(methods, self.network, self.x.to(self.how.device))
        lines = tuple(replace(line, maps=strip) for line, strip in zip(board.lines, strips))
        values = {line.method: np.array(own) for line, own in zip(lines, times) if not line.is_null}
        return replace(board, lines=lines, values={"milliseconds": values}, shown=tuple(inputs))


def _mean(values: Any) -> float | None:
    defined = values[~np.isnan(values)]
    return round(float(defined.mean()), 4) if len(defined) else None
