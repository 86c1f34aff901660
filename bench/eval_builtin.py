"""How good the built-in model is: held-out cases by task, after quantisation, through an engine.

    python bench/eval_builtin.py --backend torch             the checkpoint's 4-bit values in torch, batched: the quick way on a CPU
    python bench/eval_builtin.py --backend smelt             the same cases through Smelt's engine
    python bench/eval_builtin.py --backend mlx-lm            the same cases through mlx-lm
    python bench/eval_builtin.py --backend http --url http://127.0.0.1:8080
    python bench/eval_builtin.py --quick                     10 cases a task, for a test run

Prints a table and, unless --quick, writes it to models/builtin/EVALUATION.md. Needs a checkout: the cases come from models/builtin/train.
"""

import argparse
import atexit
import json
import platform
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BUILTIN = Path(__file__).resolve().parents[1] / "models" / "builtin"
sys.path.insert(0, str(BUILTIN))
from train import evaluation  # noqa: E402
from train.sample import answer_text  # noqa: E402

LIMIT = 1200  # tokens of one answer
# Written by hand, not by the generator: (prompt, what the answer must contain)
FREE = (
    ("Hi", "Hello"), ("hello!", "Hello"), ("Who are you?", "Smelt"), ("what's 2+2?", "4"), ("12 + 30", "42"), ("What is 15 minus 7?", "8"), ("3 times 4", "12"),
    ("What is the capital of France?", "Paris"), ("What's the capital of Japan", "Tokyo"), ("Thanks!", "welcome"), ("Count to 5", "1, 2, 3, 4, 5"),
    ("Who won the Nobel prize in 1987?", "don't know"), ("What is my name?", "don't know"), ("how many days are in a week?", "7"), ("bye", "oodbye"),
    ("Say: purple elephants dance", "purple elephants dance"), ("Is 8 even?", "even"), ("What is an LLM?", "model"), ("Tell me a joke", "token"),
    ("My name is Gwendolyn. What is my name?", "Gwendolyn"), ("List the planets", "Saturn"), ("Explain MLX", "Apple"), ("What can you do?", "tools"),
    ("The cat is in the kitchen. Where is the cat?", "kitchen"), ("Bob has 5 apples and eats 2. How many apples are left?", "3"),
    ("Can you help me with something?", "help"), ("good morning", "Hello"), ("Tell me a short story about a fox.", "fox"), ("what is json", "JSON"),
    ("What is the opposite of hot?", "cold"),
)  # fmt: skip


def mlx_lm_backend(args):
    import mlx.core as mx
    from mlx_lm import load, stream_generate

    model, tokenizer = load(args.model)
    if mx.default_device() == mx.cpu:  # bf16 scales make MLX's CPU matmul some ten times slower; the 4-bit values stay the same
        model.set_dtype(mx.float32)

    def generate(messages, tools, enable_thinking):
        prompt = tokenizer.apply_chat_template(messages, tools=tools or None, add_generation_prompt=True, enable_thinking=enable_thinking)
        text, reason = "", None
        for part in stream_generate(model, tokenizer, prompt, max_tokens=LIMIT):
            text, reason = text + part.text, part.finish_reason
        return text, reason == "stop"

    return generate


def torch_counts(args, n, failures, say=print):
    """The whole evaluation in batches, on the values that the 4-bit weights stand for."""
    from train import generate, rows

    model, tokenizer = generate.load(Path(args.model)), rows.load_tokenizer(Path(args.model))
    counts = {}
    for row in args.rows or evaluation.ROWS:
        found, wrong = generate.evaluate(model, tokenizer, evaluation.all_cases(n, [row]), "cpu", batch=16)
        counts |= found
        failures += [dict(zip(("row", "prompt", "got", "wanted"), case, strict=True)) for case in wrong]
        say(row, counts[row])
    return counts


def smelt_backend(args):
    """Smelt's engine in this process; the text as the model wrote it, marks of reasoning and calls included."""
    from smelt.engine.events import Finished, Text
    from smelt.engine.options import Options
    from smelt.engine.request import Request
    from smelt.engine.service import Service

    service = Service(Options(model=args.model))
    service.start()
    atexit.register(service.close)  # a thread that still computes while Python ends would abort the process
    service.wait_ready()

    def generate(messages, tools, enable_thinking):
        thinking = {"enable_thinking": enable_thinking}
        prompt = service.prompt_of(Request(messages=messages, tools=tools or (), template_kwargs=thinking))
        events = list(service.submit(Request(tokens=prompt, max_tokens=LIMIT, sampling={"temperature": 0})))
        text = "".join(event.text for event in events if isinstance(event, Text))
        return text, any(isinstance(event, Finished) and event.reason == "stop" for event in events)

    return generate


def _as_text(message):
    """A chat completion's message as the model wrote it."""
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    return (f"<think>\n{reasoning.strip()}\n</think>\n\n" if reasoning.strip() else "") + answer_text(message)


def _wire(messages):
    """Arguments as strings and ids on calls and results, as the OpenAI API has them."""
    out, ids = [], []
    for message in messages:
        message = dict(message)
        if message.get("tool_calls"):
            ids = [f"call_{len(out)}_{i}" for i in range(len(message["tool_calls"]))]
            message["tool_calls"] = [{"id": i, "type": "function", "function": {"name": c["function"]["name"], "arguments": json.dumps(c["function"]["arguments"])}}
                                     for i, c in zip(ids, message["tool_calls"], strict=True)]  # fmt: skip
        elif message["role"] == "tool":
            message["tool_call_id"] = ids.pop(0)
        out.append(message)
    return out


def http_backend(args):
    def generate(messages, tools, enable_thinking):
        body = {"model": args.model_name, "messages": _wire(messages), "temperature": 0, "max_tokens": LIMIT, "chat_template_kwargs": {"enable_thinking": enable_thinking}}
        body |= {"tools": tools} if tools else {}
        request = urllib.request.Request(f"{args.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as response:
            choice = json.load(response)["choices"][0]
        return _as_text(choice["message"]), choice["finish_reason"] in ("stop", "tool_calls")

    return generate


BACKENDS = {"mlx-lm": mlx_lm_backend, "smelt": smelt_backend, "http": http_backend}
AT_ONCE = {"smelt": 16, "http": 16}  # requests that a scheduler decodes together


def run_row(generate, row, n, failures=None, at_once=1):
    """(cases, right, ended) of one row, `at_once` of them under way together."""
    good = ended = 0
    samples = evaluation.cases(row, n)
    with ThreadPoolExecutor(at_once) as pool:
        outputs = list(pool.map(lambda sample: generate(sample.messages[:-1], sample.tools, sample.thinking), samples))
    for sample, (text, stopped) in zip(samples, outputs, strict=True):
        hit = stopped and evaluation.right(sample, text)
        good, ended = good + hit, ended + stopped
        if failures is not None and not hit:
            failures.append({"row": row, "messages": sample.messages, "tools": sample.tools, "thinking": sample.thinking, "got": text})
    return n, good, ended


def run_free(generate, failures=None):
    good = ended = 0
    for prompt, wanted in FREE:
        text, stopped = generate([{"role": "user", "content": prompt}], [], False)
        good, ended = good + (wanted in text), ended + stopped
        if failures is not None and wanted not in text:
            failures.append({"row": "free", "prompt": prompt, "got": text})
    return len(FREE), good, ended


def evaluate(generate, n, rows=None, failures=None, say=print, at_once=1):
    """{row: (cases, right, ended)} for `generate(messages, tools, enable_thinking) -> (text, whether it ended by itself)`."""
    counts = {}
    for row in rows or evaluation.ROWS:
        counts[row] = run_row(generate, row, n, failures, at_once)
        say(row, counts[row])
    if not rows:
        counts["written by hand"] = run_free(generate, failures)
    return counts


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["torch", *BACKENDS], default="mlx-lm")
    parser.add_argument("--model", default=str(BUILTIN))
    parser.add_argument("--model-name", default="smelt-mini", help="name to send with --backend http")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--rows", nargs="*", help="only these rows")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--failures", type=Path, help="write what went wrong to this file, one JSON object a line")
    return parser.parse_args()


def heading(args, n, seconds):
    return (f"# Evaluation\n\nHeld-out cases, greedy, 4-bit checkpoint as shipped, through {args.backend} on {platform.system()} {platform.machine()}; "
            f"{n} cases a task, {seconds:.0f} s. Made by `python bench/eval_builtin.py --backend {args.backend} --cases {n}`.\n\n")  # fmt: skip


def say(*line):
    print(*line, file=sys.stderr, flush=True)


def main():
    args, failures, began = options(), [], time.time()
    n = 10 if args.quick else args.cases
    if args.backend == "torch":
        counts = torch_counts(args, n, failures, say)
    else:
        counts = evaluate(BACKENDS[args.backend](args), n, args.rows, failures, say, AT_ONCE.get(args.backend, 1))
    text = evaluation.table(counts)
    print(text)
    if args.failures:
        args.failures.write_text("".join(json.dumps(f) + "\n" for f in failures))
    if not args.quick and not args.rows:
        (BUILTIN / "EVALUATION.md").write_text(heading(args, n, time.time() - began) + text + "\n")


if __name__ == "__main__":
    main()
