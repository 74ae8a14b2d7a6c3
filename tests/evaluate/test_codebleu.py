"""CodeBLEU's four parts on programs whose trees and flows are known, in each language."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from plumbline.errors import MissingExtra, UserError
from plumbline.evaluate import trees
from plumbline.evaluate.codebleu import NUMBERS, codebleu, counts, parts_of, weighted_counts
from plumbline.evaluate.text import corpus_bleu
from plumbline.evaluate.trees import LANGUAGES, flows, parse_program, subtrees

JAVA = "int sum ( int a , int b ) { int c = a + b ; return c ; }"


@pytest.fixture
def grammars() -> None:
    for name in ("tree_sitter", *(language.grammar for language in LANGUAGES.values())):
        pytest.importorskip(name, reason="the extra `code` is not installed")


def parts(program: str, reference: str, language: str = "java") -> list[float]:
    rows = np.array([counts(program, [reference], language)])
    return [float(each) for each in parts_of(rows, np.ones((1, 1)))[0]]


def test_keywords_weigh_more_than_other_words() -> None:
    own, reference = "return x".split(), "return y".split()
    numbers = weighted_counts(own, reference, frozenset({"return"}))
    assert numbers[:2] == [1.0, pytest.approx(1.2)]  # of 1 and 0.2 the 1
    assert numbers[2:4] == [0, 1]


@pytest.mark.usefixtures("grammars")
def test_a_program_is_itself() -> None:
    assert parts(JAVA, JAVA) == [pytest.approx(1)] * 4
    assert len(counts(JAVA, [JAVA], "java")) == len(NUMBERS)


@pytest.mark.usefixtures("grammars")
def test_other_names_change_the_words_alone() -> None:
    renamed = JAVA.replace(" a ", " x ").replace(" b ", " y ").replace(" c ", " z ")
    words, weighted, syntax, flow = parts(renamed, JAVA)
    assert (syntax, flow) == (1, 1)
    assert words == pytest.approx(corpus_bleu([renamed], [[JAVA]])) and words < 0.6
    assert words < weighted < 1  # the keywords are all there


@pytest.mark.usefixtures("grammars")
def test_another_flow_changes_the_flow_alone() -> None:
    # The same words and tree; what is returned is not what was computed.
    words, weighted, syntax, flow = parts(JAVA.replace("return c", "return a"), JAVA)
    assert syntax == 1 and flow == pytest.approx(3 / 4)  # of a, b → c; a read; b read; c read, the last is another


@pytest.mark.usefixtures("grammars")
def test_a_program_that_says_nothing_scores_nothing() -> None:
    words, weighted, syntax, flow = parts("", JAVA)
    assert (words, weighted, syntax, flow) == (0, 0, 0, 0)
    without_flow = "void run ( ) { stop ( ) ; }"
    assert np.isnan(parts(without_flow, without_flow)[3])
    rows = np.array([counts(without_flow, [without_flow], "java")])
    assert codebleu(rows, np.ones((1, 1))) == [pytest.approx(1)]  # the part without anything to match is left out


@pytest.mark.usefixtures("grammars")
@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "def sum(a, b):\n    c = a + b\n    return c\n"),
        ("java", JAVA),
        ("c_sharp", "class S { int Sum ( int a , int b ) { int c = a + b ; return c ; } }"),
    ],
)
def test_flows_are_the_same_in_every_language(language: str, text: str) -> None:
    assert flows(parse_program(text, language), language) == [
        ("v0", "comes from", ("v0",)),
        ("v1", "comes from", ("v1",)),
        ("v2", "computed from", ("v0", "v1")),
        ("v2", "comes from", ("v2",)),
    ]


@pytest.mark.usefixtures("grammars")
def test_names_of_methods_fields_and_types_are_no_variables() -> None:
    text = "void f ( Node node ) { String text = node . toString ( ) ; this . field = text ; }"
    assert flows(parse_program(text, "java"), "java") == [
        ("v0", "comes from", ("v0",)),
        ("v1", "computed from", ("v0",)),
        ("v1", "comes from", ("v1",)),
    ]


@pytest.mark.usefixtures("grammars")
def test_every_subtree_counts_once_for_each_place() -> None:
    found = list(subtrees(parse_program("x = 1\ny = 2\n", "python")))
    assert len([each for each in found if each.startswith("(assignment")]) == 2


def test_without_the_grammars_the_line_that_brings_them_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    trees.parser_of.cache_clear()  # whoever parsed before left one
    monkeypatch.setitem(sys.modules, "tree_sitter", None)
    with pytest.raises(MissingExtra, match=r"needs the extra `code`: pip install 'plumbline\[code\]'"):
        parse_program("x = 1", "python")
    with pytest.raises(UserError, match="there is no grammar of 'cobol' here: take one of python, java, c_sharp"):
        parse_program("x", "cobol")


@pytest.mark.usefixtures("grammars")
def test_real_programs_are_nearer_to_themselves_than_to_others() -> None:
    folder = Path(os.environ.get("PLUMBLINE_TEST_DATA", "")) / "codexglue"
    if not os.environ.get("PLUMBLINE_TEST_DATA") or not folder.is_dir():
        pytest.skip("no codexglue in the folder that PLUMBLINE_TEST_DATA names")
    lines = (folder / "trans_valid.jsonl").read_text().splitlines()[:40]
    for language, field in (("java", "java"), ("c_sharp", "cs")):
        texts = [json.loads(line)[field] for line in lines]
        own = np.array([counts(text, [text], language) for text in texts])
        crossed = np.array([counts(text, [other], language) for text, other in zip(texts, texts[1:], strict=False)])
        assert codebleu(own, np.ones((1, len(own)))) == [pytest.approx(1)]
        assert codebleu(crossed, np.ones((1, len(crossed))))[0] < 0.5
