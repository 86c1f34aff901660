"""Downloads from the Hugging Face hub: only what a checkpoint needs, and no weights before its config.json was read.

They go to the Hugging Face cache (`into` chooses another folder), because it is shared with other tools and addressed
by content: what is there already, of this or of an older revision, is not fetched again.
"""

import errno
import glob
import os
import re
import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import source_blobs as blobs
from .source_folder import INDEX, SourceError, indexed_shards, missing, read_json, refusal

REPO_ID = re.compile(r"(?:https?://(?:www\.)?huggingface\.co/)?([\w.-]+/[\w.-]+)/?")
SUFFIXES = (".json", ".jinja", ".model")
TEXTS = ("merges.txt", "vocab.txt")


def pull(name: str, revision: str | None = None, into=None, on_progress=None, force: bool = False) -> Path:
    """Download org/name (or bring it up to date) and return its folder; what an interrupted run brought is kept.

    revision     a branch, tag or commit; None is main
    into         a folder for the files themselves, instead of the Hugging Face cache
    on_progress  called with (bytes here, bytes in all) from any thread; without it a terminal shows a bar
    force        download a checkpoint that Smelt cannot run
    """
    repo = Repo(repo_id(name), revision or "main", Path(into).expanduser() if into else None)
    if offline():
        return repo.without_network()
    with repo.errors_explained():
        files = repo.choose(repo.listing(), force)
        repo.check_space(files)
        repo.fetch(files, on_progress)
        return repo.checked(repo.snapshot([file.path for file in files]))


def repo_id(name: str) -> str:
    match = REPO_ID.fullmatch(name)
    if not match:
        raise SourceError(
            f"{name!r} is not a name on the Hugging Face hub: give org/name, as in mlx-community/Qwen3-0.6B-4bit"
        )
    return match[1]


def hub_cache() -> Path:
    """The Hugging Face cache, as huggingface-hub finds it, without importing that."""
    env = os.environ.get
    if folder := env("HF_HUB_CACHE") or env("HUGGINGFACE_HUB_CACHE"):
        return Path(os.path.expandvars(folder)).expanduser()
    home = env("HF_HOME") or os.path.join(env("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def offline() -> bool:
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


@dataclass(frozen=True)
class Listed:
    """A file of the repository. Large ones (Git LFS) are named by the SHA-256 of their bytes."""

    path: str
    size: int
    blob: str  # its name in the cache
    sha256: str | None
    commit: str


def listed(sibling, commit: str) -> Listed:
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    return Listed(sibling.rfilename, sibling.size or 0, sha256 or sibling.blob_id, sha256, commit)


@dataclass(frozen=True)
class Repo:
    """One repository on the hub, and where its files go."""

    name: str
    revision: str
    into: Path | None

    @property
    def folder(self) -> Path:
        return self.into or hub_cache() / ("models--" + self.name.replace("/", "--"))

    def stored(self, file: Listed) -> Path:
        return self.into / file.path if self.into else self.folder / "blobs" / file.blob

    def remote(self, file: Listed) -> blobs.Remote:
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(self.name, file.path, revision=file.commit, endpoint=endpoint())
        return blobs.Remote(url, self.stored(file), file.size, file.sha256)

    def listing(self) -> list[Listed]:
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint(), library_name="smelt")
        info = api.model_info(self.name, revision=self.revision, files_metadata=True)
        return [listed(file, info.sha) for file in info.siblings or []]

    def choose(self, files: list[Listed], force: bool) -> list[Listed]:
        """The files to download, once config.json shows a checkpoint that can be run."""
        weights = [file for file in files if is_weights(file.path)]
        if not weights or "config.json" not in {file.path for file in files}:
            raise SourceError(f"{self.name} is not a checkpoint that Smelt reads: {what_it_is(files)}")
        reason = refusal(read_json(self.small("config.json")))
        if reason and not force:
            raise SourceError(f"{self.name} was not downloaded: {reason}. --force downloads it all the same")
        if INDEX in {file.path for file in files}:
            weights = self.indexed(weights)
        return [file for file in files if is_wanted(file.path)] + weights

    def indexed(self, weights: list[Listed]) -> list[Listed]:
        """Those that the index names: some repositories hold the same weights twice."""
        named = set(indexed_shards(self.small(INDEX)))
        if absent := named - {file.path for file in weights}:
            raise SourceError(f"{self.name} is not complete on the hub: {INDEX} names {', '.join(sorted(absent)[:3])}")
        return [file for file in weights if file.path in named]

    def small(self, path: str) -> Path:
        """One file, fetched now."""
        return self.snapshot([path]) / path

    def check_space(self, files: list[Listed]) -> None:
        need = sum(self.remote(file).missing_bytes() for file in files)
        place = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        free = shutil.disk_usage(place).free
        if need > free:
            raise SourceError(
                f"{self.name} needs {need / 1e9:.2f} GB more in {self.folder}, {free / 1e9:.2f} GB are free there:"
                " make room, or set HF_HOME to a folder on a larger disk"
            )

    def fetch(self, files: list[Listed], on_progress) -> None:
        """The large files. A server that cannot send parts of a file leaves them to `snapshot`."""
        from huggingface_hub.utils import build_hf_headers, get_session

        large = [self.remote(file) for file in files if file.sha256]
        total = sum(file.size for file in large)
        with progress(self.name, total, total - sum(file.missing_bytes() for file in large), on_progress) as on_bytes:
            try:
                blobs.Fetch(get_session(), build_hf_headers(library_name="smelt"), on_bytes).run(large)
            except blobs.NoRanges:
                for file in large:
                    blobs.drop(file)

    def snapshot(self, paths: list[str]) -> Path:
        """The files that are not there yet (all small ones), and the names of the large ones."""
        from huggingface_hub import snapshot_download

        place = {"local_dir": self.into} if self.into else {"cache_dir": hub_cache()}
        folder = snapshot_download(
            self.name,
            revision=self.revision,
            endpoint=endpoint(),
            allow_patterns=[glob.escape(path) for path in paths],
            tqdm_class=silent_bar(),
            library_name="smelt",
            **place,
        )
        return Path(folder)

    def checked(self, folder: Path) -> Path:
        if lacks := missing(folder):
            raise SourceError(f"{self.name} is in {folder}, but has no {', '.join(lacks)}: Smelt cannot load it")
        return folder

    def without_network(self) -> Path:
        """What an earlier run brought, when it is whole."""
        snapshots = self.folder / "snapshots"
        ref = self.folder / "refs" / self.revision
        folder = self.into or snapshots / (ref.read_text().strip() if ref.is_file() else self.revision)
        if lacks := missing(folder):
            raise SourceError(
                f"HF_HUB_OFFLINE is set, and {self.name} is not complete in {self.folder} (no {', '.join(lacks[:3])}):"
                " unset HF_HUB_OFFLINE to download it"
            )
        return folder

    @contextmanager
    def errors_explained(self):
        try:
            yield
        except SourceError:
            raise
        except Exception as error:
            if text := self.explain(error):
                raise SourceError(text) from error
            raise

    def explain(self, error: Exception) -> str | None:
        from huggingface_hub import errors

        cause = next((cause for cause in causes(error) if getattr(cause, "response", None) is not None), None)
        status = cause.response.status_code if cause else None
        login = "run `hf auth login`, or set HF_TOKEN"
        if isinstance(cause, errors.GatedRepoError) or status == 403:
            return f"{self.name} is gated: accept its terms on {endpoint()}/{self.name}, then {login}"
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"{self.name} has no revision {self.revision!r}: see {endpoint()}/{self.name}/commits/main"
        if status in (401, 404):
            return f"{self.name} was not found on {endpoint()}: check the spelling; if it is private, {login}"
        if status:
            return f"{endpoint()} answered {status} for {self.name}: try again later; what was downloaded is kept"
        return self.explain_local(error)

    def explain_local(self, error: Exception) -> str | None:
        """Errors without an answer of the hub."""
        codes = {getattr(cause, "errno", None) for cause in causes(error)}
        if errno.ENOSPC in codes:
            return f"the disk of {self.folder} is full: make room and try again; what was downloaded is kept"
        if codes & {errno.EACCES, errno.EROFS, errno.EPERM}:
            return f"{self.folder} cannot be written ({first_line(error)}): set HF_HOME to a folder of yours"
        if any(isinstance(cause, (blobs.transport_error(), ConnectionError)) for cause in causes(error)):
            kept = "what was downloaded is kept"
            return f"no connection to {endpoint()} ({first_line(error)}): check the network; {kept}"
        if isinstance(error, (OSError, ValueError)):
            return f"downloading {self.name} from {endpoint()} failed: {first_line(error)}"
        return None


def causes(error: BaseException | None):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: Exception) -> str:
    last = list(causes(error))[-1]
    return (str(last).strip().splitlines() or [type(last).__name__])[0]


def is_weights(path: str) -> bool:
    """Weights in the layout of MLX and transformers; not Mistral's second copy, nor an adapter, nor a sub-folder's."""
    return path.endswith(".safetensors") and "/" not in path and not path.startswith(("consolidated", "adapter"))


def is_wanted(path: str) -> bool:
    """Configuration, tokenizer and chat templates; not what lies in folders such as original/ and onnx/."""
    folder, _, name = path.rpartition("/")
    return folder in ("", "additional_chat_templates") and (name.endswith(SUFFIXES) or name in TEXTS)


def what_it_is(files: list[Listed]) -> str:
    suffixes = {os.path.splitext(file.path)[1] for file in files}
    for suffix, text in {".gguf": "GGUF", ".bin": "PyTorch .bin", ".npz": ".npz", ".onnx": "ONNX"}.items():
        if suffix in suffixes and ".safetensors" not in suffixes:
            return f"it holds only {text} weights; look for its MLX or .safetensors version"
    return "it has no config.json with .safetensors weights beside it"


def silent_bar() -> type:
    """huggingface-hub's own bars, several a call, without a picture: one bar for the whole download is enough."""
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        def __init__(self, *args, **options):
            super().__init__(*args, **(options | {"disable": True}))

    return Silent


@contextmanager
def progress(name: str, total: int, initial: int, on_progress):
    """A function to call with each number of bytes that came in. The bar shows on a terminal only."""
    from huggingface_hub.utils import tqdm

    quiet = True if on_progress else None
    lock, here = threading.Lock(), initial
    with tqdm(desc=name, total=total, initial=initial, unit="B", unit_scale=True, disable=quiet) as bar:

        def on_bytes(count: int) -> None:
            nonlocal here
            with lock:
                here += count
                bar.update(count)
                if on_progress:
                    on_progress(here, total)

        on_bytes(0)
        yield on_bytes
