"""Rails: what each lets pass, that one which fails does not, and that a stream lets nothing out unseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import UserError
from plumbline.guard import Side, Verdict, check
from plumbline.guard.guarded import Blocked, Guarded, Held
from plumbline.guard.rails import GUARDS, Blocklist, Length, PersonalData, Scored, Secrets, make_guards
from plumbline.models import Conversation, Generate, Raw, Sampling
from plumbline.models.scripted import Scripted, ScriptedScore

KEY = "AKIA" + "IOSFODNN7" + "EXAMPLE"


def outcome(guard: Any, text: str) -> str:
    verdict: Verdict = guard(text, "input")
    assert verdict.guard == guard.name and verdict.side == "input"
    return verdict.outcome


def test_personal_data_is_replaced_or_refused() -> None:
    text = "Write to ann@example.com or +1 212 555 0123."
    verdict = PersonalData()(text, "input")
    assert verdict.outcome == "change" and verdict.text == "Write to [EMAIL] or [PHONE]."
    assert outcome(PersonalData(block=True), text) == "block"
    assert outcome(PersonalData(), "Nothing here.") == "pass"
    assert "example" not in verdict.reason


def test_secrets_are_refused_and_no_verdict_repeats_them() -> None:
    verdict = Secrets()(f"my key is {KEY}", "output")
    assert verdict.outcome == "block" and KEY not in str(verdict)
    assert outcome(Secrets(), "no key at all") == "pass"


def test_length() -> None:
    assert [outcome(Length(5), text) for text in ("12345", "123456")] == ["pass", "block"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bad word here", "block"),
        ("BAD\n\tWORD", "block"),
        ("b\u200bad w\u00adord", "block"),
        ("ｂａｄ ｗｏｒｄ", "block"),
        ("badword", "pass"),
        ("bad words", "pass"),
        ("a.b", "block"),
        ("aXb", "pass"),
    ],
)
def test_the_blocklist_reads_what_a_person_reads(text: str, expected: str) -> None:
    assert outcome(Blocklist(["bad word", "a.b"]), text) == expected


def test_a_classifier_stops_above_its_probability_alone() -> None:
    logits = {"calm": -1.0, "even": 0.0, "angry": 3.0}
    rail = Scored(ScriptedScore(lambda _, text: logits[text], name="anger"), 0.9)
    assert [outcome(rail, text) for text in logits] == ["pass", "pass", "block"]
    broken = Scored(ScriptedScore(float("nan"), name="broken"), 0.9)
    assert check([broken], "x", "input").verdicts[0].outcome == "unavailable"


def test_the_shipped_classifier_is_a_rail() -> None:
    (rail,) = make_guards(["toxicity=0.9"])
    assert outcome(rail, "The weather is fine today, and the garden is full of flowers.") == "pass"
    assert outcome(rail, "You are a stupid worthless idiot and I hate you, you disgusting piece of shit.") == "block"


def test_each_rail_sees_what_the_ones_before_left_and_the_first_that_stops_ends_it() -> None:
    ruling = check([PersonalData(), Length(10)], "ann@example.com", "input")
    assert (ruling.text, ruling.stopped) == ("[EMAIL]", None)
    ruling = check([Length(3), Secrets()], "long text", "input")
    assert ruling.stopped is not None and len(ruling.verdicts) == 1


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("magic", "there is no rail 'magic'"),
        ("length=long", "what stands after the equals sign must be a number"),
        ("length=0", "at least 1"),
        ("toxicity=2", "between 0 and 1"),
        ("personal-data=hide", "'hide' is not one of: replace, block"),
        ("blocklist=none.txt", "cannot read the blocklist 'none.txt'"),
    ],
)
def test_a_rail_that_cannot_be_made_says_why(named: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_guards([named])


def test_every_rail_has_the_seam(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("# a remark\nnever\n")
    values = {"blocklist": str(tmp_path / "words")}
    for name, make in GUARDS.items():
        guard = make(values.get(name, ""))
        assert guard.name == name
        for side in ("input", "output"):
            verdict = guard("An ordinary sentence about the garden.", side)  # type: ignore[arg-type]
            assert verdict == Verdict(name, side, "pass")  # type: ignore[arg-type]


# ---- around a model


class Broken:
    name = "broken"

    def __call__(self, text: str, side: Side) -> Verdict:
        raise TimeoutError


def test_a_guarded_model_is_a_model() -> None:
    model = Guarded(Scripted(lambda prompt: "Ask ann@example.com. Or not."), [PersonalData()])
    assert isinstance(model, Generate)
    ((answer,),) = model(["Who?"])
    assert answer.text == "Ask [EMAIL]. Or not."
    *pieces, last = model.stream("Who?")
    assert last.completion is not None
    assert "".join(piece.text for piece in [*pieces, last]) == last.completion.text == answer.text


def test_the_prompt_is_changed_or_stopped_before_the_model_sees_it() -> None:
    script = Scripted(lambda prompt: "Fine.")
    model = Guarded(script, [PersonalData(), Length(30)])
    model([Raw("I am ann@example.com"), Conversation([{"role": "user", "content": "Also ann@example.com"}])])
    raw, talk = script.calls[0].prompts
    assert raw == "I am [EMAIL]" and isinstance(raw, Raw)
    assert isinstance(talk, Conversation) and talk.messages[0]["content"] == "Also [EMAIL]"
    with pytest.raises(Blocked, match="the input is stopped by the rail 'length'"):
        model(["x" * 31])
    with pytest.raises(UserError, match="token ids"):
        model([[1, 2]])
    assert len(script.calls) == 1


def test_unavailable_is_not_pass() -> None:
    script = Scripted(["An answer."])
    with pytest.raises(Blocked, match="the rail failed"):
        Guarded(script, [Broken()])(["Hi"])
    assert script.calls == []
    assert check([Broken()], "x", "output").stopped is not None


def test_a_stream_lets_nothing_out_that_was_not_seen_whole() -> None:
    words = ["Hello. ", "The code ", "is bad", " word", ". And ", "more."]
    held = Held([Blocklist(["bad word"])])
    out = [held.add(word) for word in words] + [held.end()]
    assert out == ["Hello. ", "", "", "", "", "", ""]
    assert held.stopped is not None
    free = Held([])
    assert [free.add(word) for word in words] + [free.end()] == [*words, ""]


def test_a_stream_whose_beginning_turns_out_to_be_part_of_something_ends() -> None:
    class Late:
        """Calls "One. Two" something, which begins in what is out already."""

        name = "late"

        def __call__(self, text: str, side: Side) -> Verdict:
            if "One. Two" in text:
                return Verdict(self.name, side, "change", "", text.replace("One. Two", "[X]"))
            return Verdict(self.name, side, "pass")

    held = Held([Late()])
    assert [held.add("One. "), held.add("Two. "), held.end()] == ["One. ", "", ""]
    assert held.stopped is not None and held.stopped.outcome == "block"


def test_an_answer_that_is_stopped_ends_with_nothing_of_it() -> None:
    model = Guarded(Scripted(lambda prompt: "Fine. You bad word. Bye."), [Blocklist(["bad word"])])
    ((answer,),) = model(["Hi"], Sampling())
    assert (answer.text, answer.finish_reason) == ("", "cancelled")
    *_, last = model.stream("Hi")
    assert last.completion is not None
    assert (last.completion.text, last.completion.finish_reason) == ("Fine. ", "cancelled")
