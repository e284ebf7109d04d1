"""The models of the page: built when one is first asked for, each with its layers and what its classes are called."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from captum_extract_aggregate._common.errors import InvalidValueError, unknown_name
from captum_extract_aggregate._engine.default_layers import default_layers
from captum_extract_aggregate._engine.layers import find_layer
from captum_extract_aggregate.attr.by_name import evenly_spread
from captum_extract_aggregate.data.models_by_name import NamedModel
from captum_extract_aggregate.explanation.explain import layers_of
from captum_extract_aggregate.explanation.pictures import Seen, see
from captum_extract_aggregate.explanation.subject import class_name, scores_of
from captum_extract_aggregate.insights.offered import INPUT, is_captums, method
from captum_extract_aggregate.live.gallery import Photo

ALL_LAYERS = "all layers"
_MOST_CLASSES = 1000  # that are offered, those with the highest scores
_MOST_LAYERS = 400
_MOST_COLUMNS = 5


class Network:
    """Is one model, with what the page offers of it.

    Args:
        name: as the page calls it.
        of_scenes: whether it knows scenes of digits alone.
        subject: the model, with what it takes.
    """

    def __init__(self, name: str, of_scenes: bool, subject: NamedModel) -> None:
        self.name, self.of_scenes, self.subject = name, of_scenes, subject
        self.model = subject.model
        self._default: dict[str, nn.Module] | None = None

    def see(self, photo: Photo) -> Seen:
        """Returns a picture as the model takes it, and as it is shown."""
        if photo.scene is not None and self.of_scenes:
            return see(photo.scene, self.subject, None)
        return see(photo.picture, self.subject, None)

    def called(self, index: int) -> str:
        """Returns what a class is called."""
        return class_name(self.subject.classes, index)

    def ranked(self, scores: Tensor) -> list[tuple[int, str, float]]:
        """Returns the classes with the highest scores: index, name, score."""
        top = scores.topk(min(_MOST_CLASSES, len(scores)))
        return [(i, self.called(i), round(s, 4)) for i, s in zip(top.indices.tolist(), top.values.tolist())]

    def scores(self, x: Tensor) -> Tensor:
        """Returns the class scores of one input."""
        return scores_of(self.model, x)[0]

    def default(self, x: Tensor) -> dict[str, nn.Module]:
        """Returns the layers at which maps are usually taken."""
        if self._default is None:
            self._default = evenly_spread(default_layers(self.model, x), _MOST_COLUMNS)
        return self._default

    @cached_property
    def others(self) -> list[str]:
        """The names of all layers that hold parameters of their own."""
        own = [n for n, m in self.model.named_modules() if n and any(True for _ in m.parameters(recurse=False))]
        return own[:_MOST_LAYERS]

    def usual(self, name: str, x: Tensor) -> list[str]:
        """Returns the names of the layers that a method is meant for, the one to begin with last."""
        names = {layer: n for n, layer in self.model.named_modules()}
        return [names[layer] for layer in layers_of(name, self.model, x, self.default(x))]

    def layers(self, name: str, layer: str, x: Tensor) -> list[nn.Module | None]:
        """Returns the layers of a method: all that it joins, the one that is named, or the usual one."""
        if method(name).joins_layers:
            suited = method(name).suited_layers(self.model, x)
            all_of_them = suited or default_layers(self.model, x)
            return [all_of_them[name] for name in all_of_them]
        if layer == INPUT and not is_captums(name):
            return [None]
        if layer:
            return [find_layer(layer, self.model)]
        usual = layers_of(name, self.model, x, self.default(x))
        if not usual:
            raise InvalidValueError(f"method {name!r} has no layer of its kind here; expected another model or method")
        return [usual[-1]]


class Networks:
    """Holds the models that the page offers, each built when it is first asked for; nothing else can be named.

    Args:
        builds: by name, what gives the model with what it takes, and whether it is for scenes of digits.
    """

    def __init__(self, builds: Mapping[str, tuple[Callable[[], NamedModel], bool]]) -> None:
        self._builds = dict(builds)
        self._built: dict[str, Network] = {}
        self._lock = threading.Lock()

    def names(self) -> dict[str, bool]:
        """Returns the names, and whether each is for scenes."""
        return {name: of_scenes for name, (_, of_scenes) in self._builds.items()}

    def __getitem__(self, name: str) -> Network:
        if name not in self._builds:
            raise InvalidValueError(unknown_name("model", name, self._builds))
        with self._lock:
            if name not in self._built:
                build, of_scenes = self._builds[name]
                subject = build()
                with torch.no_grad():
                    self._built[name] = Network(name, of_scenes, subject)
            return self._built[name]
