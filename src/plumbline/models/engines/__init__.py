"""The engines that run a local model, behind `Generate`, and the choice between them."""

from __future__ import annotations

from pathlib import Path

from plumbline.errors import UserError
from plumbline.models import EngineName, Generate


def open_local(
    folder: Path, *, name: str, engine: EngineName = "auto", mode: str | None = None, device: str = "auto"
) -> Generate:
    """The model in a folder, on the engine asked for.

    "auto" takes OpenVINO where it is installed, runs the family and was found exact (`plumb models parity`), and the
    machine has no GPU; else `transformers`, which alone guides a policy by its Q heads.
    """
    if engine == "auto":
        engine = "openvino" if _openvino_is_best(folder, mode, device) else "transformers"
    if engine == "openvino":
        from plumbline.models.engines.graph import runs
        from plumbline.models.engines.openvino import OpenVINO

        if not runs(folder):
            raise UserError(f"the openvino engine does not run the family of {name!r}: use --engine transformers")
        if is_guided(folder):
            raise UserError(f"the openvino engine does not add the Q heads of {name!r}: use --engine transformers")
        return OpenVINO(folder, name=name, mode=mode)
    if engine == "transformers":
        from plumbline.models.generate import Reference

        return Reference.open(folder, name=name, mode=mode, device=device)
    raise UserError(f"engine {engine!r} is not one of: auto, openvino, transformers")


def _openvino_is_best(folder: Path, mode: str | None, device: str) -> bool:
    from plumbline.models.engines.graph import installed, runs

    if device not in ("auto", "cpu") or not installed() or not runs(folder) or (device == "auto" and _has_gpu()):
        return False
    if is_guided(folder):
        return False
    from plumbline.models.engines.openvino import EXACT, MODES
    from plumbline.models.parity import accepted

    return (mode is None or mode in MODES) and accepted(folder, mode or EXACT)


def is_guided(folder: Path) -> bool:
    """Whether the folder's policy is guided by Q heads when it answers."""
    from plumbline.models.q_heads import FILE

    return (folder / FILE).is_file()


def _has_gpu() -> bool:
    """Whether an NVIDIA device is there, without the second that importing torch takes."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()
