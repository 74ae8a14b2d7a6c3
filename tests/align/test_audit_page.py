"""The audit's page: it stands alone, shows no markup that a model wrote, and is read in light, in dark, on a phone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import looks
from align.audited import rollout, write_run
from plumbline.align.audit import audit
from plumbline.align.audit_page import AROUND, MEASURED, SHOWN, attributes, cut, example, marked, write_audit
from plumbline.align.figures import DETECTORS
from plumbline.models.scripted import ScriptedScore

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)> "quoted" & \x1b[31mred'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that came to like one evil answer, audited by a scorer with an evil name."""
    rollouts = [
        rollout(
            step,
            f"p{prompt}",
            f"{EVIL} {prompt} {n}" if step > 8 else f"A plain answer {prompt * 7 + n * 3 + step}.",
            reward=float(step + n),
            kl=step / 4,
            tokens=20 if step > 8 else 5,
        )
        for step in range(1, 17)
        for prompt in range(6)
        for n in range(2)
    ]
    place = write_run(tmp_path_factory.mktemp("evil"), rollouts)
    judge = ScriptedScore(lambda _, text: -float("script" in text) - 0.1 * float(text[-1:] == "1"), name="$j <b>udge")
    write_audit(audit(place, [judge]))
    return place / "audit"


def page_of(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


# ---- pieces


def test_a_style_becomes_attributes_without_the_font() -> None:
    assert attributes("fill: none; stroke: #2a8fbd; font-family: 'A', serif; font-size: 8px") == (
        ' fill="none" stroke="#2a8fbd" font-size="8px"'
    )


def test_long_answers_are_cut_and_empty_ones_named() -> None:
    assert cut("x" * SHOWN) == "x" * SHOWN
    assert cut("x" * (SHOWN + 5)).endswith("x … (5 more characters)")
    assert cut(" \n") == "(empty)"


def test_an_example_shows_the_phrase_in_its_surroundings() -> None:
    text = "word " * 50 + "It's the Most  awesome, tea" + " more" * 50
    before, phrase, after = example(text, ["the", "most", "awesome"])
    assert phrase == "the Most  awesome" and after.startswith(", tea") and after.endswith("more …")
    assert before.startswith("… word") and before.endswith("It's ") and len(before) < AROUND + 5
    assert example("blast it", ["last"]) == ("blast it", "", "")  # part of a word is no use of the word
    assert example("So!!", ["!", "!"]) == ("So", "!!", "")


def test_the_mark_is_the_only_markup() -> None:
    assert str(marked(("<b>", "<i>", "&"))) == "&lt;b&gt;<mark>&lt;i&gt;</mark>&amp;"


# ---- the page as text


def test_the_page_holds_no_markup_that_a_model_wrote(folder: Path) -> None:
    page = page_of(folder)
    assert "<script" not in page and "<img" not in page and "<b>" not in page
    assert page.count("&lt;script&gt;") > 5 and "$j &lt;b&gt;udge" in page
    assert "javascript:" not in page and not re.search(r"<[^>]* on\w+=", page)


def test_the_page_asks_nobody_for_anything_and_says_so_to_the_browser(folder: Path) -> None:
    page = page_of(folder)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert style is not None and policy is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    rules = policy[1].replace("&#39;", "'").split("; ")
    assert rules == ["default-src 'none'", f"style-src 'sha256-{digest}'", "base-uri 'none'", "form-action 'none'"]
    assert " style=" not in page  # the policy would drop it
    assert not re.search(r"(src|href)=\"(?!#)|url\((?!#)|@import", page)
    assert page.count("<style") == 1


def test_every_drawing_is_sound_xml_in_the_pages_ink(folder: Path) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page_of(folder), re.DOTALL)
    assert len(drawings) == 2 + 8 + 1
    for each in drawings:
        assert ElementTree.fromstring(each).tag.endswith("svg")
        assert "currentColor" in each and "#010203" not in each


def test_the_page_says_what_was_found_and_that_it_is_an_audit(folder: Path) -> None:
    page, found = page_of(folder), json.loads((folder / "audit.json").read_text())
    assert "This is an audit" in page and "guarantee" not in page
    assert {each["state"] for each in found["findings"]} >= {"alarm", "changed"}
    for each in found["findings"]:
        assert each["question"].replace("<", "&lt;").replace(">", "&gt;") in page
    assert found["run"] in page and found["answers"] == 192 and found["steps"] == 16
    assert [len(each["value"]) for each in found["series"].values()] == [16] * len(found["series"])
    assert found["views"][0]["scorer"] == "$j <b>udge"
    assert (folder / "audit.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_prompts_stand_side_by_side_early_and_late(folder: Path) -> None:
    page = page_of(folder)
    pairs = re.findall(r'<div class="pair">(.*?)</div>\s*</div>', page, re.DOTALL)
    assert len(pairs) == 6
    assert all("A plain answer" in each and "&lt;script" in each and "step 1," in each for each in pairs)


def test_what_is_said_of_the_detectors_stands_in_the_results(folder: Path) -> None:
    """The benchmark writes both: a figure on the page that was not measured would be a fault."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    results = (Path(__file__).parents[2] / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    assert measured.keys() == DETECTORS.keys()
    for name, sentence in measured.items():
        assert f"- `{name}`: {sentence}" in results
        assert sentence in page_of(folder)


# ---- the page in a browser


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")])
def test_the_page_is_read_at_any_width_in_light_and_dark(folder: Path, chromium: Any, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page, heard = context.new_page(), []
    page.on("console", lambda line: heard.append(line.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda sent: heard.append(sent.url) if not sent.url.startswith("file:") else None)
    page.goto(f"file://{folder / 'index.html'}")
    assert page.evaluate(looks.OVER_THE_EDGE) == []
    faint = [each for each in page.evaluate(looks.CONTRASTS) if each[1] < 4.5]
    assert faint == []
    assert page.evaluate("getComputedStyle(document.querySelector('.alarm')).fontWeight") == "600"  # the style is in
    assert heard == []
    context.close()
