"""What a layer's tensors were, and the total derivative of the score by them: everything recorded, nothing clever."""

import torch
from torch import nn


def total_derivatives(model, x, layers, target=1):
    """For each layer, the list of (value, derivative) of the tensors that its last call gave out.

    The derivative is by the tensor as it was when it was given out: whatever uses that tensor, before or after, within
    the layer or beside it, belongs to it.
    """
    seen = dict.fromkeys(layers)

    def look(module, args, output):
        tensors = list(output) if isinstance(output, (tuple, list)) else [output]
        kept = [t for t in tensors if isinstance(t, torch.Tensor) and t.is_floating_point()]
        seen[module] = [(t.detach().clone(), edge(t) if t.requires_grad else None) for t in kept]

    handles = [layer.register_forward_hook(look) for layer in seen]
    leaf = x.detach().clone().requires_grad_(x.is_floating_point())
    output = model(leaf.clone())
    for handle in handles:
        handle.remove()
    score = (output if output.ndim == 1 else output[:, target]).sum()
    edges = [at for layer in seen for _, at in seen[layer] if at is not None]
    gradients = dict(zip(edges, torch.autograd.grad(score, edges, allow_unused=True)))
    zeros = [[torch.zeros_like(value) for value, _ in seen[layer]] for layer in layers]
    found = [[gradients.get(at) for _, at in seen[layer]] for layer in layers]
    return [
        [(value, zero if g is None else g) for (value, _), zero, g in zip(seen[layer], zs, gs)]
        for layer, zs, gs in zip(layers, zeros, found)
    ]


def edge(t):
    with torch._C.DisableTorchFunctionSubclass(), torch.enable_grad():
        return torch.autograd.graph.get_gradient_edge(t)


def differentiable_layers(model, x, target=1):
    """The modules that ran, whose tensors the score depends on."""
    ran = []
    handles = [m.register_forward_hook(lambda m, a, o: ran.append(m)) for m in model.modules() if m is not model]
    model(x)
    for handle in handles:
        handle.remove()
    layers = [m for m in dict.fromkeys(ran) if not isinstance(m, nn.MultiheadAttention)]
    found = total_derivatives(model, x, layers, target)
    return [m for m, tensors in zip(layers, found) if any(bool(g.any()) for _, g in tensors)]
