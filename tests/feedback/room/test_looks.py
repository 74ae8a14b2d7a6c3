"""The labeler's page as it looks in Chromium: on a phone, in light and dark, with everything that can be on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from looks import CONTRASTS, OVER_THE_EDGE
from rooms import Room

pytestmark = pytest.mark.browser
Enter = Callable[..., Any]


def fill(room: Room, page: Any) -> None:
    """Everything at once: ranks, a tie, a flag, something wanted, an edit, a past set, trouble, a change."""
    for key in ("1", "2", "3", "Enter"):
        page.keyboard.press(key)
    page.locator("#prompt .text", has_text="nine").wait_for()
    page.locator("#past button").wait_for()
    for key in ("1", "1", "F", "E"):
        page.keyboard.press(key)
    page.keyboard.type("An edit.")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    for name in ("trouble", "change", "revising", "leave"):
        page.locator(f"#{name}").evaluate("each => { each.hidden = false; }")
    page.locator("#trouble").evaluate("each => each.append('Trouble with ', document.createElement('del'))")
    page.locator("#change").evaluate(
        "each => { const ins = document.createElement('ins'); ins.append('new'); each.append(ins); }"
    )
    page.evaluate("() => Promise.all(document.getAnimations().map((each) => each.finished))")


@pytest.fixture(autouse=True)
def nine_answers(room: Room) -> None:
    word = "incomprehensibilities" * 8
    room.add("nine", f"Rank nine. {word}", *(f"Answer {number}. {word}" for number in range(9)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(room: Room, enter: Enter, scheme: str) -> None:
    page = enter("ann", color_scheme=scheme)
    page.locator(".answer").first.wait_for()
    fill(room, page)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 100
    assert [each for each in found if each[1] < 4.5] == []
    for dialog in ("keys", "reasons"):
        page.evaluate(f"() => document.getElementById('{dialog}').showModal()")
        assert [each for each in page.evaluate(CONTRASTS) if each[1] < 4.5] == []
        page.keyboard.press("Escape")


def test_the_measure_of_contrast_finds_grey_on_grey(room: Room, enter: Enter) -> None:
    page = enter("ann")
    page.locator(".answer").first.wait_for()
    page.locator("#prompt .text").first.evaluate("each => { each.style.color = '#999'; }")
    assert any(ratio < 4.5 for _, ratio in page.evaluate(CONTRASTS))


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_reaches_over_the_edge(room: Room, enter: Enter, width: int) -> None:
    page = enter("ann", viewport={"width": width, "height": 740}, has_touch=width == 360, is_mobile=width == 360)
    page.locator(".answer").first.wait_for()
    fill(room, page)
    assert page.evaluate("() => innerWidth") == width  # a phone zooms out where something is too wide
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    assert page.evaluate(OVER_THE_EDGE) == []


@pytest.mark.parametrize("width", [360, 900, 1280])
def test_long_instructions_go_on_downwards_and_never_to_the_side(room: Room, enter: Enter, width: int) -> None:
    points = "".join(f"- Point {number}: what is true ranks above what sounds well.\n" for number in range(60))
    room.store.revise("helpful", f"Prefer what helps.\n\n{points}\nWhen unsure, tie them.\n", "mia")
    page = enter("ann", viewport={"width": width, "height": 740})
    page.locator(".answer").first.wait_for()
    if not page.locator("#instructions[open]").count():
        page.keyboard.press("h")
    box = page.locator(".instruction-box")
    assert box.evaluate("each => each.scrollWidth - each.clientWidth") == 0
    assert box.evaluate("each => each.scrollHeight - each.clientHeight") > 0
    last = page.get_by_text("When unsure, tie them.")
    last.scroll_into_view_if_needed()
    assert last.bounding_box()["x"] < width


@pytest.mark.parametrize(("width", "columns"), [(360, 1), (1280, 3)])
def test_answers_stand_side_by_side_where_there_is_room(room: Room, enter: Enter, width: int, columns: int) -> None:
    page = enter("ann", viewport={"width": width, "height": 740})
    page.locator(".answer").first.wait_for()
    tops = page.locator(".answer").evaluate_all("all => all.map((each) => each.getBoundingClientRect().top)")
    assert tops.count(tops[0]) == columns
    columns_of_text = page.locator(".text").evaluate_all(
        "all => all.map((each) => each.clientWidth / parseFloat(getComputedStyle(each).fontSize))"
    )
    assert max(columns_of_text) < 60  # in ems: about 75 characters and the padding


def test_a_phone_has_keys_large_enough_for_a_finger(room: Room, enter: Enter) -> None:
    page = enter("ann", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page.locator(".answer").first.wait_for()
    page.get_by_role("radio", name="Rank 1").first.tap()
    assert page.locator(".verdict").first.text_content() == "Rank 1"
    heights = page.locator(".ranks button, .flag, #submit").evaluate_all("all => all.map((each) => each.offsetHeight)")
    assert min(heights) >= 36


def test_the_switch_turns_the_page_dark_and_the_choice_stays(enter: Enter) -> None:
    page = enter("ann", color_scheme="light")
    page.locator(".answer").first.wait_for()
    before = page.locator(".answer").first.evaluate("each => getComputedStyle(each).backgroundColor")
    page.get_by_role("button", name="Light or dark").click()
    page.reload()
    page.locator(".answer").first.wait_for()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.locator(".answer").first.evaluate("each => getComputedStyle(each).backgroundColor") != before


def test_who_wants_no_motion_gets_none(enter: Enter) -> None:
    page = enter("ann", reduced_motion="reduce")
    page.locator(".answer").first.wait_for()
    moving = page.evaluate(
        "() => [...document.querySelectorAll('*')].map((each) => getComputedStyle(each).transitionDuration)"
        ".filter((time) => time !== '0s').length"
    )
    assert moving == 0
