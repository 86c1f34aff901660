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
    """`stacks`: float32 tensors (N, n, m), each N matrices of one shape; changed in place."""

    def __init__(self, stacks, lr, momentum=0.95, weight_decay=0.02):
        self.stacks, self.lr, self.momentum, self.weight_decay = stacks, lr, momentum, weight_decay
        self.buffers = [torch.zeros_like(stack) for stack in stacks]

    @torch.no_grad()
    def step(self, grads):
        for stack, buffer, grad in zip(self.stacks, self.buffers, grads, strict=True):
            buffer.lerp_(grad, 1 - self.momentum)
            update = orthogonal(grad.lerp(buffer, self.momentum)).float()
            stack.mul_(1 - self.lr * self.weight_decay).add_(update, alpha=-self.lr * 0.2 * max(stack.shape[1:]) ** 0.5)
