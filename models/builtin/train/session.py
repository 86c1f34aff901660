"""A whole run: steps against the clock, what is written down, the checkpoint, the evaluation."""

import csv
import json
import pickle

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from . import generate, quantise, rows
from .evaluation import table
from .model import Shape, hf_config
from .training import Feed, Trainer

COLUMNS = ("step", "seconds", "tokens", "loss", "held_out_loss", "lr", "quantised", "rows_reused")


def rate(args, progress, step):
    """Warm up over 60 steps, hold, fall linearly to 2%."""
    fall = 1.0 if progress < args.hold_until else max(0.02, (1 - progress) / (1 - args.hold_until))
    return args.lr * min(1.0, (step + 1) / 60) * fall


class Clock:
    """The share of the run that is over: of the time after the first two steps, which compile, or of --max-steps."""

    def __init__(self, args, log):
        self.args, self.log, self.start = args, log, None

    def progress(self, step):
        if self.args.max_steps:
            return step / self.args.max_steps
        if step < 2:
            return 0.0
        self.start = self.start or self.log.seconds()
        return (self.log.seconds() - self.start) / max(1.0, self.args.seconds - self.args.reserve - self.start)


class Report:
    """A line of the curve, to its file and to the log."""

    def __init__(self, args, trainer, held_out, pool, log):
        self.tokens_a_step, self.trainer, self.held_out, self.pool, self.log = args.rows * rows.LENGTH, trainer, held_out, pool, log
        self.file = (args.out / "log.csv").open("w", newline="")
        self.table = csv.writer(self.file)
        self.table.writerow(COLUMNS)

    def add(self, step, losses, lr):
        with torch.no_grad():
            unseen = self.trainer.loss(self.held_out).item()
        trained = torch.stack(losses).mean().item()
        line = [step, f"{self.log.seconds():.1f}", step * self.tokens_a_step, f"{trained:.5f}", f"{unseen:.5f}", f"{lr:.6f}", int(self.trainer.quantising), self.pool.reused]
        self.table.writerow(line)
        self.file.flush()
        self.log.say(*line)


def train(args, trainer, feed, clock, report):
    """Steps until the time is over; how many."""
    step, losses = 0, []
    while (progress := clock.progress(step)) < 1.0:
        trainer.quantising = progress >= args.quantise_from
        lr = rate(args, progress, step)
        losses.append(trainer.step(feed.next(), lr))
        step += 1
        if step % 100 == 0 or step <= 2:
            report.add(step, losses, lr)
            losses = []
    return step


def save(trainer, tokenizer, out):
    """The 4-bit checkpoint, its config, and the masters in float16, cut into files for a later run."""
    ids = {t: tokenizer.token_to_id(t) for t in ("<|im_end|>", "<|endoftext|>")}
    masters = trainer.masters()
    quantise.export(masters, out / "model.safetensors")
    quantise.write_config(hf_config(trainer.model.shape, ids), out)
    names = list(masters)
    for i in range(3):
        save_file({name: masters[name].half().cpu().contiguous() for name in names[i::3]}, str(out / f"masters{i}.safetensors"))


def judge(trainer, tokenizer, cases, out, log):
    counts, failures = generate.evaluate(trainer.model, tokenizer, cases, trainer.device)
    (out / "failures.jsonl").write_text("".join(json.dumps(f) + "\n" for f in failures))
    log.say("evaluated\n\n" + table(counts) + "\n")


def weights(paths):
    """name -> float32 tensor of all files together: masters, or a 4-bit checkpoint."""
    return {name: w for path in paths for name, w in quantise.unpack(load_file(str(path))).items()}


def _trainer(args):
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Trainer(Shape(num_hidden_layers=args.layers), args.lr, device, weights(args.resume), args.prompt_weight)


def run(args, folder, log):
    trainer, tokenizer, pool = _trainer(args), rows.load_tokenizer(args.tokenizer), rows.Pool(folder)
    log.say("model ready on", trainer.device, "with", args.workers, "workers")
    feed = Feed(pool, args.rows, trainer.device)
    held_out = torch.from_numpy(np.load(rows.waited(folder, "heldout")).astype("int32")).to(trainer.device)
    log.say("data ready")
    steps = train(args, trainer, feed, Clock(args, log), Report(args, trainer, held_out, pool, log))
    trainer.fix()
    save(trainer, tokenizer, args.out)
    log.say("trained", steps, "steps and saved")
    if args.cases:
        judge(trainer, tokenizer, pickle.loads(rows.waited(folder, "cases").read_bytes()), args.out, log)
    log.say("done")
