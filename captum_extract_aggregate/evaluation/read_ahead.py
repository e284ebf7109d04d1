"""Images that are read while those before them are explained: decoding takes longer than a GPU's passes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch

from captum_extract_aggregate.data.image_files import unwarned
from captum_extract_aggregate.evaluation.image_digests import content_of
from captum_extract_aggregate.evaluation.images import Images, Sample, UnreadableError

_MOST_READERS = 8


class Look(NamedTuple):
    """Holds what was seen of an image: itself, or why it cannot be read, and what it was made of at that time (see
    `content_of`)."""

    sample: Sample | None
    error: str
    content: tuple[str, str]


def look_at(images: Images, i: int) -> Look:
    """Reads an image."""
    try:
        sample = images.read(i)
    except UnreadableError as error:
        return Look(None, str(error), content_of(images, i, None))
    return Look(sample, "", content_of(images, i, sample))


class Ahead:
    """Looks at what is expected in other threads, until it is asked for."""

    def __init__(self, images: Images, pool: ThreadPoolExecutor) -> None:
        self._images, self._pool = images, pool
        self._coming: dict[int, Future[Look]] = {}

    def expect(self, batch: range) -> None:
        """Says which images will be asked for next."""
        for i in batch:
            if i not in self._coming:
                self._coming[i] = self._pool.submit(look_at, self._images, i)

    def look(self, i: int) -> Look:
        """Returns what was seen of an image that was expected."""
        return self._coming.pop(i).result()


@contextlib.contextmanager
def reading_ahead(images: Images, device: torch.device, processes: int) -> Iterator[Ahead]:
    """Holds the threads that read."""
    readers = 1 if device.type == "cpu" else min(_MOST_READERS, max(1, (os.cpu_count() or 1) // processes))
    with unwarned():
        pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
        try:
            yield Ahead(images, pool)
        finally:
            pool.shutdown(cancel_futures=True)
