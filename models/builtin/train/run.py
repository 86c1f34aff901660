"""Train the built-in model: `python -m train.run --minutes 6 --out OUT` from models/builtin, on a machine with an NVIDIA GPU.

Data is generated while the model trains. The learning rate rises, stays, and falls over the last part of the time; from the middle on the
forward pass sees 4-bit weights, as they will be shipped (straight-through), so that quantisation costs nothing at the end.
"""

import argparse
import csv
import json
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from . import generate, quantise, rows
from .model import Qwen3, Shape, hf_config
from .muon import Muon

WEIGHTS = torch.tensor([0.0, 0.05, 1.0, 3.0])  # not learned, prompt, answer, short answer


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=64, help="rows of 2048 tokens a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--first-seed", type=int, default=0, help="of the training samples; a resumed run takes new ones")
    parser.add_argument("--resume", type=Path, nargs="*", default=[], help="master weights of an earlier run")
    parser.add_argument("--hold-until", type=float, default=0.55, help="share of the time after which the learning rate falls")
    parser.add_argument("--quantise-from", type=float, default=0.5, help="share of the time after which the forward pass is 4-bit")
    parser.add_argument("--cases", type=int, default=128, help="evaluation cases a task")
    parser.add_argument("--max-steps", type=int, default=0)
    parser.add_argument("--layers", type=int, default=10)
    return parser.parse_args()


def flags(batch, device):
    """(ids, weights of the losses, document numbers) of uint16 rows."""
    x = torch.from_numpy(batch.astype("int32"))
    x = (x.pin_memory() if device == "cuda" else x).to(device, non_blocking=True)
    kind = ((x >> 14) & 1) + 2 * ((x >> 15) & 1) + ((x >> 12) & 1)
    return (x & rows.ID_BITS).long(), WEIGHTS.to(device)[kind.long()], ((x >> 13) & 1).cumsum(1)


def flex_blocks():
    """A compiled block over packed rows: each document sees itself. Compiled once, run for every layer."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    make_mask = torch.compile(create_block_mask)

    def mask_of(docs):
        def same(b, h, q, k):
            return (q >= k) & (docs[b, q] == docs[b, k])

        return make_mask(same, docs.shape[0], None, docs.shape[1], docs.shape[1], device=docs.device)

    @torch.compile(dynamic=False)
    def run(block, x, cos, sin, mask):
        return block(x, cos, sin, lambda q, k, v: flex_attention(q, k, v, block_mask=mask, enable_gqa=True))

    return mask_of, run


def dense_blocks():
    """The same with a dense mask, for a machine without a GPU."""

    def mask_of(docs):
        return (docs[:, None, :, None] == docs[:, None, None, :]).tril()

    def run(block, x, cos, sin, mask):
        return block(x, cos, sin, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True))

    return mask_of, run


def weighted_loss(h, embedding, targets, weights):
    losses = F.cross_entropy(F.linear(h, embedding).float().flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


class Trainer:
    """Float32 masters under the optimizers; the model in bf16 holds what the forward pass sees, quantised in the later part."""

    def __init__(self, args, device):
        self.device, self.args = device, args
        torch.manual_seed(0)
        start = Qwen3(Shape(num_hidden_layers=args.layers))
        start.scale_residuals()
        for path in args.resume:
            start.load_state_dict({k: v.float() for k, v in load_file(str(path)).items()}, strict=False)
        self.masters = {name: p.detach().clone().to(device) for name, p in start.named_parameters()}
        self.model = start.to(device, torch.bfloat16)
        self.working = dict(self.model.named_parameters())
        hidden = [p for name, p in self.masters.items() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in self.masters.items() if p.ndim != 2 or "embed" in name]
        self.muon = Muon(hidden, args.lr)
        self.adam = torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.quantising = False
        gpu = device == "cuda"
        self.mask_of, self.run_block = flex_blocks() if gpu else dense_blocks()
        self.loss_of = torch.compile(weighted_loss, dynamic=False) if gpu else weighted_loss
        self.to_4bit = torch.compile(quantise.quantised) if gpu else quantise.quantised
        self.show()

    @torch.no_grad()
    def show(self):
        """Masters -> the weights that the forward pass sees."""
        for name, p in self.working.items():
            p.copy_(self.to_4bit(self.masters[name]) if self.quantising and p.ndim == 2 else self.masters[name])

    def loss(self, batch):
        ids, weights, docs = flags(batch, self.device)
        weights = torch.where(docs[:, 1:] == docs[:, :-1], weights[:, 1:], 0.0)
        mask = self.mask_of(docs)
        h = self.model.hidden(ids, lambda i, block, x, cos, sin: self.run_block(block, x, cos, sin, mask))
        return self.loss_of(h[:, :-1], self.model.model.embed_tokens.weight, ids[:, 1:], weights)

    def step(self, batch, lr):
        loss = self.loss(batch)
        loss.backward()
        for name, p in self.working.items():
            self.masters[name].grad = p.grad.float()
            p.grad = None
        torch.nn.utils.clip_grad_norm_([p for g in self.adam.param_groups for p in g["params"]], 1.0)
        self.muon.lr = lr
        self.adam.param_groups[0]["lr"] = lr
        self.muon.step()
        self.adam.step()
        self.show()
        return loss.detach()

    def fix(self):
        """What ships: quantised whether or not training reached that part."""
        self.quantising = True
        self.show()


def rate(args, progress, step):
    """Warm up over 60 steps, hold, fall linearly to 2%."""
    fall = 1.0 if progress < args.hold_until else max(0.02, (1 - progress) / (1 - args.hold_until))
    return args.lr * min(1.0, (step + 1) / 60) * fall


def wait_for(pool, n):
    while (batch := pool.batch(n)) is None:
        pool.collect()
        time.sleep(0.2)
    return batch


def train(args, trainer, pool, held_out, log):
    """Steps until the time is over. The clock starts after the first two, which compile."""
    start, step, progress, losses = None, 0, 0.0, []
    while progress < 1.0 and (not args.max_steps or step < args.max_steps):
        if step == 2:
            start = time.time()
        progress = (time.time() - start) / (60 * args.minutes) if start else 0.0
        trainer.quantising = progress >= args.quantise_from
        losses.append(trainer.step(wait_for(pool, args.rows), rate(args, progress, step)))
        step += 1
        if step % 50 == 0 or step <= 2:
            report(log, step, start, losses, trainer, held_out, pool, rate(args, progress, step))
            losses = []
    return step


def report(log, step, start, losses, trainer, held_out, pool, lr):
    with torch.no_grad():
        unseen = trainer.loss(held_out).item()
    seconds = time.time() - start if start else 0.0
    tokens = step * trainer.args.rows * rows.LENGTH
    line = [step, f"{seconds:.1f}", tokens, f"{torch.stack(losses).mean().item():.5f}", f"{unseen:.5f}", f"{lr:.6f}", int(trainer.quantising), pool.reused]
    log.writerow(line)
    print(*line, flush=True)


def save(trainer, tokenizer, out):
    """The 4-bit checkpoint, its config, and the masters in bf16, cut into files for a later run."""
    ids = {t: tokenizer.token_to_id(t) for t in ("<|im_end|>", "<|endoftext|>")}
    quantise.export(trainer.masters, out / "model.safetensors")
    quantise.write_config(hf_config(trainer.model.shape, ids), out)
    names = list(trainer.masters)
    for i in range(3):
        save_file({name: trainer.masters[name].bfloat16().cpu().contiguous() for name in names[i::3]}, str(out / f"masters{i}.safetensors"))


def judge(trainer, tokenizer, args):
    from .evaluation import table

    counts, failures = generate.evaluate(trainer.model, tokenizer, args.cases, trainer.device)
    text = table(counts)
    (args.out / "evaluation.md").write_text(text + "\n")
    (args.out / "failures.jsonl").write_text("".join(json.dumps(f) + "\n" for f in failures))
    print(text, flush=True)


def main():
    args = options()
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.time()
    folder = Path(tempfile.mkdtemp(prefix="rows", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    workers = rows.start_workers(folder, args.workers, args.first_seed)
    tokenizer = rows.load_tokenizer()
    held_out = rows.take(args.rows, iter(range(10**9)), "heldout")
    print(f"data ready after {time.time() - began:.1f} s", flush=True)
    torch.set_float32_matmul_precision("high")
    trainer = Trainer(args, "cuda" if torch.cuda.is_available() else "cpu")
    with (args.out / "log.csv").open("w", newline="") as file:
        log = csv.writer(file)
        log.writerow(["step", "seconds", "tokens", "loss", "held_out_loss", "lr", "quantised", "rows_reused"])
        train(args, trainer, rows.Pool(folder), held_out, log)
    for process in workers:
        process.terminate()
    trainer.fix()
    save(trainer, tokenizer, args.out)
    print(f"trained and saved after {time.time() - began:.1f} s", flush=True)
    if args.cases:
        judge(trainer, tokenizer, args)
    print(f"done after {time.time() - began:.1f} s", flush=True)



if __name__ == "__main__":
    main()
