"""What an experiment found, kept in a file, so that a later run need not make it again."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path

from captum_extract_aggregate.reproduction.findings import Finding, Outcome

FORMAT = 1


def keep(outcome: Outcome, path: Path) -> None:
    """Writes an outcome as JSON; pictures by name, which lie beside it."""
    content = {
        "format": FORMAT,
        "tables": outcome.tables,
        "findings": [_plain(finding) for finding in outcome.findings],
        "pictures": [picture.name for picture in outcome.pictures],
    }
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(new, path)  # at any instant the file is the old one or the new one


def kept_outcome(path: Path) -> Outcome | None:
    """Returns the outcome that a file holds; None where there is none, it is of another format, or a picture lacks."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    pictures = [path.parent / name for name in content["pictures"]]
    if not all(picture.is_file() for picture in pictures):
        return None
    findings = [Finding(**(f | {key: _number(f[key]) for key in ("p", "needed")})) for f in content["findings"]]
    return Outcome(content["tables"], findings, pictures)


def _plain(finding: Finding) -> dict[str, object]:
    """Returns a finding whose numbers JSON knows: None stands for one that is not there, a text for infinity."""
    plain = asdict(finding)
    for key in ("p", "needed"):
        value = plain[key]
        plain[key] = None if math.isnan(value) else "inf" if math.isinf(value) else value
    return plain


def _number(value: object) -> float:
    return math.nan if value is None else float(value)  # type: ignore[arg-type]
