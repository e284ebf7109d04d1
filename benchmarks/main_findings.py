"""How the main findings spread over sets of scenes, in quick runs: the thresholds of reproduction/main_findings.py.

python benchmarks/main_findings.py FOLDER [SEEDS]
"""

import statistics
import sys
from pathlib import Path

from captum_extract_aggregate.reproduction import Request, settings_of
from captum_extract_aggregate.reproduction.main_findings import BIAS, CAM, GUIDED, POS, measure

folder, seeds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 6
found: dict[tuple[str, str], list[float]] = {}
for seed in range(200, 200 + seeds):
    for setting in settings_of(Request(("all",), output=folder, quick=True, seed=seed, show_progress=False)):
        for what in (CAM, POS, GUIDED, BIAS):
            value = measure(what, setting)
            found.setdefault((setting.name, what), []).append(value)
            print(seed, setting.name, what, f"{value:.4f}", flush=True)
for (name, what), values in found.items():
    mean, sd = statistics.mean(values), statistics.stdev(values)
    print(f"{name}: {what}: {mean:.3f} +- {sd:.3f}, threshold {mean - 4 * sd:.3f}")
