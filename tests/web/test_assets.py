"""Files are kept by browsers until any of them changes, and then asked for at another address."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumbline.web.assets import Assets
from plumbline.web.errors import Refusal


def test_the_address_changes_with_any_file(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("a {}")
    (tmp_path / "b.js").write_text("import './c.js'")
    (tmp_path / "page.html").write_text("not an asset")
    first = Assets([tmp_path])
    assert first.address("a.css") == f"/assets/{first.version}/a.css"
    assert Assets([tmp_path]).version == first.version
    (tmp_path / "b.js").write_text("import './d.js'")
    assert Assets([tmp_path]).address("a.css") != first.address("a.css")


def test_a_file_is_kept_for_good_under_its_address_and_not_under_an_old_one(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    assets = Assets([tmp_path])
    now = assets.get(assets.version, "a.js")
    assert (now.body, now.media_type) == (b"1", "text/javascript")
    assert now.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert assets.get("old", "a.js").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", ["page.html", "..", "../a.js", "a.py", ""])
def test_nothing_else_is_served(tmp_path: Path, name: str) -> None:
    for each in ("a.js", "a.py", "page.html"):
        (tmp_path / each).write_text("1")
    assets = Assets([tmp_path])
    with pytest.raises(Refusal, match="There is no file"):
        assets.get(assets.version, name)


def test_two_files_of_one_name_are_our_mistake(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.js").write_text(folder)
    with pytest.raises(AssertionError, match="the second asset of its name"):
        Assets([tmp_path / "one", tmp_path / "two"])
