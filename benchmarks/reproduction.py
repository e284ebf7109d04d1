"""Every table and figure of the papers, on the scenes and on real networks and images: docs/reproduction.md.

    python benchmarks/reproduction.py FOLDER [SETTING ...]     # evaluates (hours on two cores; continues where it was)
    python benchmarks/reproduction.py FOLDER --write           # writes docs/reproduction.md and its pictures

Real data are those in the folder named by CEA_DATA (default ../shared/data).
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from PIL import Image

from captum_extract_aggregate.evaluation import DataPlan, ModelPlan
from captum_extract_aggregate.reproduction import (
    EXPERIMENTS,
    Outcome,
    Request,
    Setting,
    carry_out,
    r20,
    section,
    settings_of,
)
from captum_extract_aggregate.reproduction.findings import class_mean, markdown, subset, values_of

HERE = Path(__file__).parent
DATA = Path(os.environ.get("CEA_DATA", HERE.parent.parent / "shared" / "data"))
DOCS, TEXT, REAL = HERE.parent / "docs", HERE / "reproduction_text.md", HERE / "reproduction_real.md"
SQUEEZENET = ("features.2", "features.5", "features.8", "features.12")
R20_K20 = tuple(name for name in EXPERIMENTS if name[0] in "rk" and name != "r20-fig10")
VIT = ("r20-table3", "r20-table6", "r20-fig3", "r20-fig5", "r20-fig6", "r20-fig7", "k20-table1", "k20-table2")
INDEPENDENT = {  # "all/difficult" at features.2, .5, .8, .12
    "GradCAM": "60.7/32.3 47.5/14.2 49.7/22.9 75.8/55.1",
    "linear approx.": "74.5/52.7 76.2/49.9 77.7/55.5 75.8/55.1",
    "NormGrad": "77.4/53.7 78.3/51.0 78.4/52.9 72.9/45.5",
    "selective": "74.6/46.0 78.3/54.3 78.8/54.2 73.4/55.8",
}
FINDINGS = """Each statement of the papers on each network and its images: *holds* (in the stated direction with
p < 0.05, or within the stated margin), *does not* (the other way, or too small to tell; n, effect and p are below),
*untested* (the method has no rule for some of the network's operations, or the data lack what is needed). Where a
statement was tested at several layers, at how many it holds. An empty cell: not run there. The p are not corrected for
the number of statements."""
AGREEMENT = """A plain pointing game was written for this network and these images independently of this package.
Mean over the classes, in percent."""
G20 = tuple(name for name in EXPERIMENTS if name[0] == "g")


def settings(folder: Path) -> dict[str, tuple[Setting, tuple[str, ...]]]:
    """Each setting by name, with the experiments that make sense on it."""
    common = {"folder": folder, "show_progress": sys.stderr.isatty()}
    found = {s.name: (replace(s, **common), tuple(EXPERIMENTS)) for s in settings_of(Request(("all",), output=folder))}
    if not DATA.is_dir():
        return found

    def weights(name: str) -> str:
        return str(DATA / "models" / f"{name}-imagenet.pth")

    def model(name: str, built: str = "", head: bool = True) -> ModelPlan:
        path = str(DATA / "models" / f"{name.removesuffix('_patch16_224')}-voc-head.pth") if head else ""
        return ModelPlan(built or name, weights(name), head=path)

    voc = DataPlan("voc", str(DATA))
    photos = DataPlan("list", file=str(DATA / "imagenet_sample" / "labels.tsv"))
    half = (0.5, 0.5, 0.5)
    cifar = DATA / "models" / "resnet20-cifar10.pth"
    vit = f"{HERE / 'networks.py'}:vit_tiny"
    made = [
        (Setting("voc-squeezenet", model("squeezenet1_1"), voc, wanted_layers=SQUEEZENET, loss="binary_cross_entropy",
                 sizes={"maps": 395, "stages": 24, "removal": 40}, **common), R20_K20),
        (Setting("voc-mobilenet", model("mobilenet_v2"), replace(voc, every=6), loss="binary_cross_entropy",
                 sizes={"maps": 66, "stages": 12, "removal": 24}, **common), R20_K20),
        (Setting("voc-vit-tiny", model("vit_tiny_patch16_224", vit),
                 replace(voc, every=3, resize="square", size=224, mean=half, std=half), loss="binary_cross_entropy",
                 sizes={"maps": 132, "stages": 16, "removal": 24}, **common), VIT),
        (Setting("imagenet-squeezenet", model("squeezenet1_1", head=False), photos, wanted_layers=SQUEEZENET,
                 has_objects=False, sizes={"maps": 100, "stages": 24, "removal": 60}, **common),
         (*G20, "r20-fig6", "k20-table2", "k20-table4")),
        (Setting("imagenet-mobilenet", model("mobilenet_v2", head=False), photos, has_objects=False,
                 sizes={"maps": 100, "stages": 16, "removal": 32}, **common), (*G20, "r20-fig6")),
        (Setting("cifar-resnet20", ModelPlan(f"{HERE / 'networks.py'}:resnet20", str(cifar)),
                 DataPlan("list", str(DATA / "imagenet_sample"), str(_unlabelled(folder)), resize="square", size=32),
                 has_objects=False, sizes={"maps": 100, "stages": 16, "removal": 32}, **common),
         ("g20-bias-removal", "g20-robustness")),
    ]  # fmt: skip
    return found | {setting.name: (setting, names) for setting, names in made}


def _unlabelled(folder: Path) -> Path:
    """The ImageNet images without their classes, which are none of the ten that a CIFAR network knows."""
    path = folder / "unlabelled.txt"
    lines = (DATA / "imagenet_sample" / "labels.tsv").read_text(encoding="utf-8").splitlines()
    path.write_text("".join(line.split("\t")[0] + "\n" for line in lines), encoding="utf-8")
    return path


def result(name: str, setting: Setting) -> Outcome:
    """An experiment's outcome, written to the folder."""
    outcome = carry_out(name, setting)
    stem = setting.folder / f"{name}-{setting.name}"
    stem.with_suffix(".md").write_text(section(name, setting, outcome), encoding="utf-8")
    content = [asdict(f) for f in outcome.findings]
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return outcome


def write(known: dict[str, tuple[Setting, tuple[str, ...]]], folder: Path) -> None:
    """docs/reproduction.md, from what is in the folder; and the pictures it shows."""
    verdicts: dict[tuple[str, str], dict[str, list[bool | None]]] = {}
    sections: dict[str, list[str]] = {}
    for setting, names in known.values():
        for name in names:
            stem = folder / f"{name}-{setting.name}"
            if not stem.with_suffix(".json").is_file():
                continue
            sections.setdefault(name, []).append(stem.with_suffix(".md").read_text(encoding="utf-8"))
            for finding in json.loads(stem.with_suffix(".json").read_text(encoding="utf-8")):
                statement = re.sub(r" \((?!at most|as )[^()]*\)", "", finding["statement"])
                verdicts.setdefault((name, statement), {}).setdefault(setting.name, []).append(finding["holds"])
    shown = list(dict.fromkeys(s for by_setting in verdicts.values() for s in by_setting))
    rows = [
        [name, statement, *(_cell(found.get(s, [])) for s in shown)] for (name, statement), found in verdicts.items()
    ]
    parts = [TEXT.read_text(encoding="utf-8").rstrip()]
    if any(not name.startswith("scene") for name in shown):
        parts.append(REAL.read_text(encoding="utf-8").rstrip())
    parts += ["## Findings", FINDINGS]
    parts.append(markdown(["", "statement", *shown], rows))
    if "voc-squeezenet" in shown:
        parts += ["## An independent pointing game", AGREEMENT, agreement(known["voc-squeezenet"][0])]
    for name, texts in sections.items():
        parts += [f"## {name}: {EXPERIMENTS[name].title}", *(_with_pictures(text, folder) for text in texts)]
    DOCS.joinpath("reproduction.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _cell(verdicts: list[bool | None]) -> str:
    tested = [v for v in verdicts if v is not None]
    if not tested:
        return "untested" if verdicts else ""
    if len(tested) == 1:
        return "holds" if tested[0] else "does not"
    return f"holds in {sum(tested)} of {len(tested)}"


def _with_pictures(text: str, folder: Path) -> str:
    """A section without its repeated title, its pictures copied beside the document (maps of scenes only)."""
    lines = text.replace(text.splitlines()[2] + "\n\n", "", 1).splitlines()
    kept = []
    for line in lines:
        found = re.search(r"\]\((.*\.png)\)", line)
        if found and not _wanted(found[1]):
            continue
        if found:
            (DOCS / "reproduction").mkdir(exist_ok=True)
            with Image.open(folder / found[1]) as picture:  # 128 colours are plenty, and a third of the size
                picture.convert("RGB").quantize(128).save(DOCS / "reproduction" / found[1], optimize=True)
            line = line.replace(f"]({found[1]})", f"](reproduction/{found[1]})")
        kept.append(line)
    return "\n".join(kept).rstrip()


def _wanted(picture: str) -> bool:
    is_maps = picture.startswith(("r20-fig5-maps", "r20-fig15", "k20-fig1-"))
    return picture.endswith("scene-resnet.png") if is_maps else not picture.startswith("r20-fig5")


def agreement(setting: Setting) -> str:
    """This package's pointing game beside an independent plain one's figures, for the same network and images."""
    results, rows = r20.pointing_results(setting), []
    for method, published in INDEPENDENT.items():
        for layer, figures in zip(setting.layers, published.split()):
            hits = values_of(results, "pointing_game", method, layer)
            here = [class_mean(subset(results, hits, which)) for which in ("all", "difficult")]
            theirs = [float(v) for v in figures.split("/")]
            apart = max(abs(a - b) for a, b in zip(here, theirs))
            rows.append([method, layer, f"{here[0]:.1f} / {here[1]:.1f}", figures.replace("/", " / "), f"{apart:.1f}"])
    return markdown(["method", "layer", "here, all / difficult", "independent", "largest difference"], rows)


def main() -> None:
    folder, *rest = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    known = settings(Path(folder))
    if "--write" in rest:
        write(known, Path(folder))
        return
    for name in rest or known:
        setting, experiments = known[name]
        for experiment in experiments:
            start = time.perf_counter()
            result(experiment, setting)
            print(f"{experiment} on {name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
