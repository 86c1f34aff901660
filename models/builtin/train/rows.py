"""Generated samples as packed rows of 2048 token ids, made by many processes while training runs.

A row is uint16: the id in the low 12 bits, above them what a document or a branch begins with, and how much the token counts in the loss.
Samples of a family are one document: what they have in common, then a branch for each, which sees the common part and itself.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from . import evaluation, mixture, stdlib
from .sample import TARGET, segments

LENGTH = 2048
ID_BITS = 0x0FFF
START_FLAG, BRANCH_FLAG, KIND_SHIFT = 0x1000, 0x2000, 14
EARLY_TARGET = 3  # the kinds SKIP, AUX and TARGET, and this
EARLY = 24  # tokens with which an answer begins count more: a sum is as much worth as a page of copied code, and how a quotation begins decides it
OPEN_ROWS = 24
ROWS_A_FILE, WAITING = 64, 160  # files that wait are 42 MB at most: a shared memory file system can be small
PATIENCE = 180  # seconds for the first data; parsing the library comes before it
CONTEXT = multiprocessing.get_context("fork")
FOLDER = Path(__file__).resolve().parents[1]


def load_tokenizer(folder=FOLDER):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def encode(tokenizer, sample):
    """uint16 ids with their kinds."""
    parts = []
    for text, kind in segments(sample):
        ids = np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.uint16)
        kinds = np.full(len(ids), kind << KIND_SHIFT, dtype=np.uint16)
        if kind == TARGET:
            kinds[:EARLY] = EARLY_TARGET << KIND_SHIFT
        parts.append(ids | kinds)
    return np.concatenate(parts)


def _common(docs):
    """How many tokens all documents begin with; not those of an answer."""
    shortest = min(map(len, docs))
    same = np.all([doc[:shortest] == docs[0][:shortest] for doc in docs], axis=0) & (docs[0][:shortest] >> KIND_SHIFT < TARGET)
    return shortest if same.all() else int(same.argmin())


def document(tokenizer, samples):
    """The samples of a family as one document, as many as fit into a row; None if not even one does."""
    docs = [doc for doc in (encode(tokenizer, sample) for sample in samples) if len(doc) <= LENGTH]
    if not docs:
        return None
    shared = _common(docs) if len(docs) > 1 else 0
    parts, size = [docs[0]], len(docs[0])
    for doc in docs[1:]:
        if size + len(doc) - shared <= LENGTH:
            parts.append(doc[shared:])
            size += len(doc) - shared
    if len(parts) > 1:
        parts[0][shared] |= BRANCH_FLAG
        for part in parts[1:]:
            part[0] |= BRANCH_FLAG
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


def stream(tokenizer, seeds, split="train"):
    """Packed rows, one after another, without end if `seeds` has none."""
    packer = Packer(tokenizer.token_to_id("<|endoftext|>"))
    for seed in seeds:
        doc = document(tokenizer, mixture.family(seed, split)[1])
        if doc is not None and (row := packer.add(doc)) is not None:
            yield row


def take(n, tokenizer, seeds, split):
    source = stream(tokenizer, seeds, split)
    return np.stack([next(source) for _ in range(n)])


def _count_from(start, step):
    while True:
        yield start
        start += step


def _alone(parent):
    """Whether the process that started this one is gone."""
    return os.getppid() != parent


def _put(folder, name, write):
    """A file that appears whole or not at all."""
    part = folder / f"{name}.part"
    with part.open("wb") as file:
        write(file)
    part.rename(folder / name)


def _work(folder, plan, worker, parent):
    source = stream(load_tokenizer(plan.tokenizer), _count_from(plan.first_seed + worker, plan.workers))
    k = 0
    while not _alone(parent):
        if len(os.listdir(folder)) > WAITING:
            time.sleep(0.2)
            continue
        made = np.stack([next(source) for _ in range(ROWS_A_FILE)])
        _put(folder, f"{worker}_{k}.npy", lambda file, made=made: np.save(file, made))
        k += 1


def _held_out(folder, plan):
    """Rows to measure the loss on, and the cases of the evaluation."""
    found = take(plan.rows, load_tokenizer(plan.tokenizer), _count_from(0, 1), "heldout")
    _put(folder, "heldout", lambda file: np.save(file, found))
    _put(folder, "cases", lambda file: pickle.dump(evaluation.all_cases(plan.cases), file))


def _serve(folder, plan, parent):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # an exit ends its own processes as well
    stdlib.functions("train"), stdlib.words("train"), stdlib.sentences("train")  # parsed once, shared by the forks
    jobs = [(_held_out, (folder, plan)), *((_work, (folder, plan, w, os.getpid())) for w in range(plan.workers))]
    for target, args in jobs:
        CONTEXT.Process(target=target, args=args, daemon=True).start()
    while not _alone(parent):
        time.sleep(0.5)


def start(folder, plan):
    """A process that parses the library and lets workers write row files into `folder` until it is ended. Call before torch is imported.

    `plan` has tokenizer (a folder), workers, first_seed, rows (held-out ones) and cases (of the evaluation, a task)."""
    process = CONTEXT.Process(target=_serve, args=(folder, plan, os.getpid()))
    process.start()
    return process


def waited(folder, name):
    """The path of a file that another process writes, once it is there."""
    until = time.time() + PATIENCE
    while not (folder / name).exists():
        if time.time() > until:
            raise TimeoutError(f"No {name} in {folder} after {PATIENCE} s: the process that makes it has failed, see its traceback above")
        time.sleep(0.1)
    return folder / name


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
        """(n, LENGTH) rows; waits while there are too few to begin."""
        if len(self.fresh) < 4 * n:
            self.collect()
        while len(self.rows) < n:
            time.sleep(0.1)
            self.collect()
        picked, self.fresh = self.fresh[:n], self.fresh[n:]
        missing = n - len(picked)
        self.reused += missing
        picked += self.random.integers(0, len(self.rows), missing).tolist()
        return np.stack([self.rows[i] for i in picked])
