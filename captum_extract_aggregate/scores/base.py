"""A model with another output: its parts are the model's, so that layers, parameters and attributes go by its names."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError
from captum_extract_aggregate._engine.layers import model_of
from captum_extract_aggregate._engine.outputs import find_output, find_scores

Model = Callable[..., Any]


class Score(nn.Module):
    """The base: a model with another output, which a subclass computes in `score`.

    Args:
        model: a model, one of its methods, or a partial of either.

    Raises:
        TypeError: for what is none of these.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.scores import Score
        >>> class Total(Score):
        ...     def score(self, output, inputs, *own):
        ...         return output.sum(1)
        >>> image, _ = cea.DigitScenes(n=1)[0]
        >>> cea.NormGrad(Total(cea.load_scene_model("resnet")), "layer3").attribute(image[None]).shape
        torch.Size([1, 1, 24, 24])
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        module = model_of(model)
        if module is None:
            raise InvalidTypeError(
                f"model is a {type(model).__name__}; expected a torch.nn.Module, one of its methods, or a "
                "functools.partial of either"
            )
        # The model is no part of this module, which would put a name before every layer's: its parts are this one's.
        vars(self).update({held: vars(module)[held] for held in ("_modules", "_parameters", "_buffers")})
        func = module if isinstance(model, nn.Module) else model
        vars(self).update(scored_model=module, scored_func=func, kept=SimpleNamespace())

    def keep(self, **values: Any) -> None:
        """Sets `self.kept.name` to each value; `self.name` might be a part of the model that is called so."""
        vars(self.kept).update(values)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or "scored_model" not in vars(self):  # the latter while it is copied
                raise
            return getattr(self.scored_model, name)

    @property
    def training(self) -> bool:  # type: ignore[override]
        """The model's own mode."""
        return bool(self.scored_model.training)

    @training.setter
    def training(self, mode: bool) -> None:
        if "scored_model" in vars(self):  # from the time on when there is a model
            self.scored_model.training = mode

    def own_arguments(self) -> int:
        """Returns how many of `additional_forward_args`, the last ones, are for `score` and not for the model."""
        return 0

    def forward(self, *inputs: Any, **kwargs: Any) -> Tensor:
        count = len(inputs) - self.own_arguments()
        if count < 1:
            raise InvalidTypeError(
                f"{type(self).__name__} got {len(inputs)} inputs; expected those of the model, and "
                f"{self.own_arguments()} of its own as the last of additional_forward_args (or given to "
                f"{type(self).__name__} for all examples)"
            )
        return self.score(self.scored_func(*inputs[:count], **kwargs), inputs[:count], *inputs[count:])

    def score(self, output: Any, inputs: tuple[Any, ...], *own: Any) -> Tensor:
        """Returns the scores, examples x ..., of what the model returned for these inputs."""
        raise NotImplementedError


class SelectedOutput(Score):
    """One of several tensors that a model returns.

    Args:
        model: see this module's text.
        output: the name of the tensor in the model's output (of a tuple: its index); None: `logits`, or the only one,
            as methods choose by themselves.

    Raises:
        TypeError, ValueError: at the call, for a name that the output does not have, with those that it has.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.scores import SelectedOutput
        >>> class TwoHeads(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.body, self.kind, self.breed = (torch.nn.Conv2d(3, k, 3) for k in (8, 2, 5))
        ...
        ...     def forward(self, x):
        ...         return {"kind": self.kind(x).mean((2, 3)), "breed": self.breed(self.body(x)[:, :3]).mean((2, 3))}
        >>> model, x = TwoHeads(), torch.randn(1, 3, 8, 8)
        >>> cea.NormGrad(SelectedOutput(model, output="breed"), "body").attribute(x, target=4).shape
        torch.Size([1, 1, 6, 6])
    """

    def __init__(self, model: Model, *, output: str | int | None = None) -> None:
        super().__init__(model)
        if output is not None and not isinstance(output, (str, int)):
            raise InvalidTypeError(f"output is a {type(output).__name__}; expected a name, an index or None")
        self.keep(output=output)

    def score(self, output: Any, inputs: tuple[Any, ...], *own: Any) -> Tensor:
        return find_scores(output) if self.kept.output is None else find_output(output, self.kept.output)
