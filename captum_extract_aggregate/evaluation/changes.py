"""Whether images are still what they were when their results were computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from captum_extract_aggregate._common.seeding import seeded
from captum_extract_aggregate.evaluation.image_digests import content_of, stamp_of
from captum_extract_aggregate.evaluation.images import Sample, UnreadableError
from captum_extract_aggregate.evaluation.prepared import Prepared
from captum_extract_aggregate.evaluation.store import ContentRow, Done, ResultsError

_CURE = "expected the images that its results were begun with: bring them back, or choose another --results"


def check_images(prepared: Prepared, keys: Sequence[str], done: Done, mine: Iterable[int]) -> None:
    """Raises our error for an image that is another than it was, in any of some batches, or for one in another's place.

    More images, or fewer, are none: batches that hold the same ones as before are kept.
    """
    _check_names(prepared, keys, done)
    batches = prepared.batches()
    for number in mine:
        known = done.images.get(keys[number], {})
        stamped = {i for i in known if known[i].stamp and known[i].stamp == stamp_of(prepared.images.source(i))}
        if stamped != set(known):
            _check_contents(prepared, batches[number], {i: known[i] for i in known if i not in stamped})


def _check_names(prepared: Prepared, keys: Sequence[str], done: Done) -> None:
    """Raises our error for an image in the place of another, which may be a mistake; any may come or go."""
    current = set(done.newest.keys) if done.newest is not None else set()
    gone = {i: row.name for key in current - set(keys) for i, row in done.images.get(key, {}).items()}
    names = [prepared.images.name(i) for i in range(prepared.images.count)] if gone else []
    before = [row.name for key in current for row in done.images.get(key, {}).values()]
    vanished, fresh = Counter(gone.values()) - Counter(names), Counter(names) - Counter(before)
    if vanished and fresh:
        i = min(i for i, name in gone.items() if name in vanished)
        now = repr(names[i]) if i < len(names) else "not there"
        raise ResultsError(f"image {i}{_origin(prepared)} is {now}, was {gone[i]!r}; {_CURE}")


def _check_contents(prepared: Prepared, batch: range, known: dict[int, ContentRow]) -> None:
    with seeded(prepared.plan.run.seed + batch.start):  # as when they were read first
        for i in batch:
            sample = _read(prepared, i) if prepared.images.source(i).files is None else None
            if i in known and content_of(prepared.images, i, sample)[0] != known[i].content:
                raise ResultsError(
                    f"image {i}{_origin(prepared)} ({known[i].name!r}) has changed, or its class or objects, since its "
                    f"results were computed; {_CURE}"
                )


def _read(prepared: Prepared, i: int) -> Sample | None:
    try:
        return prepared.images.read(i)
    except UnreadableError:
        return None


def _origin(prepared: Prepared) -> str:
    data = prepared.plan.data
    where = data.file or data.root or data.dataset
    return f" of {where!r}" if where else ""
