"""Draws the picture at the top of the README and of the documentation: `python docs/pictures.py`.

All other pictures are drawn while the documentation is built, by `reproduce --write`, or by a script in `benchmarks/`.
"""

from pathlib import Path

import captum_extract_aggregate as cea

PICTURE = Path(__file__).parent / "explanation.png"

if __name__ == "__main__":
    print(cea.explain("scene-resnet", target=4, seed=5).save(PICTURE))
