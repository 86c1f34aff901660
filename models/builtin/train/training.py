"""One model under its optimizers: packed rows in, a smaller loss out. Muon for matrices, AdamW for the rest."""

import queue
import threading

import torch
import torch.nn.functional as F

from . import quantise, rows
from .model import Qwen3
from .muon import Muon
from .packed import PROMPT_WEIGHT, Batch


def flex_blocks():
    """A compiled block over packed rows. Compiled once, run for every layer."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    make_mask = torch.compile(create_block_mask)

    def mask_of(batch):
        count, length = batch.docs.shape
        return make_mask(batch.sees(), count, None, length, length, device=batch.docs.device)

    @torch.compile(dynamic=False)
    def run(block, x, cos, sin, mask):
        return block(x, cos, sin, lambda q, k, v: flex_attention(q, k, v, block_mask=mask, enable_gqa=True))

    return mask_of, run


def dense_blocks():
    """The same with a dense mask, for a machine without a GPU."""

    def mask_of(batch):
        count, length = batch.docs.shape
        b, i = torch.arange(count)[:, None, None], torch.arange(length)
        return batch.sees()(b, 0, i[:, None], i)[:, None]

    def run(block, x, cos, sin, mask):
        return block(x, cos, sin, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True))

    return mask_of, run


def weighted_loss(h, embedding, targets, weights):
    losses = F.cross_entropy(F.linear(h, embedding).float().flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


class Feed:
    """Batches on their way to the device: a thread picks and pins them while the step before runs."""

    def __init__(self, pool, n, device, ahead=6):
        self.device, self.ready = device, queue.Queue(ahead)
        threading.Thread(target=self._fill, args=(pool, n), daemon=True).start()

    def _fill(self, pool, n):
        while True:
            codes = torch.from_numpy(pool.batch(n).astype("int32"))
            self.ready.put(codes.pin_memory() if self.device == "cuda" else codes)

    def next(self):
        return self.ready.get(timeout=rows.PATIENCE).to(self.device, non_blocking=True)


class Trainer:
    """Float32 masters under the optimizers; the model in bf16 holds what the forward pass sees, quantised in the later part.

    Matrices of one shape are one stacked master, so that an update is a few kernels and not some hundred."""

    def __init__(self, shape, lr, device, start=None, prompt_weight=PROMPT_WEIGHT):
        self.device, self.prompt_weight = device, prompt_weight
        torch.manual_seed(0)
        self.model = Qwen3(shape)
        self.model.scale_residuals()
        if start:
            self.model.load_state_dict(start)
        self._take_masters()
        self.model.to(device, torch.bfloat16)
        self.muon = Muon(self.stacks, lr)
        self.adam = torch.optim.AdamW(list(self.others.values()), lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.quantising = False
        gpu = device == "cuda"
        self.mask_of, self.run_block = flex_blocks() if gpu else dense_blocks()
        self.loss_of = torch.compile(weighted_loss, dynamic=False) if gpu else weighted_loss
        self.quantised = torch.compile(quantise.quantised, dynamic=False) if gpu else quantise.quantised
        self.show()

    def _take_masters(self):
        """`stacks` with `groups`, the names and parameters of their matrices, and `others` by name."""
        shapes, self.others = {}, {}
        for name, p in self.model.named_parameters():
            if p.ndim == 2 and "embed" not in name:
                shapes.setdefault(tuple(p.shape), []).append((name, p))
            else:
                self.others[name] = p.detach().clone().to(self.device)
        self.groups = list(shapes.values())
        self.stacks = [torch.stack([p.detach() for _, p in group]).to(self.device) for group in self.groups]
        self.working = {name: p for name, p in self.model.named_parameters() if name in self.others}

    def masters(self):
        """name -> float32 tensor"""
        stacked = {name: stack[i] for stack, group in zip(self.stacks, self.groups, strict=True) for i, (name, _) in enumerate(group)}
        return stacked | self.others

    def _seen(self, master):
        return (self.quantised(master) if self.quantising and master.ndim > 1 else master).bfloat16()

    @torch.no_grad()
    def show(self):
        """Masters -> the weights that the forward pass sees."""
        for stack, group in zip(self.stacks, self.groups, strict=True):
            torch._foreach_copy_([p for _, p in group], list(self._seen(stack).unbind()))
        torch._foreach_copy_(list(self.working.values()), [self._seen(master) for master in self.others.values()])

    def loss(self, codes):
        batch = Batch(codes, self.prompt_weight)
        mask = self.mask_of(batch)
        h = self.model.hidden(batch.ids, batch.positions, lambda i, block, x, cos, sin: self.run_block(block, x, cos, sin, mask))
        return self.loss_of(h[:, :-1], self.model.model.embed_tokens.weight, batch.ids[:, 1:], batch.weights[:, 1:])

    def step(self, codes, lr):
        loss = self.loss(codes)
        loss.backward()
        for name, master in self.others.items():
            master.grad = self.working[name].grad.float()
        torch.nn.utils.clip_grad_norm_(list(self.others.values()), 1.0)
        self.muon.lr = self.adam.param_groups[0]["lr"] = lr
        self.muon.step([torch.stack([p.grad for _, p in group]).float() for group in self.groups])
        self.adam.step()
        self.model.zero_grad(set_to_none=True)
        self.show()
        return loss.detach()

    def fix(self):
        """What ships: quantised whether or not training reached that part."""
        self.quantising = True
        self.show()
