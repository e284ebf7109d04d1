"""The pictures of the page: scenes, the user's files, and what is dropped on it; the oldest drops go first."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from captum_extract_aggregate._common.errors import InvalidValueError
from captum_extract_aggregate.data.image_files import image_in
from captum_extract_aggregate.data.scenes import DigitScenes

LARGEST_FILE = 20 << 20  # bytes
MOST_PIXELS = 40_000_000  # of one picture
_MOST_KEPT = 120_000_000  # pixels of all that were dropped
_LONGEST_NAME = 120
_THUMBNAIL = 160


@dataclass(frozen=True)
class Photo:
    """Holds a picture of the page; of a scene also the model's input, and the digits that are in it."""

    id: str
    name: str
    picture: Image.Image
    scene: Tensor | None = None
    labels: tuple[int, ...] = ()

    def thumbnail(self) -> bytes:
        """Returns a small PNG."""
        small, file = self.picture.copy(), io.BytesIO()
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        small.save(file, "PNG")
        return file.getvalue()


class Gallery:
    """Holds pictures by an id that is made of their content, so that a link finds a picture that is dropped again.

    Args:
        photos: stay as long as the page is there.
    """

    def __init__(self, photos: Sequence[Photo]) -> None:
        self._own = {photo.id: photo for photo in photos}
        self._dropped: OrderedDict[str, Photo] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, content: bytes, name: str) -> Photo:
        """Keeps what was dropped. Raises ValueError for what is no picture, or too large."""
        name = "".join(c if c.isprintable() else " " for c in name)[:_LONGEST_NAME] or "a picture"
        photo = photo_of(image_in(content, name, MOST_PIXELS), name)
        if photo.id in self._own:
            return self._own[photo.id]
        with self._lock:
            self._dropped[photo.id] = photo
            self._dropped.move_to_end(photo.id)
            while sum(p.picture.width * p.picture.height for p in self._dropped.values()) > _MOST_KEPT:
                self._dropped.popitem(last=False)
        return photo

    def all(self) -> list[Photo]:
        """Returns all pictures, the dropped ones first."""
        with self._lock:
            return [*reversed(self._dropped.values()), *self._own.values()]

    def __getitem__(self, id: str) -> Photo:
        with self._lock:
            found = self._dropped.get(id) or self._own.get(id)
        if found is None:
            raise InvalidValueError("the picture is not here any more; expected it to be dropped again")
        return found


def photo_of(picture: Image.Image, name: str) -> Photo:
    """Returns a picture of the user's."""
    content = f"{picture.size}".encode() + picture.tobytes()
    return Photo(hashlib.sha256(content).hexdigest()[:16], name, picture)


def scenes(n: int = 12) -> list[Photo]:
    """Returns scenes of handwritten digits."""
    found, data = [], DigitScenes(n=n)
    for i in range(n):
        image, about = data[i]
        labels = tuple(sorted({int(label) for label in about["labels"]}))
        picture = to_pil_image(DigitScenes.to_rgb(image))
        found.append(Photo(f"scene-{i}", f"scene {i}", picture, image, labels))
    return found
