"""What an image was when its results were computed: digests that tell whether it has changed since."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from captum_extract_aggregate.evaluation.images import Images, Sample, Source


def content_of(images: Images, i: int, sample: Sample | None) -> tuple[str, str]:
    """Returns a digest of all that image i is made of, and the state of its files, which tells whether they may have
    changed.

    `sample` is None for one that cannot be read.
    """
    source = images.source(i)
    if source.files is None:
        return _digest(_parts_of(sample) if sample is not None else [b"unreadable"]), ""
    stamp = stamp_of(source)
    return _digest([source.about.encode(), *(_bytes_of(path) for path in source.files)]), stamp


def stamp_of(source: Source) -> str:
    """Returns sizes, times and places on the disk of an image's files, and what is known of it; "" if that proves
    nothing."""
    if not source.files or os.name == "nt":  # where the time of a file's last change is not known
        return ""
    try:
        states = [path.stat() for path in source.files]
    except OSError:
        return ""
    times = [(s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev) for s in states]
    return _digest([source.about.encode(), repr(times).encode()])


def _digest(parts: Sequence[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _bytes_of(path: Path) -> bytes:
    try:
        return b"+" + path.read_bytes() if path.is_file() else b"missing"
    except OSError:
        return b"unreadable"


def _parts_of(sample: Sample) -> list[bytes]:
    x = sample.x.detach().cpu().contiguous()
    parts = [f"{x.dtype} {tuple(x.shape)} {sample.label}".encode(), x.flatten().view(torch.uint8).numpy().tobytes()]
    if sample.pairs is not None:
        pairs = sample.pairs
        parts += [repr((pairs.classes, pairs.difficult)).encode(), pairs.masks.cpu().numpy().tobytes()]
    return parts
