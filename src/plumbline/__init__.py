"""Plumbline turns what people think of a model's answers into a measurably better model.

Three lines to a first answer:

    from plumbline import load
    model = load("smollm2-135m")
    print(model(["My house is too hot. What can I do?"])[0][0].text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plumbline.models import Sampling, load

    __version__: str

__all__ = ["Sampling", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # Late, so that `import plumbline` and `plumb --help` stay quick.
    if name in ("Sampling", "load"):
        from plumbline import models

        return getattr(models, name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("plumbline")
        except PackageNotFoundError:  # a source tree that was never installed
            return "0+unknown"
    raise AttributeError(f"module 'plumbline' has no attribute {name!r}")
