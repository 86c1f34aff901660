"""Train the built-in model: `python -m train.run --seconds 540 --out OUT` from models/builtin, on a machine with an NVIDIA GPU.

Data is generated while the model trains. The learning rate rises, stays, and falls over the last part of the time; from the middle on the
forward pass sees 4-bit weights, as they will be shipped (straight-through), so that quantisation costs nothing at the end. Progress goes to
OUT/run.txt; the checkpoint, the masters, the curve and what the evaluation found go to OUT.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from . import rows

def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=540.0, help="of the whole run, evaluation included")
    parser.add_argument("--reserve", type=float, default=75.0, help="seconds of these that are kept for saving and evaluation")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=32, help="rows of 2048 tokens a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--tokenizer", type=Path, default=rows.FOLDER, help="folder of the tokenizer.json to train with")
    parser.add_argument("--first-seed", type=int, default=0, help="of the training samples; a resumed run takes new ones")
    parser.add_argument("--resume", type=Path, nargs="*", default=[], help="weights to go on from: masters of an earlier run, or a 4-bit checkpoint")
    parser.add_argument("--hold-until", type=float, default=0.5, help="share of the time after which the learning rate falls")
    parser.add_argument("--quantise-from", type=float, default=0.5, help="share of the time after which the forward pass is 4-bit")
    parser.add_argument("--prompt-weight", type=float, default=0.05, help="of a prompt's tokens in the loss, where an answer's have 1")
    parser.add_argument("--cases", type=int, default=200, help="evaluation cases a task")
    parser.add_argument("--max-steps", type=int, default=0)
    parser.add_argument("--layers", type=int, default=10)
    return parser.parse_args()


class Log:
    """Lines with the seconds since the start, to a file and to the terminal."""

    def __init__(self, path):
        self.began, self.file = time.time(), path.open("w")

    def seconds(self):
        return time.time() - self.began

    def say(self, *words):
        line = " ".join(map(str, (f"{self.seconds():7.1f}", *words)))
        self.file.write(line + "\n")
        self.file.flush()
        print(line, flush=True)


def main():
    args = options()
    args.out.mkdir(parents=True, exist_ok=True)
    log = Log(args.out / "run.txt")
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="rows", dir=memory) as folder:
        source = rows.start(Path(folder), args)
        from . import session  # imports torch, which takes seconds in which data is already made, and which must not be forked

        try:
            session.run(args, Path(folder), log)
        finally:
            source.terminate()
            source.join()


if __name__ == "__main__":
    main()
