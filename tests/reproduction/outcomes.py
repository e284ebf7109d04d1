"""What every outcome of an experiment must be, and settings whose results are made by hand."""

import math
from types import SimpleNamespace

from captum_extract_aggregate.reproduction import EXPERIMENTS

# Every one, on both networks and more images, is run by the slow test of the main findings.
QUICK = ("r20-table4", "r20-fig8", "r20-fig15", "k20-table1", "k20-table2", "g20-fig3")


def check_outcome(outcome):
    cannot_be_tested = bool(outcome.findings) and all(finding.holds is None for finding in outcome.findings)
    assert outcome.tables or outcome.pictures or cannot_be_tested
    assert all(path.stat().st_size > 1000 for path in outcome.pictures)
    for finding in outcome.findings:
        assert finding.statement
        assert finding.holds is None or finding.n > 0, finding
        assert math.isnan(finding.p) or 0 <= finding.p <= 1


def names(module):
    """The experiments of a module that are run by default."""
    return [name for name in QUICK if EXPERIMENTS[name].run.__module__ == module.__name__]


def with_results(results, folder, **facts):
    """A setting that evaluates nothing: it gives results made by hand."""
    known = {"name": "hand", "folder": folder, "layers": ("l1", "l2"), "has_objects": True, "tolerance": 3, "step": 64}
    return SimpleNamespace(evaluate=lambda *given: results, **(known | facts))


def cells(table):
    """The rows of a Markdown table by their first cell."""
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines() if line]
    return {row[0]: row[1:] for row in rows}
