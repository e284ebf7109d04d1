"""Class competition, as slowly and literally as its authors' released code says it: one number at a time.

Source: Walter et al., Hidden in Plain Sight: Class Competition Focuses Attribution Maps (arXiv 2503.07346), released
code.
"""

from __future__ import annotations

import math

import torch


def rivals_of(scores: list[float], target: int, wanted: int) -> list[int]:
    """The most probable classes beside the target, and the least probable one."""
    others = [c for c in range(len(scores)) if c != target and math.isfinite(scores[c])]
    others.sort(key=lambda c: (-scores[c], c))
    if len(others) <= wanted:
        return others
    if wanted == 1:
        return others[:1]
    return [*others[: wanted - 1], others[-1]]


def competing_map(
    target_map: torch.Tensor,
    rival_maps: list[torch.Tensor],
    temperature: float = 10.0,
    threshold: float = 0.01,
    normalize: bool = False,
) -> torch.Tensor:
    """What the target keeps of one example's map, `*S`, of any shape."""
    maps = [target_map, *rival_maps]
    flat = [m.flatten().tolist() for m in maps]
    scale = 1.0
    if normalize:
        scale = max(abs(v) for values in flat for v in values)
    kept = []
    for i, own in enumerate(flat[0]):
        if scale == 0:
            kept.append(0.0)
            continue
        powers = [math.exp(temperature * abs(values[i]) / scale) for values in flat]
        p = powers[0] / sum(powers)
        kept.append(own * p if p - 1 / len(flat) > threshold else 0.0)
    return torch.tensor(kept, dtype=target_map.dtype).reshape(target_map.shape)
