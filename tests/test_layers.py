"""The house rules that a machine can hold: which way imports point, where torch may appear, how large things grow.

Every rule has its negative control below: a made-up tree that breaks it and must be caught.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

# Imports point down this list, never up, and never sideways between two names of one line.
ORDER = (
    ("errors",),
    ("files",),
    ("records",),
    ("formats", "personal_data", "project"),
    ("lineage", "promotion"),
    ("card",),
    ("transparency",),
    ("models", "vectors", "web"),
    ("training",),
    ("agents", "align", "compress", "decode", "evaluate", "feedback", "guard", "rag"),
    ("scale", "serve"),
    ("cli",),
)
HEIGHT = {area: height for height, areas in enumerate(ORDER) for area in areas}

# Seconds to import each: inside functions only, and nowhere at all in what must stay free of torch.
HEAVY = {"accelerate", "peft", "torch", "transformers"}
TORCH_FREE = {"errors", "feedback", "files", "formats", "guard", "personal_data", "project", "records", "serve"}
TORCH_FREE |= {
    "vectors",
    "web",
    "models",  # its __init__ alone; what lies in it is named one by one
    "models.cache",
    "models.chat",
    "models.constrain",
    "models.decoding",
    "models.endpoints",
    "models.engines",
    "models.gguf",
    "models.hashed",
    "models.hub",
    "models.machine",
    "models.remote",
    "models.resolve",
    "models.sampling",
    "models.scripted",
    "models.tokenizer",
    "models.weights",
}

MOST_FOLDERS, MOST_LINES, LONGEST_FUNCTION, LONGEST_TRAIN = 15, 500, 60, 150
EMPTY_NAMES = {"base", "common", "core", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}


class Import(NamedTuple):
    target: str
    """What is imported, dotted in full: `plumbline.models.load`, `torch.nn`."""
    line: int
    place: str
    """"module", "function" or "typing" (under `if TYPE_CHECKING`)."""


class Imports(ast.NodeVisitor):
    """Gathers every import of one file, wherever it stands; relative ones start from the package `folder`."""

    def __init__(self, folder: tuple[str, ...]) -> None:
        self.folder = folder
        self.place = "module"
        self.found: list[Import] = []

    def within(self, place: str, nodes: list[ast.AST]) -> None:
        before, self.place = self.place, "function" if "function" in (place, self.place) else place
        for node in nodes:
            self.visit(node)
        self.place = before

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self.within("function", list(ast.iter_child_nodes(node)))

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_Lambda = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        typing = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        self.within("typing" if typing else self.place, list(node.body))
        self.within(self.place, list(node.orelse))

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [Import(alias.name, node.lineno, self.place) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        above = self.folder[: len(self.folder) - node.level + 1] if node.level else ()
        source = ".".join([*above, *([node.module] if node.module else [])])
        self.found += [Import(f"{source}.{alias.name}", node.lineno, self.place) for alias in node.names]

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func) in ("__import__", "import_module", "importlib.import_module") and node.args:
            if isinstance(node.args[0], ast.Constant):
                self.found.append(Import(str(node.args[0].value), node.lineno, self.place))
        self.generic_visit(node)


def torch_free(module: str) -> bool:
    """A folder named in TORCH_FREE is so with all that lies in it, but for `models`."""
    above = [module.rsplit(".", depth)[0] for depth in range(module.count(".") + 1)]
    return module in TORCH_FREE or any(name in TORCH_FREE - {"models"} for name in above)


def import_faults(package: Path) -> Iterator[str]:
    """Arrows that point up or sideways, and heavy imports where they do not belong."""
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package)
        names = path.with_suffix("").parts
        module = ".".join(names[:-1] if names[-1] == "__init__" else names)  # "" is the front door, plumbline itself
        area = names[0]
        if module and area not in HEIGHT:
            yield f"{path}: {area!r} has no place in ORDER"
            continue
        imports = Imports((package.name, *path.parent.parts))
        imports.visit(ast.parse(file.read_text(encoding="utf-8")))
        for target, line, place in imports.found:
            where = f"{path}:{line}"
            top, _, rest = target.partition(".")
            other = rest.partition(".")[0]
            if top in HEAVY and torch_free(module):
                yield f"{where}: {module} must stay free of {top}"
            elif top in HEAVY and place == "module":
                yield f"{where}: import {top} inside the function that needs it"
            elif top != package.name or not module or other in (area, "__version__"):
                continue
            elif other not in HEIGHT:
                yield f"{where}: import {target!r} from the module that defines it, not from the front door"
            elif HEIGHT[other] >= HEIGHT[area]:
                side = "beside" if HEIGHT[other] == HEIGHT[area] else "above"
                yield f"{where}: {area} imports {other}, which lies {side} it"


def size_faults(package: Path) -> Iterator[str]:
    """Too many areas, folders too deep, names that say nothing."""
    folders = [path for path in package.rglob("*") if path.is_dir() and path.name != "__pycache__"]
    areas = [path for path in folders if path.parent == package]
    if len(areas) > MOST_FOLDERS:
        yield f"{len(areas)} areas: a sixteenth replaces one"
    for path in folders:
        if len(path.relative_to(package).parts) > 2:
            yield f"{path}: two levels of folders are enough"
    yield from file_faults(package)


def file_faults(folder: Path) -> Iterator[str]:
    """Files and functions over their budgets, and empty names, anywhere under `folder`."""
    for file in sorted(folder.rglob("*.py")):
        path = file.relative_to(folder)
        empty = EMPTY_NAMES.intersection("_".join(path.with_suffix("").parts).split("_"))
        if empty:
            yield f"{path}: {empty.pop()!r} says nothing; name the noun it holds"
        text = file.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > MOST_LINES:
            yield f"{path}: {lines} lines, {MOST_LINES} at most"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                most = LONGEST_TRAIN if node.name == "train" else LONGEST_FUNCTION
                if length > most:
                    yield f"{path}:{node.lineno}: {node.name} has {length} lines, {most} at most"


# ---- the tree as it is


def test_imports_point_down_and_heavy_ones_stay_inside_functions() -> None:
    assert list(import_faults(ROOT / "src" / "plumbline")) == []


def test_the_package_keeps_its_budgets_and_its_names() -> None:
    assert list(size_faults(ROOT / "src" / "plumbline")) == []


@pytest.mark.parametrize("folder", ["tests", "docs", "benchmarks", "examples"])
def test_the_rest_keeps_its_budgets_and_its_names(folder: str) -> None:
    assert list(file_faults(ROOT / folder)) == []


def modules_after(statement: str) -> set[str]:
    """The top-level modules that are loaded in a fresh interpreter once `statement` has run."""
    program = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_importing_every_module_loads_nothing_heavy() -> None:
    package = ROOT / "src" / "plumbline"
    files = sorted(file.relative_to(package.parent).with_suffix("") for file in package.rglob("*.py"))
    modules = [".".join(file.parts).removesuffix(".__init__") for file in files]
    loaded = modules_after("\n".join(f"import {module}" for module in modules))
    assert "plumbline" in loaded
    assert HEAVY & loaded == set()


def test_the_front_door_loads_no_library_at_all() -> None:
    assert {"numpy", "pydantic", "httpx", "rich", "typer", *HEAVY} & modules_after("import plumbline") == set()


def test_loaded_modules_are_seen() -> None:
    assert "numpy" in modules_after("import numpy")


# ---- the negative controls

LONG = "def {name}():\n" + "    pass\n" * LONGEST_FUNCTION

# A file, what stands in it, and the complaint that must follow.
BROKEN_IMPORTS = [
    ("models/a.py", "from plumbline.align import dpo", "models/a.py:1: models imports align, which lies above it"),
    ("records.py", "def f():\n    import plumbline.models", "records.py:2: records imports models, which lies above"),
    ("web/a.py", "if TYPE_CHECKING:\n    from plumbline.serve import app", "web imports serve, which lies above"),
    ("rag/a.py", "from ..cli import main", "rag imports cli, which lies above"),
    ("guard/a.py", "from plumbline import serve", "guard imports serve, which lies above"),
    ("web/a.py", "import_module('plumbline.cli.main')", "web imports cli, which lies above"),
    ("align/a.py", "from plumbline.evaluate.win import run", "align imports evaluate, which lies beside it"),
    ("cli/a.py", "from plumbline import load", "'plumbline.load' from the module that defines it"),
    ("magic/a.py", "", "'magic' has no place in ORDER"),
    ("training/a.py", "import torch", "training/a.py:1: import torch inside the function that needs it"),
    ("training/a.py", "class A:\n    import torch.nn", "training/a.py:2: import torch inside the function"),
    ("align/a.py", "try:\n    import peft\nexcept ImportError:\n    pass", "import peft inside the function"),
    ("align/a.py", "if TYPE_CHECKING:\n    pass\nelse:\n    from torch import nn", "import torch inside the function"),
    ("web/a.py", "def f():\n    import torch", "web.a must stay free of torch"),
    ("models/chat.py", "def f():\n    import transformers", "models.chat must stay free of transformers"),
    ("models/engines/a.py", "lambda: __import__('torch')", "models.engines.a must stay free of torch"),
    ("models/__init__.py", "if TYPE_CHECKING:\n    import torch", "models must stay free of torch"),
]

BROKEN_BUDGETS = [
    ("models/engines/fast/a.py", "", "two levels of folders are enough"),
    ("models/a.py", "x = 1\n" * (MOST_LINES + 1), "501 lines, 500 at most"),
    ("models/a.py", LONG.format(name="f"), "f has 61 lines, 60 at most"),
    ("models/a.py", "class A:\n" + indent(LONG.format(name="f"), "    "), "models/a.py:2: f has 61 lines"),
    ("align/a.py", LONG.format(name="train") + "    pass\n" * 90, "train has 151 lines, 150 at most"),
    ("models/utils.py", "", "'utils' says nothing"),
    ("core/a.py", "", "'core' says nothing"),
    ("models/model_manager.py", "", "'manager' says nothing"),
]

SOUND = {
    "__init__.py": "def __getattr__(name):\n    from plumbline import models",
    "records.py": "from plumbline.errors import BadRecord",
    "models/__init__.py": "from plumbline.records import Message\nfrom plumbline.models.resolve import resolve",
    "models/families.py": "if TYPE_CHECKING:\n    import torch\ndef f():\n    import transformers",
    "align/dpo.py": "from plumbline import __version__\n" + LONG.format(name="train"),
    "cli/main.py": "from plumbline.align import dpo\nfrom ..errors import UserError",
}


def plant(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = folder / "plumbline" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder / "plumbline"


@pytest.mark.parametrize(("file", "source", "complaint"), BROKEN_IMPORTS)
def test_a_broken_import_is_caught(tmp_path: Path, file: str, source: str, complaint: str) -> None:
    faults = list(import_faults(plant(tmp_path, {file: source})))
    assert len(faults) == 1 and complaint in faults[0], faults


@pytest.mark.parametrize(("file", "source", "complaint"), BROKEN_BUDGETS)
def test_a_broken_budget_is_caught(tmp_path: Path, file: str, source: str, complaint: str) -> None:
    faults = list(size_faults(plant(tmp_path, {file: source})))
    assert len(faults) == 1 and complaint in faults[0], faults


def test_a_sixteenth_area_is_caught(tmp_path: Path) -> None:
    package = plant(tmp_path, {f"area{n}/a.py": "" for n in range(MOST_FOLDERS)})
    assert list(size_faults(package)) == []
    plant(tmp_path, {"another/a.py": ""})
    assert list(size_faults(package)) == ["16 areas: a sixteenth replaces one"]


def test_a_sound_tree_is_left_alone(tmp_path: Path) -> None:
    package = plant(tmp_path, SOUND)
    assert [*import_faults(package), *size_faults(package)] == []
