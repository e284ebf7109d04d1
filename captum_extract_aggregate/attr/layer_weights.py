"""Weights for combining layers, from what their features tell about a data set.

Source: Rebuffi et al., There and Back Again (CVPR 2020), section 4.2.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidTypeError, InvalidValueError
from captum_extract_aggregate._common.progress import each
from captum_extract_aggregate._common.undo import Undo
from captum_extract_aggregate._engine.layers import Layer, describe, find_layer
from captum_extract_aggregate._engine.layout import to_channels_first
from captum_extract_aggregate._engine.model_state import set_grad_mode
from captum_extract_aggregate._engine.recording import record
from captum_extract_aggregate._engine.taps import Place


class NothingToWeighError(InvalidValueError):
    """Says that every layer's number is 0."""


class LayerWeights(dict[str, float]):
    """Weights by layer name, normalised to sum 1; prints as a table. `raw` keeps the measured values."""

    def __init__(self, raw: Mapping[str, float], what: str, images: int) -> None:
        total = sum(raw.values())
        if not total > 0:
            raise NothingToWeighError(
                f"every layer's {what} is 0, so there is nothing to weigh them by; expected other images"
            )
        super().__init__({name: value / total for name, value in raw.items()})
        self.raw, self.what, self.images = dict(raw), what, images

    def __str__(self) -> str:
        width = max(len("layer"), *map(len, self))
        lines = [f"{'layer':{width}}  weight  {self.what} ({self.images} images)"]
        return "\n".join(lines + [f"{name:{width}}  {self[name]:.3f}   {self.raw[name]:.4g}" for name in self])

    def save(self, path: str | Path) -> None:
        """Writes a JSON file that `LayerWeights.load` reads."""
        content = {"what": self.what, "images": self.images, "raw": self.raw, "weights": dict(self)}
        Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> LayerWeights:
        """Returns what `save` wrote.

        Raises:
            ValueError: for any other file, saying what is wrong with it.
            OSError: where there is no file that can be read.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or thousands of brackets
            raise InvalidValueError(_no_weights(path, f"it is no JSON: {error}")) from None
        raw, what, images = (content.get(k) if isinstance(content, dict) else None for k in ("raw", "what", "images"))
        if not isinstance(raw, dict) or not isinstance(what, str) or type(images) is not int:
            raise InvalidValueError(_no_weights(path, "it lacks 'raw', 'what' or 'images'"))
        for name, value in raw.items():
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise InvalidValueError(_no_weights(path, f"the raw value of {name!r} is {value!r}"))
        return cls(raw, what, images)


def _no_weights(path: str | Path, why: str) -> str:
    return f"path is {str(path)!r}, which is no file that LayerWeights.save wrote ({why}); expected one that it wrote"


def feature_spread_weights(
    model: nn.Module,
    layers: Iterable[Layer],
    dataloader: Iterable[Any],
    layout: Any = "auto",
    show_progress: bool = True,
) -> LayerWeights:
    r"""Weighs layers by how much their features differ between images.

    With :math:`\bar x^i` the spatial mean of a layer's activation for image i:
    :math:`\gamma_j = \mathrm{mean}_k \, \mathrm{mean}_i |\bar x^i_k - \mathrm{mean}_i \bar x^i_k|`. The images should
    be sampled uniformly across classes. (The mean absolute deviation of each channel; after a ReLU, where features are
    not negative, the paper's formula is the same.)

    Args:
        model: the network.
        layers: modules or dotted names.
        dataloader: batches of inputs, or tuples that begin with them. It is gone through twice (first for the means),
            so that memory does not grow with the number of images: each time it must give the same images.
        layout: as for `ExtractAggregate`.
        show_progress: a progress bar.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("vgg")
        >>> scenes = [cea.DigitScenes(4, seed=i)[j][0][None] for i in range(2) for j in range(4)]
        >>> weights = cea.feature_spread_weights(model, ["features.8", "features.18"], scenes, show_progress=False)
        >>> round(sum(weights.values()), 6)
        1.0

    Source: Rebuffi et al., CVPR 2020, section 4.2.
    """
    modules = _modules(model, layers)
    sums = [torch.zeros(()) for _ in modules]
    count = 0
    for features, _ in _streamed(model, modules, dataloader, layout, show_progress, "means"):
        sums = [total + f.double().sum(0) for total, f in zip(sums, features)]
        count += len(features[0])
    if count < 2:
        raise InvalidValueError(f"dataloader gives {count} image(s); expected at least two")
    means = [total / count for total in sums]
    spreads, again = [torch.zeros(()) for _ in modules], 0
    for features, _ in _streamed(model, modules, dataloader, layout, show_progress, "spread"):
        spreads = [total + (f.double() - mean).abs().sum(0) for total, f, mean in zip(spreads, features, means)]
        again += len(features[0])
    if again != count:
        raise InvalidValueError(
            f"dataloader gives {count} images, then {again}; expected one that can be gone through twice"
        )
    raw = {name: (total / count).mean().item() for name, total in zip(_names(model, modules), spreads)}
    return LayerWeights(raw, "feature spread", count)


def accuracy_weights(
    model: nn.Module,
    layers: Iterable[Layer],
    dataloader: Iterable[Any],
    test_share: float = 0.3,
    seed: int = 0,
    layout: Any = "auto",
    show_progress: bool = True,
) -> LayerWeights:
    r"""Weighs layers by how well a linear classifier on their spatial means tells the classes.

    Multinomial logistic regression (scikit-learn) on standardised spatial means; the weight is its accuracy on images
    held out. Features are streamed to a temporary file, and the fit holds those of one layer at a time.

    Args:
        model, layers, layout, show_progress: as for `feature_spread_weights`.
        dataloader: batches `(inputs, labels)` with one class index per image.
        test_share: share of the images held out.
        seed: of the division into training and held-out images.

    Example:
        >>> import captum_extract_aggregate as cea
        >>> model = cea.load_scene_model("vgg")
        >>> scenes = [cea.DigitScenes(40, seed=1)[i] for i in range(40)]
        >>> batches = [(image[None], target["labels"][:1]) for image, target in scenes]
        >>> weights = cea.accuracy_weights(model, ["features.8", "features.18"], batches, show_progress=False)
        >>> list(weights)
        ['features.8', 'features.18']

    Source: Rebuffi et al., CVPR 2020, section 4.2.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not 0 < test_share < 1:
        raise InvalidValueError(f"test_share is {test_share}; expected a share between 0 and 1")
    modules = _modules(model, layers)
    labels: list[int] = []
    with tempfile.TemporaryDirectory() as folder, _FeatureFiles(Path(folder), len(modules)) as files:
        for features, batch_labels in _streamed(model, modules, dataloader, layout, show_progress, "features"):
            labels += _class_indices(batch_labels, len(features[0]))
            files.append(features)
        if len(set(labels)) < 2 or len(labels) < 4:
            raise InvalidValueError(
                f"dataloader gives {len(labels)} images of {len(set(labels))} classes; expected several images of at "
                "least two classes"
            )
        classes = np.array(labels)
        stratify = classes if min(Counter(labels).values()) > 1 else None
        try:
            train, test = train_test_split(
                np.arange(len(classes)), test_size=test_share, random_state=seed, stratify=stratify
            )
        except ValueError as error:
            raise InvalidValueError(
                f"{len(labels)} images cannot be divided ({error}); expected more of them"
            ) from None
        if len(set(classes[train])) < 2:
            raise InvalidValueError("only one class is left to train on; expected several images of each class")
        raw = {}
        for name, x in zip(_names(model, modules), files.read(len(labels))):
            probe = make_pipeline(StandardScaler(copy=False), LogisticRegression(max_iter=1000))
            probe.fit(x[train], classes[train])
            raw[name] = float(probe.score(x[test], classes[test]))
    return LayerWeights(raw, "held-out accuracy", len(labels))


class _FeatureFiles:
    """Keeps one growing file of float32 features per layer, read back as a memory map."""

    def __init__(self, folder: Path, count: int) -> None:
        self._paths = [folder / f"{i}.f32" for i in range(count)]
        self._files = [path.open("wb") for path in self._paths]

    def __enter__(self) -> _FeatureFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files:
            file.close()

    def append(self, features: list[Tensor]) -> None:
        for file, f in zip(self._files, features):
            file.write(f.float().cpu().contiguous().numpy().tobytes())

    def read(self, images: int) -> Iterator[np.ndarray]:
        for path, file in zip(self._paths, self._files):
            file.flush()
            yield np.memmap(path, np.float32, "r").reshape(images, -1)


def _modules(model: nn.Module, layers: Iterable[Layer]) -> list[nn.Module]:
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    if isinstance(layers, (str, nn.Module)):
        raise InvalidTypeError(f"layers is a single {type(layers).__name__}; expected a list of layers to weigh")
    modules = [find_layer(layer, model) for layer in layers]
    if not modules or None in modules:
        raise InvalidValueError(
            "layers is empty or holds None; expected at least one layer, and layers alone (default_layers(model) "
            "lists some)"
        )
    return modules  # type: ignore[return-value]


def _names(model: nn.Module, modules: list[nn.Module]) -> list[str]:
    return [describe(module, (model,)).strip("'") for module in modules]


def _streamed(
    model: nn.Module, layers: list[nn.Module], dataloader: Iterable[Any], layout: Any, show: bool, what: str
) -> Iterator[tuple[list[Tensor], Any]]:
    """Yields batch by batch the spatial means at each layer, `N x K`, and what came with the inputs."""
    places = [Place(layer, differentiate=False) for layer in layers]
    device = next((p.device for p in model.parameters()), None)
    for batch in each(dataloader, what, show):
        inputs, rest = (batch[0], batch[1:]) if isinstance(batch, (tuple, list)) and batch else (batch, ())
        if not isinstance(inputs, Tensor):
            raise InvalidTypeError(
                f"dataloader gives {type(inputs).__name__}; expected batches of tensors, or tuples of them"
            )
        with Undo() as undo, undo:
            set_grad_mode(undo, False)
            evidence = record(model, inputs.to(device), places).activity()
            features = []
            for place in places:
                if len(evidence.activations[place]) > 1:
                    raise InvalidTypeError(
                        "a layer emits several tensors, so it has no one feature; expected other layers"
                    )
                (x,) = evidence.activations[place]
                on_grid = to_channels_first(x, layout, evidence.surroundings(place))(x)
                mean = on_grid.flatten(2).float().mean(2)
                if not torch.isfinite(mean).all():
                    raise InvalidValueError("features are NaN or infinite; expected finite images and weights")
                features.append(mean)
        yield features, rest


def _class_indices(rest: Any, count: int) -> list[int]:
    if not rest or not isinstance(rest[0], (Tensor, list, tuple)) or len(rest[0]) != count:
        raise InvalidValueError("dataloader gives no class index for each image; expected batches (inputs, labels)")
    try:
        labels = torch.as_tensor(rest[0])
    except (TypeError, ValueError):
        raise InvalidValueError(f"labels are {rest[0]!r}; expected class indices") from None
    if labels.ndim != 1 or labels.is_floating_point():
        raise InvalidValueError(
            f"labels have shape {tuple(labels.shape)} and {labels.dtype}; expected one index per image"
        )
    return labels.tolist()
