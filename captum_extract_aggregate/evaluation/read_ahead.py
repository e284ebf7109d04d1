"""Images that are read while those before them are explained: decoding takes longer than a GPU's passes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from captum_extract_aggregate.evaluation.images import Images, Sample

_MOST_READERS = 8


class Ahead:
    """Reads what is expected in other threads, until it is asked for."""

    def __init__(self, images: Images, pool: ThreadPoolExecutor | None) -> None:
        self._images, self._pool = images, pool
        self._coming: dict[int, Future[Sample]] = {}
        self.images = replace(images, read=self._read)

    def expect(self, batch: range) -> None:
        """Says which images will be asked for next."""
        if self._pool is not None:
            for i in batch:
                if i not in self._coming:
                    self._coming[i] = self._pool.submit(self._images.read, i)

    def _read(self, i: int) -> Sample:
        coming = self._coming.pop(i, None)
        return self._images.read(i) if coming is None else coming.result()


@contextlib.contextmanager
def reading_ahead(images: Images, device: torch.device, processes: int) -> Iterator[Ahead]:
    """Holds the threads that read. A data set of the user's own is read when its turn comes: it may draw, or not bear
    threads."""
    if not images.may_be_read_ahead:
        yield Ahead(images, None)
        return
    readers = 1 if device.type == "cpu" else min(_MOST_READERS, max(1, (os.cpu_count() or 1) // processes))
    pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
    try:
        yield Ahead(images, pool)
    finally:
        pool.shutdown(cancel_futures=True)
