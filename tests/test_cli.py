"""The command line: which command is meant, every flag, one-line errors, and what is printed where."""

import io
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from fakes import FakeService, finished, says, words
from smelt.api import chat, cli, flag, flags, parameters, run
from smelt.api.dialects import TABLES
from smelt.api.flags import CHAT, RUN, SERVE, Refused
from smelt.api.terminal import Bar, size
from smelt.api.version import VERSION
from smelt.engine.errors import ContextExceeded
from smelt.engine.events import Progress, Reasoning, Started, Text
from smelt.engine.options import Options, Residency

ROOT = Path(__file__).resolve().parents[1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def made():
    return []


@pytest.fixture
def smelt(made, capsys, monkeypatch):
    """Run a command line with a fake service; (status, stdout, stderr)."""
    monkeypatch.delenv("SMELT_API_KEY", raising=False)
    monkeypatch.setattr(sys, "stdin", Terminal())

    def main(*argv, script=words, **more):
        def make(options, **kw):
            made.append(FakeService(options, script=script, state="loading", **more, **kw))
            return made[-1]

        status = cli.main(argv, make)
        out, err = capsys.readouterr()
        return status, out, err

    return main


def values(command, *argv):
    return cli.parsed(command, list(argv), "MODEL")[0]


# Which command


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("", "help"),
        ("--help", "help"),
        ("-h", "help"),
        ("--version", "version"),
        ("run hi", RUN),
        ("serve", SERVE),
        ("chat", CHAT),
        ("models", "models"),
        ("pull a/b", "pull"),
        ("doctor", "doctor"),
        ("--model x --serve --port 11234", SERVE),
        ("--serve", SERVE),
        ("--model x --prompt Hi", RUN),
        ("--prompt Hi", RUN),
        ("--model x --version", "version"),
        ("run what is --version", RUN),
    ],
)
def test_the_command_that_is_meant(line, command):
    assert cli.choose(line.split())[0] == command


def test_help_and_version(smelt):
    assert smelt("--help")[:2] == (0, cli.ABOUT)
    assert smelt("--version")[:2] == (0, f"smelt {VERSION}\n")
    assert smelt()[1] == cli.ABOUT


def test_the_version_is_the_distribution_s():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_help_of_a_command_lists_its_flags(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["serve", "--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0 and "--port N" in text and "--prompt" not in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("frobnicate", "not a command"),
        ("run hi --no-such-flag", "--no-such-flag"),
        ("serve --por 1", "--por"),
        ("serve --port high", "--port: 'high' is not a whole number"),
        ("serve --port 70000", "--port: 70000 is above 65535"),
        ("serve --port", "--port"),
        ("serve a b", "starts with one model, 2 were given"),
        ("serve --model a b", "starts with one model, 2 were given"),
        ("run hi --temp -1", "--temp: -1 is not between 0 and 100"),
        ("run hi --temp nan", "--temp: nan is not between"),
        ("run hi --top-p 2", "--top-p"),
        ("run hi --port 1", "--port"),
        ("run --prompt a b c", "a prompt was given twice"),
        ("run", "there is no prompt"),
        ("run hi --log-level loud", "none of error, warn, info, debug"),
        ("run hi --log-file /no/such/folder/x", "--log-file"),
        ("serve --kv-quant 3", "--kv-quant: '3' is none of off, 4, 8, turbo2, turbo4"),
        ("serve --kv-attn-mode fused", "--kv-attn-mode fused reads a quantised KV cache"),
        ("serve --max-concurrent 0", "--max-concurrent: 0 is below 1"),
        ("serve --warmup-eager --no-warmup-eager", "both given"),
        ("models --frob", "--frob"),
        ("pull", "ORG/NAME"),
    ],
)
def test_what_is_wrong_takes_one_line(smelt, line, words):
    status, out, err = smelt(*line.split())
    assert status == 2 and not out
    assert words in err and err.startswith("smelt: ") and err.count("\n") == 1


# Flags


def test_flags_that_switch_absent_features_off_are_fine():
    assert values(SERVE, "--no-pld", "--no-vision", "--no-drafter")


def test_flags_of_drafts():
    assert flags.options_of(values(RUN), RUN) == flags.options_of(values(RUN, "--pld"), RUN)
    options = flags.options_of(values(SERVE, "--no-pld", "--pld-draft-len", "7", "--pld-key-len", "2"), SERVE)
    assert (options.pld, options.pld_draft_len, options.pld_key_len) == (False, 7, 2)
    assert Options().pld and (Options().pld_draft_len, Options().pld_key_len) == (5, 3)
    options = flags.options_of(values(SERVE, "--drafter", "d", "--draft-block-size", "5"), SERVE)
    assert (options.drafter, options.draft_block) == ("d", 5)
    auto = flags.options_of(values(SERVE, "--no-drafter", "--draft-block-size", "auto"), SERVE)
    assert (auto.drafter, auto.draft_block) == (None, None)
    for line in (["--drafter", "d", "--no-drafter"], ["--draft-block-size", "9"], ["--pld", "--no-pld"], ["--pld-draft-len", "8"], ["--pld-key-len", "0"]):
        with pytest.raises(Refused):
            flags.options_of(values(SERVE, *line), SERVE)


def test_a_quantised_kv_cache_is_an_option():
    options = flags.options_of(values(RUN, "--kv-quant", "turbo2", "--kv-attn-mode", "dense"), RUN)
    assert (options.kv_quant, options.kv_attn_mode) == ("turbo2", "dense")
    assert flags.options_of(values(RUN, "--kv-attn-mode", "dense"), RUN).kv_quant == "off"
    with pytest.raises(Refused, match="--kv-attn-mode fused reads a quantised KV cache: give --kv-quant"):
        flags.options_of(values(RUN, "--kv-attn-mode", "fused"), RUN)


def test_every_flag_of_mlx_serve_is_known():
    theirs = """--model --serve --host --port --ctx-size --prompt --stream --max-tokens --temp --timeout
    --reasoning-budget --no-vision --pld --no-pld --pld-draft-len --pld-key-len --drafter --draft-block-size --kv-quant
    --kv-attn-mode --prefix-cache-entries --prefix-cache-mem --max-concurrent --model-dir --max-resident-models
    --max-resident-mem
    --idle-evict-secs --warmup-eager --no-warmup-eager --prefill-chunk --prefill-trace --log-level"""
    assert set(theirs.split()) <= {name for flag in flags.FLAGS for name in flag.names}


@pytest.mark.parametrize("given, entries, most", [
    ((), None, 2 << 30), (("auto", "0"), None, None), (("0", "off"), 0, None), (("7", "2GB"), 7, 2 << 30)
])  # fmt: skip
def test_the_prefix_cache_as_mlx_serve_has_it(given, entries, most):
    line = [word for pair in zip(("--prefix-cache-entries", "--prefix-cache-mem"), given, strict=False) for word in pair]
    options = flags.options_of(values(SERVE, *line), SERVE)
    assert (options.prefix_entries, options.prefix_bytes) == (entries, most)


def test_flags_become_options_and_settings(monkeypatch):
    line = """--model m --model-dir a --model-dir b --ctx-size 4096 --max-concurrent 4 --max-queue 2
    --prefill-chunk 512 --timeout 9 --max-tokens 50 --temp 0.5 --top-p 0.9 --top-k 40 --min-p 0.1 --repeat-penalty 1.1
    --presence-penalty 0.2 --frequency-penalty 0.3 --seed 7 --no-warmup-eager --host 0.0.0.0 --port 80
    --api-key k --cors-origin x --max-body-mb 1 --keep-alive-secs 3
    --drain-secs 4 --reasoning-budget 0 --prefix-cache-entries 5 --prefix-cache-mem 3MB"""
    given = values(SERVE, *line.split())
    options, settings = flags.options_of(given, SERVE), flags.settings_of(given)
    assert (options.model, options.model_dirs, options.ctx_size, options.max_concurrent) == ("m", ("a", "b"), 4096, 4)
    assert (options.prefill_chunk, options.timeout_s, options.max_tokens, options.warmup) == (512, 9, 50, False)
    assert options.download and (options.prefix_entries, options.prefix_bytes) == (5, 3 << 20)
    assert options.sampling == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "seed": 7,
    }
    assert (settings.host, settings.port, settings.api_key, settings.origins) == ("0.0.0.0", 80, "k", ("x",))
    assert (settings.max_body_bytes, settings.keep_alive_s, settings.drain_s, settings.max_streams) == (
        1 << 20,
        3,
        4,
        6,
    )
    assert settings.enable_thinking is False and settings.threads == 14


def test_defaults_are_mlx_serve_s_where_nothing_else_is_said():
    options, settings = flags.options_of({}, SERVE), flags.settings_of({})
    assert (settings.host, settings.port, options.timeout_s) == ("127.0.0.1", 11234, 300)
    assert options.sampling == {} and options.max_tokens is None and options.ctx_size is None
    options = flags.options_of({}, RUN)
    assert options.sampling == {"temperature": 0.0} and options.max_tokens == 100 and options.max_concurrent == 1
    assert flags.options_of({}, CHAT).max_tokens is None


def test_flags_of_several_models():
    assert flags.residency_of({}) == Residency(max_models=3, max_bytes=None, idle_s=0)
    given = values(SERVE, *"--max-resident-models 5 --max-resident-mem 6GB --idle-evict-secs 1.5 --prefill-trace".split())
    assert flags.residency_of(given) == Residency(5, 6 << 30, 1.5) and flags.options_of(given, SERVE).prefill_trace
    assert flags.residency_of(values(SERVE, "--max-resident-mem", "0")).max_bytes == 0
    assert flags.residency_of(values(SERVE, "--max-resident-mem", "auto")).max_bytes is None
    assert all(flags.options_of(values(command, "--prefill-trace"), command).prefill_trace for command in (RUN, CHAT))
    for line in ("--max-resident-models 0", "--max-resident-mem lots", "--idle-evict-secs -1"):
        with pytest.raises(Refused, match=line.split()[0]):
            values(SERVE, *line.split())


def test_the_key_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SMELT_API_KEY", "from-env")
    assert flags.settings_of({}).api_key == "from-env"
    assert flags.settings_of({"api_key": "from-flag"}).api_key == "from-flag"


def test_ctx_size_and_sizes():
    assert values(SERVE, "--ctx-size", "auto") == {"ctx_size": None}
    assert [flag.size(text) for text in ("1GB", "2kb", "5", "3M")] == [1 << 30, 2048, 5, 3 << 20]
    with pytest.raises(ValueError):
        flag.size("GB")


def test_tables_for_the_documentation(smelt):
    table = smelt("flags")[1]
    assert all(f"`{flag.names[0]}" in table for flag in flags.FLAGS)
    assert len({line.count("|") for line in table.strip().splitlines()}) == 1
    text = smelt("parameters")[1]
    assert text.strip() == parameters.markdown(TABLES).strip()
    assert "`repetition_penalty`, `repeat_penalty`" in text and "accepted without effect" in text


# run


def test_run_writes_the_text_and_then_the_numbers(smelt, made):
    status, out, err = smelt("run", "Say", "hello", "--temp", "0.3", "--system", "Be brief.", "--seed", "3")
    assert (status, out) == (0, "Hello from the fake.\n")
    assert "prompt 7 tokens (3 cached), 400.0 tok/s | decode 5 tokens, 50.0 tok/s | peak memory 3.15 MB" in err
    assert "small model that ships inside" in err.splitlines()[0]
    request = made[0].requests[0]
    assert request.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello"}]
    assert made[0].options.sampling == {"temperature": 0.3, "seed": 3} and made[0].state == "closed"


def test_run_as_mlx_serve_does_it(smelt, made):
    status, out, err = smelt("--model", "org/name", "--prompt", "Hi", "--no-stream", "--no-thinking")
    assert (status, out) == (0, "Hello from the fake.\n") and "ships inside" not in err
    assert made[0].options.model == "org/name" and made[0].requests[0].template_kwargs == {"enable_thinking": False}


def test_flags_alone_have_mlx_serve_s_prompt(smelt, made):
    assert smelt("--model", "org/name")[0] == 0 and smelt("--temp", "0")[0] == 0
    assert [service.requests[0].messages[0]["content"] for service in made] == ["Hello", "Hello"]


def test_run_reads_standard_input(smelt, made, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("From a pipe\n"))
    assert smelt("run")[0] == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("And again"))
    assert smelt("run", "org/name", "-")[0] == 0
    assert [service.requests[0].messages[0]["content"] for service in made] == ["From a pipe", "And again"]
    assert made[1].options.model == "org/name"


@pytest.mark.parametrize(
    ("line", "model", "prompt"),
    [
        (["Hello"], None, "Hello"),
        (["Hello", "there"], None, "Hello there"),
        (["org/name", "Hello"], "org/name", "Hello"),
        (["a/b c", "d"], None, "a/b c d"),
        (["--model", "x", "org/name", "Hello"], "x", "org/name Hello"),
        (["some-model", "--prompt", "Hello"], "some-model", "Hello"),
    ],
)
def test_model_and_prompt(smelt, line, model, prompt):
    given, positional = cli.parsed(RUN, line, "MODEL")
    assert run.model_and_prompt(given, positional) == (model, prompt)


def test_a_folder_is_a_model(tmp_path):
    assert run.names_a_model(str(tmp_path), ()) and not run.names_a_model("surely-no-model", ())


def test_thinking_is_not_in_a_pipe(smelt):
    script = says(Started(1), Reasoning("hm"), Text("Yes."), finished())
    assert smelt("run", "hi", script=script)[1] == "Yes.\n"
    out = Terminal()
    run.Answer(out=out).show(FakeService(script=script).submit(run.Request(text="x")))
    assert out.getvalue() == "\x1b[2mhm\x1b[0m\n\nYes.\n"


def test_errors_of_a_run_take_one_line(smelt):
    status, out, err = smelt("run", "hi", script=ContextExceeded(5000, 4096))
    assert status == 1 and "smelt: the prompt has 5000 tokens" in err
    status, out, err = smelt("run", "hi", error=RuntimeError("boom\nbang"))
    assert status == 1 and err.splitlines()[-1] == "smelt: RuntimeError: boom bang"
    with pytest.raises(RuntimeError):
        smelt("run", "hi", "--log-level", "debug", error=RuntimeError("boom"))


def test_an_interrupted_run_leaves_with_130(smelt, made):
    def script(request):
        raise KeyboardInterrupt

    assert smelt("run", "hi", script=script)[0] == 130 and made[0].state == "closed"


# chat


def talk(*lines, script=words):
    """The requests that a conversation makes. A line may be an exception to raise at the prompt."""
    service, said = FakeService(script=script), iter(lines)

    def read(prompt):
        line = next(said, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    chat.talk(service, chat.Conversation("Be brief.", None), read)
    return [request.messages for request in service.requests]


def test_chat_remembers_what_was_said(capsys):
    first, second = talk("Hi", "", "And \\", "you?")
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
    assert second[2]["content"] == "Hello from the fake." and second[3]["content"] == "And \nyou?"


def test_chat_commands(capsys):
    requests = talk("Hi", "/clear", "/system Be long.", "/system", "/help", "/frob", "Again", "/exit", "never")
    assert requests[1] == [{"role": "system", "content": "Be long."}, {"role": "user", "content": "Again"}]
    err = capsys.readouterr().err
    assert "/clear" in err and "/frob is not a command" in err and "System message: Be long." in err


def test_ctrl_c_stops_the_answer_and_not_the_program(capsys):
    def script(request):
        return [Started(1), Text("I was say")] if len(request.messages) == 2 else words(request)

    class Interrupted(chat.Answer):
        def one(self, event):
            if isinstance(event, Text) and event.text == "I was say":
                super().one(event)
                raise KeyboardInterrupt
            super().one(event)

    original, chat.Answer = chat.Answer, Interrupted
    try:
        requests = talk("Hi", KeyboardInterrupt(), "Go on", script=script)
    finally:
        chat.Answer = original
    assert [message["content"] for message in requests[1][1:]] == ["Hi", "I was say", "Go on"]


def test_a_question_without_an_answer_is_forgotten(capsys):
    def script(request):
        if len(request.messages) == 2 and request.messages[1]["content"] == "Hi":
            raise ContextExceeded(9, 8)
        return words(request)

    assert talk("Hi", "Hello", script=script)[-1][1:] == [{"role": "user", "content": "Hello"}]
    assert "the prompt has 9 tokens" in capsys.readouterr().err


def test_chat_as_a_command(smelt, made, monkeypatch):
    lines = iter(["Hi", "/exit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    status, out, err = smelt("chat", "--system", "S")
    assert status == 0 and "Hello from the fake." in out and made[0].state == "closed"


# models, pull, doctor


def test_models(smelt, tmp_path, monkeypatch):
    for name in ("HF_HOME", "SMELT_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    folder = tmp_path / "org" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "mystery"}))
    status, out, err = smelt("models", "--model-dir", str(tmp_path))
    assert status == 0 and "org/tiny" in out and "SUPPORTED" in out and "no: " in out
    rows = json.loads(smelt("models", "--model-dir", str(tmp_path), "--json")[1])
    assert [row["name"] for row in rows if row["source"] == "folder"] == ["org/tiny"]


def test_pull_of_a_bad_name_takes_one_line(smelt):
    status, out, err = smelt("pull", "not-a-name")
    assert (
        status == 1
        and err.startswith("smelt: 'not-a-name' is not a name on the Hugging Face hub")
        and err.count("\n") == 1
    )


def test_doctor(smelt, made):
    status, out, err = smelt("doctor")
    assert status == 0, out
    for word in ("Versions", "falcon", "memory", "backend", "'Hello from the fake.'", "All of it works."):
        assert word in out
    assert made[0].state == "closed"
    status, out, err = smelt("doctor", error=RuntimeError("no weights"))
    assert status == 1 and "FAILED  no weights" in out and "Broken: Trial" in out


# The terminal


def test_the_bar():
    out = Terminal()
    bar = Bar.on_terminal(out)
    bar("loading", 1, 4)
    bar("loading", 4, 4)
    assert "loading [######..................]  25% 0 s" in out.getvalue() and out.getvalue().endswith("\x1b[K")
    assert Bar.on_terminal(io.StringIO()) is None


def test_a_long_prompt_gets_a_bar():
    answer = run.Answer(out=io.StringIO())
    answer.bar = Bar(Terminal())
    answer.one(Progress(100, 1000))
    answer.one(Progress(100, 10_000))
    assert "reading the prompt" in answer.bar.out.getvalue() and "1%" in answer.bar.out.getvalue()


def test_sizes():
    assert [size(count) for count in (5, 1500, 2_500_000, 3.1e9, 5e12)] == [
        "5 B",
        "2 kB",
        "2.50 MB",
        "3.10 GB",
        "5000.00 GB",
    ]


def test_python_m():
    code = "import runpy, sys; sys.argv = ['smelt', '--version']; runpy.run_module('smelt.api', run_name='__main__')"
    start = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import conftest\n"
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"smelt {VERSION}\n", done.stderr
