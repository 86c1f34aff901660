"""Generated samples as packed rows of 2048 token ids, made by many processes while training runs.

A row is uint16: the id in the low 12 bits, above them flags that say what the token is for.
"""

import multiprocessing
import os
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from . import mixture, stdlib
from .sample import AUX, TARGET, segments

LENGTH = 2048
ID_BITS = 0x0FFF
SHORT_FLAG, START_FLAG, AUX_FLAG, TARGET_FLAG = 0x1000, 0x2000, 0x4000, 0x8000
SHORT = 24  # answers up to this many tokens count more: a sum is as much worth as a page of copied code
OPEN_ROWS = 24
FLAGS = {AUX: AUX_FLAG, TARGET: TARGET_FLAG}
FOLDER = Path(__file__).resolve().parents[1]


def load_tokenizer():
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def encode(tokenizer, sample):
    """uint16 ids with flags."""
    parts = []
    for text, kind in segments(sample):
        ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.uint16)
        short = SHORT_FLAG if kind == TARGET and len(ids) <= SHORT else 0
        parts.append(ids | np.uint16(FLAGS.get(kind, 0) | short))
    row = np.concatenate(parts)
    row[0] |= START_FLAG
    return row


class Packer:
    """Best fit into a few open rows."""

    def __init__(self, pad):
        self.pad, self.open = pad, [[] for _ in range(OPEN_ROWS)]
        self.sizes = [0] * OPEN_ROWS

    def add(self, doc):
        """Place one document; returns a finished row, or None."""
        fits = [i for i, size in enumerate(self.sizes) if size + len(doc) <= LENGTH]
        done = None
        i = max(fits, key=self.sizes.__getitem__) if fits else max(range(OPEN_ROWS), key=self.sizes.__getitem__)
        if not fits:
            done = self._close(i)
        self.open[i].append(doc)
        self.sizes[i] += len(doc)
        return done

    def _close(self, i):
        row = np.full(LENGTH, self.pad, dtype=np.uint16)
        joined = np.concatenate(self.open[i])
        row[: len(joined)] = joined
        if len(joined) < LENGTH:
            row[len(joined)] |= START_FLAG
        self.open[i], self.sizes[i] = [], 0
        return row


def stream(seeds, split="train"):
    """Packed rows, one after another, without end if `seeds` has none."""
    tokenizer = load_tokenizer()
    packer = Packer(tokenizer.token_to_id("<|endoftext|>"))
    for seed in seeds:
        doc = encode(tokenizer, mixture.sample(seed, split)[1])
        if len(doc) <= LENGTH and (row := packer.add(doc)) is not None:
            yield row


def take(n, seeds, split):
    source = stream(seeds, split)
    return np.stack([next(source) for _ in range(n)])


def _count_from(start, step):
    while True:
        yield start
        start += step


def _work(folder, worker, workers, first_seed, rows_a_file):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    source = stream(_count_from(first_seed + worker, workers))
    k = 0
    while os.getppid() != 1:  # the trainer is gone
        rows = np.stack([next(source) for _ in range(rows_a_file)])
        part = folder / f"{worker}_{k}.part"
        with part.open("wb") as file:
            np.save(file, rows)
        part.rename(part.with_suffix(".npy"))
        k += 1


def start_workers(folder, workers, first_seed=0, rows_a_file=64):
    """Processes that write row files into `folder` until they are ended. Call before torch touches the GPU: they fork."""
    stdlib.functions("train"), stdlib.words("train"), stdlib.sentences("train")  # parsed once, shared by the fork
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_work, args=(folder, w, workers, first_seed, rows_a_file), daemon=True) for w in range(workers)]
    for process in started:
        process.start()
    return started


class Pool:
    """All rows written so far. Fresh rows first; if the trainer is faster than the workers, old ones again."""

    def __init__(self, folder, seed=0):
        self.folder, self.random = folder, np.random.default_rng(seed)
        self.rows, self.fresh = [], []
        self.reused = 0

    def collect(self):
        for path in sorted(self.folder.glob("*.npy")):
            rows = np.load(path)
            path.unlink()
            self.fresh.extend(range(len(self.rows), len(self.rows) + len(rows)))
            self.rows.extend(rows)

    def batch(self, n):
        """(n, LENGTH) rows, or None while there are too few to begin."""
        if len(self.fresh) < 4 * n:
            self.collect()
        if len(self.rows) < n:
            return None
        picked, self.fresh = self.fresh[:n], self.fresh[n:]
        missing = n - len(picked)
        self.reused += missing
        picked += self.random.integers(0, len(self.rows), missing).tolist()
        return np.stack([self.rows[i] for i in picked])
