"""Class competition: what a class keeps of its map where the maps of other classes are not stronger.

Source: Walter et al., Hidden in Plain Sight: Class Competition Focuses Attribution Maps (arXiv 2503.07346).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from captum.attr import Attribution, GradientAttribution, LayerAttribution
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.seeding import same_draws
from captum_extract_aggregate._common.tensors import moved, on_cpu
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.layers import checked_inputs, model_of
from captum_extract_aggregate._engine.model_state import without_traces
from captum_extract_aggregate._engine.one_output import give_scores_to_captum
from captum_extract_aggregate._engine.recording import record
from captum_extract_aggregate._engine.targets import Target, per_target
from captum_extract_aggregate.attr.base import is_own, own
from captum_extract_aggregate.attr.competing_classes import Choice, Contest, checked_classes
from captum_extract_aggregate.attr.competition import kept_by_first
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import attributed, captum_entry, check_flag, named_arguments, takes_keyword
from captum_extract_aggregate.attr.one_example import detached
from captum_extract_aggregate.attr.one_pass import stacked
from captum_extract_aggregate.attr.rebuilt import Rebuilt
from captum_extract_aggregate.attr.shared_pass import capturing, pass_of, shared_maps
from captum_extract_aggregate.attr.wrapping import Delegating

_NAME = "Class Competition"


@described(
    "What the wrapped method's `attribute` returns, in its shapes and units, 0 where the target does not win",
    first="Explains one target per example, from one forward and one backward for each class that competes.",
    layers=False,
)
class ClassCompetition(Delegating, Rebuilt, LayerAttribution, GradientAttribution):
    r"""Class competition: what a class keeps of its map where the maps of several classes compete.

    With :math:`A_c` the wrapped method's map of each of C classes, the target t among them, at every position

    .. math:: p = \mathrm{softmax}_c(\beta\, |A_c| / s), \qquad
        A_t \, p_t \;\text{ where }\; p_t - 1/C > \tau, \quad 0 \text{ elsewhere,}

    with the temperature :math:`\beta`, the threshold :math:`\tau`, and s the largest magnitude over all classes and
    positions of the example's maps (`normalize=True`), or 1 (`normalize=False`). What is returned has the wrapped
    method's shapes, sign and unit, and is nowhere larger than its map.

    A map's numbers have the scale of the gradient, which differs from layer to layer by powers of ten. With
    `normalize=False`, the published form, the softmax sees it: where all magnitudes are far below 0.1 no class wins
    anywhere, and the map is 0, with a warning.

    Methods of this package take one forward and one backward for each class that competes, whatever the number of
    layers; several competing methods share them in `attribute_together`. Others are called once for each class, with
    the same random draws.

    Args:
        attribution_method: any attribution object of this package or of Captum, for layers or inputs; NoiseTunnel and
            LayerCombination too.
        classes: the rivals: a list of class indices, or a list for each example (`N x T`). The target need not be among
            them, and competes once, as does a class that is named twice. None: chosen by their scores.
        rivals: how many are chosen: the most probable classes beside the target, and in the last place the least
            probable one (of `rivals=1` the most probable alone). All others, where there are fewer.
        temperature: :math:`\beta`, above 0.
        threshold: :math:`\tau`, from -1 (everything is kept, weighed by :math:`p_t`) to below 1.
        normalize: whether a map's scale is taken out of the softmax; then k times the maps gives k times the result.
            False: as published.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected; at `attribute` where
            `forward_func` gives no `N x classes` scores, or no class is left to compete with.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum.attr import InputXGradient
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> plain = cea.NormGrad(model, ["layer2", "layer3"])
        >>> competing = cea.ClassCompetition(plain)
        >>> maps = competing.attribute(image[None], target=7)
        >>> [tuple(m.shape) for m in maps]
        [(1, 1, 48, 48), (1, 1, 24, 24)]
        >>> all(bool((m <= p).all()) for m, p in zip(maps, plain.attribute(image[None], target=7)))
        True
        >>> captums = cea.ClassCompetition(InputXGradient(model), classes=[1, 7])
        >>> captums.attribute(image[None], target=7).shape
        torch.Size([1, 3, 96, 96])

    Source: Walter et al., Hidden in Plain Sight (arXiv 2503.07346), as in the authors' released code but for
    `normalize`, which is this package's.
    """

    @named_arguments
    def __init__(
        self,
        attribution_method: Attribution,
        *,
        classes: Any = None,
        rivals: int = 4,
        temperature: float = 10.0,
        threshold: float = 0.01,
        normalize: bool = True,
    ) -> None:
        if not isinstance(attribution_method, Attribution):
            raise InvalidTypeError(
                f"attribution_method is a {type(attribution_method).__name__}; expected an attribution object, such as "
                "NormGrad(model, layer)"
            )
        if not takes_keyword(attribution_method, "target"):
            raise InvalidTypeError(
                f"attribution_method is {type(attribution_method).__name__}, which explains no target; expected a "
                "method whose maps differ from class to class"
            )
        if isinstance(rivals, bool) or not isinstance(rivals, int) or rivals < 1:
            raise InvalidValueError(f"rivals is {rivals!r}; expected an integer of at least 1")
        if not _is_number(temperature) or not 0 < temperature < math.inf:
            raise InvalidValueError(f"temperature is {temperature!r}; expected a number above 0")
        if not _is_number(threshold) or not -1 <= threshold < 1:
            raise InvalidValueError(f"threshold is {threshold!r}; expected a number from -1 to below 1")
        check_flag("normalize", normalize)
        Attribution.__init__(self, attribution_method.forward_func)
        self.gradient_func = getattr(attribution_method, "gradient_func", None)  # type: ignore[assignment]
        self.device_ids = getattr(attribution_method, "device_ids", None)
        self.attribution_method = attribution_method
        self.classes, self.rivals = checked_classes(classes), rivals
        self.temperature, self.threshold, self.normalize = temperature, threshold, normalize

    def has_convergence_delta(self) -> bool:
        return False

    def attribute_future(self) -> None:
        """Is not available, as in Captum's own layer methods."""
        raise NotImplementedError("attribute_future is not implemented for ClassCompetition")

    @own
    @captum_entry
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Returns what the target keeps; other keywords are handed to the wrapped method's `attribute`."""
        if kwargs.pop("return_convergence_delta", False):
            raise InvalidValueError(
                "return_convergence_delta is True, but what a class keeps of its map does not add up to its score; "
                f"expected it of {self.attribution_method.get_name()}.attribute"
            )
        to_input = kwargs.pop("attribute_to_layer_input", False)
        (kept,) = self._kept(inputs, [target], additional_forward_args, to_input, kwargs)
        return kept

    @own
    def attribute_per_target(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        targets: Any,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """Returns what each of several targets keeps, `N x T x ...`; a class that several need has its map once.

        Args:
            inputs, additional_forward_args, attribute_to_layer_input: as for `attribute`.
            targets: `N x T` class indices (tensor, array or nested list), or a list of T targets for all examples.
        """
        wanted = per_target(targets, checked_inputs(inputs)[0].shape[0])
        how = (additional_forward_args, attribute_to_layer_input)
        if not is_own(self, "attribute"):
            return stacked([attributed(self, inputs, target, *how) for target in wanted])
        return stacked(self._kept(inputs, wanted, *how, {}))

    def _kept(
        self, inputs: Any, targets: Sequence[Target], extra: Any, to_input: bool, kwargs: Mapping[str, Any]
    ) -> list[Any]:
        if not kwargs and capturing(self.attribution_method) is not None:
            return [of[""] for of in kept_together({"": self}, inputs, targets, extra, to_input)]
        choice = Choice(targets, self.classes, self.rivals)
        columns = choice(record(self.forward_func, inputs, [], extra, self.device_ids).output)
        return self._of_contests(self._class_by_class(inputs, columns, extra, to_input, kwargs), choice.contests)

    def _class_by_class(
        self, inputs: Any, columns: list[Target], extra: Any, to_input: bool, kwargs: Mapping[str, Any]
    ) -> list[Any]:
        """Returns the maps of each class from calls of their own, all of which draw the same random numbers."""
        method, maps = self.attribution_method, []
        for i, column in enumerate(columns):
            with Undo() as undo, undo:
                if i + 1 < len(columns):
                    same_draws(undo, checked_inputs(inputs))
                maps.append(detached(self._of_class(method, inputs, column, extra, to_input, kwargs)))
        return maps

    def _of_class(
        self, method: Any, inputs: Any, column: Target, extra: Any, to_input: bool, kwargs: Mapping[str, Any]
    ) -> Any:
        if not kwargs:
            return attributed(method, inputs, column, extra, to_input)
        given = {"target": column, **kwargs}
        given |= {} if extra is None else {"additional_forward_args": extra}
        given |= {"attribute_to_layer_input": True} if to_input else {}
        with Undo() as undo, undo:
            give_scores_to_captum(undo, method)
            return without_traces(method.attribute, model_of(self.forward_func), inputs, **given)

    def _of_contests(self, maps: list[Any], contests: Sequence[Contest]) -> list[Any]:
        """Returns what each target keeps of the maps of all classes, in the form in which these are."""
        if isinstance(maps[0], (list, tuple)):
            of_each = [self._of_contests(list(column), contests) for column in zip(*maps)]
            return [type(maps[0])(of) for of in zip(*of_each)]
        return [self._of_contest(torch.stack(maps, 1), contest) for contest in contests]

    def _of_contest(self, maps: Tensor, contest: Contest) -> Tensor:
        examples = torch.arange(len(maps), device=maps.device)[:, None]
        competing = maps[examples, moved(contest.maps, maps.device)]
        kept = kept_by_first(competing, contest.counts, self.temperature, self.threshold, self.normalize)
        if on_cpu(kept):
            self._warn_of_nothing(competing[:, 0], kept)
        return kept

    def _warn_of_nothing(self, plain: Tensor, kept: Tensor) -> None:
        nothing = plain.flatten(1).any(1) & ~kept.flatten(1).any(1)
        if bool(nothing.any()):
            why = "" if self.normalize else f" (of magnitudes up to {float(plain.abs().max()):.1g}; try normalize=True)"
            warnings.warn(
                f"{int(nothing.sum())} of {len(kept)} maps are 0 everywhere: the target wins nowhere by more than "
                f"the threshold, {self.threshold:g}{why}",
                stacklevel=2,
            )

    @classmethod
    def get_name(cls) -> str:
        return _NAME


def contest_of(method: ClassCompetition) -> Hashable | None:
    """Returns what is equal for competing methods that can share a pass and its classes; None: by itself."""
    found = capturing(method.attribution_method)
    if found is None or not is_own(method, "attribute"):
        return None
    return pass_of(found), repr(method.classes), method.rivals


def kept_together(
    methods: Mapping[str, ClassCompetition],
    inputs: Any,
    targets: Sequence[Target],
    additional_forward_args: Any,
    to_input: bool,
) -> list[dict[str, Any]]:
    """Returns, for each target, what it keeps of each method's map, from one pass of methods whose contests are
    equal."""
    first = next(iter(methods.values()))
    choice = Choice(targets, first.classes, first.rivals)
    wrapped = {name: method.attribution_method for name, method in methods.items()}
    of_classes = shared_maps(wrapped, inputs, choice, additional_forward_args, to_input)
    kept = {
        name: method._of_contests([maps[name] for maps in of_classes], choice.contests)
        for name, method in methods.items()
    }
    return [{name: of[t] for name, of in kept.items()} for t in range(len(targets))]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
