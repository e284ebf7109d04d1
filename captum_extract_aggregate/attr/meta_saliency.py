"""Meta-saliency: explain the network that one step of training on this very example gives.

Source: Rebuffi et al., There and Back Again (CVPR 2020), section 4.4.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from captum._utils.common import _format_additional_forward_args
from captum.attr import (
    Attribution,
    DeepLiftShap,
    FeaturePermutation,
    GradientAttribution,
    GradientShap,
    LayerAttribution,
    LayerDeepLiftShap,
    LayerGradientShap,
)
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name
from captum_extract_aggregate._common.tensors import on_cpu
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.claims import claim
from captum_extract_aggregate._engine.layers import checked_inputs, model_of
from captum_extract_aggregate._engine.model_state import (
    keep_modes,
    prepared,
    set_modes,
    unchanged,
    uncompiled,
    without_autocast,
    without_traces,
)
from captum_extract_aggregate._engine.one_output import give_scores_to_captum, with_wrapped
from captum_extract_aggregate._engine.outputs import scores_or_output
from captum_extract_aggregate._engine.targets import Target, plain_target
from captum_extract_aggregate.attr.described import described
from captum_extract_aggregate.attr.entry import captum_entry, named_arguments, takes_keyword
from captum_extract_aggregate.attr.meta_saliency_losses import LOSSES, Loss, LossName
from captum_extract_aggregate.attr.meta_saliency_vmap import NotVectorizedError, pays, vectorized_maps
from captum_extract_aggregate.attr.one_example import detached, joined, of_example, target_of_example
from captum_extract_aggregate.attr.rebuilt import Rebuilt
from captum_extract_aggregate.attr.step_parameters import checked_model, chosen_parameters, differentiate_only
from captum_extract_aggregate.attr.wrapping import Delegating


@described(
    "What the wrapped method's `attribute` returns, in its shapes and units",
    first="Explains one target per example, each with the parameters that a step on this example gives.",
    layers=False,
)
class MetaSaliency(Delegating, Rebuilt, LayerAttribution, GradientAttribution):
    r"""Meta-saliency: any attribution method, on the parameters after one step of gradient descent on the example.

    For each example x with target y by itself, the step is

    .. math:: \theta' = \theta - \mathrm{lr} \, \nabla_\theta \ell(\theta, x, y)

    and the wrapped method explains the network with :math:`\theta'`. What the wrapped method returns is returned, in
    its shapes and units. A batch gives what its examples give one by one (to rounding, where they run together).

    Which `lr`: the step has to change what the network says of this example, not the network. Rates from 1e-4 to
    1e-2 are sensible for networks that were trained with SGD; far smaller ones give the plain map, and larger ones the
    map of a network that is no longer the user's. Check that the loss falls, and by little.

    The parameters (frozen ones too) are exchanged for the time of each example, and come back bit for bit, also after
    an exception. BatchNorm is in eval mode during the step, and no buffer changes.

    Args:
        attribution_method: any attribution object of this package or of Captum: for layers or inputs, by gradients or
            perturbation; NoiseTunnel and LayerCombination too.
        lr: the learning rate.
        ascent: climb the loss instead: :math:`\theta + \mathrm{lr} \cdot \nabla_\theta \ell`.
        loss_func: None or `"cross_entropy"`, of the target's class (of a model with one output, which has no other
            class, binary cross-entropy: the step that raises the output); `"binary_cross_entropy"`, of the target's
            logit alone, for multi-label networks; or `loss_func(output, target)`, which gets the scores and the target
            of one example (batch size 1) and returns its loss.
        parameters: which take the step: None for all; or a list of names, patterns of names (`"layer4.*"`) or
            parameters.
        steps: how many steps are taken, each on the parameters that the last one gave.
        model: the module whose parameters take the step, where the wrapped object's `forward_func` is not one.
        vectorized: whether examples run together (`torch.func.vmap`, each with parameters of its own): up to 2.6 times
            as fast for small networks on small pictures, and slower for large ones. None: with four examples or more
            of at most 64 x 64 pixels, and two million parameters at most. For this package's gradient-based layer
            methods with class indices and named losses; all else goes one by one.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum.attr import LayerGradCam
        >>> model = cea.load_scene_model("resnet")
        >>> image, target = cea.DigitScenes(n=1)[0]
        >>> cea.MetaSaliency(cea.NormGrad(model, "layer3")).attribute(image[None], target=7).shape
        torch.Size([1, 1, 24, 24])
        >>> captums = LayerGradCam(model, model.layer3)
        >>> cea.MetaSaliency(captums, lr=0.0025, ascent=True).attribute(image[None], target=7).shape
        torch.Size([1, 1, 24, 24])

    Source: Rebuffi et al., CVPR 2020, section 4.4 (whose :math:`2\epsilon` is `lr`).
    """

    @named_arguments
    def __init__(
        self,
        attribution_method: Attribution,
        *,
        lr: float = 1e-3,
        ascent: bool = False,
        loss_func: LossName | Loss | None = None,
        parameters: Sequence[str | Tensor] | None = None,
        steps: int = 1,
        model: nn.Module | None = None,
        vectorized: bool | None = None,
    ) -> None:
        if not isinstance(attribution_method, Attribution):
            raise InvalidTypeError(
                f"attribution_method is a {type(attribution_method).__name__}; expected an attribution object, such as "
                "NormGrad(model, layer)"
            )
        if any(isinstance(m, FeaturePermutation) for m in with_wrapped(attribution_method)):
            raise InvalidValueError(
                "FeaturePermutation exchanges values between examples, but each takes a step of its own"
            )
        if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not 0 <= lr < float("inf"):
            raise InvalidValueError(f"lr is {lr!r}; expected a number of at least 0 (ascent=True climbs)")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise InvalidValueError(f"steps is {steps!r}; expected an integer of at least 1")
        if isinstance(loss_func, str) and loss_func not in LOSSES:
            raise InvalidValueError(
                unknown_name("loss_func", loss_func, LOSSES, ", or a callable loss_func(output, target)")
            )
        if loss_func is not None and not isinstance(loss_func, str) and not callable(loss_func):
            raise InvalidTypeError(f"loss_func is a {type(loss_func).__name__}; expected None, a name or a callable")
        if vectorized is not None and not isinstance(vectorized, bool):
            raise InvalidTypeError(f"vectorized is {vectorized!r}; expected True, False or None")
        Attribution.__init__(self, attribution_method.forward_func)
        self.gradient_func = getattr(attribution_method, "gradient_func", None)  # type: ignore[assignment]
        self.device_ids = getattr(attribution_method, "device_ids", None)
        self.attribution_method = attribution_method
        self.lr, self.ascent, self.steps = lr, ascent, steps
        self.loss_func: Loss = LOSSES[loss_func or "cross_entropy"] if not callable(loss_func) else loss_func
        self.model = checked_model(attribution_method.forward_func if model is None else model)
        self.parameters = chosen_parameters(self.model, parameters)
        self.vectorized = vectorized

    def argument(self, name: str) -> Any:
        """Returns a named loss by its name; all parameters, and the model that `forward_func` is, were not named."""
        if name == "loss_func":
            named = next((known for known, function in LOSSES.items() if function is self.loss_func), None)
            return self.loss_func if named is None else None if named == "cross_entropy" else named
        if name == "parameters" and len(self.parameters) == len(chosen_parameters(self.model, None)):
            return None
        if name == "model" and self.model is model_of(self.forward_func):
            return None
        return super().argument(name)

    def has_convergence_delta(self) -> bool:
        return bool(self.attribution_method.has_convergence_delta())

    def compute_convergence_delta(self, *args: Any, **kwargs: Any) -> Tensor:
        """Is not available by itself: the wrapped method's is of other parameters."""
        raise NotImplementedError(
            "expected attribute(..., return_convergence_delta=True), asked while the step is taken"
        )

    @captum_entry
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Target = None,
        additional_forward_args: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Returns what the wrapped method's `attribute` gives; other keywords are handed to it.

        Tensors among the arguments with one entry per example are taken apart with the inputs.
        """
        examples, target = len(checked_inputs(inputs)[0]), plain_target(target)
        takes_target, takes_extra = (
            takes_keyword(self.attribution_method, n) for n in ("target", "additional_forward_args")
        )
        if not kwargs.get("attribute_to_layer_input", True):
            del kwargs["attribute_to_layer_input"]  # the default; methods for inputs do not know it
        if additional_forward_args is None and not kwargs and self._is_vectorized(inputs):
            with contextlib.suppress(NotVectorizedError):
                return self._vectorized(inputs, target)
        results = []
        for i in range(examples):
            x, y = of_example(inputs, i, examples), target_of_example(target, i, examples)
            extra = of_example(additional_forward_args, i, examples)
            given = {name: self._keyword(name, value, i, examples) for name, value in kwargs.items()}
            given |= {"target": y} if takes_target and y is not None else {}
            given |= {"additional_forward_args": extra} if takes_extra and extra is not None else {}
            with Undo() as undo, undo:
                claim(undo, self.model)
                unchanged(undo, self.model)
                self._take_steps(undo, x, y, extra)
                give_scores_to_captum(undo, self.attribution_method)
                results.append(detached(without_traces(self.attribution_method.attribute, self.model, x, **given)))
        return joined(results)

    def _is_vectorized(self, inputs: Any) -> bool:
        if not self.lr or torch._C._is_any_autocast_enabled():  # the plain map, exactly; the caller's precision
            return False
        return pays(self.model, checked_inputs(inputs)[0]) if self.vectorized is None else self.vectorized

    def _vectorized(self, inputs: Any, target: Any) -> Any:
        loss = next((name for name, function in LOSSES.items() if function is self.loss_func), None)
        if loss is None or any(m.training for m in self.model.modules()):
            raise NotVectorizedError
        rate = self.lr if self.ascent else -self.lr
        method, chosen = self.attribution_method, self.parameters
        return vectorized_maps(method, self.model, chosen, rate, loss, self.steps, inputs, target)

    def _keyword(self, name: str, value: Any, i: int, examples: int) -> Any:
        if not takes_keyword(self.attribution_method, name):
            raise InvalidValueError(
                f"{name} is given, but {self.attribution_method.get_name()} takes none; expected it left out"
            )
        if name == "baselines" and _samples_baselines(self.attribution_method):
            return value
        return of_example(value, i, examples)

    def _take_steps(self, undo: Undo, x: Any, target: Any, extra: Any) -> None:
        """Gives the model the parameters after the steps, until its own come back."""
        keep_modes(undo)
        undo.callback(torch.clear_autocast_cache)
        for p in self.parameters:
            undo.callback(setattr, p, "data", p.data)
        for _ in range(self.steps):
            self._step(x, target, extra)
            torch.clear_autocast_cache()  # which holds copies of the weights before the step

    def _step(self, x: Any, target: Any, extra: Any) -> None:
        rate = self.lr if self.ascent else -self.lr
        with Undo() as undo, undo:
            set_modes(undo, grad=True)
            for p, gradient in zip(self.parameters, self._gradients(x, target, extra)):
                if gradient is not None:
                    p.data = torch.add(p.data, gradient, alpha=rate)  # a new tensor: the old one is kept as it is

    def _gradients(self, x: Any, target: Any, extra: Any) -> tuple[Tensor | None, ...]:
        """Differentiates one example's loss."""
        tensors = tuple(t.clone() if t.is_inference() else t.detach() for t in checked_inputs(x))
        forward = uncompiled(self.forward_func)
        with Undo() as undo, undo:
            set_modes(undo, grad=True)
            differentiate_only(self.parameters, self.model, undo)
            _batch_norm_in_eval_mode(self.model, undo)
            prepared(undo, forward, tensors, freeze=False, layers=[self.model])
            output = forward(*tensors, *(_format_additional_forward_args(extra) or ()))
            loss = self._loss(scores_or_output(output), target)
            without_autocast(undo)
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        if all(gradient is None for gradient in gradients):
            raise InvalidValueError(
                "the loss depends on none of the chosen parameters; expected parameters of the model that forward_func "
                "calls (is model= another copy?)"
            )
        return gradients

    def _loss(self, output: Any, target: Any) -> Tensor:
        if isinstance(output, Tensor) and output.ndim and len(output) != 1:
            raise InvalidValueError(
                f"forward_func gives {len(output)} scores for one example; expected one: do additional_forward_args "
                "hide one entry per example in an object that cannot be taken apart?"
            )
        loss = self.loss_func(output, target)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise InvalidValueError(f"loss_func returned {got} for one example; expected a tensor of one number")
        if not loss.requires_grad:
            raise InvalidValueError(
                "the loss cannot be differentiated; expected a forward_func and a loss_func that neither detach nor "
                "run under torch.no_grad"
            )
        # Elsewhere looking would wait for the device, and the map says NaN.
        if on_cpu(loss) and not torch.isfinite(loss).all():
            raise InvalidValueError(
                f"the loss is {float(loss.detach())}; expected a finite number: check the inputs and the weights"
            )
        return loss.reshape(())

    @classmethod
    def get_name(cls) -> str:
        return "Meta-saliency"


def _batch_norm_in_eval_mode(model: nn.Module, undo: Undo) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.training:
            undo.callback(setattr, module, "training", True)
            module.training = False


def _samples_baselines(method: Any) -> bool:
    """Tells whether `baselines` is a distribution to draw from, and not one baseline per example."""
    kinds = (GradientShap, DeepLiftShap, LayerGradientShap, LayerDeepLiftShap)
    return any(isinstance(m, kinds) for m in with_wrapped(method))
