"""The pages of docs/reproduction, from the results that lie beside them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from benchmarks.independent_game import HOW, NAME, TITLE
from captum_extract_aggregate.reproduction import EXPERIMENTS
from captum_extract_aggregate.reproduction.findings import (
    FAILS,
    HOLDS,
    UNTESTED,
    UNTOLD,
    Finding,
    Outcome,
    findings_table,
    markdown,
)
from captum_extract_aggregate.reproduction.kept import keep, kept_outcome
from captum_extract_aggregate.reproduction.published import PAPERS, PUBLISHED, counted, published_table

DOCS = Path(__file__).parent.parent / "docs"
PAGES, RESULTS = DOCS / "reproduction", DOCS / "reproduction" / "results"
TEXTS = Path(__file__).parent / "reproduction_text"
# Okabe and Ito's blue, vermilion and grey-yellow, which differ in lightness too, and a sign that needs no colour.
SIGNS = {HOLDS: ("✓", "#0072B2", "white"), FAILS: ("✗", "#D55E00", "black"), UNTOLD: ("?", "#F0E442", "black")}
SHOWN = {"lite0": "EfficientNet-Lite0", "mobilenet": "MobileNetV2", "squeezenet": "SqueezeNet", "vit-tiny": "ViT-Tiny",
         "resnet20": "CIFAR ResNet-20", "scene-resnet": "scene ResNet", "scene-vgg": "scene VGG"}  # fmt: skip
# Figures of maps over pictures: shown of scenes alone, as photographs are not this project's to show.
MAPS_ALONE = ("r20-fig2", "r20-fig12", "r20-fig15", "k20-fig1", "k20-fig2", "k20-fig3", "k20-fig5", "k20-fig6",
              "g20-fig7")  # fmt: skip
MAPS = (*MAPS_ALONE, "r20-fig4", "r20-fig5", "r20-fig13-maps", "g20-fig2", "g20-fig4")  # and numbers beside them


def _summary_rows() -> list[tuple[str, str, str]]:
    """Returns what the papers are cited for: a sentence, the experiment, and how its statements about it begin."""
    lines = TEXTS.joinpath("summary.tsv").read_text(encoding="utf-8").splitlines()
    return [(text, name, begins) for text, name, begins in (line.split("\t") for line in lines)]


def write(folder: Path) -> None:
    """Copies results and pictures from a folder of runs beside the pages, and writes the pages."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.json")):
        outcome = kept_outcome(path)
        if outcome is None or _split(path.stem) is None:
            continue
        shown = [picture for picture in outcome.pictures if _may_be_shown(picture.name)]
        keep(Outcome(outcome.tables, outcome.findings, shown), RESULTS / path.name)
        for picture in shown:
            with Image.open(picture) as drawn:  # 128 colours are plenty, and a third of the size
                drawn.convert("RGB").quantize(128).save(RESULTS / picture.name, optimize=True)
    pages()


def _may_be_shown(picture: str) -> bool:
    is_maps = any(picture.startswith(f"{name}-") and name != "r20-fig13" for name in MAPS)
    return picture.endswith("scene-resnet.png") if is_maps else True


def pages() -> None:
    """Writes the pages from the results that lie beside them."""
    found = results()
    for paper in PAPERS:
        PAGES.joinpath(f"{paper.lower()}.md").write_text(page(paper, found), encoding="utf-8")
    DOCS.joinpath("reproduction.md").write_text(summary(found), encoding="utf-8")


Found = dict[str, dict[str, Outcome]]  # by experiment and setting


def results() -> Found:
    """Returns the results that lie beside the pages."""
    found: Found = {}
    for path in sorted(RESULTS.glob("*.json")):
        parts, outcome = _split(path.stem), kept_outcome(path)
        if parts is not None and outcome is not None:
            found.setdefault(parts[0], {})[parts[1]] = outcome
    return found


def _split(stem: str) -> tuple[str, str] | None:
    """Returns the experiment and the setting that a file is named after."""
    names = [name for name in (*EXPERIMENTS, NAME) if stem.startswith(f"{name}-")]
    name = max(names, key=len, default="")
    return (name, stem.removeprefix(f"{name}-")) if name else None


def _networks(found: Found) -> dict[str, list[str]]:
    """Returns the settings of each network, which differ in their pictures."""
    named: dict[str, list[str]] = {}
    for setting in _settings(found):
        kind, _, network = setting.partition("-")
        if kind != "voc":
            named.setdefault(setting if kind == "scene" else network, []).append(setting)
    return {name: named[name] for name in sorted(named, key=list(SHOWN).index)}


def _settings(found: Found) -> list[str]:
    every = {setting for of in found.values() for setting in of}
    order = ("imagenet", "coco", "ecssd", "scene", "cifar", "voc")
    return sorted(every, key=lambda name: (order.index(name.split("-")[0]), name))


def summary(found: Found) -> str:
    """Returns the page that says what the papers are cited for, statement by network."""
    done, count = counted()
    networks = _networks(found)
    rows = []
    for text, experiment, begins in _summary_rows():
        cells = [
            _cell([f for setting in settings for f in _chosen(found, experiment, setting, begins)], experiment)
            for settings in networks.values()
        ]
        if any(cells):
            rows.append([text, *cells])
    legend = ", ".join(f"{_badge(verdict, verdict)}" for verdict in SIGNS)
    text = TEXTS.joinpath("summary.md").read_text(encoding="utf-8").rstrip()
    text = text.replace("{done}", str(done)).replace("{count}", str(count)).replace("{legend}", legend)
    own = [f"reproduction/{paper.lower()}" for paper in PAPERS]
    tree = "\n".join(["```{toctree}", ":hidden:", *own, "```"])
    return "\n\n".join([text, markdown(["statement", *(SHOWN[name] for name in networks)], rows), tree]) + "\n"


def _chosen(found: Found, experiment: str, setting: str, begins: str) -> list[Finding]:
    outcome = found.get(experiment, {}).get(setting)
    return [f for f in outcome.findings if re.match(begins, f.statement)] if outcome else []


def _cell(findings: list[Finding], experiment: str) -> str:
    """Returns how many statements hold, do not, or cannot be told, linked to the evidence."""
    counts = {verdict: sum(f.verdict == verdict for f in findings) for verdict in SIGNS}
    shown = [_badge(verdict, f"{n}" if len(findings) > 1 else "") for verdict, n in counts.items() if n]
    page = f"reproduction/{experiment.split('-')[0]}.md#{experiment}"
    return f"[{' '.join(shown)}]({page})" if shown else ("untested" if findings else "")


def _badge(verdict: str, text: str) -> str:
    sign, colour, ink = SIGNS[verdict]
    style = f"background:{colour};color:{ink};padding:0 .4em;border-radius:.3em;white-space:nowrap"
    return f'<span style="{style}" title="{html.escape(verdict)}">{sign}{text and " "}{text}</span>'


def page(paper: str, found: Found) -> str:
    """Returns a paper's page."""
    prefix = paper.lower()
    names = [name for name in EXPERIMENTS if name.startswith(f"{prefix}-")]
    parts = [f"# {PAPERS[paper]}", TEXTS.joinpath(f"{prefix}.md").read_text(encoding="utf-8").rstrip()]
    parts += ["## Figures and tables", published_table(paper), "## Results"]
    titles = {name: EXPERIMENTS[name].title for name in names}
    if prefix == "r20":
        titles[NAME] = TITLE
    numbers = {p.experiment: f"{p.paper} {p.number}" for p in PUBLISHED if p.experiment}
    for name, title in titles.items():
        parts += _section(name, f"{numbers.get(name, 'further')}: {title}", found.get(name, {}))
    return "\n\n".join(parts) + "\n"


def _section(name: str, heading: str, of: dict[str, Outcome]) -> Iterable[str]:
    how = f"`reproduce {name}`" if name in EXPERIMENTS else HOW
    parts = [f"({name})=\n### {heading.rstrip('.')}", how]
    if not of:
        return [*parts, "Not run yet."]
    for setting in list(_settings({name: of})):
        outcome = of[setting]
        counts = {v: sum(f.verdict == v for f in outcome.findings) for v in (*SIGNS, UNTESTED)}
        told = " ".join(_badge(v, str(n)) if v in SIGNS else f"untested {n}" for v, n in counts.items() if n)
        body = [findings_table(outcome.findings)] if outcome.findings else []
        body += outcome.tables
        body += [f"![{name} on {setting}](results/{picture.name})" for picture in outcome.pictures]
        parts += [f"<details><summary>{setting} {told}</summary>", *body, "</details>"]
    return parts
