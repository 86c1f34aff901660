"""Where models come from, without a network: temporary folders, and a hub on 127.0.0.1."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import smelt.models
from smelt.models import source, source_blobs, source_folder, source_hub
from smelt.models.source import SourceError, installed, locate, pull
from stub_hub import COMMIT, StubHub, sha256

CONFIG = {"model_type": "llama", "quantization": {"bits": 4, "group_size": 64}}
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A machine without models, and an engine that runs two architectures."""
    for name in os.environ:
        if name.lower().startswith(("hf_", "hugg", "xdg_", "smelt_", "transformers_")) or "proxy" in name.lower():
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(source, "BUILTIN", tmp_path / "package" / "builtin")
    monkeypatch.setattr(smelt.models, "FAMILIES", {"llama": "llama", "gemma3_text": "gemma3"}, raising=False)
    return home


def safetensors(dtype="BF16", filling=64) -> bytes:
    header = json.dumps({"w": {"dtype": dtype, "shape": [filling // 2], "data_offsets": [0, filling]}}).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(filling)


def checkpoint(folder: Path, config=CONFIG, without=(), **files) -> Path:
    """A folder with the files of a checkpoint; `files` as model_safetensors=b"..." add to or replace them."""
    content = {"config.json": json.dumps(config).encode(), "tokenizer.json": b"{}", "model.safetensors": safetensors()}
    content |= files
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        if name not in without:
            (folder / name).write_bytes(data)
    return folder


def in_hub_cache(cache: Path, name: str, commit=COMMIT, ref=True, **kwargs) -> Path:
    """A repository in the layout of the Hugging Face cache: blobs, links to them in snapshots/<commit>, refs/main."""
    repo = cache / ("models--" + name.replace("/", "--"))
    real = checkpoint(repo / "blobs", **kwargs)
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in list(real.iterdir()):
        if "." in path.name:
            (snapshot / path.name).symlink_to(path.rename(real / sha256((commit + path.name).encode())))
    if ref:
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / "main").write_text(commit)
    return snapshot


def only(models):
    (model,) = models
    return model


# Folders


def test_a_folder_is_taken_as_it_is(tmp_path):
    folder = checkpoint(tmp_path / "some" / "model")
    assert locate(str(folder)) == folder
    assert locate("some/model") == Path("some/model")  # relative, and not org/name on the hub


def test_home_is_expanded(home):
    folder = checkpoint(home / "m")
    assert locate("~/m") == folder


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_a_folder_without_a_file_names_it(tmp_path, lost):
    checkpoint(tmp_path / "m", without=[lost])
    with pytest.raises(SourceError, match=f"not a complete checkpoint: it lacks {lost}"):
        locate(str(tmp_path / "m"))


def test_either_tokenizer_will_do(tmp_path):
    folder = checkpoint(tmp_path / "m", without=["tokenizer.json"])
    assert source_folder.missing(folder) == ["tokenizer.json or tokenizer.model"]
    (folder / "tokenizer.model").write_bytes(b"x")
    assert not source_folder.missing(folder)


def test_a_path_that_is_not_there():
    with pytest.raises(SourceError, match="there is no folder /nowhere/m"):
        locate("/nowhere/m")


def test_a_file_is_not_a_model(tmp_path):
    folder = checkpoint(tmp_path / "m")
    with pytest.raises(SourceError, match="is a file: give the folder"):
        locate(str(folder / "model.safetensors"))


def test_gguf_is_named_as_such(tmp_path):
    folder = checkpoint(tmp_path / "m", without=["model.safetensors"], **{"model-Q4.gguf": b"GGUF"})
    with pytest.raises(SourceError, match="GGUF weights"):
        locate(str(folder))


def shards(count, of):
    return {f"model-{n:05}-of-{of:05}.safetensors": safetensors() for n in range(1, count + 1)}


def index(of):
    names = [f"model-{n:05}-of-{of:05}.safetensors" for n in range(1, of + 1)]
    return {source_folder.INDEX: json.dumps({"weight_map": dict(enumerate(names))}).encode()}


@pytest.mark.parametrize("with_index", [True, False])
def test_every_shard_has_to_be_there(tmp_path, with_index):
    files = shards(2, of=3) | (index(3) if with_index else {})
    folder = checkpoint(tmp_path / "m", without=["model.safetensors"], **files)
    assert source_folder.missing(folder) == ["model-00003-of-00003.safetensors"]
    (folder / "model-00003-of-00003.safetensors").write_bytes(b"")
    assert source_folder.missing(folder) == ["model-00003-of-00003.safetensors"]
    (folder / "model-00003-of-00003.safetensors").write_bytes(b"x")
    assert not source_folder.missing(folder)


def test_a_git_lfs_pointer_is_not_the_file(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    assert source_folder.missing(checkpoint(tmp_path / "m", **{"model.safetensors": pointer})) == ["model.safetensors"]


@pytest.mark.parametrize("broken", [b"{", b"[1]", b"", b"\xff\xfe"])
def test_broken_json_counts_as_missing(tmp_path, broken):
    folder = checkpoint(tmp_path / "m", **{"config.json": broken, source_folder.INDEX: broken})
    assert source_folder.missing(folder) == ["config.json", source_folder.INDEX]


# What a checkpoint is


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"quantization": {"bits": 4, "group_size": 64}}, "4-bit group 64"),
        ({"quantization": {"bits": 8, "group_size": 32, "mode": "affine"}}, "8-bit group 32"),
        ({"quantization": {"bits": 4, "group_size": 32, "mode": "mxfp4"}}, "mxfp4"),
        ({"quantization": {"bits": 4, "group_size": 64, "lm_head": {"bits": 6}}}, "4-bit group 64, mixed"),
        ({"quantization": {"bits": 4, "group_size": 64, "lm_head": False}}, "4-bit group 64"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"torch_dtype": "bfloat16"}, "bf16"),
        ({"dtype": "float16"}, "fp16"),
        ({"text_config": {"model_type": "gemma3_text", "torch_dtype": "float32"}}, "fp32"),
        ({}, None),
    ],
)
def test_quantisation_in_words(config, expected):
    assert source_folder.quantisation(config) == expected


@pytest.mark.parametrize("dtype, expected", [("BF16", "bf16"), ("F32", "fp32"), ("F8_E4M3", "F8_E4M3")])
def test_the_dtype_is_read_from_the_weights_where_the_config_has_none(tmp_path, dtype, expected):
    folder = checkpoint(tmp_path / "m", **{"model.safetensors": safetensors(dtype)})
    assert source_folder.quantisation({"model_type": "llama"}, folder) == expected


def test_junk_instead_of_weights_has_no_dtype(tmp_path):
    assert source_folder.quantisation({}, checkpoint(tmp_path / "m", **{"model.safetensors": b"junk" * 9})) is None


def test_a_multimodal_wrapper_has_its_text_model_s_architecture():
    wrapper = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}
    assert source_folder.architecture(wrapper) == "gemma3_text"
    assert source_folder.refusal(wrapper) is None


def test_an_unknown_architecture_is_refused_by_name_with_the_list():
    assert source_folder.refusal({"model_type": "bert"}) == (
        "model_type 'bert' is not supported; supported are gemma3_text, llama"
    )


def test_foreign_quantisation_is_refused():
    reason = source_folder.refusal({"model_type": "llama", "quantization_config": {"quant_method": "gptq"}})
    assert reason == "weights are quantised with gptq; use an MLX or an unquantised checkpoint"
    both = {"bits": 4, "group_size": 64}
    assert source_folder.refusal({"model_type": "llama", "quantization": both, "quantization_config": both}) is None


# Installed models


def test_nothing_is_installed():
    assert installed() == []


def test_the_builtin_model(tmp_path):
    with pytest.raises(SourceError, match="the built-in model is not in this installation .*name a model with"):
        locate(None)
    folder = checkpoint(tmp_path / "package" / "builtin")
    assert locate(None) == locate("builtin") == folder
    assert only(installed()).source == "builtin"


def test_the_folder_of_smelt(home, tmp_path, monkeypatch):
    folder = checkpoint(home / ".smelt" / "models" / "author" / "Name-4bit")
    model = only(installed())
    size = source_folder.size(folder)
    assert model == source.Found("author/Name-4bit", folder, size, "llama", "4-bit group 64", True, None, "smelt")
    checkpoint(home / ".smelt" / "models" / "flat")
    assert [model.name for model in installed()] == ["author/Name-4bit", "flat"]
    monkeypatch.setenv("SMELT_HOME", str(tmp_path / "elsewhere"))
    moved = checkpoint(tmp_path / "elsewhere" / "models" / "a" / "b")
    assert only(installed()).path == moved


@pytest.mark.parametrize(
    "variable, below",
    [(None, ".cache/huggingface/hub"), ("HF_HOME", "hub"), ("HF_HUB_CACHE", ""), ("XDG_CACHE_HOME", "huggingface/hub")],
)
def test_the_hugging_face_cache(home, tmp_path, monkeypatch, variable, below):
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "disk"))
    cache = (tmp_path / "disk" if variable else home) / below
    snapshot = in_hub_cache(cache, "org/name")
    model = only(installed())
    assert (model.name, model.path, model.source) == ("org/name", snapshot, "hf-cache")
    assert model.bytes == sum(path.stat().st_size for path in snapshot.iterdir()) > 100  # the blobs', not the links'
    assert locate("org/name") == snapshot == locate(str(snapshot.parents[1]))


def test_main_is_preferred_unless_only_another_snapshot_is_complete(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    older = in_hub_cache(tmp_path, "org/name", commit="a" * 40)
    newer = in_hub_cache(tmp_path, "org/name", commit="b" * 40, ref=False)
    assert locate("org/name") == older
    (older / "tokenizer.json").unlink()
    assert locate("org/name") == newer


def test_a_link_to_a_lost_blob_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = in_hub_cache(tmp_path, "org/name")
    (snapshot / "model.safetensors").resolve().unlink()
    assert only(installed()).reason == "incomplete: lacks model.safetensors"


def test_other_things_in_the_cache_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "datasets--org--data" / "snapshots" / COMMIT).mkdir(parents=True)
    (tmp_path / "models--org--tokenizer" / "snapshots" / COMMIT).mkdir(parents=True)
    (tmp_path / "version.txt").write_text("1")
    assert installed() == []


def test_a_download_without_a_snapshot_is_listed_as_incomplete(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.incomplete").write_bytes(b"x" * 10)
    model = only(installed())
    assert (model.name, model.supported, model.bytes) == ("org/name", False, 10)
    with pytest.raises(SourceError, match="org/name is not complete: .* `smelt pull org/name` fetches the rest"):
        locate("name")


@pytest.mark.parametrize("place", [".lmstudio/models", ".cache/lm-studio/models", "chosen"])
def test_lm_studio(home, place):
    if place == "chosen":
        (home / ".lmstudio").mkdir()
        (home / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": str(home / "chosen")}))
    folder = checkpoint(home / place / "org" / "name")
    model = only(installed())
    assert (model.name, model.path, model.source) == ("org/name", folder, "lm-studio")


@pytest.mark.parametrize("settings", ["{", "{}", '{"downloadsFolder": 3}', '{"downloadsFolder": ""}'])
def test_lm_studio_settings_that_say_nothing(home, settings):
    folder = checkpoint(home / ".lmstudio" / "models" / "org" / "name")
    (home / ".lmstudio" / "settings.json").write_text(settings)
    assert only(installed()).path == folder


def test_model_dir_may_be_a_collection_or_a_model(tmp_path):
    folder = checkpoint(tmp_path / "disk" / "org" / "name")
    assert only(installed([tmp_path / "disk"])).name == "org/name"
    assert only(installed([folder])).name == "name"
    assert only(installed([tmp_path / "disk", folder])).name == "org/name"  # listed once
    assert installed([tmp_path / "absent"]) == []
    assert locate("NAME", [tmp_path / "disk"]) == folder


def test_incomplete_and_unsupported_models_are_listed_with_the_reason(home):
    models = home / ".smelt" / "models" / "org"
    checkpoint(models / "bert", config={"model_type": "bert"})
    checkpoint(models / "gguf", without=["model.safetensors", "config.json"], **{"m.gguf": b"GGUF"})
    checkpoint(models / "half", without=["model.safetensors", "tokenizer.json"], **index(3))
    reasons = {model.name: model.reason for model in installed()}
    assert reasons == {
        "org/bert": "model_type 'bert' is not supported; supported are gemma3_text, llama",
        "org/gguf": "GGUF weights; Smelt reads .safetensors",
        "org/half": "incomplete: lacks tokenizer.json or tokenizer.model, model-00001-of-00003.safetensors,"
        " model-00002-of-00003.safetensors, 1 more",
    }
    assert not any(model.supported for model in installed())
    with pytest.raises(SourceError, match="org/gguf is GGUF"):
        locate("org/gguf")


def test_names_by_their_ends(home):
    models = home / ".smelt" / "models"
    small = checkpoint(models / "mlx-community" / "Qwen3-0.6B-4bit")
    large = checkpoint(models / "mlx-community" / "Qwen3-8B-4bit")
    mine = checkpoint(models / "me" / "8B-4bit")
    assert locate("qwen3-0.6b-4BIT") == locate("0.6b-4bit") == small
    assert locate("8B-4bit") == mine  # a whole name goes before an ending
    assert locate("MLX-Community/Qwen3-8B-4bit") == locate("3-8b-4bit") == large
    with pytest.raises(SourceError, match="'4bit' fits 3 installed models: me/8B-4bit, mlx-community/Qwen3-0.6B"):
        locate("4bit")


def test_a_name_in_two_places_is_the_complete_one(home):
    checkpoint(home / ".smelt" / "models" / "org" / "name", without=["model.safetensors"])
    folder = checkpoint(home / ".lmstudio" / "models" / "org" / "name")
    assert locate("name") == folder


def test_a_name_that_is_nowhere(home):
    checkpoint(home / ".smelt" / "models" / "org" / "qwen3-4bit")
    with pytest.raises(SourceError, match=r"gwen3-4bit is neither a folder here nor installed .*mean org/qwen3"):
        locate("gwen3-4bit")
    with pytest.raises(SourceError, match="Installed: org/qwen3-4bit. Give one of these, a folder, or org/name"):
        locate("zzz")
    with pytest.raises(SourceError, match="`smelt pull a/b` would fetch it from the Hugging Face hub"):
        locate("https://huggingface.co/a/b")


def test_a_folder_of_another_kind_does_not_hide_an_installed_model(home, tmp_path):
    (tmp_path / "docs").mkdir()
    assert locate("docs", [checkpoint(tmp_path / "disk" / "docs")]) == tmp_path / "disk" / "docs"


def test_a_local_path_imports_no_hub_library(tmp_path):
    folder = checkpoint(tmp_path / "m")
    code = (
        f"import sys, runpy; runpy.run_path({str(ROOT / 'tests' / 'conftest.py')!r})\n"
        "from smelt.models.source import installed, locate\n"
        f"locate({str(folder)!r}); installed()\n"
        "print({'huggingface_hub', 'mlx', 'numpy', 'httpx', 'requests'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


# The hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = StubHub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(source_blobs, "WAIT_S", 0.01)
    monkeypatch.setattr(source_blobs, "SEGMENT", 1000)
    yield hub
    hub.close()


def repository(config=CONFIG, **more) -> dict[str, bytes]:
    return {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": safetensors(filling=5000),
    } | more


NEEDED = """chat_template.jinja merges.txt tokenizer.model generation_config.json additional_chat_templates/tools.jinja
""".split()
UNWANTED = """README.md .gitattributes LICENSE.txt a.png run.py pytorch_model.bin m.gguf x.pth consolidated.safetensors
original/params.json original/w.safetensors onnx/model.onnx onnx/config.json adapter_model.safetensors""".split()


def test_pull_brings_the_needed_files_and_nothing_else(hub, tmp_path):
    needed = repository() | {path: path.encode() for path in NEEDED}
    hub.repos["org/name"] = needed | dict.fromkeys(UNWANTED, b"no")
    folder = pull("org/name")
    assert folder == tmp_path / "cache" / "models--org--name" / "snapshots" / COMMIT
    got = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert got == needed
    assert not list(tmp_path.rglob("*.smelt.*"))
    assert locate("NAME") == folder and only(installed()).supported


def test_only_the_shards_of_the_index_are_fetched(hub):
    files = repository(**shards(3, of=3), **index(3))
    hub.repos["org/name"] = files
    folder = pull("org/name")
    assert not (folder / "model.safetensors").exists()
    assert (folder / "model-00003-of-00003.safetensors").read_bytes() == files["model-00003-of-00003.safetensors"]


def test_an_index_that_names_more_than_there_is(hub):
    hub.repos["org/name"] = repository(**shards(2, of=3), **index(3))
    with pytest.raises(SourceError, match="not complete on the hub: .* names model-00003-of-00003.safetensors"):
        pull("org/name")


def test_a_second_pull_fetches_no_content(hub):
    hub.repos["org/name"] = repository()
    first = pull("org/name")
    hub.log.clear()
    assert pull("https://huggingface.co/org/name") == first
    assert hub.fetched() == set()


def test_into_a_folder_of_ones_own(hub, tmp_path):
    hub.repos["org/name"] = repository()
    folder = pull("org/name", into=tmp_path / "mine")
    assert folder == tmp_path / "mine" == locate(str(tmp_path / "mine"))
    assert (folder / "model.safetensors").read_bytes() == hub.repos["org/name"]["model.safetensors"]
    assert not (tmp_path / "cache").exists()
    hub.log.clear()
    pull("org/name", into=tmp_path / "mine")
    assert hub.fetched() == set()


def test_progress_counts_every_byte(hub):
    hub.repos["org/name"] = repository()
    size, seen = len(hub.repos["org/name"]["model.safetensors"]), []
    hub.cut["model.safetensors"] = [500, 300]
    pull("org/name", on_progress=lambda here, total: seen.append((here, total)))
    assert seen[0] == (0, size) and seen[-1] == (size, size)
    assert seen == sorted(seen)


def test_a_broken_connection_goes_on_where_it_stopped(hub):
    hub.repos["org/name"] = files = repository()
    hub.cut["model.safetensors"] = [700, 100, 0, 999]
    folder = pull("org/name")
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert hub.sent["model.safetensors"] == len(files["model.safetensors"])  # not one byte twice


def test_an_interrupted_pull_is_resumed_by_the_next(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(source_blobs, "CONNECTIONS", 1)
    hub.repos["org/name"] = files = repository()
    calls = []

    def interrupt(here, total):
        calls.append(here)
        if here > 2500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("org/name", on_progress=interrupt)
    model = only(installed())
    assert not model.supported and "model.safetensors" in model.missing
    first = hub.sent["model.safetensors"]
    assert first < len(files["model.safetensors"])
    hub.sent.clear()
    seen = []
    folder = locate("org/name", download=True, on_progress=lambda here, total: seen.append(here))
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert seen[0] == 2000  # two whole segments were kept
    assert hub.sent["model.safetensors"] == len(files["model.safetensors"]) - 2000
    assert not list(tmp_path.rglob("*.smelt.*"))


def test_damaged_content_is_dropped(hub, tmp_path):
    hub.repos["org/name"] = files = repository()
    blob = tmp_path / "cache" / "models--org--name" / "blobs" / sha256(files["model.safetensors"])
    blob.parent.mkdir(parents=True)
    blob.with_suffix(".smelt.incomplete").write_bytes(bytes(5000))
    blob.with_suffix(".smelt.done").write_text("0 1000\n")
    with pytest.raises(SourceError, match="arrived damaged .* try again"):
        pull("org/name")
    assert (pull("org/name") / "model.safetensors").read_bytes() == files["model.safetensors"]


def test_a_hub_without_ranges_works_too(hub, tmp_path):
    hub.ranges = hub.xet = False
    hub.repos["org/name"] = files = repository()
    assert (pull("org/name") / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert not list(tmp_path.rglob("*.smelt.*"))


def test_an_unsupported_architecture_is_refused_before_the_weights(hub):
    hub.repos["org/name"] = repository(config={"model_type": "bert"})
    with pytest.raises(SourceError, match="'bert' is not supported; supported are gemma3_text, llama. --force"):
        pull("org/name")
    assert hub.fetched() == {"config.json"}
    assert (pull("org/name", force=True) / "model.safetensors").exists()


@pytest.mark.parametrize(
    "name, words",
    [("m.gguf", "only GGUF weights"), ("pytorch_model.bin", "only PyTorch .bin"), ("README.md", "no config.json")],
)
def test_what_is_no_checkpoint_is_refused(hub, name, words):
    hub.repos["org/name"] = {name: b"x"}
    with pytest.raises(SourceError, match=f"org/name is not a checkpoint that Smelt reads: .*{words}"):
        pull("org/name")
    assert hub.fetched() == set()


def test_not_found(hub):
    with pytest.raises(SourceError, match="org/nmae was not found on http://127.0.0.1.*check the spelling"):
        pull("org/nmae")


def test_no_such_revision(hub):
    hub.repos["org/name"] = repository()
    with pytest.raises(SourceError, match="org/name has no revision 'v9'"):
        pull("org/name", revision="v9")
    assert pull("org/name", revision=COMMIT) == pull("org/name")


@pytest.mark.parametrize("name", ["name", "org/name/more", "", "org/na me", "../x/y"])
def test_not_a_name_on_the_hub(hub, name):
    with pytest.raises(SourceError, match="is not a name on the Hugging Face hub: give org/name"):
        pull(name)
    assert not hub.log


def test_a_gated_model_tells_how_to_log_in(hub, monkeypatch):
    hub.repos["org/name"] = repository()
    hub.gated.add("org/name")
    with pytest.raises(SourceError, match="org/name is gated: accept its terms on .*/org/name, then run `hf auth"):
        pull("org/name")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert pull("org/name").is_dir()


def test_a_private_model_looks_like_none(hub):
    hub.repos["org/name"] = repository()
    hub.status["config.json"] = 401
    with pytest.raises(SourceError, match="was not found on .* if it is private, run `hf auth login`"):
        pull("org/name")


def test_a_failing_hub(hub, monkeypatch):
    hub.repos["org/name"] = repository()
    hub.status["model.safetensors"] = 503
    with pytest.raises(SourceError, match="answered 503 for org/name: try again later"):
        pull("org/name")
    assert len([entry for entry in hub.log if entry[1] == "model.safetensors"]) >= source_blobs.ATTEMPTS


def test_no_network(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(SourceError, match="no connection to http://127.0.0.1:9 .*check the network"):
        pull("org/name")


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_uses_what_is_there_and_asks_nobody(hub, monkeypatch, variable):
    hub.repos["org/name"] = repository()
    folder = pull("org/name")
    hub.log.clear()
    monkeypatch.setenv(variable, "1")
    assert pull("org/name") == pull("org/name", revision=COMMIT) == folder
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set, and org/other is not complete in .*unset"):
        pull("org/other")
    assert not hub.log


def test_a_full_disk_is_noticed_before_the_download(hub, monkeypatch):
    hub.repos["org/name"] = repository()
    monkeypatch.setattr(source_hub.shutil, "disk_usage", lambda path: source_hub.shutil._ntuple_diskusage(9, 9, 4000))
    with pytest.raises(SourceError, match="org/name needs 0.00 GB more in .*cache.*, 0.00 GB are free there"):
        pull("org/name")
    assert "model.safetensors" not in hub.fetched()


def test_locate_downloads_only_when_told(hub):
    hub.repos["org/name"] = repository()
    with pytest.raises(SourceError, match="`smelt pull org/name` would fetch it"):
        locate("org/name")
    assert not hub.log
    assert (locate("org/name", download=True) / "config.json").is_file()
