"""Autograd functions from two plain functions, made at first use so that importing a file does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def function(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """The `torch.autograd.Function` of that name, once."""
    import torch

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(name, (torch.autograd.Function,), methods)
