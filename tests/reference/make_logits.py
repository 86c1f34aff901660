"""Write logits.npz: what Hugging Face transformers computes from the checkpoints of tests/checkpoints.py.

    pip install torch transformers && python tests/reference/make_logits.py

Float32 logits of the last 8 of 40 prompt tokens, for each kind. The tests read the file and need neither package.
"""

import pathlib
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import conftest  # noqa: E402, F401  (makes `smelt` importable)
import checkpoints  # noqa: E402

PROMPT = [(7 * i * i + 3 * i) % 320 for i in range(40)]
UNKNOWN_THERE = {"llama_sliding"}  # transformers' Llama has no sliding layers


def logits(kind: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.make(pathlib.Path(folder), kind)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        with torch.no_grad():
            return model(torch.tensor([PROMPT])).logits[0, -8:].numpy()


if __name__ == "__main__":
    kinds = [kind for kind in checkpoints.CONFIGS if kind not in UNKNOWN_THERE]
    np.savez_compressed(HERE / "logits.npz", **{kind: logits(kind) for kind in kinds})
