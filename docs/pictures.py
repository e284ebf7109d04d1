"""Draws the picture at the top of the README and of the documentation: `python docs/pictures.py`.

All other pictures are drawn while the documentation is built, by `reproduce --write`, or by a script in `benchmarks/`.
"""

from pathlib import Path

from captum_extract_aggregate.cli.explain import Request, run

PICTURE = Path(__file__).parent / "explanation.png"

if __name__ == "__main__":
    methods = "gradcam,normgrad,selective-normgrad,linear-approximation"
    print(run(Request(seed=5, target="4", methods=methods, output=PICTURE)))
