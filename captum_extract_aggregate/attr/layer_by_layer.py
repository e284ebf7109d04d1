"""Methods that take one layer at a time, on several layers: a call each, and a list of maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from captum.attr import Attribution, LayerAttribution
from captum.log import log_usage
from torch import nn

from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.one_output import give_scores_to_captum
from captum_extract_aggregate.attr.given_arguments import keywords_of


class LayerByLayer(LayerAttribution):
    """A method of Captum's, or of a user's own, as one on a list of layers.

    Args:
        make: makes the method from a model and a layer.
        forward_func: the model.
        layers: the layers, in the order of the maps.

    Example:
        >>> import captum.attr
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.attr.layer_by_layer import LayerByLayer
        >>> model, x = cea.load_scene_model("vgg"), cea.DigitScenes(1)[0][0][None]
        >>> method = LayerByLayer(captum.attr.LayerGradCam, model, [model.features[8], model.features[18]])
        >>> [tuple(m.shape) for m in method.attribute(x, target=3)]
        [(1, 1, 48, 48), (1, 1, 12, 12)]
    """

    gives_lists = True

    def __init__(self, make: Callable[..., Attribution], forward_func: Any, layers: Sequence[nn.Module | None]) -> None:
        super().__init__(forward_func, list(layers))  # type: ignore[arg-type]
        self.methods = [make(forward_func, layer) for layer in layers]

    @log_usage()  # type: ignore[untyped-decorator]
    def attribute(self, inputs: Any, **kwargs: Any) -> list[Any]:  # type: ignore[override]
        """Returns what each layer's method gives; keywords that it does not know and that say nothing are left out."""
        found: list[Any] = []
        for method in self.methods:
            attribute: Callable[..., Any] = method.attribute  # type: ignore[assignment]
            known = keywords_of(attribute)
            own = {k: v for k, v in kwargs.items() if known is None or k in known or v not in (None, False)}
            with Undo() as undo, undo:
                give_scores_to_captum(undo, method)
                found.append(attribute(inputs, **own))
        return found
