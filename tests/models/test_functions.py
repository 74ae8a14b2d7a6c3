"""A function of one's own as a score."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumbline.errors import UserError
from plumbline.models.functions import FunctionScore
from plumbline.models.score import load_scorer

FILE = """
def length(prompt, completion):
    return len(completion) - len(prompt)

def all_of_them(prompts, completions):
    return [len(prompts)] * len(completions)
"""


def test_a_function_of_a_file_takes_one_answer_or_all(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    one, every = (load_scorer(f"{tmp_path / 'mine.py'}:{name}") for name in ("length", "all_of_them"))
    assert one(["ab", "c"], ["abcd", "c"]) == [2.0, 0.0]
    assert every(["ab", "c"], ["abcd", "c"]) == [2.0, 2.0]
    assert one.name.endswith("mine.py:length")


def test_a_function_made_here_has_its_own_name() -> None:
    def polite(prompt: str, completion: str) -> float:
        return float("please" in completion)

    assert FunctionScore(polite).name == "polite" and FunctionScore(polite)(["a"], ["please"]) == [1.0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.py:judge", "there is no file 'nowhere.py'"),
        ("mine.py:judge", "has no function 'judge': it has length, all_of_them"),
        ("broken.py:judge", r"cannot be run \(NameError: name 'nothing' is not defined\)"),
    ],
)
def test_a_function_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "broken.py").write_text("nothing\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        load_scorer(name)
