"""What LRP through attention costs at a ViT-B/16, against a plain gradient: interleaved pairs, and what is kept.

python benchmarks/lrp_attention.py
"""

from __future__ import annotations

import functools
import statistics

import torch
import torchvision

import captum_extract_aggregate as cea
from benchmarks.propagation import gradient, ratios, saved


def main(pairs: int = 5) -> None:
    torch.manual_seed(0)
    model = torchvision.models.vit_b_16().eval().requires_grad_(False)
    torch.nn.init.normal_(model.heads.head.weight, std=0.02)
    x = torch.randn(1, 3, 224, 224)
    plain = saved(lambda: gradient(model, x))
    print("| | time / gradient (range) | kept for the backward / gradient |\n|---|---|---|")
    for attention in ("attnlrp", "cp"):
        explain = functools.partial(cea.LRP(model, attention=attention).attribute, x, target=3)
        times = ratios(explain, lambda: gradient(model, x), pairs)
        kept = saved(explain) / plain
        print(f"| {attention} | {statistics.median(times):.2f} ({times[0]:.2f} - {times[-1]:.2f}) | {kept:.2f} |")


if __name__ == "__main__":
    main()
