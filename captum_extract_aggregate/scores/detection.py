"""What a detector says of a box."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._engine.outputs import tensors_by_name
from captum_extract_aggregate.scores.base import Model, Score
from captum_extract_aggregate.scores.indices import index_or_none

Found = tuple[Tensor, Tensor, Tensor]  # of an image: boxes (x1, y1, x2, y2), their labels and their scores


class Detection(Score):
    r"""A detector's score of a class in a box: why is *this* said to be *there*.

    Of what the detector finds of the class, the one that overlaps most with the box (by intersection over union)
    counts. Of torchvision's detectors (Faster R-CNN, Mask R-CNN, RetinaNet, SSD, FCOS), which report probabilities p,
    its score is the log-odds :math:`\log \frac{p}{1 - p}` (the detector's own thresholds and suppression decide what
    it finds); of DETR and its kin (`logits` and `pred_boxes`), the class's logit, of the queries whose highest class it
    is.

    Boxes and images are in the input's pixels. torchvision's detectors resize the image themselves and pad it at the
    right and at the bottom to a multiple of 32: a layer's map is of the padded image.

    Args:
        model: the detector, in eval mode; it takes a batch `N x 3 x H x W` of images of one size.
        box: (x1, y1, x2, y2).
        label: the class, as the detector numbers it. With neither, every example has its own, the last two of
            `additional_forward_args`: boxes `N x 4`, labels `N`.
        missing: the score where the detector finds nothing of the class that overlaps with the box, whose map is zero
            everywhere; None: that is an error. Measures that change the image or the network (`pixel_removal`,
            `parameter_randomization`) need a number: the log-odds of the detector's threshold, or less.

    Returns:
        From the call `N`: no target is needed.

    Raises:
        TypeError, ValueError: naming the argument, what was got and what was expected; at the call also where the
            detector finds nothing of the class that overlaps with the box (without `missing`), and where the
            probability that it reports is 0 or 1 in the network's precision.

    Example:
        >>> import torch
        >>> import captum_extract_aggregate as cea
        >>> from captum_extract_aggregate.scores import Detection
        >>> class Detector(torch.nn.Module):  # one box, in torchvision's form
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.body = torch.nn.Conv2d(3, 8, 3)
        ...
        ...     def forward(self, images):
        ...         scores = self.body(images).mean((1, 2, 3)).sigmoid()
        ...         box, label = torch.tensor([[1.0, 1.0, 6.0, 6.0]]), torch.tensor([1])
        ...         return [{"boxes": box, "labels": label, "scores": s[None]} for s in scores]
        >>> detection = Detection(Detector(), box=(0, 0, 6, 6), label=1)
        >>> cea.NormGrad(detection, "body").attribute(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 1, 6, 6])

    Source: the matching of boxes is that of Petsiuk et al., CVPR 2021 (D-RISE).
    """

    def __init__(
        self,
        model: Model,
        *,
        box: Sequence[float] | Tensor | None = None,
        label: int | Tensor | None = None,
        missing: float | None = None,
    ) -> None:
        super().__init__(model)
        if (box is None) != (label is None):
            raise InvalidValueError("only one of box and label is given; expected both, or neither")
        of_class = index_or_none(label)
        if label is not None and of_class is None:
            raise InvalidTypeError(f"label is a {type(label).__name__}; expected the index of a class")
        if missing is not None and not (_is_number(missing) and math.isfinite(missing)):
            raise InvalidValueError(f"missing is {missing!r}; expected a finite number, or None")
        self.keep(box=None if box is None else _checked(box), label=of_class, missing=missing)

    def own_arguments(self) -> int:
        return 2 if self.kept.box is None else 0

    def score(self, output: Any, inputs: tuple[Any, ...], *own: Any) -> Tensor:
        n = len(inputs[0])
        boxes, labels = own or (self.kept.box.expand(n, 4), torch.full((n,), self.kept.label))
        if not isinstance(boxes, Tensor) or boxes.shape != (n, 4) or not isinstance(labels, Tensor) or len(labels) != n:
            raise InvalidTypeError(
                f"the last two of additional_forward_args are no boxes {n} x 4 and labels {n}; expected a box and a "
                "label for each example"
            )
        found = self._detections(output, inputs)
        return torch.stack([self._at(one, boxes[i], int(labels[i]), i) for i, one in enumerate(found)])

    def _at(self, found: Found, box: Tensor, label: int, example: int) -> Tensor:
        """Returns the score of what was found of a class where it overlaps most with a box."""
        boxes, labels, scores = found
        of_class = labels == label
        overlap = box_iou(boxes.detach()[of_class], box[None].to(boxes))[:, 0]
        if len(overlap) and overlap.max().item() > 0:
            return _finite(scores[of_class][overlap.argmax()], example)
        if self.kept.missing is not None:
            return scores[:0].sum() + self.kept.missing  # a number that depends on what the network says, if by nothing
        raise InvalidValueError(
            f"the detector finds nothing of class {label} that overlaps with the box {box.tolist()} in example "
            f"{example}, but {len(boxes)} boxes of the classes {sorted(set(labels.tolist()))}; expected a box and a "
            "class that it finds, lower thresholds of its own, or missing=, the score where it finds nothing"
        )

    def _detections(self, output: Any, inputs: tuple[Any, ...]) -> list[Found]:
        """Returns what was found in each image."""
        tensors = tensors_by_name(output)
        if {"logits", "pred_boxes"} <= tensors.keys():
            logits = tensors["logits"]
            boxes = box_convert(tensors["pred_boxes"], "cxcywh", "xyxy") * _sizes(inputs).to(logits)[:, None]
            classes = getattr(getattr(self, "config", None), "num_labels", logits.shape[2])  # without "no object"
            labels = logits[..., :classes].argmax(2)
            return list(zip(boxes, labels, logits.gather(2, labels[..., None])[..., 0]))
        if isinstance(output, (list, tuple)) and all(map(_is_found, output)):
            return [(one["boxes"], one["labels"], torch.logit(one["scores"])) for one in output]
        raise InvalidTypeError(
            f"model returned a {type(output).__name__}; expected what a detector finds: a list of boxes, labels and "
            "scores (torchvision's in eval mode), or logits and pred_boxes (DETR's)"
        )


def _is_found(one: Any) -> bool:
    return isinstance(one, dict) and {"boxes", "labels", "scores"} <= one.keys()


def _sizes(inputs: tuple[Any, ...]) -> Tensor:
    """Returns width, height, width, height of each image, without the padding that a mask of its pixels tells."""
    x = inputs[0]
    masks = [t for t in inputs[1:] if isinstance(t, Tensor) and t.shape == (len(x), *x.shape[-2:])]
    mask = masks[0].bool() if masks else x.new_ones(x[:, 0].shape, dtype=torch.bool)
    height, width = mask.any(2).sum(1), mask.any(1).sum(1)
    return torch.stack([width, height, width, height], 1)


def _finite(score: Tensor, example: int) -> Tensor:
    """Returns a score, or our error for the log-odds of a probability that is rounded to 0 or 1."""
    if not math.isfinite(score.item()):
        raise InvalidValueError(
            f"the detector reports a probability in example {example} that is 0 or 1 in {score.dtype}, and so has no "
            "log-odds; expected more digits: the detector and the images in double precision"
        )
    return score


def _checked(box: Any) -> Tensor:
    """Returns a box as a tensor, or our error."""
    with contextlib.suppress(TypeError, ValueError, RuntimeError):  # what torch makes no tensor of
        corners = torch.as_tensor(box, dtype=torch.float32)
        if corners.shape == (4,) and bool((corners[2:] > corners[:2]).all()):
            return corners
    got = box.tolist() if isinstance(box, Tensor) else box
    raise InvalidValueError(f"box is {got!r}; expected (x1, y1, x2, y2) in pixels with x1 < x2 and y1 < y2")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
