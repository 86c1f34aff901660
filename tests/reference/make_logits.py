"""Write what Hugging Face transformers computes from the small random checkpoints of the tests.

    pip install torch transformers && python tests/reference/make_logits.py [checkpoints checkpoints_gemma4 ...]

For each module of tests/ that is named: float32 logits of the last 8 of 40 prompt tokens for each of its CONFIGS, as
`make(folder, kind)` writes them, but for those in its UNKNOWN_TO_TRANSFORMERS; in logits.npz or logits_<family>.npz. `inputs(kind)`, where a module has
it, gives what transformers' model is called with besides the tokens.
The tests read these files and need neither package.
"""

import importlib
import pathlib
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import conftest  # noqa: E402, F401  (makes `smelt` importable)

PROMPT = [(7 * i * i + 3 * i) % 320 for i in range(40)]


def logits(module, kind: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        module.make(pathlib.Path(folder), kind)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        more = module.inputs(kind) if hasattr(module, "inputs") else {}
        with torch.no_grad():
            return model(torch.tensor([PROMPT]), **more).logits[0, -8:].float().numpy()


def write(name: str) -> None:
    module = importlib.import_module(name)
    kinds = [kind for kind in module.CONFIGS if kind not in module.UNKNOWN_TO_TRANSFORMERS]
    file = HERE / f"{name.replace('checkpoints', 'logits')}.npz"
    np.savez_compressed(file, **{kind: logits(module, kind) for kind in kinds})


if __name__ == "__main__":
    for name in sys.argv[1:] or ["checkpoints"]:
        write(name)
