"""The labeler's page in Chromium: what keys, a mouse and a screen reader do there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rooms import HOT, HOT_ANSWERS, TEXT, Room

pytestmark = pytest.mark.browser
Enter = Callable[..., Any]
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> &amp; {{ 7 * 7 }}"


def shown(page: Any) -> list[str]:
    """The answers' texts in the order on the page."""
    page.wait_for_selector(".answer")
    return [str(text) for text in page.locator(".answer > .text").all_text_contents()]


def saved(page: Any) -> None:
    """Waits until everything is stored."""
    page.wait_for_function("() => document.querySelector('#saved')?.textContent === 'All saved'")


def on_page(page: Any, prompt: str) -> None:
    page.locator("#prompt .text", has_text=prompt).wait_for()


def test_the_house_that_is_too_hot_is_ranked_2_1_3(room: Room, enter: Enter) -> None:
    page = enter("ann")
    wanted = dict(zip(HOT_ANSWERS, (3, 1, 2), strict=True))
    for text in shown(page):
        page.keyboard.press(str(wanted[text]))
    page.keyboard.press("Enter")
    saved(page)
    [said] = room.said()
    assert (said.prompt, said.completions, said.ranks) == (HOT, HOT_ANSWERS, (3, 1, 2))
    assert said.instruction_version == "1"


@pytest.mark.parametrize("count", [2, 4, 9])
def test_a_tie_and_a_flag_take_no_more_keys_than_answers_and_enter(room: Room, enter: Enter, count: int) -> None:
    answers = [f"Answer {number}." for number in range(count)]
    room.add("set", "Which?", *answers)
    page = enter("ann")
    rank_all(page)
    on_page(page, "Which?")
    order = [answers.index(text) for text in shown(page)]
    keys = ["1", "F"] if count == 2 else ["1", "1", "F", *map(str, range(2, count - 1))]
    pressed = [*keys, "Enter"]
    assert len(pressed) <= count + 1
    for key in pressed:
        page.keyboard.press(key)
    saved(page)
    said = {each.set_id: each for each in room.said()}["set"]
    assert [said.flags[place] for place in order] == [key == "F" for key in keys]
    assert [said.ranks[place] for place in order] == [None if key == "F" else int(key) for key in keys]


def rank_all(page: Any) -> None:
    """Ties all answers of the set on the page, and submits."""
    for _ in shown(page):
        page.keyboard.press("1")
    page.keyboard.press("Enter")


def test_the_next_set_is_painted_from_memory(room: Room, enter: Enter) -> None:
    room.add("second", "The second prompt.", "a", "b")
    page = enter("ann", expected=("ERR_INTERNET_DISCONNECTED",))
    on_page(page, HOT)
    page.wait_for_function("() => performance.getEntriesByName(location.origin + '/label/api/claim').length === 2")
    page.context.set_offline(True)
    rank_all(page)
    assert page.locator("#prompt .text").text_content() == "The second prompt."  # at once, without a wait
    page.context.set_offline(False)
    saved(page)
    assert [each.set_id for each in room.said()] == ["hot"]


def test_enter_names_the_answers_without_a_decision_and_goes_to_the_first(room: Room, enter: Enter) -> None:
    page = enter("ann")
    shown(page)
    page.keyboard.press("Enter")
    assert page.locator("#missing").text_content() == "A, B and C need a rank, or F"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    assert page.locator("#missing").text_content() == "A and C need a rank, or F"
    assert page.evaluate("document.activeElement.id") == page.locator(".answer").first.get_attribute("id")
    assert page.locator(".answer.wanted").count() == 2
    assert room.said() == []


def test_a_flag_strikes_the_text_through_and_f_again_takes_that_back(enter: Enter) -> None:
    page = enter("ann")
    shown(page)
    first = page.locator(".answer").first
    page.keyboard.press("F")
    assert "line-through" in first.locator(".text").evaluate("each => getComputedStyle(each).textDecorationLine")
    assert first.locator(".verdict").text_content() == "Makes no sense"
    assert first.locator(".text").is_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("F")
    assert first.locator(".verdict").text_content() == "No rank yet"


def test_digits_beyond_the_answers_and_ranks_for_nothing_are_refused(room: Room, enter: Enter) -> None:
    room.add("empty", "Silence?", "Something.", "")
    page = enter("ann")
    shown(page)
    page.keyboard.press("7")
    assert page.locator("#missing").text_content() == "There are 3 answers: rank them 1 to 3"
    rank_all(page)
    on_page(page, "Silence?")
    place = shown(page).index("This answer is empty.")
    page.locator(".answer").nth(place).focus()
    page.keyboard.press("1")
    assert "empty: it can only be flagged" in page.locator("#missing").text_content()


def test_what_is_in_an_answer_is_text(room: Room, enter: Enter) -> None:
    room.add("hostile", HOSTILE, HOSTILE, "שלום עולם", "line one\n  line two")
    page = enter("ann")
    rank_all(page)
    page.locator("#prompt .text", has_text="script").wait_for()
    texts = shown(page)
    assert sorted(texts) == sorted([HOSTILE, "שלום עולם", "line one\n  line two"])
    assert page.locator("#prompt .text").text_content() == HOSTILE
    assert page.evaluate("window.hacked") is None
    assert page.locator(".answer script, .answer img, #prompt script, #prompt img").count() == 0
    hebrew = page.locator(".answer > .text").nth(texts.index("שלום עולם"))
    assert hebrew.evaluate("each => getComputedStyle(each).direction") == "rtl"
    lines = page.locator(".answer > .text").nth(texts.index("line one\n  line two"))
    assert lines.evaluate("each => getComputedStyle(each).whiteSpace").startswith("pre-wrap")


def test_the_page_never_tells_who_made_an_answer(room: Room, enter: Enter) -> None:
    bodies: list[str] = []
    page = enter("ann")
    shown(page)  # the page is whole; one that is still on its way cannot be loaded anew
    page.on("response", lambda answer: bodies.append(answer.text()) if "/label" in answer.url else None)
    page.reload()
    rank_all(page)
    saved(page)
    assert any(HOT_ANSWERS[0] in body for body in bodies)
    assert not any("secret" in body for body in bodies)
    assert "secret" not in page.content()


def test_a_handle_is_dragged_onto_a_rank(room: Room, enter: Enter) -> None:
    page = enter("ann")
    texts = shown(page)
    for number, slot in enumerate(["2", "flag", "2"]):
        handle = page.locator(".handle").nth(number).bounding_box()
        target = page.locator(f"[data-slot='{slot}']").bounding_box()
        page.mouse.move(handle["x"] + 5, handle["y"] + 5)
        page.mouse.down()
        page.mouse.move(target["x"] + 5, target["y"] + 5, steps=3)
        page.mouse.up()
    assert page.locator(".ghost").count() == 0
    page.locator("#submit").click()
    saved(page)
    [said] = room.said()
    order = [HOT_ANSWERS.index(text) for text in texts]
    assert [said.ranks[place] for place in order] == [1, None, 1]  # only 2s were given, and ranks are dense
    assert [said.flags[place] for place in order] == [False, True, False]


def test_escape_ends_a_drag_without_a_rank(enter: Enter) -> None:
    page = enter("ann")
    shown(page)
    handle = page.locator(".handle").first.bounding_box()
    target = page.locator("[data-slot='1']").bounding_box()
    page.mouse.move(handle["x"] + 5, handle["y"] + 5)
    page.mouse.down()
    page.mouse.move(target["x"] + 5, target["y"] + 5, steps=3)
    page.keyboard.press("Escape")
    page.mouse.up()
    assert page.locator(".answer.ranked").count() == 0


def test_buttons_rank_flag_and_clear(enter: Enter) -> None:
    page = enter("ann")
    shown(page)
    card = page.locator(".answer").nth(1)
    for _ in range(2):
        card.get_by_role("radio", name="Rank 2").click()
    assert card.locator(".verdict").text_content() == "No rank yet"
    card.get_by_role("radio", name="Rank 2").click()
    page.keyboard.press("1")  # the digits go to the card that was clicked
    assert card.locator(".verdict").text_content() == "Rank 1"


def test_a_screen_reader_is_told_what_each_thing_is_and_what_happened(enter: Enter) -> None:
    page = enter("ann")
    texts = shown(page)
    card = page.get_by_role("radiogroup", name="Answer B")
    assert card.get_by_role("radio").count() == 4
    described = card.get_attribute("aria-describedby").split()
    assert [page.locator(f"#{each}").text_content() for each in described] == ["No rank yet", texts[1]]
    page.keyboard.press("1")
    page.keyboard.press("1")
    heard = page.locator("#announcer")
    heard.get_by_text("B rank 1, tied with A").wait_for()
    assert heard.get_attribute("aria-live") == "polite"
    assert card.get_by_role("radio", name="Rank 1").get_attribute("aria-checked") == "true"
    page.keyboard.press("Tab")  # from C on, after two digits
    assert page.evaluate("document.activeElement.closest('.own') !== null")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Answer B"


def test_an_edited_answer_and_an_own_one_come_with_the_ranking(room: Room, enter: Enter) -> None:
    page = enter("ann")
    place = HOT_ANSWERS.index(shown(page)[0])
    page.keyboard.press("E")
    page.keyboard.press("Control+A")
    page.keyboard.type("Close the shutters. 1 F ?")  # letters and digits are text while one types
    page.keyboard.press("Escape")
    assert page.locator(".edited:visible").count() == 1
    page.keyboard.press("W")
    page.keyboard.type("Sleep in the cellar.")
    page.keyboard.press("Escape")
    rank_all(page)
    saved(page)
    ann = room.store.labelers()[0]
    [past] = room.store.history(ann.labeler_id)
    assert {(each.text, each.place) for each in past.texts} == {
        ("Close the shutters. 1 F ?", place),
        ("Sleep in the cellar.", None),
    }


def test_new_instructions_are_shown_once(room: Room, enter: Enter) -> None:
    page = enter("ann")
    shown(page)
    assert page.locator("#change").is_hidden()
    room.store.revise("helpful", TEXT.replace("fine", "welcome"), "mia")
    page.reload()
    page.locator("#change ins", has_text="welcome").wait_for()
    assert page.locator("#change del").text_content() == "fine"
    page.get_by_role("button", name="I have read it").click()
    page.reload()
    shown(page)
    page.wait_for_function("() => document.querySelector('#version').textContent === 'version 2'")
    assert page.locator("#change").is_hidden()


def test_a_very_long_answer_scrolls_in_its_card_and_opens(room: Room, enter: Enter) -> None:
    room.add("long", "Long?", "word " * 200_000, "short")
    page = enter("ann")
    rank_all(page)
    on_page(page, "Long?")
    number = [len(text) for text in shown(page)].index(1_000_000)
    card = page.locator(".answer").nth(number)
    card.focus()
    assert card.bounding_box()["height"] < 600
    page.keyboard.press("Space")
    page.wait_for_function("() => document.querySelector('.answer.here .text').scrollTop > 0")
    page.keyboard.press("O")
    assert card.bounding_box()["height"] > 10_000
