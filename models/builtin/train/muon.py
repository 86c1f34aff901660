"""Muon: momentum whose update is made orthogonal, for all hidden matrices of one shape at once.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the factor 0.2 sqrt(max(n, m)), which gives
updates the size of AdamW's, from Liu et al., "Muon is scalable for LLM training" (2025).
"""

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(g, steps=5):
    """Newton-Schulz iteration on a batch of matrices (N, n, m), in bf16: singular values towards 1."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    def __init__(self, params, lr, momentum=0.95, weight_decay=0.02):
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.groups = {}
        for p in params:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {shape: torch.zeros(len(ps), *shape, device=ps[0].device) for shape, ps in self.groups.items()}

    @torch.no_grad()
    def step(self):
        for shape, params in self.groups.items():
            grads, buffer = torch.stack([p.grad for p in params]), self.buffers[shape]
            buffer.lerp_(grads, 1 - self.momentum)
            update = orthogonal(grads.lerp(buffer, self.momentum)).float() * (0.2 * max(shape) ** 0.5)
            torch._foreach_mul_(params, 1 - self.lr * self.weight_decay)
            torch._foreach_add_(params, list(update.unbind()), alpha=-self.lr)
