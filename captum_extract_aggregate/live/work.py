"""What the page is answered: what it offers, what a model sees, maps, and whether one can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from captum.attr import Attribution
from torch import Tensor

from captum_extract_aggregate._common.errors import InvalidValueError, said
from captum_extract_aggregate.explanation.explain import method_on
from captum_extract_aggregate.explanation.explanation import Explanation, at_most
from captum_extract_aggregate.insights.offered import INPUT, is_captums, method, names, offered
from captum_extract_aggregate.live.asked import MOST_MAPS, Choice, Doubt, Judge, Look, Maps
from captum_extract_aggregate.live.gallery import LARGEST_FILE, Gallery, Photo
from captum_extract_aggregate.live.networks import ALL_LAYERS, Network, Networks
from captum_extract_aggregate.visualization.page_data import colour_data, map_data, picture_data

Told = dict[str, Any]
_LARGEST = 640  # pixels of the longer side of what is shown
_FAILED = (ValueError, TypeError, RuntimeError, NotImplementedError, AssertionError, MemoryError)


class Work:
    """Answers the page.

    Args:
        networks, gallery: what there is to explain.
        first: the method that is chosen at first.
    """

    def __init__(self, networks: Networks, gallery: Gallery, first: str) -> None:
        self.networks, self.gallery, self.first = networks, gallery, first
        self._usual: dict[str, dict[str, list[str]]] = {}

    def offer(self) -> Told:
        """Returns what may be chosen."""
        return {
            "models": [{"name": name, "scenes": scenes} for name, scenes in self.networks.names().items()],
            "methods": [_offered(name) for name in names()],
            "first": self.first,
            "most": MOST_MAPS,
            "largest": LARGEST_FILE,
            "input": INPUT,
            "colours": colour_data(),
        }

    def pictures(self) -> list[Told]:
        """Returns all pictures."""
        return [picture_told(photo) for photo in self.gallery.all()]

    def look(self, asked: Look) -> Told:
        """Returns what a model sees: the picture, the scores, and its layers."""
        network, photo = self.networks[asked.model], self.gallery[asked.picture]
        seen = network.see(photo)
        scores = network.scores(seen.x)
        return {
            "picture": picture_data(at_most(seen.picture, _LARGEST)),
            "scores": network.ranked(scores),
            "classes": len(scores),
            "labels": [network.called(i) for i in photo.labels] if network.of_scenes else [],
            "right": int(scores.argmax()) in photo.labels if photo.labels and network.of_scenes else None,
            "layers": list(network.default(seen.x)),
            "others": network.others,
            "usual": self._usual_of(network, seen.x),
        }

    def right(self, asked: Judge) -> dict[str, bool]:
        """Returns by picture whether the highest score is of a class that is in it, where that is known."""
        network = self.networks[asked.model]
        known = [photo for photo in self.gallery.all() if photo.labels and network.of_scenes]
        return {photo.id: int(network.scores(network.see(photo).x).argmax()) in photo.labels for photo in known}

    def maps(self, asked: Maps) -> Iterator[Told]:
        """Yields what happens, map by map: that one is begun, and the map or why there is none."""
        photo = self.gallery[asked.picture]
        for i, choice in enumerate(asked.maps):
            yield {"map": i, "state": "begun", "done": i, "of": len(asked.maps)}
            try:
                yield {"map": i, "state": "made", **self._map(photo, choice)}
            except _FAILED as error:  # a user's mistake, or whatever a model refuses
                yield {"map": i, "state": "failed", "error": line_of(error)}
        yield {"state": "ended", "done": len(asked.maps), "of": len(asked.maps)}

    def trust(self, asked: Doubt, report: Callable[[int, int, str], None]) -> Told:
        """Returns what three questions say of a map; `report` hears of the steps: which, of how many, and what."""
        from captum_extract_aggregate.explanation.trust import trust

        found = trust(self._explained(self.gallery[asked.picture], asked.map), report=report)
        answer = {name: _told(value) for name, value in asdict(found.answers[0]).items()}
        null, chance = [_told(value) for value in found.null], _told(found.chance)
        return {"state": "made", **answer, "null": null, "chance": chance, "sentence": found.sentence}

    def _usual_of(self, network: Network, x: Tensor) -> dict[str, list[str]]:
        if network.name not in self._usual:
            self._usual[network.name] = {name: _usual(network, name, x) for name in names()}
        return self._usual[network.name]

    def _map(self, photo: Photo, choice: Choice) -> Told:
        found = self._explained(photo, choice)
        ((layer, map_),) = found.maps[choice.method].items()
        return {
            "data": map_data(map_),
            "signed": bool((map_ < 0).any()),
            "layer": layer,
            "target": found.target,
            "class": found.name_of(found.target),
            "score": round(float(found.scores[found.target]), 4),
        }

    def _explained(self, photo: Photo, choice: Choice) -> Explanation:
        """Returns the explanation of one map alone."""
        network, values = self.networks[choice.model], choice.values()
        seen = network.see(photo)
        scores = network.scores(seen.x)
        target = int(scores.argmax()) if choice.target is None else choice.target
        if target >= len(scores):
            raise InvalidValueError(f"target is {target}; expected 0 to {len(scores) - 1}: the model's classes")
        layers = network.layers(choice.method, choice.layer, seen.x)
        if is_captums(choice.method):
            made: Attribution = _WithValues(method_on(choice.method, network.model, layers), values)
        else:
            made = method_on(choice.method, network.model, layers, **values)
        shown = at_most(seen.picture, _LARGEST)
        named = [choice.layer] if choice.layer else []
        methods = {choice.method: made}
        classes = network.subject.classes
        return Explanation(network.model, network.name, seen.x, shown, scores, target, classes, named, methods)


class _WithValues(Attribution):
    """Is one of Captum's methods, whose arguments belong to its call."""

    def __init__(self, made: Attribution, values: dict[str, Any]) -> None:
        super().__init__(made.forward_func)
        self.made, self.values, self.layer = made, values, getattr(made, "layer", None)

    def attribute(self, inputs: Any, **kwargs: Any) -> Any:
        """Returns the method's maps."""
        attribute: Any = self.made.attribute
        return attribute(inputs, **self.values, **kwargs)


def picture_told(photo: Photo) -> Told:
    """Returns what the page lists of a picture."""
    return {"id": photo.id, "name": photo.name, "scene": photo.scene is not None}


def _offered(name: str) -> Told:
    values = {a: v if isinstance(v, int) else list(v) for a, v in offered(name).items()}
    at_input = not is_captums(name) and not method(name).needs_layers
    return {"name": name, "joins": method(name).joins_layers, "input": at_input, "arguments": values}


def _usual(network: Network, name: str, x: Tensor) -> list[str]:
    """Returns the layers that a method is meant for; none where the model has none of the kind."""
    if method(name).joins_layers:
        return [ALL_LAYERS]
    try:
        with torch.no_grad():
            return network.usual(name, x)
    except (TypeError, ValueError):
        return []


def line_of(error: BaseException) -> str:
    """Returns what went wrong, in one line that the page shows."""
    told = str(error) if isinstance(error, (ValueError, TypeError)) and str(error) else said(error)
    told = " ".join(told.split())
    return told if len(told) <= 400 else f"{told[:397]}..."


def _told(value: Any) -> Any:
    """Returns a value as JSON has it, which knows no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
