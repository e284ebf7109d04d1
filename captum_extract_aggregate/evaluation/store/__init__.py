"""Results as they come: SQLite files in a folder, one for each process, that survive a kill at any instant.

Images go in batches; each batch is one transaction, so that it is there whole or not at all. Every process writes a
file of its own, and reading joins them, sorted: it cannot be told from the result who computed what, or when.

A file knows what its numbers depend on (plan, weights, code, images). A plan with more methods, layers, measures or
images goes on with what is there; a plan with fewer hides the rest; any other difference is refused, by name.
"""

from captum_extract_aggregate.evaluation.store.done import Done, done_batches
from captum_extract_aggregate.evaluation.store.files import check_part, part_paths
from captum_extract_aggregate.evaluation.store.records import (
    BatchRows,
    ContentRow,
    ImageRow,
    MapRow,
    Record,
    ResultsError,
    Row,
    TargetRow,
)
from captum_extract_aggregate.evaluation.store.results import Results
from captum_extract_aggregate.evaluation.store.writer import Writer

__all__ = [
    "BatchRows",
    "ContentRow",
    "Done",
    "ImageRow",
    "MapRow",
    "Record",
    "Results",
    "ResultsError",
    "Row",
    "TargetRow",
    "Writer",
    "check_part",
    "done_batches",
    "part_paths",
]
