"""The page and the pictures of a run."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from plumbline.training.curves import POINTS, as_svg, by_chart, chart, draw, thinned

ROWS = [
    {"step": 1, "loss": 2.0, "lr": 0.1, "seconds": 0.5},
    {"step": 2, "loss": None, "lr": 0.2, "seconds": 1.0},
    {"step": 3, "loss": 1.0, "held_out_loss": 1.5, "seconds": 1.5},
]


def test_a_figure_and_its_held_out_twin_share_a_chart() -> None:
    assert by_chart(ROWS) == {
        "loss": {"training": ([1, 3], [2.0, 1.0]), "held out": ([3], [1.5])},
        "lr": {"training": ([1, 2], [0.1, 0.2])},
    }


def test_a_long_line_keeps_its_mean_in_few_points() -> None:
    steps = [float(step) for step in range(1, 2001)]
    values = [step % 7 for step in steps]
    few_steps, few_values = thinned((steps, values))
    assert len(few_steps) == len(few_values) == POINTS  # five by five
    assert sum(few_values) / POINTS == sum(values) / 2000
    assert few_steps[0] == 3.0
    assert thinned((steps[:POINTS], values[:POINTS])) == (steps[:POINTS], values[:POINTS])


def test_the_charts_take_the_colour_of_the_page() -> None:
    svg = as_svg(chart("loss", by_chart(ROWS)["loss"], "#010203"))
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "currentColor" in svg and "#010203" not in svg
    assert "training" in svg and "held out" in svg  # text stays text, for readers who hear the page


def test_the_folder_holds_the_page_and_a_picture_for_each_figure(tmp_path: Path) -> None:
    draw(tmp_path, ROWS, state="finished", done=True, settings={"model": "<b>mine</b>", "lr": 0.1})
    assert sorted(each.name for each in (tmp_path / "curves").iterdir()) == ["loss.png", "lr.png"]
    assert all(each.read_bytes().startswith(b"\x89PNG") for each in (tmp_path / "curves").iterdir())
    page = (tmp_path / "index.html").read_text()
    assert page.count("<svg") == 2 and "&lt;b&gt;mine" in page
    assert "<script" not in page and not re.search(r"(src|href)=\"(?!#)(?!data:)|url\((?!#)|@import", page)
    assert "prefers-color-scheme: dark" in page and "http-equiv" not in page


def test_a_page_of_a_run_that_goes_on_loads_itself_again(tmp_path: Path) -> None:
    draw(tmp_path, ROWS, state="step 3 of 9", done=False, settings={})
    page = (tmp_path / "index.html").read_text()
    assert '<meta http-equiv="refresh"' in page and "step 3 of 9" in page
