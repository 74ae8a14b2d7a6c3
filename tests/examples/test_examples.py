"""The examples that the pages do not run themselves; `examples/README.md` is run by test_docs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def load(name: str) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("export", ["argilla.json", "label-studio.json"])
def test_an_export_says_what_the_csv_says(export: str) -> None:
    own_rankings = load("own_rankings")
    table = list(own_rankings.rankings_of(EXAMPLES / "data" / "own" / "rankings.csv"))
    assert [(each.labeler_id, each.ranks) for each in table] == [
        ("ann", (2, 1, 3)),
        ("ben", (3, 1, 2)),
        ("ann", (1, 2)),
    ]
    assert table[0].set_id == table[1].set_id != table[2].set_id
    assert list(own_rankings.rankings_of(EXAMPLES / "data" / "own" / export)) == table


def test_an_empty_rank_in_a_csv_is_a_flag(tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("prompt,answer,rank,labeler\nHi,Hello.,1,ann\nHi,asdf,,ann\n")
    (one,) = load("own_rankings").rankings_of(tmp_path / "some.csv")
    assert (one.ranks, one.flags) == ((1, None), (False, True))


def test_a_reward_says_the_same_of_one_and_of_many() -> None:
    own_reward = load("own_reward")
    assert own_reward.likes_windows("Hi", "Open the Windows.") == 1 + 23 / 40
    assert own_reward.all_at_once(["Hi"], ["Open the Windows."]) == [1 + 23 / 40]


def test_the_notebook_runs_from_top_to_bottom(stand_in: Path, tmp_path: Path) -> None:
    """Its cells hold plain Python, so one process runs them in turn as a kernel would, and no kernel is needed."""
    notebook = json.loads((EXAMPLES / "first_steps.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], len({cell["id"] for cell in notebook["cells"]})) == (4, len(notebook["cells"]))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), "outputs are not kept"
    (tmp_path / "data").symlink_to(EXAMPLES / "data", target_is_directory=True)
    program = "\n".join("".join(cell["source"]) for cell in cells)
    env = {**os.environ, "PLUMBLINE_CACHE": str(stand_in), "HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "'Open the windows at night.' is better than 'Move.'" in ran.stdout
    assert "runs/notebook/model: " in ran.stdout
