"""The manager's pages in Chromium: two people disagree and the manager sees it, decides, and takes it back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rooms import HOT_ANSWERS, Room

pytestmark = pytest.mark.browser
Enter = Callable[..., Any]
PHONE = {"width": 360, "height": 740}
PAGES = ("", "/labelers", "/differences", "/flags", "/instructions", "/export")


def rank(page: Any, wanted: Mapping[str, str]) -> None:
    """Types the rank of each answer in the order shown, and submits."""
    page.wait_for_selector(".answer")
    for text in page.locator(".answer > .text").all_text_contents():
        page.keyboard.press(wanted[text])
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#saved')?.textContent === 'All saved'")


def disagree(enter: Enter) -> None:
    """Two browsers rank the house that is too hot: 2, 1, 3 and 1, 2, 3."""
    rank(enter("ann"), dict(zip(HOT_ANSWERS, "213", strict=True)))
    rank(enter("ben"), dict(zip(HOT_ANSWERS, "123", strict=True)))


def downloaded(page: Any) -> list[Any]:
    page.get_by_role("link", name="Export").click()
    with page.expect_download() as sent:
        page.get_by_role("button", name="Download").click()
    return [json.loads(line) for line in Path(sent.value.path()).read_text().splitlines()]


def test_two_people_disagree_once_and_the_manager_sees_it(room: Room, enter: Enter) -> None:
    disagree(enter)
    mia = enter("mia")
    mia.get_by_role("link", name="1 set in which people contradict one another").click()
    mia.get_by_text("1 of 3 choices contradicted, 2 people").wait_for()
    seen = [
        (side.locator(".answer").inner_text(), side.locator("tbody tr").all_inner_texts())
        for side in mia.locator(".side").all()
    ]
    said = {text: [row.split() for row in rows] for text, rows in seen}
    assert said == {
        HOT_ANSWERS[0]: [["ann", "2"], ["ben", "1"]],
        HOT_ANSWERS[1]: [["ann", "1"], ["ben", "2"]],
        HOT_ANSWERS[2]: [["ann", "3"], ["ben", "3"]],
    }
    assert mia.locator(".side.contested").count() == 2


def test_leaving_somebody_out_shows_in_the_export_and_can_be_undone(room: Room, enter: Enter) -> None:
    disagree(enter)
    mia = enter("mia")
    assert sorted(row["ranks"] for row in downloaded(mia)) == [[1, 2, 3], [2, 1, 3]]
    mia.get_by_role("link", name="Labelers", exact=True).click()
    mia.get_by_role("link", name="ben").click()
    mia.get_by_text("Leave ben out…").click()
    mia.get_by_label("Why, in your words").fill("ranks in a hurry")
    mia.get_by_role("button", name="Yes, leave ben out").click()
    mia.get_by_text("ben is left out.").wait_for()
    assert [row["ranks"] for row in downloaded(mia)] == [[2, 1, 3]]
    mia.get_by_role("link", name="Differences").click()
    mia.get_by_text("Nobody contradicts anybody so far.").wait_for()
    mia.get_by_role("link", name="Labelers", exact=True).click()
    mia.get_by_role("link", name="ben").click()
    mia.get_by_text("ranks in a hurry").wait_for()
    mia.get_by_role("button", name="Take ben back in").click()
    mia.get_by_text("ben counts again.").wait_for()
    assert len(downloaded(mia)) == 2


def test_the_confirmation_is_reached_by_keyboard_alone(room: Room, enter: Enter) -> None:
    disagree(enter)
    mia = enter("mia")
    ben = {each.name: each.labeler_id for each in room.store.labelers()}["ben"]
    mia.goto(f"{room.address}/manager/labelers/{ben}")
    mia.locator("summary").focus()
    mia.keyboard.press("Enter")
    mia.keyboard.press("Tab")
    mia.keyboard.type("because")
    mia.keyboard.press("Tab")
    mia.keyboard.press("Enter")
    mia.get_by_text("ben is left out.").wait_for()
    assert room.store.excluded()[ben].evidence["note"] == "because"


def test_the_overview_keeps_up_by_itself(room: Room, enter: Enter) -> None:
    mia = enter("mia")
    mia.locator("#progress", has_text="0 of 1 sets").wait_for()
    mia.evaluate("window.same = true")
    disagree(enter)
    mia.locator("#progress", has_text="1 of 1 sets").wait_for()
    mia.locator("#agreement", has_text="1 set ranked by 2 people").wait_for()
    assert mia.evaluate("window.same")  # the page was not loaded again


def test_a_server_that_is_away_is_said_and_the_page_goes_on(room: Room, enter: Enter) -> None:
    mia = enter("mia", expected=("Failed to load resource",))
    mia.locator("#progress", has_text="0 of 1 sets").wait_for()
    room.stop()
    mia.get_by_text("The server does not answer").wait_for()
    room.start()
    mia.get_by_text("The server does not answer").wait_for(state="hidden")


def test_an_invitation_lets_somebody_in(room: Room, enter: Enter) -> None:
    mia = enter("mia")
    mia.get_by_role("link", name="Labelers", exact=True).click()
    mia.get_by_label("Name").fill("Zoë")
    mia.get_by_role("button", name="Make a link").click()
    link = mia.get_by_label("Sign-in link").input_value()
    assert mia.get_by_role("button", name="Copy").is_visible()
    guest = mia.context.browser.new_context().new_page()
    guest.goto(link)
    guest.get_by_role("button", name="Sign in").click()
    guest.get_by_text("Zoë").wait_for()
    guest.context.close()


def test_the_instructions_are_edited_with_their_difference_in_sight(room: Room, enter: Enter) -> None:
    mia = enter("mia")
    mia.get_by_role("link", name="Instructions").click()
    mia.get_by_label("Text of the instructions for helpful").fill("Prefer what is true.\n\n- Ties are fine.\n")
    mia.get_by_role("button", name="Save as version 2").click()
    mia.get_by_text("Saved. Labelers see it with their next set.").wait_for()
    assert mia.locator("details[open] del").all_inner_texts() == ["helps"]
    assert mia.locator("details[open] ins").all_inner_texts() == ["is true"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(room: Room, enter: Enter, scheme: str) -> None:
    disagree(enter)
    mia = enter("mia", viewport=PHONE, color_scheme=scheme)
    ben = room.store.labelers()[-2].labeler_id
    for path in (*PAGES, f"/labelers/{ben}"):
        mia.goto(f"{room.address}/manager{path}")
        assert mia.evaluate("document.documentElement.scrollWidth") == PHONE["width"], path
        here = mia.locator(".places [aria-current]")
        assert here.count() == 1


def test_charts_have_words_for_those_who_do_not_see_them(room: Room, enter: Enter) -> None:
    disagree(enter)
    mia = enter("mia")
    chart = mia.get_by_role("img", name="Sets by state")
    assert chart.locator("desc").text_content().startswith("Of 1: 1 done")
    for each in mia.locator("svg.chart").all():
        assert each.locator("title").text_content() and each.locator("desc").text_content()
