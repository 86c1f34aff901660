"""Where a model comes from: a folder, the models installed on this machine, or the Hugging Face hub.

Installed models are looked for, in this order, in the package (the built-in model), the folders of --model-dir,
~/.smelt/models (SMELT_HOME moves ~/.smelt), the Hugging Face cache (HF_HUB_CACHE, HF_HOME) and LM Studio's folders.
`pull` downloads to the Hugging Face cache: other tools find the model there, and what they downloaded is not
downloaded again.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import DRAFTERS
from . import source_folder as folders
from .source_folder import SourceError, read_json
from .source_hub import hub_cache, pull

__all__ = ["BUILTIN", "Found", "SourceError", "installed", "locate", "locate_drafter", "pull"]

BUILTIN = Path(__file__).with_name("builtin")
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
WEB = re.compile(r"https?://(www\.)?huggingface\.co/")
MODEL_FILES = {".safetensors", ".gguf", ".incomplete"}


@dataclass(frozen=True)
class Found:
    """A model on this machine. `bytes` is what it takes on disk; `reason` says why it is not `supported`."""

    name: str
    path: Path
    bytes: int
    architecture: str | None
    quantisation: str | None
    supported: bool
    reason: str | None
    source: str  # "builtin", "folder", "smelt", "hf-cache" or "lm-studio"
    missing: tuple[str, ...] = ()  # files that a download still has to bring


def locate(
    name: str | None, model_dirs: Iterable[str | Path] = (), *, download=False, force=False, on_progress=None
) -> Path:
    """The folder of a checkpoint that is ready to load.

    name        a folder; a name of `installed` or the end of one, in any case; org/name; None for the built-in model
    model_dirs  further folders to look in
    download    fetch org/name from the hub when it is not installed; `force` and `on_progress` as in `pull`
    """
    if name is None:
        return builtin()
    if path := given_folder(name):
        return path
    name = WEB.sub("", name).strip("/")
    found = choose(name, installed(model_dirs))
    if found and not found.missing:
        return found.path
    if download and REPO_ID.fullmatch(found.name if found else name):
        return pull(found.name if found else name, on_progress=on_progress, force=force)
    raise SourceError(unfinished(found) if found else not_installed(name, model_dirs))


def locate_drafter(name: str, model_dirs: Iterable[str | Path] = (), *, download=False) -> Path:
    """The same of a drafter, which reads its target's tokens: a folder of it needs no tokenizer."""
    folder = Path(name).expanduser()
    if read_json(folder / "config.json").get("model_type") in DRAFTERS:
        return folder
    return locate(name, model_dirs, download=download)


def builtin() -> Path:
    if lacks := folders.missing(BUILTIN):
        raise SourceError(
            f"the built-in model is not in this installation ({BUILTIN} lacks {some(lacks)}):"
            " name a model with --model, a folder or one that `smelt models` lists"
        )
    return BUILTIN


def given_folder(name: str) -> Path | None:
    """The checkpoint in the folder `name`; None when `name` is not a path. A path that is no checkpoint is an error."""
    path = Path(name).expanduser()
    explicit = name.startswith((".", "/", "~"))
    if path.is_file():
        raise SourceError(f"{name} is a file: give the folder with config.json, a tokenizer and .safetensors weights")
    if not path.is_dir():
        if explicit:
            raise SourceError(f"there is no folder {path}: give a checkpoint's folder, or a name of `smelt models`")
        return None
    if (path / "snapshots").is_dir():  # a repository in the Hugging Face cache
        path = best_snapshot(path) or path
    if not explicit and not (path / "config.json").is_file():
        return None  # some folder that happens to have a model's name
    if gguf_only(path):
        raise SourceError(f"{name} holds GGUF weights: Smelt reads MLX and Hugging Face checkpoints (.safetensors)")
    if lacks := folders.missing(path):
        raise SourceError(f"{name} is not a complete checkpoint: it lacks {some(lacks)}")
    return path


def choose(name: str, models: list[Found]) -> Found | None:
    """The installed model that `name` means: its whole name, else the part after the slash, else any unique ending."""
    wanted = name.lower()
    for fits in (str.__eq__, lambda full, end: full.endswith("/" + end), str.endswith):
        found = [model for model in models if fits(model.name.lower(), wanted)]
        names = sorted({model.name.lower(): model.name for model in found}.values())
        if len(names) > 1:
            raise SourceError(f"{name!r} fits {len(names)} installed models: {', '.join(names)}. Give more of the name")
        if found:
            return next((model for model in found if not model.missing), found[0])
    return None


def unfinished(model: Found) -> str:
    if gguf_only(model.path):
        return f"{model.name} is GGUF ({model.path}): Smelt reads MLX and Hugging Face checkpoints (.safetensors)"
    lacks = f"{model.name} is not complete: {model.path} lacks {some(model.missing)}"
    return lacks + (f". `smelt pull {model.name}` fetches the rest" if REPO_ID.fullmatch(model.name) else "")


def not_installed(name: str, model_dirs: Iterable[str | Path]) -> str:
    looked = ", ".join(str(folder) for folder in dict.fromkeys(root for _, root in roots(model_dirs)))
    text = f"{name} is neither a folder here nor installed (looked in {looked}). "
    if REPO_ID.fullmatch(name):
        return text + f"`smelt pull {name}` would fetch it from the Hugging Face hub"
    names = [model.name for model in installed(model_dirs)]
    ends = {full.split("/")[-1].lower(): full for full in names}
    if close := difflib.get_close_matches(name.lower(), ends, n=3):
        return text + "Did you mean " + " or ".join(ends[end] for end in close) + "?"
    return text + f"Installed: {', '.join(names) or 'none'}. Give one of these, a folder, or org/name on the hub"


def installed(extra_dirs: Iterable[str | Path] = ()) -> list[Found]:
    """Every model on this machine, unfinished and unsupported ones included; a folder reached twice is listed once."""
    found: dict[Path, Found] = {}
    for source, root in roots(extra_dirs):
        for name, folder in models_in(source, root):
            if folder.resolve() not in found:
                found[folder.resolve()] = inspect(name, folder, source)
    return list(found.values())


def roots(extra_dirs: Iterable[str | Path] = ()) -> list[tuple[str, Path]]:
    """(source, folder) pairs to look in, the ones that the user named first."""
    extra = [("folder", Path(folder).expanduser()) for folder in extra_dirs]
    smelt = home() / "models"
    lm_studio = [("lm-studio", folder) for folder in lm_studio_folders()]
    return [("builtin", BUILTIN), *extra, ("smelt", smelt), ("hf-cache", hub_cache()), *lm_studio]


def home() -> Path:
    """Where Smelt keeps what is the user's: models, and what was found and compiled for this machine."""
    return Path(os.environ.get("SMELT_HOME") or "~/.smelt").expanduser()


def lm_studio_folders() -> list[Path]:
    home = Path.home()
    chosen = read_json(home / ".lmstudio" / "settings.json").get("downloadsFolder")
    usual = [home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models"]
    return ([Path(chosen).expanduser()] if isinstance(chosen, str) and chosen else usual[:1]) + usual[1:]


def models_in(source: str, root: Path) -> Iterator[tuple[str, Path]]:
    if source == "builtin":
        return iter([("builtin", root)] if holds_model(root) else [])
    return in_hub_cache(root) if source == "hf-cache" else in_folder(root)


def in_folder(root: Path) -> Iterator[tuple[str, Path]]:
    """(name, folder) of the models in a folder of <author>/<name> or <name>; of the folder itself when it is one."""
    if holds_model(root):
        yield root.name, root
        return
    for child in subfolders(root):
        if holds_model(child):
            yield child.name, child
        else:
            yield from ((f"{child.name}/{folder.name}", folder) for folder in subfolders(child) if holds_model(folder))


def in_hub_cache(root: Path) -> Iterator[tuple[str, Path]]:
    for repo in subfolders(root):
        if repo.name.startswith("models--"):
            folder = best_snapshot(repo) or repo / "blobs"
            if holds_model(folder):
                yield repo.name.removeprefix("models--").replace("--", "/"), folder


def best_snapshot(repo: Path) -> Path | None:
    """Of a cached repository: the snapshot of main, unless only another one (the newest) is complete."""
    snapshots = sorted(subfolders(repo / "snapshots"), key=lambda path: path.stat().st_mtime, reverse=True)
    try:
        main = (repo / "refs" / "main").read_text().strip()
    except OSError:
        main = None
    snapshots.sort(key=lambda path: path.name != main)
    return next((path for path in snapshots if not folders.missing(path)), snapshots[0] if snapshots else None)


def subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def holds_model(folder: Path) -> bool:
    """Whether a folder holds a model or the beginning of one; other repositories (data, tokenizers) are passed over."""
    try:
        return any(path.name == "config.json" or path.suffix in MODEL_FILES for path in folder.iterdir())
    except OSError:
        return False


def gguf_only(folder: Path) -> bool:
    return any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors"))


def inspect(name: str, folder: Path, source: str) -> Found:
    config = read_json(folder / "config.json")
    lacks = tuple(folders.missing(folder))
    if gguf_only(folder):
        reason = "GGUF weights; Smelt reads .safetensors"
    elif lacks:
        reason = f"incomplete: lacks {some(lacks)}"
    else:
        reason = folders.refusal(config)
    stored = folders.quantisation(config, folder)
    kind = folders.architecture(config)
    return Found(name, folder, folders.size(folder), kind, stored, reason is None, reason, source, lacks)


def some(names: Iterable[str], limit: int = 3) -> str:
    names = list(names)
    more = [f"{len(names) - limit} more"] if len(names) > limit else []
    return ", ".join(names[:limit] + more)
