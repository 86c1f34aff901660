"""The predicted table: bytes, dispatches, and what is made of them."""

import pytest
from smelt.bench import counts, predict
from smelt.bench.checkpoints import SHAPES


def test_bytes_of_a_token_are_those_of_the_published_models():
    """Known sizes of 4-bit files: Llama 3.2 1B 0.7 GB, Qwen 3 4B 2.3 GB; of 30B-A3B's 17 GB a token reads 3B of 30B."""
    found = {shape: predict.token_bytes(SHAPES[shape], 0) / 1e9 for shape in predict.PRESETS}
    assert found["llama-3.2-1b"] == pytest.approx(0.695, rel=0.02)
    assert found["qwen3-4b"] == pytest.approx(2.26, rel=0.02)
    assert found["qwen3-30b-a3b"] == pytest.approx(1.71, rel=0.05)


def test_a_window_bounds_what_is_read():
    gemma = SHAPES["gemma-3-4b"]
    each = 2 * 2 * 4 * 256
    assert predict.cache_bytes(gemma, 512) == each * 512 * 34
    assert predict.cache_bytes(gemma, 4096) == each * (29 * 1024 + 5 * 4096)


def test_time_is_bytes_and_dispatches():
    assert predict.tokens_a_second(10**9, 0, 100 / predict.REACHED, 3.0) == pytest.approx(100)
    assert predict.tokens_a_second(0, 1000, 100, 2.0) == pytest.approx(500)


def test_the_table_says_that_it_is_a_model_and_how_to_replace_it():
    table = predict.markdown()
    assert table.startswith("**Predicted, not measured**") and predict.COMMAND in table
    assert all(f"| {chip}, " in table for chip in predict.BANDWIDTH)


@pytest.mark.parametrize("shape, layers, most", [("tiny", 2, 6), ("tiny-gemma", 6, 8)])
def test_a_layer_is_six_calls_at_most_where_kernels_run(shape, layers, most):
    """A sandwich of norms adds two; the joining of a long context's parts one."""
    found = counts.counted(shape, 40)
    assert 4 * layers < found["smelt"] <= most * layers + 8
    assert found["mlx-lm"] > 1.5 * found["smelt"]
    longer = counts.counted(shape, 4096)["smelt"] - found["smelt"]
    assert 0 < longer <= layers


def test_nothing_stays_patched():
    import mlx.core as mx

    before = [mx.fast.rms_norm, mx.dequantize, mx.default_device]
    with pytest.raises(ZeroDivisionError), counts.as_on_a_gpu():
        assert mx.fast.rms_norm is not before[0]
        raise ZeroDivisionError
    assert [mx.fast.rms_norm, mx.dequantize, mx.default_device] == before
