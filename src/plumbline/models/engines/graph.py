"""From a model's folder to the graph that OpenVINO runs: our GGUF file, read once by OpenVINO GenAI, kept as its IR.

GenAI rounds every float32 constant of the IR it saves to 16 bits. For the weights that is what F16 means anyway, but
the rotary frequencies are among them, and a frequency that is off by 3e-4 turns a position of 8,000 by two radians: the
exact ones are put back.

`python -m plumbline.models.engines.graph GGUF` is the child process that reads the file: what crashes there is not us.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plumbline.errors import BadModel, MissingExtra
from plumbline.models.cache import build_once, folder_digest
from plumbline.models.gguf import read_header, supported, write_gguf
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
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 0
    scheduler.num_kv_blocks = 1
    openvino_genai.ContinuousBatchingPipeline(file, scheduler, "CPU", {"enable_save_ov_model": True})
    model = openvino.Core().read_model(Path(file).with_name(_GRAPH))
    _restore_frequencies(model, read_header(file).metadata)
    draft = Path(file).with_name("exact.xml")
    openvino.save_model(model, draft, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        draft.with_suffix(suffix).replace(Path(file).with_name(_GRAPH).with_suffix(suffix))


def _restore_frequencies(model: Any, metadata: Mapping[str, Any]) -> None:
    """The rotary frequencies base^(-2i/d) in float32, in place of their rounded copies."""
    import numpy as np
    import openvino.opset13 as ops

    family = metadata["general.architecture"]
    size = int(metadata[f"{family}.rope.dimension_count"])
    exact = float(metadata[f"{family}.rope.freq_base"]) ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    found = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or list(node.get_output_shape(0)) != [1, size // 2, 1]:
            continue
        rounded = node.data.astype(np.float64).ravel()
        # The smallest frequencies are below what 16 bits hold precisely, hence the absolute part.
        assert np.allclose(rounded, exact, rtol=1e-3, atol=1e-7), (rounded, exact)
        reader = next(iter(node.output(0).get_target_inputs())).get_node()
        old = reader if reader.get_type_name() == "Convert" else node
        constant = ops.constant(exact.astype(np.float32).reshape(1, -1, 1))
        for target in old.output(0).get_target_inputs():
            target.replace_source_output(constant.output(0))
        found += 1
    assert found == 1, f"the graph has {found} sets of rotary frequencies, 1 is expected"


if __name__ == "__main__":
    _save_graph(sys.argv[1])
