"""A class against others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._engine.outputs import find_scores
from captum_extract_aggregate.scores.base import Model, Score
from captum_extract_aggregate.scores.indices import index_or_none, indices_or_none


class ClassContrast(Score):
    r"""A class against others: what speaks for it and not for them.

    Against given classes :math:`f_c = z_c - \frac{1}{|A|} \sum_{a \in A} z_a`; against all others the log-odds
    :math:`f_c = z_c - \log \sum_{a \ne c} e^{z_a}`, whose sigmoid is the softmax probability of c.

    Args:
        model: gives class scores z, `N x classes`.
        against: a class, or a list of classes; None: all others.

    Returns:
        From the call `N x classes`: `target=c` explains the contrast of class c.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.scores import ClassContrast
        >>> model, (image, _) = cea.load_scene_model("resnet"), cea.DigitScenes(n=1)[0]
        >>> cea.NormGrad(ClassContrast(model, against=1), "layer3").attribute(image[None], target=7).shape
        torch.Size([1, 1, 24, 24])
    """

    def __init__(self, model: Model, *, against: int | Sequence[int] | None = None) -> None:
        super().__init__(model)
        one = index_or_none(against)
        classes = indices_or_none(against) if one is None else [one]
        if against is not None and not classes:
            raise InvalidTypeError(f"against is {against!r}; expected a class index, a list of them, or None")
        self.keep(against=classes)

    def score(self, output: Any, inputs: tuple[Any, ...], *own: Any) -> Tensor:
        z = find_scores(output)
        if z.ndim != 2 or z.shape[1] < 2:
            raise InvalidValueError(f"model gives scores of shape {tuple(z.shape)}; expected N x classes, two or more")
        if self.kept.against is None:
            return _log_odds(z)
        wrong = [c for c in self.kept.against if not 0 <= c < z.shape[1]]
        if wrong:
            raise InvalidValueError(f"against holds {wrong[0]}; expected classes from 0 to {z.shape[1] - 1}")
        return z - z[:, self.kept.against].mean(1, keepdim=True)


def _log_odds(z: Tensor) -> Tensor:
    """Returns each class's score minus the logsumexp of all others."""
    top = z.argmax(1, keepdim=True)
    others = z.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)  # 1 - p of the likeliest class may round to 0
    log_p = z.log_softmax(1).scatter(1, top, -1.0)
    return (log_p - torch.log(-torch.expm1(log_p))).scatter(1, top, z.gather(1, top) - others)
