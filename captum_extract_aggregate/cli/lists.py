"""What can be chosen, listed: methods with what each is for, layers of a model, and both as a shell completes them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator

import typer
from torch import nn

from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate.attr.by_name import METHODS
from captum_extract_aggregate.registry import list_models

_LONGEST = 40  # of a method's name in the literature
_OTHERS = "or a class's name (GradCAM, Captum's LayerGradCam), EXTRACT:AGGREGATE, or FILE.py:CLASS"


def methods_listed() -> str:
    """Returns a line for each method: its name, what it is called in the literature, and of which layers it makes a
    map."""
    width, wider = max(map(len, METHODS)), max(len(_called(name)) for name in METHODS)
    lines = [f"{name:{width}}  {_called(name):{wider}}  {_layers_of(name)}" for name in METHODS]
    return "\n".join([*lines, _OTHERS])


def _called(name: str) -> str:
    make = METHODS[name].make
    first = (inspect.getdoc(make) or "").partition("\n")[0] if isinstance(make, type) else ""
    title = re.split(r"[:;(]", first.replace(":math:`\\gamma`", "gamma"))[0].strip()
    is_name = 0 < len(title) <= _LONGEST and not title.startswith(("The ", "Any "))
    return title if is_name else make.__name__ if isinstance(make, type) else name


def _layers_of(name: str) -> str:
    method = METHODS[name]
    if method.joins_layers:
        return "one map of all layers"
    if method.needs_layers:
        return "each layer of a kind (attention, biases)"
    around = ", of another method" if "method" in method.choices else ""
    return f"each layer{around}" + ", best before the last" * method.before_the_last


def layers_listed(model: nn.Module, size: int | None = None) -> str:
    """Returns a line for each layer that holds parameters, or is a usual one, with its kind; usual ones have a star."""
    import torch

    usual = default_layers(model, None if size is None else torch.zeros(1, 3, size, size))
    lines = ["layers of the model; * marks those at which maps are usually taken:"]
    for name, module in model.named_modules():
        if name and (name in usual or any(True for _ in module.parameters(recurse=False))):
            lines.append(f"{'*' if name in usual else ' '} {name}  ({type(module).__name__})")
    return "\n".join(lines)


# --- For shells -------------------------------------------------------------------------------------------------------


def complete_methods(incomplete: str) -> Iterator[str]:
    """Yields what the last part between commas may become."""
    return _last_part(incomplete, METHODS)


def complete_model(incomplete: str) -> Iterator[str]:
    """Yields registered models and torchvision's."""
    from torchvision import models

    return (name for name in [*list_models(), *models.list_models(module=models)] if name.startswith(incomplete))


def complete_layers(context: typer.Context, incomplete: str) -> Iterator[str]:
    """Yields the layers of the model that the line names, if it is a registered one or torchvision's."""
    import torch
    from torchvision import models

    from captum_extract_aggregate.data.models_by_name import MODELS, load_subject

    name = context.params.get("model") or "scene-resnet"
    try:
        if name in MODELS:
            model = load_subject(name).model
        else:
            with torch.device("meta"):
                model = models.get_model(name, weights=None)
    except Exception:  # a shell shows nothing where nothing is known
        return iter(())
    return _last_part(incomplete, [n for n, _ in model.named_modules() if n])


def _last_part(incomplete: str, names: Iterable[str]) -> Iterator[str]:
    before, comma, last = incomplete.rpartition(",")
    return (f"{before}{comma}{name}" for name in names if name.startswith(last))
