"""Outcomes come back from files as they were."""

import math

from captum_extract_aggregate.reproduction.findings import Finding, Outcome
from captum_extract_aggregate.reproduction.kept import keep, kept_outcome


def test_an_outcome_comes_back(tmp_path):
    picture = tmp_path / "p.png"
    picture.touch()
    findings = [
        Finding("one", True, 3, "2 against 1", 0.012),
        Finding("δe₋", False, 5, "", 0.4, False, 71.0),
        Finding("three", False, 5, "", 1.0, False, math.inf),
        Finding("four", None, effect="no rule"),
    ]
    keep(Outcome(["| a |"], findings, [picture]), tmp_path / "x.json")
    found = kept_outcome(tmp_path / "x.json")
    assert found.tables == ["| a |"]
    assert found.pictures == [picture]
    assert [repr(f) for f in found.findings] == [repr(f) for f in findings]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["p.png", "x.json"]


def test_what_cannot_be_taken_over(tmp_path):
    path = tmp_path / "x.json"
    assert kept_outcome(path) is None
    path.write_text("{")
    assert kept_outcome(path) is None
    path.write_text('{"format": 0}')
    assert kept_outcome(path) is None
    keep(Outcome(pictures=[tmp_path / "gone.png"]), path)
    assert kept_outcome(path) is None
