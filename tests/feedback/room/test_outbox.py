"""What is said and not yet stored, in Chromium: nothing is lost and nothing is stored twice, whatever breaks when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rooms import HOT, Room

pytestmark = pytest.mark.browser
Enter = Callable[..., Any]
CUT = ("ERR_INTERNET_DISCONNECTED", "ERR_CONNECTION", "ERR_FAILED", "ERR_EMPTY_RESPONSE")


@pytest.fixture(autouse=True)
def three_sets(room: Room) -> None:
    for name in ("second", "third"):
        room.add(name, f"The {name} prompt.", "a", "b", "c")


def on_page(page: Any, prompt: str) -> None:
    page.locator("#prompt .text", has_text=prompt).wait_for()


def rank(page: Any, *keys: str) -> None:
    """Ranks the set on the page in the order shown, and submits."""
    page.locator(".answer").first.wait_for()
    for key in keys or ("1", "2", "3"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")


def saved(page: Any) -> None:
    page.wait_for_function("() => document.querySelector('#saved')?.textContent === 'All saved'")


def unsaved(page: Any, count: int) -> None:
    page.wait_for_function(f"() => document.querySelector('#saved')?.textContent === '{count} not saved yet'")


def loaded(page: Any) -> None:
    """Waits until the next set is in memory."""
    page.wait_for_function("() => performance.getEntriesByName(location.origin + '/label/api/claim').length >= 2")


def events(room: Room) -> list[str]:
    """The sets of all ranking events, each as often as it was stored."""
    return sorted(each.set_id for each in room.said(current=False))


def test_a_cut_network_loses_nothing_and_stores_nothing_twice(room: Room, enter: Enter) -> None:
    page = enter("ann", expected=CUT)
    on_page(page, HOT)
    loaded(page)
    page.context.set_offline(True)
    rank(page)
    rank(page, "1", "1", "F")
    unsaved(page, 2)
    page.locator("#trouble", has_text="2 rankings are kept in this browser").wait_for()
    assert events(room) == []
    page.context.set_offline(False)
    saved(page)
    assert page.locator("#trouble").is_hidden()
    assert events(room) == ["hot", "second"]
    on_page(page, "The third prompt.")


def test_a_full_outbox_survives_a_reload(room: Room, enter: Enter) -> None:
    page = enter("ann", expected=CUT)
    on_page(page, HOT)
    loaded(page)
    page.route("**/label/api/submit", lambda route: route.abort())
    rank(page)
    rank(page)
    unsaved(page, 2)
    page.reload()
    unsaved(page, 2)
    on_page(page, "The third prompt.")  # not one of those that wait
    assert events(room) == []
    page.unroute("**/label/api/submit")
    page.get_by_role("button", name="Try now").click()
    saved(page)
    assert events(room) == ["hot", "second"]
    page.reload()
    saved(page)
    assert events(room) == ["hot", "second"]


def test_an_answer_whose_acknowledgement_was_lost_is_stored_once(room: Room, enter: Enter) -> None:
    page = enter("ann", expected=CUT)
    on_page(page, HOT)
    loaded(page)

    def lose(route: Any) -> None:
        route.fetch()  # the server stores it, and the browser never hears of that
        route.abort()

    page.route("**/label/api/submit", lose, times=1)
    rank(page)
    saved(page)  # by itself, a little later
    assert events(room) == ["hot"]


def test_a_server_that_dies_gets_the_answers_when_it_is_back(room: Room, enter: Enter) -> None:
    page = enter("ann", expected=CUT)
    on_page(page, HOT)
    loaded(page)
    room.stop()
    rank(page, "2", "1", "3")
    unsaved(page, 1)
    room.start()
    page.get_by_role("button", name="Try now").click()
    saved(page)
    assert events(room) == ["hot"]


def test_an_ended_session_keeps_the_answers_until_one_signs_in_again(room: Room, enter: Enter) -> None:
    page = enter("ann", expected=("401", "403"))
    on_page(page, HOT)
    loaded(page)
    name = next(each["name"] for each in page.context.cookies() if each["name"].startswith("plumbline-"))
    room.store.end_session(next(each["value"] for each in page.context.cookies() if each["name"] == name))
    rank(page)
    page.locator("#trouble", has_text="You are not signed in here").wait_for()
    unsaved(page, 1)
    page.goto(room.link("ann"))
    page.get_by_role("button", name="Sign in").click()
    saved(page)
    assert events(room) == ["hot"]


def test_a_refused_answer_stays_visible_with_the_reason(room: Room, enter: Enter) -> None:
    page = enter("ann", expected=("400",))
    on_page(page, HOT)
    loaded(page)
    page.route(
        "**/label/api/submit",
        lambda route: route.fulfill(status=400, json={"error": "the set is gone"}),
        times=1,
    )
    rank(page)
    page.locator("#trouble", has_text="A ranking was not accepted: the set is gone").wait_for()
    page.get_by_role("button", name="Give it up").click()
    saved(page)
    assert events(room) == []


def test_what_was_begun_survives_a_reload_and_follows_to_another_browser(room: Room, enter: Enter) -> None:
    page = enter("ann")
    on_page(page, HOT)
    with page.expect_response("**/label/api/draft"):
        page.keyboard.press("2")
        page.keyboard.press("F")
    for each in (page, enter("ann")):
        each.reload()
        each.locator("#missing", has_text="C to go").wait_for()
        verdicts = each.locator(".answer .verdict").all_text_contents()
        assert verdicts == ["Rank 2", "Makes no sense", "No rank yet"]


def test_a_draft_that_the_server_never_heard_of_survives_a_reload(enter: Enter) -> None:
    page = enter("ann", expected=CUT)
    on_page(page, HOT)
    page.route("**/label/api/draft", lambda route: route.abort())
    page.keyboard.press("3")
    page.reload()
    page.locator("#missing", has_text="B and C to go").wait_for()


def test_backspace_reopens_the_last_and_a_change_takes_its_place(room: Room, enter: Enter) -> None:
    page = enter("ann")
    on_page(page, HOT)
    rank(page, "1", "2", "3")
    on_page(page, "The second prompt.")
    page.keyboard.press("1")
    page.keyboard.press("Backspace")
    on_page(page, HOT)
    assert page.locator(".answer .verdict").all_text_contents() == ["Rank 1", "Rank 2", "Rank 3"]
    page.keyboard.press("F")
    page.keyboard.press("Enter")
    on_page(page, "The second prompt.")
    assert page.locator(".answer .verdict").first.text_content() == "Rank 1"  # as it was left
    saved(page)
    assert events(room) == ["hot", "hot"]
    [now] = room.said()
    assert sum(now.flags) == 1


def test_backspace_twice_goes_further_back_and_escape_leaves_all_as_it_was(room: Room, enter: Enter) -> None:
    page = enter("ann")
    on_page(page, HOT)
    rank(page)
    on_page(page, "The second prompt.")
    rank(page)
    on_page(page, "The third prompt.")
    page.keyboard.press("Backspace")
    on_page(page, "The second prompt.")
    page.keyboard.press("Backspace")
    on_page(page, HOT)
    page.keyboard.press("F")
    page.keyboard.press("Escape")
    on_page(page, "The third prompt.")
    saved(page)
    assert not any(any(each.flags) for each in room.said())


def test_the_last_ten_are_there_after_a_reload(room: Room, enter: Enter) -> None:
    page = enter("ann")
    on_page(page, HOT)
    rank(page, "2", "1", "F")
    saved(page)
    page.reload()
    item = page.locator("#past button", has_text=HOT)
    assert item.locator(".said").text_content() == "B > A · no sense: C"
    item.click()
    on_page(page, HOT)
    assert page.locator(".answer .verdict").all_text_contents() == ["Rank 2", "Rank 1", "Makes no sense"]


def test_a_skip_has_a_reason_keeps_what_was_begun_and_can_be_undone(room: Room, enter: Enter) -> None:
    page = enter("ann")
    on_page(page, HOT)
    page.keyboard.press("3")
    page.keyboard.press("S")
    page.locator("#reasons[open]").wait_for()
    page.keyboard.press("2")
    on_page(page, "The second prompt.")
    saved(page)
    [past] = room.store.history(room.store.labelers()[0].labeler_id)
    assert (past.set.set_id, past.state, past.reason) == ("hot", "skipped", "The prompt is not clear")
    page.reload()
    on_page(page, "The second prompt.")
    page.locator("#past button").wait_for()
    page.keyboard.press("Backspace")
    on_page(page, HOT)
    assert page.locator(".answer .verdict").first.text_content() == "Rank 3"
    page.keyboard.press("1")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    saved(page)
    assert events(room) == ["hot"]


def test_two_tabs_never_answer_the_same_set_twice(room: Room, enter: Enter) -> None:
    page = enter("ann")
    on_page(page, HOT)
    other = page.context.new_page()
    other.goto(f"{room.address}/label")
    on_page(other, HOT)
    rank(page)
    on_page(other, "The second prompt.")
    assert "in another tab" in other.locator("#missing").inner_text()
    assert HOT[:20] in other.locator("#past button").first.inner_text()
    saved(page)
    assert events(room) == ["hot"]


def test_a_page_with_nothing_to_rank_shows_no_empty_instructions(room: Room, enter: Enter) -> None:
    first = enter("ann")
    for prompt in (HOT, "The second prompt.", "The third prompt."):
        on_page(first, prompt)
        rank(first)
    saved(first)
    first.reload()
    first.locator("#nothing", has_text="Nothing to rank right now").wait_for()
    assert first.locator("#instructions").is_hidden()


def test_when_all_is_ranked_the_page_says_so(room: Room, enter: Enter) -> None:
    page = enter("ann")
    for prompt in (HOT, "The second prompt.", "The third prompt."):
        on_page(page, prompt)
        rank(page)
    page.locator("#nothing", has_text="Nothing to rank right now").wait_for()
    saved(page)
    assert page.locator("#tray").is_hidden()
    assert events(room) == ["hot", "second", "third"]
    page.keyboard.press("Backspace")
    on_page(page, "The third prompt.")
