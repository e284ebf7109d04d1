"""The tensor of scores in whatever a network returns: a tensor, or an object, a dictionary or a tuple that holds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError, unknown_name

_AUXILIARY = frozenset({"out", "aux"})  # what torchvision's segmentation networks give: the latter is for training
_EMBEDDINGS = ("image_embeds", "image_features", "pooler_output", "embeddings")  # an image's, where they are so called


def find_scores(output: Any) -> Tensor:
    """Returns the scores in a network's output.

    A tensor is taken as it is. Of an object, a dictionary or a named tuple it is what is called `logits`, else
    torchvision's `out`, else the only tensor.

    Raises TypeError for an output without a tensor, or with several of which none is called so.
    """
    found = scores_or_output(output)
    if not isinstance(found, Tensor):
        raise InvalidTypeError(_no_scores(output))
    return found


def scores_or_output(output: Any) -> Any:
    """Returns the scores in an output; the output itself, where it does not tell which they are."""
    if isinstance(output, Tensor):
        return output
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        return logits
    if isinstance(output, (tuple, list)) and not hasattr(output, "_fields"):
        return output  # in which nothing says what is what
    tensors = tensors_by_name(output)
    if "logits" in tensors:
        return tensors["logits"]
    if tensors and tensors.keys() <= _AUXILIARY:
        return tensors.get("out", output)
    return next(iter(tensors.values())) if len(tensors) == 1 else output


def find_output(output: Any, name: str | int) -> Tensor:
    """Returns the tensor of a name (of a tuple: an index) in an output, or our error."""
    if isinstance(output, Tensor):
        raise InvalidValueError(
            f"output is {name!r}, but the model returned a single tensor {tuple(output.shape)}; expected no output=, "
            "or the model itself"
        )
    tensors = tensors_by_name(output)
    if str(name) not in tensors:
        if not tensors:
            raise InvalidTypeError(_no_scores(output))
        raise InvalidValueError(unknown_name("output", name, tensors, f" (the model returned {_told(output)})"))
    return tensors[str(name)]


def embeddings_or_output(output: Any) -> Any:
    """Returns what is called as an image's embedding usually is, or the only tensor; else the output itself."""
    tensors = tensors_by_name(output)
    name = next((name for name in _EMBEDDINGS if name in tensors), None)
    return scores_or_output(output) if name is None else tensors[name]


def find_embeddings(output: Any) -> Tensor:
    """Returns the embeddings `N x D` in an output, or our error."""
    found = embeddings_or_output(output)
    if not isinstance(found, Tensor) or found.ndim != 2:
        got = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else _told(output)
        raise InvalidTypeError(
            f"model returned {got}; expected embeddings, examples x D: the method that gives them "
            '(model.get_image_features, model.encode_image), or scores.SelectedOutput(model, output="pooler_output")'
        )
    return found


def tensors_by_name(output: Any) -> dict[str, Tensor]:
    """Returns the tensors that an output holds under names (of a tuple: under their indices)."""
    if isinstance(output, Mapping):
        items = list(output.items())
    elif isinstance(output, tuple):
        items = list(zip(getattr(output, "_fields", range(len(output))), output))
    elif isinstance(output, list):
        items = list(enumerate(output))
    elif dataclasses.is_dataclass(output):
        items = [(f.name, getattr(output, f.name)) for f in dataclasses.fields(output)]
    else:
        items = list(getattr(output, "__dict__", {}).items())
    return {str(name): value for name, value in items if isinstance(value, Tensor)}


def scored(model: nn.Module, output: Any) -> Tensor:
    """Returns the scores of a model's output, and from now on the model gives them alone."""
    scores = find_scores(output)
    if scores is not output:
        model.register_forward_hook(lambda module, args, output: scores_or_output(output))
    return scores


def _no_scores(output: Any) -> str:
    tensors = tensors_by_name(output)
    if not tensors:
        return (
            f"forward_func returned {_told(output)}; expected a tensor of scores, or one output that holds it: see "
            "captum_extract_aggregate.scores (Detection for a detector), or wrap the model: lambda x: model(x)[...]"
        )
    of_examples = [n for n, t in tensors.items() if t.ndim == 2]  # likelier than a tensor of tokens
    name = next((n for n in tensors if "logits" in n), [*of_examples, *tensors][0])
    several = ", several tensors" * (len(tensors) > 1)
    return (
        f"forward_func returned {_told(output)}{several}; expected one that holds the scores: "
        f"captum_extract_aggregate.scores.SelectedOutput(model, output={name!r}) as forward_func"
    )


def _told(output: Any) -> str:
    """Returns what an output is: its type, and the names and shapes of its tensors."""
    held = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors_by_name(output).items())
    return f"a {type(output).__name__}" + f" with {held}" * bool(held)
