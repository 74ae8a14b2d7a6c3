"""`plumb init`: a project, found again from inside, and never written over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from plumbline.project import Project

Plumb = Callable[..., Result]


def test_a_project_is_made_and_found(plumb: Plumb, tmp_path: Path) -> None:
    result = plumb("init", "shop/bot")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/shop/bot\n")
    found = Project.find(tmp_path / "shop" / "bot" / "models")
    assert found is not None and found.folder == tmp_path / "shop" / "bot"


def test_settings_that_are_there_stay(plumb: Plumb, tmp_path: Path) -> None:
    plumb("init", ".")
    (tmp_path / "plumb.toml").write_text('criterion = "mine"\n')
    assert plumb("init", ".").exit_code == 0
    assert (tmp_path / "plumb.toml").read_text() == 'criterion = "mine"\n'


def test_a_file_in_the_way_is_named(plumb: Plumb, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("Dear aunt,")
    result = plumb("init", "letter")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("plumb: cannot make a project in 'letter': ")
    assert (tmp_path / "letter").read_text() == "Dear aunt,"
