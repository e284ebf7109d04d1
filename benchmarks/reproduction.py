"""Every table and figure of the papers, on the scenes and on real networks and images: docs/reproduction.md.

    python benchmarks/reproduction.py FOLDER [SETTING ...]     # evaluates (hours on two cores; continues where it was)
    python benchmarks/reproduction.py FOLDER --write           # writes docs/reproduction.md and its pictures

Real data are those in the folder named by CEA_DATA (default ../shared/data).
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from captum_extract_aggregate.evaluation import DataPlan, ModelPlan
from captum_extract_aggregate.reproduction import EXPERIMENTS, Request, Setting, carry_out, section, settings_of

HERE = Path(__file__).parent
DATA = Path(os.environ.get("CEA_DATA", HERE.parent.parent / "shared" / "data"))
SQUEEZENET = ("features.2", "features.5", "features.8", "features.12")
R20_K20 = tuple(name for name in EXPERIMENTS if name[0] in "rk" and name != "r20-fig10")
VIT = ("r20-table3", "r20-table6", "r20-fig3", "r20-fig5", "r20-fig6", "r20-fig7", "k20-table1", "k20-table2")
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
    photos = DataPlan("list", file=str(DATA / "imagenet_sample" / "labels.tsv"), every=5)
    half = (0.5, 0.5, 0.5)
    vit = f"{HERE / 'networks.py'}:vit_tiny"
    made = [
        (Setting("voc-squeezenet", model("squeezenet1_1"), voc, wanted_layers=SQUEEZENET, loss="binary_cross_entropy",
                 sizes={"maps": 395, "stages": 24, "removal": 40}, **common), R20_K20),
        (Setting("voc-mobilenet", model("mobilenet_v2"), replace(voc, every=3), loss="binary_cross_entropy",
                 sizes={"maps": 132, "stages": 16, "removal": 24}, **common), R20_K20),
        (Setting("voc-vit-tiny", model("vit_tiny_patch16_224", vit),
                 replace(voc, every=3, resize="square", size=224, mean=half, std=half), loss="binary_cross_entropy",
                 sizes={"maps": 132, "stages": 16, "removal": 24}, **common), VIT),
        (Setting("imagenet-squeezenet", model("squeezenet1_1", head=False), photos, wanted_layers=SQUEEZENET,
                 has_objects=False, sizes={"maps": 100, "stages": 24, "removal": 60}, **common),
         (*G20, "r20-fig6", "k20-table2", "k20-table4")),
        (Setting("imagenet-mobilenet", model("mobilenet_v2", head=False), photos, has_objects=False,
                 sizes={"maps": 100, "stages": 16, "removal": 32}, **common), (*G20, "r20-fig6")),
    ]  # fmt: skip
    return found | {setting.name: (setting, names) for setting, names in made}


def main() -> None:
    folder, *rest = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    known = settings(Path(folder))
    for name in [r for r in rest if r != "--write"] or known:
        setting, experiments = known[name]
        for experiment in experiments:
            start = time.perf_counter()
            try:
                text = section(experiment, setting, carry_out(experiment, setting))
            except Exception as error:
                print(f"{experiment} on {name} failed: {error!r}", flush=True)
                raise
            Path(folder, f"{experiment}-{name}.md").write_text(text, encoding="utf-8")
            print(f"{experiment} on {name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
