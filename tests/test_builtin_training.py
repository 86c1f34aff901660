"""What the training of the built-in model rests on: branches of a packed document are what each of them is alone."""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
BUILTIN = Path(__file__).resolve().parents[1] / "models" / "builtin"
sys.path.insert(0, str(BUILTIN))
from train import generate, mixture, quantise, rows, session  # noqa: E402
from train.model import Qwen3, Shape  # noqa: E402
from train.packed import Batch  # noqa: E402
from train.training import Trainer  # noqa: E402

SMALL = Shape(hidden_size=64, num_hidden_layers=2, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=32)


@pytest.fixture(scope="module")
def tokenizer():
    return rows.load_tokenizer()


@pytest.fixture(scope="module")
def trainer():
    made = Trainer(SMALL, 3e-3, "cpu")
    made.model.float()
    return made


def codes_of(*documents):
    return torch.from_numpy(np.concatenate(documents).astype("int32"))[None]


def hidden(trainer, batch):
    mask = trainer.mask_of(batch)
    with torch.no_grad():
        return trainer.model.hidden(batch.ids, batch.positions, lambda i, block, x, cos, sin: trainer.run_block(block, x, cos, sin, mask))


def family():
    return next(made for name, made in map(mixture.family, range(1000)) if name == "tools" and len(made) > 2)


def test_a_branch_is_computed_as_if_it_were_alone(trainer, tokenizer):
    samples = family()
    before = rows.document(tokenizer, mixture.family(3)[1])  # another document in the row must change nothing
    together = Batch(codes_of(before, rows.document(tokenizer, samples)))
    states = hidden(trainer, together)[0]
    learned = together.weights[0] > 0.5
    parts = together.branches[0] * (together.docs[0] == 2)
    for number, sample in zip(parts.unique()[1:], samples, strict=True):
        alone = Batch(codes_of(rows.document(tokenizer, [sample])))
        wanted = hidden(trainer, alone)[0][alone.weights[0] > 0.5]
        got = states[learned & (parts == number)]
        assert torch.equal(together.ids[0][learned & (parts == number)], alone.ids[0][alone.weights[0] > 0.5])
        assert torch.allclose(got, wanted, atol=1e-4)


def test_documents_hold_every_token_of_their_samples_once(tokenizer):
    samples = family()
    document = rows.document(tokenizer, samples)
    starts = np.flatnonzero(document & rows.BRANCH_FLAG)
    shared = document[: starts[0]]
    for sample, branch in zip(samples, np.split(document, starts)[1:], strict=True):
        assert np.array_equal(np.concatenate([shared, branch]) & rows.ID_BITS, rows.encode(tokenizer, sample) & rows.ID_BITS)


def test_only_how_an_answer_begins_counts_more_than_the_rest(tokenizer):
    long = next(made for _, (made, *_) in map(mixture.family, range(1000)) if len(made.messages[-1]["content"]) > 400)
    batch = Batch(codes_of(rows.document(tokenizer, [long])), prompt_weight=0.25)
    weights = batch.weights[0]
    answer = torch.nonzero(weights >= 1)[:, 0]
    assert set(weights.tolist()) == {0.0, 0.25, 1.0, 3.0}
    assert torch.equal(weights[answer] == 3, torch.arange(len(answer)) < rows.EARLY)


def test_flex_attention_takes_the_same_mask(tokenizer):
    from torch.nn.attention.flex_attention import create_block_mask

    batch = Batch(codes_of(rows.document(tokenizer, family())))
    n = batch.ids.shape[1]
    rule, index = batch.sees(), torch.arange(n)
    blocks = create_block_mask(rule, 1, None, n, n, device="cpu").to_dense()[0, 0]
    seen = rule(0, 0, index[:, None], index)
    size = 128
    for i in range(0, n, size):
        for j in range(0, n, size):
            assert bool(blocks[i // size, j // size]) == bool(seen[i : i + size, j : j + size].any())


def test_steps_lower_the_loss_and_4_bits_come_back_from_the_file(tokenizer, tmp_path):
    trainer = Trainer(SMALL, 3e-3, "cpu")
    codes = codes_of(*(rows.document(tokenizer, mixture.family(i)[1]) for i in (3, 5, 8)))
    losses = [trainer.step(codes, 3e-3).item() for _ in range(6)]
    assert losses[-1] < losses[0] - 0.1
    trainer.fix()
    quantise.export(trainer.masters(), tmp_path / "model.safetensors")
    from safetensors.torch import load_file

    unpacked = quantise.unpack(load_file(str(tmp_path / "model.safetensors")))
    for name, p in trainer.model.named_parameters():
        assert torch.equal(unpacked[name].bfloat16(), p.detach()), name


def test_training_goes_on_from_masters_and_from_a_4_bit_checkpoint(tmp_path, tokenizer):
    first = Trainer(SMALL, 3e-3, "cpu")
    first.fix()
    session.save(first, tokenizer, tmp_path)
    for names in (["model.safetensors"], ["masters0.safetensors", "masters1.safetensors", "masters2.safetensors"]):
        weights = session.weights([tmp_path / name for name in names])
        again = Trainer(SMALL, 1e-3, "cpu", weights)
        again.fix()
        for (name, p), q in zip(first.model.named_parameters(), again.model.parameters(), strict=True):
            assert torch.allclose(p.float(), q.float(), atol=2e-2), name
    with pytest.raises(RuntimeError, match="Missing key"):
        Trainer(SMALL, 1e-3, "cpu", session.weights([tmp_path / "masters0.safetensors"]))


def test_an_answer_is_the_same_whatever_its_draft():
    torch.manual_seed(0)
    model = Qwen3(SMALL).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)  # else it says its last token again and again
    prompts, limits = [[5, 9, 4], [8] * 7, [3], [2, 7]], [12, 5, 9, 20]
    eos = generate.greedy(model, prompts, limits, -1, "cpu")[3][2]  # so that one answer ends by itself
    plain = generate.greedy(model, prompts, limits, eos, "cpu")
    assert len(plain[3]) == 3 and [len(row) for row in plain[:3]] == limits[:3] and all(len(set(row)) > 1 for row in plain)
    for drafts in (plain, [[1]] * 4, [row[:-1] + [1] for row in plain], [row[:2] for row in plain]):
        assert generate.answers(model, prompts, drafts, limits, eos, "cpu", 2) == plain
