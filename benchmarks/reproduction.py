"""Every table and figure of the papers, on the scenes and on real networks and clean pictures: docs/reproduction.

    python benchmarks/reproduction.py FOLDER [SETTING ...] [EXPERIMENT ...]    # goes on where it was
    python benchmarks/reproduction.py FOLDER --quick [...]                     # few images
    python benchmarks/reproduction.py FOLDER --write                           # results and pages, from what is there

Real data are those in the folder named by CEA_DATA (default ../shared/data).
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.coco_imagenet import restricted
from benchmarks.independent_game import NAME, independent_game
from benchmarks.reproduction_pages import MAPS_ALONE, write
from captum_extract_aggregate.evaluation import DataPlan, ModelPlan
from captum_extract_aggregate.reproduction import EXPERIMENTS, Request, Setting, carry_out, settings_of
from captum_extract_aggregate.reproduction.kept import keep, kept_outcome
from captum_extract_aggregate.reproduction.setting import QUICK

HERE = Path(__file__).parent
DATA = Path(os.environ.get("CEA_DATA", HERE.parent.parent / "shared" / "data"))
NETWORKS = HERE / "networks.py"
HALF = (0.5, 0.5, 0.5)
SQUEEZENET = ("features.2", "features.5", "features.8", "features.12")
# The most informative first: what the papers are cited for, then the rest.
FIRST = ("k20-table2", "k20-table4", "r20-fig3", "r20-table3", "k20-table1", "k20-table3", "g20-fig5", "g20-fig6",
         "r20-fig6", "r20-fig7", "k20-fig4", "g20-fig3")  # fmt: skip
POINTING = ("r20-fig3", "r20-table3", "r20-table5", "r20-table6", "r20-fig4", "r20-fig9", "r20-combinations",
            "r20-localisation", "k20-table1", "k20-table2", "k20-table3", "k20-table4")  # fmt: skip
NEEDS_TRAINING = ("r20-fig10", "r20-fig11", "r20-fig14", "g20-fig4", "g20-fig-s6", "g20-fig-s7", "g20-fig-s8",
                  "g20-fig-s9", "g20-fig-s10", "g20-fig-s11")  # fmt: skip
DECISIONS = ("g20-fig3", "g20-fig-s1", "g20-fig-s2", "g20-fig-s3", "g20-fig-s4", "g20-fig-s5")
ORDERED = (*FIRST, *(name for name in EXPERIMENTS if name not in FIRST))
# Linear probes learn nothing of one picture of each class (r20-fig9).
CLASSES_ALONE = tuple(
    name
    for name in ORDERED
    if not EXPERIMENTS[name].needs_objects and name not in (*NEEDS_TRAINING, *MAPS_ALONE, "g20-fig1", "r20-fig9")
)
# A transformer has no convolutions whose identity is virtual (r20-table4), and of the decomposition's figures the one
# that balanced gradients complete.
TRANSFORMER = (*(name for name in CLASSES_ALONE if name[0] in "rk" and name != "r20-table4"), "g20-fig2")


def settings(folder: Path, quick: bool = False) -> dict[str, tuple[Setting, tuple[str, ...]]]:
    """Returns each setting by name, with the experiments that make sense on it."""
    common = {"show_progress": sys.stderr.isatty()}
    asked = Request(("all",), output=folder, quick=quick)
    found = {s.name: (replace(s, **common), ORDERED) for s in settings_of(asked)}
    if not DATA.is_dir():
        return found
    for setting, names in _real(folder):
        sizes = {key: min(n, QUICK[key]) for key, n in setting.sizes.items()} if quick else setting.sizes
        found[setting.name] = replace(setting, sizes=sizes, **common), names
    return found


def _model(name: str, weights: str, head: str = "") -> ModelPlan:
    models = DATA / "models"
    head = str(models / head) if head else ""
    return ModelPlan(name, str(models / f"{weights}.pth"), head=head)


def _real(folder: Path) -> list[tuple[Setting, tuple[str, ...]]]:
    lite0 = _model("timm:tf_efficientnet_lite0", "tf_efficientnet_lite0-imagenet")
    squeezenet = _model(f"{NETWORKS}:squeezenet", "squeezenet1_1-imagenet")
    mobilenet = _model("mobilenet_v2", "mobilenet_v2-imagenet")
    vit = _model(f"{NETWORKS}:vit_tiny", "vit_tiny_patch16_224-imagenet")
    photos = DataPlan("list", file=str(DATA / "imagenet_sample" / "labels.tsv"))
    whole = replace(photos, resize="square", size=224, mean=HALF, std=HALF)

    def classes(name: str, model: ModelPlan, data: DataPlan, n: int, **more: object) -> Setting:
        # A sixteenth of the pixels at a time: with 1024, 42 maps of 64 pictures take a core half an hour and more.
        sizes = {"maps": n, "stages": min(n, 32), "removal": min(n, 64)}
        given = {"has_objects": False, "step": 3136, "sizes": sizes, **more}
        return Setting(f"imagenet-{name}", model, data, folder, **given)  # type: ignore[arg-type]

    made = [
        (classes("lite0", lite0, photos, 200), CLASSES_ALONE),
        (classes("squeezenet", squeezenet, photos, 200, wanted_layers=SQUEEZENET), CLASSES_ALONE),
        (classes("mobilenet", mobilenet, photos, 120), CLASSES_ALONE),
        (classes("vit-tiny", vit, whole, 120), TRANSFORMER),
        *_pointing(folder),
        *_salient(folder),
        (_cifar(folder), DECISIONS),
    ]
    if (DATA / "VOCdevkit").is_dir():  # a check of the code path alone: boxes are drawn into its pixels
        model = _model("squeezenet1_1", "squeezenet1_1-imagenet", "squeezenet1_1-voc-head.pth")
        sizes = {"maps": 395, "stages": 24, "removal": 40}
        voc = Setting("voc-squeezenet", model, DataPlan("voc", str(DATA)), folder, SQUEEZENET,
                      loss="binary_cross_entropy", sizes=sizes)  # fmt: skip
        made.append((voc, (NAME,)))
    return made


def _pointing(folder: Path) -> list[tuple[Setting, tuple[str, ...]]]:
    """Clean COCO photographs with official polygons, restricted to the categories that ImageNet has classes of."""
    source = DATA / "coco128"
    if not source.is_dir():
        return []
    folder.mkdir(parents=True, exist_ok=True)
    file = restricted(source / "instances_val2017.json", folder)
    photos = DataPlan("coco", str(source / "val2017"), str(file))
    halves = replace(photos, mean=HALF, std=HALF)
    inner = tuple(f"network.{name}" for name in SQUEEZENET)
    made: list[tuple[str, str, DataPlan, tuple[str, ...]]] = [
        ("lite0", "tf_efficientnet_lite0-imagenet", halves, ()),
        ("squeezenet", "squeezenet1_1-imagenet", photos, inner),
        ("mobilenet", "mobilenet_v2-imagenet", photos, ()),
        ("vit_tiny", "vit_tiny_patch16_224-imagenet", replace(halves, resize="square", size=224), ()),
    ]
    sizes = {"maps": 107, "stages": 24, "removal": 40}
    return [
        (Setting(f"coco-{name.replace('_', '-')}", _model(f"{NETWORKS}:{name}_coco", weights), data, folder, layers,
                 sizes=sizes), POINTING)
        for name, weights, data, layers in made
    ]  # fmt: skip


def _salient(folder: Path) -> list[tuple[Setting, tuple[str, ...]]]:
    """ECSSD's pictures and masks, for the networks' own best classes."""
    root = DATA / "ecssd"
    if not root.is_dir():
        return []
    usual = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    made: list[tuple[str, ModelPlan, tuple[tuple[float, ...], ...], tuple[str, ...]]] = [
        ("lite0", _model(f"{NETWORKS}:lite0", "tf_efficientnet_lite0-imagenet"), (HALF, HALF), ()),
        ("squeezenet", _model(f"{NETWORKS}:squeezenet", "squeezenet1_1-imagenet"), usual, SQUEEZENET),
        ("mobilenet", _model("mobilenet_v2", "mobilenet_v2-imagenet"), usual, ()),
        ("vit-tiny", _model(f"{NETWORKS}:vit_tiny", "vit_tiny_patch16_224-imagenet"), (HALF, HALF), ()),
    ]
    found = []
    for name, model, (mean, std), layers in made:
        arguments = {"root": str(root), "model": model.name, "weights": model.weights, "mean": mean, "std": std}
        data = DataPlan("custom", dataset=f"{HERE / 'ecssd.py'}:salient", arguments=arguments, resize="square",
                        size=224, mean=mean, std=std)  # fmt: skip
        sizes = {"maps": 167, "stages": 24, "removal": 40}
        found.append((Setting(f"ecssd-{name}", model, data, folder, layers, sizes=sizes), ("r20-localisation",)))
    return found


def _cifar(folder: Path) -> Setting:
    """CIFAR's ResNet-20 on pictures of classes that it does not know: what becomes of its decisions."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "unlabelled.txt"
    lines = (DATA / "imagenet_sample" / "labels.tsv").read_text(encoding="utf-8").splitlines()
    path.write_text("".join(line.split("\t")[0] + "\n" for line in lines), encoding="utf-8")
    data = DataPlan("list", str(DATA / "imagenet_sample"), str(path), resize="square", size=32)
    model = _model(f"{NETWORKS}:resnet20", "resnet20-cifar10")
    sizes = {"maps": 100, "stages": 16, "removal": 32}
    return Setting("cifar-resnet20", model, data, folder, has_objects=False, sizes=sizes)


def main() -> None:
    """Carries out what is asked for, one file for each experiment and setting; what is there is not made again."""
    folder, *rest = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    if "--write" in rest:
        write(Path(folder))
        return
    known = settings(Path(folder), "--quick" in rest)
    asked = [name for name in rest if name in known] or list(known)
    only = [name for name in rest if name in EXPERIMENTS or name == NAME]
    for name in asked:
        setting, experiments = known[name]
        for experiment in experiments:
            path = Path(folder) / f"{experiment}-{name}.json"
            if (only and experiment not in only) or kept_outcome(path) is not None:
                continue
            start = time.perf_counter()
            keep(independent_game(setting) if experiment == NAME else carry_out(experiment, setting), path)
            print(f"{experiment} on {name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
