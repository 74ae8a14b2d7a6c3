"""From a model's folder to the graph that OpenVINO runs: our GGUF file, read once by OpenVINO GenAI, kept as its IR.

`python -m plumbline.models.engines.graph GGUF` is the child process that reads the file: what crashes there is not us.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from plumbline.errors import BadModel, MissingExtra
from plumbline.models.cache import build_once, folder_digest
from plumbline.models.gguf import supported, write_gguf
from plumbline.project import cache_folder

_GRAPH = "openvino_model.xml"


def installed() -> bool:
    """Whether the extra `openvino` is there."""
    from importlib.util import find_spec

    return find_spec("openvino") is not None and find_spec("openvino_genai") is not None


def runs(folder: Path) -> bool:
    """Whether the model in the folder is of a family that this engine runs."""
    return supported(folder)


def graph(folder: Path, weights: str) -> Path:
    """The folder of the graph with those weights (a GGUF type), made at the first use."""
    if not installed():
        raise MissingExtra("openvino", "the openvino engine")
    target = cache_folder() / "graphs" / f"{folder_digest(folder)}-{weights}"
    return build_once(
        target, lambda scratch: _build(folder, weights, scratch), what=f"the {weights} graph of {folder.name}"
    )


def _build(folder: Path, weights: str, scratch: Path) -> None:
    file = scratch / "model.gguf"
    write_gguf(folder, file, weights)
    child = subprocess.run(
        [sys.executable, "-m", "plumbline.models.engines.graph", str(file)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    file.unlink()
    if child.returncode or not (scratch / _GRAPH).is_file():
        said = (child.stderr or child.stdout).strip().splitlines()
        reason = said[-1] if said else f"it ended with status {child.returncode}"
        raise BadModel(f"OpenVINO cannot read the model in {str(folder)!r}: {reason}")


def _save_graph(file: str) -> None:
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 0
    scheduler.num_kv_blocks = 1
    openvino_genai.ContinuousBatchingPipeline(file, scheduler, "CPU", {"enable_save_ov_model": True})


if __name__ == "__main__":
    _save_graph(sys.argv[1])
