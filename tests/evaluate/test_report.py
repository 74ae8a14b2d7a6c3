"""The report: it stands alone, shows no markup that a model wrote, the worst answers first, on any screen."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import looks
from plumbline.evaluate.bench import Bench
from plumbline.evaluate.honest import CALIBRATION
from plumbline.evaluate.records import Outcome
from plumbline.evaluate.report import LONGEST, SHOWN, cut, page, reliability_chart, write_report
from plumbline.evaluate.run import Done, Order, Result, evaluate
from plumbline.models.scripted import Scripted
from plumbline.records import Change, Evaluation, Measured
from second import SECOND

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)> "quoted" & I can\'t help with that.'


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """An evil model beside a plain one, and a calibration of a made-up third."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "script.jsonl").write_text('{"prompt": "unused", "completion": "unused"}\n')
    name = f"scripted:{folder / 'script.jsonl'}"
    evil, plain = (
        Bench(name, folder / each, open_model=lambda _, text=text: Scripted(lambda prompt: text))
        for each, text in (("evil", EVIL), ("plain", "Take a bowl, add the flour and stir."))
    )
    order = Order(tasks=("refusal", "toxicity"), limit=20, second=SECOND, command="plumb evaluate '<b>evil</b>'")
    found = evaluate(evil, plain, order)
    outcomes = [
        Outcome(item_id=str(n), prompt=f"q{n}", completion="x", values={"confidence": n / 10, "right": float(n > 4)})
        for n in range(10)
    ]
    figure = Measured(task="calibration", metric="brier", value=0.2, n=10, low=0.1, high=0.3, better="lower")
    named = found.evaluation.model_copy(
        update={"version": "evil@1 <i>", "against": "plain@2", "measured": (*found.evaluation.measured, figure)}
    )
    return Result(named, [*found.done, Done(CALIBRATION, outcomes, None, (figure,))], ["a <note>"])


def test_the_page_stands_alone(result: Result) -> None:
    text = page(result)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in html.unescape(text)
    assert not re.search(r"<script|<link|<img|style=|https?://", text.replace(style, ""))


def test_markup_of_models_is_text(result: Result) -> None:
    text = page(result)
    assert "&lt;script&gt;alert(" in text and "&lt;img src=x onerror" in text and "<img" not in text
    assert "evil@1 &lt;i&gt;" in text and "a &lt;note&gt;" in text and "&lt;b&gt;evil&lt;/b&gt;" in text
    drawn = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawn) >= 8
    for each in drawn:
        ElementTree.fromstring(each)  # sound XML, whatever the names are


def test_every_figure_stands_with_its_interval_its_n_and_its_command(result: Result) -> None:
    text = page(result)
    for each in result.evaluation.measured:
        assert f"<strong>{each.metric.replace('_', ' ')}</strong>" in text
    assert text.count("<td") - text.count("</td>") == 0
    assert "100.0%" in text and "83.9% to 100.0%" in text and ">20</td>" in text
    assert ">unclear</td>" in text and 'class="verdict better">better' in text


def test_the_worst_come_first_and_two_answers_stand_side_by_side() -> None:
    def outcome(number: int, worth: float, text: str) -> Outcome:
        return Outcome(
            item_id=str(number), prompt=f"prompt {number}.", completion=text, values={"toxic": 0}, worth=worth
        )

    from plumbline.evaluate.harmless import TOXICITY

    mine = [outcome(number, -number, f"mine {number}.") for number in range(20)]
    theirs = [outcome(number, 0.0, f"theirs {number}.") for number in range(20)]
    measured = Measured(
        task="toxicity",
        metric="toxic",
        value=0.0,
        n=20,
        low=0,
        high=0.2,
        better="lower",
        change=Change(other=0.0, value=0.0, low=0.0, high=0.0),
    )
    evaluation = Evaluation(version="a@1", against="b@1", measured=(measured,))
    text = page(Result(evaluation, [Done(TOXICITY, mine, theirs, (measured,))], []))
    places = [text.index(f"prompt {number}.") for number in range(19, 19 - SHOWN, -1)]
    assert places == sorted(places) and f"prompt {19 - SHOWN}." not in text
    assert text.index("mine 19.") < text.index("theirs 19.") < text.index("mine 18.")


def test_reliability_says_in_words_what_it_draws() -> None:
    outcomes = [Outcome(item_id=str(n), values={"confidence": 0.9, "right": float(n < 3)}) for n in range(4)]
    drawn = str(reliability_chart(outcomes))
    assert "at 90% sure 75% of 4 right" in drawn and 'cx="90.0%" cy="25.0%"' in drawn


def test_long_and_empty_texts_are_told() -> None:
    assert cut("x" * (LONGEST + 1200)).endswith("… (1,200 more characters)")
    assert cut("") == "(empty)" and cut(" \n") == "(white space only)"


# ---- in a browser


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_it_is_read_in_light_and_dark_and_on_a_phone(
    chromium: Any, result: Result, tmp_path: Path, scheme: str, width: int
) -> None:
    write_report(result, tmp_path / "report.html")
    page = chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.goto((tmp_path / "report.html").as_uri())
    for details in page.query_selector_all("summary"):
        details.click()
    assert page.evaluate(looks.OVER_THE_EDGE) == []
    weak = [each for each in page.evaluate(looks.CONTRASTS) if each[1] < 4.5]
    assert weak == [] and faults == []
    page.close()
