"""FinerCAM: any method, of what sets a class apart from those that the network scores most alike."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from captum.attr import Attribution, GradientAttribution
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError
from captum_extract_aggregate._common.nearest_contrast import check_gamma, check_references, nearest_contrast
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.evidence import Evidence
from captum_extract_aggregate._engine.layers import checked_inputs, model_of
from captum_extract_aggregate._engine.model_state import without_traces
from captum_extract_aggregate._engine.one_output import change_output
from captum_extract_aggregate._engine.outputs import find_scores
from captum_extract_aggregate._engine.taps import Place
from captum_extract_aggregate._engine.targets import Target
from captum_extract_aggregate.attr.base import CaptureAttribution, is_own, own
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import captum_entry, named_arguments
from captum_extract_aggregate.attr.wrapping import WrappingAttribution


@described("What the wrapped method's `attribute` returns, in its shapes and units")
class FinerCAM(WrappingAttribution):
    r"""FinerCAM: any method, of the score of a class minus those of the classes most like it.

    .. math:: f = z_c - \frac{\gamma}{|D|} \sum_{d \in D} z_d

    with D the `references` classes d other than the target c of the smallest :math:`|z_d - z_c|`, for each example by
    itself. What the class shares with those that look like it takes part less, or not at all. Shapes and units are the
    wrapped method's. The score alone is `scores.NearestContrast`.

    Methods of this package that are wrapped alike share one forward and one backward (`attribute_together`). The
    references are found anew for whatever input the network is asked about, noisy and interpolated ones too.

    Args:
        attribution_method: any attribution object of this package or of Captum, for layers or inputs; MetaSaliency
            (whose step is the plain network's), LayerCombination and NoiseTunnel too.
        gamma: how much the other classes count. 0 is the wrapped method. 0.6 is what the authors' released script takes
            for several references; 1, the default of their function, takes away all that is common to the classes, and
            with it most of an object's outline.
        references: how many other classes; all, where there are fewer.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected; at `attribute` for a model with
            less than two classes.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum.attr import LayerGradCam
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.FinerCAM(cea.LayerCAM(model, "layer3")).attribute(image[None], target=7).shape
        torch.Size([1, 1, 24, 24])
        >>> cea.FinerCAM(LayerGradCam(model, model.layer4), gamma=1.0).attribute(image[None], target=7).shape
        torch.Size([1, 1, 12, 12])

    Source: Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation (CVPR 2025),
    section 3. (The mean over references is plain; the authors' code weighs it by softmax probabilities.)
    """

    @named_arguments
    def __init__(self, attribution_method: Attribution, *, gamma: float = 0.6, references: int = 3) -> None:
        if not isinstance(attribution_method, Attribution):
            raise InvalidTypeError(
                f"attribution_method is a {type(attribution_method).__name__}; expected an attribution object, such as "
                "GradCAM(model, layer)"
            )
        GradientAttribution.__init__(self, attribution_method.forward_func)
        self.device_ids = getattr(attribution_method, "device_ids", None)
        self.attribution_method = attribution_method
        self.gamma, self.references = check_gamma(gamma), check_references(references)

    @property
    def shares_pass(self) -> bool:  # type: ignore[override]
        return self._wraps_pass() and is_own(self.attribution_method, "attribute")

    @property
    def uses_parameters(self) -> bool:  # type: ignore[override]
        return getattr(self.attribution_method, "uses_parameters", True)

    def run_pass(
        self, inputs: Any, places: list[Place], additional_forward_args: Any, targets: Any
    ) -> Iterator[Evidence]:
        return self._contrasted().run_pass(inputs, places, additional_forward_args, targets)  # type: ignore[no-any-return]

    def pass_key(self) -> Any:
        inner = self.capturing()
        record = getattr(inner.run_pass, "__func__", inner.run_pass)
        return self.get_name(), self.gamma, self.references, record, inner.pass_key()

    @own
    @captum_entry
    def attribute(  # type: ignore[override]
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Returns what the wrapped method's `attribute` gives; other keywords are handed to it."""
        given = {"target": target, "additional_forward_args": additional_forward_args, **kwargs}
        given = {name: value for name, value in given.items() if value is not None}
        if given.get("attribute_to_layer_input") is False:
            del given["attribute_to_layer_input"]  # the default; methods for inputs do not know it
        return self._asked("attribute", inputs, **given)

    def has_convergence_delta(self) -> bool:
        return bool(self.attribution_method.has_convergence_delta())

    def compute_convergence_delta(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the wrapped method's gives, of the contrasted score."""
        return self._asked("compute_convergence_delta", *args, **kwargs)

    def _asked(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Returns what the wrapped method's function of this name gives of the contrasted score."""
        method = self._contrasted()
        if method is self.attribution_method:
            return self._asked_of_another(name, *args, **kwargs)
        return getattr(method, name)(*args, **kwargs)

    def _asked_of_another(self, name: str, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns what another library's method gives while the network's output is the contrasted scores."""
        method, calls = self.attribution_method, []

        def contrasted(output: Any) -> Tensor:
            calls.append(1)
            return nearest_contrast(find_scores(output), self.gamma, self.references)

        copies = tuple(t.detach().clone() for t in checked_inputs(inputs))  # which Captum marks, and may leave so
        given = copies if isinstance(inputs, tuple) else copies[0]
        with Undo() as undo, undo:
            change_output(undo, method, method.forward_func, contrasted)
            found = without_traces(getattr(method, name), model_of(method.forward_func), given, *args, **kwargs)
        if not calls:
            raise InvalidTypeError(
                f"attribution_method is {type(method).__name__}, which does not call its forward_func, so that "
                "its scores cannot be contrasted; expected a method on the model, or on scores.NearestContrast(model)"
            )
        return found

    def _wraps_pass(self) -> bool:
        """Tells whether the wrapped method is one of this package, which asks its own forward function alone."""
        return isinstance(self.attribution_method, CaptureAttribution) and self.attribution_method.shares_pass

    def _contrasted(self) -> Any:
        """Returns a copy of the wrapped method that explains the contrasted score: of one of this package on another
        forward function, of one that is around another itself around that. Another library's is returned as it is."""
        method, inner = self.attribution_method, getattr(self.attribution_method, "attribution_method", None)
        if self._wraps_pass():
            changed = copy.copy(method)
            changed.forward_func = self._contrasting(method.forward_func)
            return changed
        if isinstance(method, CaptureAttribution) or not isinstance(inner, Attribution):
            return method
        changed = copy.copy(method)
        changed.attribution_method = FinerCAM(inner, gamma=self.gamma, references=self.references)
        return changed

    def _contrasting(self, forward_func: Callable[..., Any]) -> Callable[..., Any]:
        if model_of(forward_func) is not None:
            from captum_extract_aggregate.scores.nearest import NearestContrast

            return NearestContrast(forward_func, gamma=self.gamma, references=self.references)

        def contrasted(*args: Any, **kwargs: Any) -> Tensor:
            return nearest_contrast(find_scores(forward_func(*args, **kwargs)), self.gamma, self.references)

        return contrasted

    @classmethod
    def get_name(cls) -> str:
        return "FinerCAM"
