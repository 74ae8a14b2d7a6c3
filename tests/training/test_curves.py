"""The page and the pictures of a run."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from pytest import MonkeyPatch

from plumbline.records import Rollout, write_jsonl
from plumbline.training.curves import POINTS, ROLLOUTS, answers, as_svg, by_chart, chart, draw, thinned

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


def test_the_parts_of_a_step_share_a_chart() -> None:
    rows = [{"step": 1, "seconds_sampling": 2.0, "seconds_learning": 3.0, "seconds": 5.0}]
    assert by_chart(rows) == {"seconds": {"sampling": ([1], [2.0]), "learning": ([1], [3.0])}}


def rollout(step: int, reward: float, text: str = "An answer.") -> Rollout:
    return Rollout(
        step=step, prompt_id="p", prompt=f"Question {reward}?", completion=text, reward=reward, kl=0.5, tokens=4,
        ended=reward > 0, reference_logprob=-3.0,
    )  # fmt: skip


def test_the_page_shows_the_last_answers_from_the_worst_to_the_best(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    assert answers(tmp_path) == []
    made = [
        rollout(step, step + number / 10, "<i>" if number == 8 else "words " * 30)
        for step in (1, 2)
        for number in range(9)
    ]
    write_jsonl(tmp_path / ROLLOUTS, made)
    with (tmp_path / ROLLOUTS).open("ab") as file:
        file.write(b'{"step": 2, "prom')  # a line that is being written
    assert [each.reward for each in answers(tmp_path)] == [2.0, 2.1, 2.4, 2.7, 2.8]
    monkeypatch.setattr("plumbline.training.curves.TAIL", 900)
    assert [each.reward for each in answers(tmp_path)][-1] == 2.8
    draw(tmp_path, ROWS, state="finished", done=True, settings={})
    page = (tmp_path / "index.html").read_text()
    assert "Question 2.8?" in page and "&lt;i&gt;" in page and "reward 2.8, KL 0.5, 4 tokens" in page


def test_a_page_of_a_run_that_goes_on_loads_itself_again(tmp_path: Path) -> None:
    draw(tmp_path, ROWS, state="step 3 of 9", done=False, settings={})
    page = (tmp_path / "index.html").read_text()
    assert '<meta http-equiv="refresh"' in page and "step 3 of 9" in page
