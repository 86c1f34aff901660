"""Write what Hugging Face transformers' Gemma 4 assistants draft behind the small random targets of the tests.

    pip install torch transformers && python tests/reference/make_drafts.py

For each of CONFIGS in tests/checkpoints_gemma4_assistant.py, in drafts_gemma4.npz: `<kind>.tokens` [4], the newest token
of the target and three drafts; `<kind>.hidden` [3, D] what stands for the target's hidden state after each, float32.
"""

import pathlib
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Gemma4AssistantForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import conftest  # noqa: E402, F401  (makes `smelt` importable)

PROMPT = [(7 * i * i + 3 * i) % 320 for i in range(20)]  # shorter than the window
COUNT = 3


def drafts(kind: str) -> dict[str, np.ndarray]:
    import checkpoints_gemma4
    import checkpoints_gemma4_assistant

    with tempfile.TemporaryDirectory() as folder:
        root, common = pathlib.Path(folder), {"dtype": torch.float32, "attn_implementation": "eager"}
        target = AutoModelForCausalLM.from_pretrained(checkpoints_gemma4.make(root / "target", kind), **common)
        made = checkpoints_gemma4_assistant.make(root / "drafter", kind)
        drafter = Gemma4AssistantForCausalLM.from_pretrained(made, **common)
    with torch.no_grad():
        return drafted(target, drafter)


def drafted(target, drafter) -> dict[str, np.ndarray]:
    out = target(torch.tensor([PROMPT]), output_hidden_states=True, return_shared_kv_states=True)
    hidden, token = out.hidden_states[-1][:, -1:], out.logits[:, -1:].argmax(-1)
    tokens, each = [token], []
    for _ in range(COUNT):
        given = torch.cat([target.get_input_embeddings()(token), hidden], dim=-1)
        step = drafter(
            inputs_embeds=given, position_ids=torch.tensor([[len(PROMPT)]]), shared_kv_states=out.shared_kv_states
        )
        hidden, token = step.last_hidden_state, step.logits.argmax(-1)
        tokens.append(token)
        each.append(hidden[0, 0])
    return {"tokens": torch.cat(tokens, dim=1)[0].numpy(), "hidden": torch.stack(each).float().numpy()}


if __name__ == "__main__":
    from checkpoints_gemma4_assistant import CONFIGS

    found = {f"{kind}.{name}": value for kind in CONFIGS for name, value in drafts(kind).items()}
    np.savez_compressed(HERE / "drafts_gemma4.npz", **found)
