"""Labelled texts: which lines are read, which classes they make, and what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.runs import write
from plumbline.align.labels import LabelledTexts, classes_of, load_labelled
from plumbline.errors import BadRecord, UserError
from plumbline.records import prompt_id

OTHER = {"text": "Open the windows.", "label": "air", "split": "train"}


def load(folder: Path, *records: Any, reads: str = "", share: float = 0.0) -> tuple[LabelledTexts, list[str]]:
    left_out: list[str] = []
    return load_labelled(write(folder / "labels.jsonl", *records), left_out, reads=reads, share=share), left_out


@pytest.mark.parametrize(
    ("line", "prompt", "text", "label"),
    [
        ({"text": "Knock, knock.", "label": "joke"}, "", "Knock, knock.", "joke"),
        ({"prompt": "Why?", "completion": "Because.", "label": 3}, "Why?", "Because.", "3"),
        ({"prompt": "Why?", "completion": "Because.", "label": True}, "Why?", "Because.", "true"),
        ({"instruction": "Why?", "output": "Because.", "kto_tag": False}, "Why?", "Because.", "false"),
        (
            {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}], "label": 0},
            [{"role": "user", "content": "Why?"}],
            "So.",
            "0",
        ),
    ],
    ids=["a text", "an answer", "a rating", "LLaMA-Factory", "messages"],
)
def test_a_line_of_each_shape(tmp_path: Path, line: dict[str, Any], prompt: Any, text: str, label: str) -> None:
    texts, left_out = load(tmp_path, line, {**OTHER, "prompt": "Hot?"} if prompt else OTHER)
    assert left_out == []
    assert (texts.train[0].prompt, texts.train[0].text, texts.train[0].label) == (prompt, text, label)
    assert texts.train[0].prompt_id == prompt_id(prompt or text)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"text": "  ", "label": "joke"}, "`text` is '  ': there is nothing in it to put into a class"),
        ({"prompt": "Why?", "completion": "", "label": 1}, "`text` is '': there is nothing in it"),
        ({"text": "Hm."}, "`label` is missing"),
        ({"text": "Hm.", "label": ""}, "`label` is '': a label is a name, a whole number, or true or false"),
        ({"text": "Hm.", "label": 0.5}, "`label` is 0.5: a label is a name, a whole number"),
        (
            {"words": "Hm.", "label": 1},
            "has no `text`, and no `prompt` with a `completion` (there is `words`, `label`)",
        ),
        ({"text": 7, "label": 1}, "`text` is 7: it must be text"),
    ],
)
def test_a_bad_line_is_told_and_the_others_go_on(tmp_path: Path, line: dict[str, Any], told: str) -> None:
    texts, left_out = load(tmp_path, OTHER, line, {"text": "Knock, knock.", "label": "joke"})
    assert len(texts.train) == 2
    (said,) = left_out
    assert "labels.jsonl:2: " in said and told in said


def test_classes_are_in_the_order_of_numbers_or_of_the_alphabet() -> None:
    assert classes_of(["10", "9", "-1", "9"], ["a"], []) == ("-1", "9", "10")
    assert classes_of(["true", "false"], ["a"], []) == ("false", "true")
    assert classes_of(["b", "10", "9"], ["a"], []) == ("10", "9", "b")


def test_one_class_is_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match="there is nothing but the label 'air', and a classifier needs two to train on"):
        load(tmp_path, OTHER, OTHER)
    with pytest.raises(BadRecord, match=r"(?s)there is no labelled text to train on; 1 left out:.*nothing in it"):
        load(tmp_path, {"text": "", "label": "air"}, {**OTHER, "split": "validation"})


def test_a_label_that_only_held_out_texts_have_is_told(tmp_path: Path) -> None:
    texts, left_out = load(
        tmp_path,
        OTHER,
        {"text": "Knock, knock.", "label": "joke", "split": "train"},
        {"text": "Knock again.", "label": "joke", "split": "validation"},
        {"text": "1 + 1 = 2", "label": "sum", "split": "validation"},
        {"text": "Later.", "label": "later", "split": "test"},
    )
    assert texts.classes == ("air", "joke") and [each.text for each in texts.held_out] == ["Knock again."]
    assert left_out == ["the text '1 + 1 = 2' (label 'sum'): it is held out, and no text that is learned has its label"]


def test_answers_to_one_prompt_are_held_out_together(tmp_path: Path) -> None:
    lines = [{"prompt": f"Is {n} odd?", "completion": answer, "label": answer} for n in range(40) for answer in "ab"]
    texts, _ = load(tmp_path, *lines, share=0.3)
    learned, held_out = ({each.prompt_id for each in part} for part in (texts.train, texts.held_out))
    assert learned and held_out and not learned & held_out


def test_what_is_read_follows_the_data_unless_told(tmp_path: Path) -> None:
    alone = [OTHER, {"text": "Knock, knock.", "label": "joke"}]
    pairs = [{"prompt": "Hot?", "completion": "Yes.", "label": 1}, {"prompt": "Cold?", "completion": "No.", "label": 0}]
    assert load(tmp_path, *alone)[0].reads == "completion"
    assert load(tmp_path, *pairs)[0].reads == "pair"
    assert load(tmp_path, *pairs, reads="completion")[0].reads == "completion"
    with pytest.raises(UserError, match="2 of 4 labelled texts have a prompt and the others stand alone: pass --reads"):
        load(tmp_path, *alone, *pairs)
    with pytest.raises(UserError, match="0 of 2 labelled texts have a prompt"):
        load(tmp_path, *alone, reads="pair")
