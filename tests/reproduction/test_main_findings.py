"""The findings that must not turn around."""

from captum_extract_aggregate import reproduction
from captum_extract_aggregate.reproduction import (
    Outcome,
    Request,
    main_findings,
    reproduce,
)


def test_a_finding_that_turns_around_fails(monkeypatch, tmp_path):
    request = Request(("k20-fig1",), output=tmp_path, quick=True, show_progress=False)
    monkeypatch.setattr(main_findings, "measure", lambda what, setting: 1000.0)
    monkeypatch.setattr(reproduction, "carry_out", lambda name, setting: Outcome())
    _, stands = reproduce(request)
    assert stands
    monkeypatch.setattr(main_findings, "measure", lambda what, setting: -1.0)
    text, stands = reproduce(request)
    assert not stands
    assert "HAS TURNED AROUND" in text
