"""`smelt`: run, chat, serve, models, pull, doctor, tune. Also mlx-serve's flags alone: smelt --model X --serve.

Nothing heavy is imported before it is known what is asked: `smelt --help` and a refused flag answer at once.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import flags
from .flags import CHAT, RUN, SERVE, Refused
from .version import VERSION

ABOUT = f"""Smelt {VERSION}: a small LLM engine and server for Apple silicon.

  smelt run [MODEL] PROMPT...   answer once, in the terminal
  smelt chat [MODEL]            talk in the terminal
  smelt serve [MODEL]           an OpenAI-compatible server on 127.0.0.1:11234
  smelt models                  what is installed
  smelt pull ORG/NAME           download from the Hugging Face hub
  smelt doctor                  what this machine has, and whether all of it works
  smelt tune [MODEL]            find the fastest settings of the kernels on this GPU, and keep them

MODEL is a folder, a name that `smelt models` lists, or org/name on the Hugging Face hub; without one the small model
inside Smelt answers. mlx-serve's flags work without a command as well: --serve serves, --prompt TEXT runs.

  smelt run --help              the flags of a command
"""
COMMANDS = (RUN, CHAT, SERVE, "models", "pull", "doctor", "tune", "flags", "parameters")
MLX_SERVE_PROMPT = "Hello"  # its --prompt, where only flags are given
Make = Callable[..., Any]  # makes the service: engine.service.Service, or a test's


class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise Refused(f"{message}. See `{self.prog} --help`")


def main(argv: Sequence[str] | None = None, make_service: Make | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return dispatch(words, make_service)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `smelt run ... | head`
        sys.stderr.close()
        return 0
    except Exception as error:
        if "debug" in words:
            raise
        complain(error)
        return 2 if isinstance(error, Refused) else 1


def complain(error: Exception) -> None:
    """One line. Errors that were written for users speak for themselves, others say what they are."""
    text = " ".join(str(error).split())
    known = isinstance(error, Refused) or type(error).__module__.partition(".")[0] == __package__.partition(".")[0]
    print(f"smelt: {text if known and text else f'{type(error).__name__}: {text}'}", file=sys.stderr)


def dispatch(words: list[str], make_service: Make | None) -> int:
    command, rest = choose(words)
    if command == "help":
        print(ABOUT, end="")
        return 0
    if command == "version":
        print(f"smelt {VERSION}")
        return 0
    if command == RUN and words[0] != RUN:
        return run(rest, make_service or real_service, MLX_SERVE_PROMPT)
    handler = {RUN: run, CHAT: chat, SERVE: serve}.get(command)
    return (
        handler(rest, make_service or real_service) if handler else other(command, rest, make_service or real_service)
    )


def choose(words: list[str]) -> tuple[str, list[str]]:
    """The command and its own words. Without one, mlx-serve's flags say which is meant."""
    if not words or words[0] in ("--help", "-h", "help"):
        return "help", []
    if words[0] in COMMANDS:
        return words[0], words[1:]
    if words[0] == "version" or (words[0].startswith("-") and "--version" in words):
        return "version", []
    if not words[0].startswith("-"):
        raise Refused(
            f"{words[0]!r} is not a command ({', '.join(COMMANDS[:7])}). To answer it: smelt run {words[0]!r}"
        )
    return (SERVE if "--serve" in words else RUN), words


def parsed(command: str, words: list[str], *positional: str) -> tuple[dict[str, Any], list[str]]:
    parser = Parser(prog=f"smelt {command}", allow_abbrev=False, description=describe(command))
    parser.add_argument("words", nargs="*", metavar=" ".join(positional), help=argparse.SUPPRESS)
    flags.add_to(parser, command)
    namespace = parser.parse_intermixed_args(words)
    values = flags.values_of(namespace)
    set_up_logging(values, "info" if command == SERVE else "warn")
    return values, namespace.words


def describe(command: str) -> str:
    return next(line.strip() for line in ABOUT.splitlines() if line.strip().startswith(f"smelt {command}"))


def set_up_logging(values: dict[str, Any], default: str) -> None:
    level = flags.LOG_LEVELS[values.get("log_level", default)]
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if path := values.get("log_file"):
        handlers.append(file_handler(path))
    logging.basicConfig(
        level=level, handlers=handlers, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )


def file_handler(path: str) -> logging.Handler:
    try:
        return logging.FileHandler(path)
    except OSError as error:
        raise Refused(f"--log-file {path}: {error.strerror or error}") from None


def real_service(options, **more):
    from ..engine.service import Service

    return Service(options, **more)


def run(words: list[str], make: Make, default: str | None = None) -> int:
    """`default` is the prompt where none is given; without it, standard input is read."""
    from . import run as command

    values, positional = parsed(RUN, words, "[MODEL]", "PROMPT...")
    model, prompt = command.model_and_prompt(values, positional, default)
    options = flags.options_of(values | {"model": model}, RUN)
    settings = command.RunSettings(
        system=values.get("system"),
        stream=flags.either(values, "stream", True),
        enable_thinking=flags.thinking(values),
    )
    return command.run(options, prompt, settings, make)


def chat(words: list[str], make: Make) -> int:
    from . import chat as command

    values, positional = parsed(CHAT, words, "[MODEL]")
    options = flags.options_of(one_model(values, positional), CHAT)
    return command.chat(options, values.get("system"), flags.thinking(values), make)


def serve(words: list[str], make: Make) -> int:
    from ..engine.registry import Registry
    from . import serve as command
    from .terminal import Bar

    values, positional = parsed(SERVE, words, "[MODEL]")
    options = flags.options_of(one_model(values, positional), SERVE)
    settings = flags.settings_of(values)
    if not settings.api_key and not command.is_loopback(settings.host):
        logging.warning("%s is open to the network, and no --api-key is set: anyone there can use it", settings.host)
    models = Registry(options, flags.residency_of(values), make, progress=Bar.on_terminal())
    return command.serve(models, settings, command.to_terminal, complain)


def one_model(values: dict[str, Any], positional: list[str]) -> dict[str, Any]:
    if len(positional) > 1 or (positional and "model" in values):
        given = [*([values["model"]] if "model" in values else []), *positional]
        raise Refused(f"a server starts with one model, {len(given)} were given: {', '.join(given)}")
    return values | ({"model": positional[0]} if positional else {})


def other(command: str, words: list[str], make: Make) -> int:
    if command == "flags":
        print(flags.markdown())
    elif command == "parameters":
        from . import parameters

        parameters.main()
    elif command == "doctor":
        from . import doctor

        return doctor.main(words, make)
    elif command == "tune":
        from . import tune

        return tune.main(words)
    else:
        from . import listing

        return listing.pull(words) if command == "pull" else listing.models(words)
    return 0
