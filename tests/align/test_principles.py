"""Constitutions: the one that ships, the draw of a principle, and what a bad file is told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from plumbline.align.principles import Constitution, read_constitution
from plumbline.errors import BadRecord, UserError

GOOD = """\
name: house rules
version: 2
principles:
  - id: kind
    domain: harmless
    critique: Is it unkind?
    revision: Be kind.
    comparison: Which is kinder?
    labels: [kind, unkind]
  - id: brief
    domain: helpful
    critique: Is it long?
    revision: Be brief.
    comparison: Which is shorter?
    labels: [brief, windy]
    openings: ["In short,"]
examples:
  - principle: brief
    prompt: Hi
    answer: Hello to you and to all of yours.
    critique: It is long.
    revision: Hello.
"""


def read(tmp_path: Path, text: str) -> Constitution:
    (tmp_path / "law.yaml").write_text(text)
    return read_constitution(tmp_path / "law.yaml")


def test_the_one_that_ships_covers_helpful_honest_and_harmless() -> None:
    shipped = read_constitution()
    assert {principle.domain for principle in shipped.principles} == {"helpful", "honest", "harmless"}
    assert {example.principle for example in shipped.examples} <= {principle.id for principle in shipped.principles}
    for example in shipped.examples:
        assert example.revision != example.answer


def test_a_file_is_read_as_written(tmp_path: Path) -> None:
    law = read(tmp_path, GOOD)
    assert (law.name, law.version, [each.id for each in law.principles]) == ("house rules", "2", ["kind", "brief"])
    assert law.principles[1].openings == ("In short,",)
    assert law.digest != read(tmp_path, GOOD.replace("Be brief", "Be short")).digest


def test_the_draw_hangs_on_seed_prompt_and_round_alone(tmp_path: Path) -> None:
    law = read(tmp_path, GOOD)
    drawn = [law.choose(0, str(number)).id for number in range(1000)]
    assert drawn == [law.choose(0, str(number)).id for number in range(1000)]
    assert 400 < Counter(drawn)["kind"] < 600  # by chance 500, deviation 16
    assert drawn != [law.choose(1, str(number)).id for number in range(1000)]
    assert drawn != [law.choose(0, str(number), 1).id for number in range(1000)]


def test_domains_choose_principles(tmp_path: Path) -> None:
    law = read(tmp_path, GOOD)
    assert [each.id for each in law.within(["helpful"]).principles] == ["brief"]
    assert law.within([]) == law
    with pytest.raises(UserError, match="has no domain 'honest': it has harmless, helpful"):
        law.within(["honest"])


def test_the_nearest_examples_come_first() -> None:
    law = read_constitution()
    named = {principle.id: principle for principle in law.principles}
    found = law.examples_for(named["privacy"], 3)
    assert found[0].principle == "privacy"
    assert {named[example.principle].domain for example in found} == {"harmless"}
    assert law.examples_for(named["privacy"], 0) == ()


WRONG = [
    (("    revision: Be brief.\n", ""), r"law.yaml': principle 2 \('brief'\): `revision` is missing \(there is `id`"),
    (("revision: Be brief.", "revison: Be brief."), r"principle 2 \('brief'\): `revision` is missing: is `revison`"),
    (("openings:", "opennings:"), r"principle 2 \('brief'\): `opennings` is no field of it: is `openings` meant\?"),
    (("critique: Is it long?", "critique: ''"), r"principle 2 \('brief'\): `critique` is '': it must not be empty"),
    (("labels: [kind, unkind]", "labels: [kind]"), r"principle 1 \('kind'\): `labels`"),
    (("labels: [kind, unkind]", "labels: [true, false]"), r"principle 1 \('kind'\): `labels`, entry 1 is True"),
    (("id: brief", "id: kind"), "two principles are called 'kind': rename one"),
    (("principle: brief", "principle: brie"), "example 1: `principle` is 'brie', which is none of them: is 'brief'"),
    (("    answer: Hello to you and to all of yours.\n", ""), "example 1: `answer` is missing"),
    (("name: house rules\n", ""), "law.yaml': `name` is missing"),
    (("principles:\n", "principles: none\nothers:\n"), "`principles` is 'none': it must be a list"),
    (("name: house rules", "name: [house rules"), "law.yaml' is not YAML: .* in line"),
    ((GOOD, "- a\n"), r"holds \['a'\]: a constitution has name, version and principles"),
    ((GOOD, "name: a\nversion: 1\nprinciples: []\n"), "holds no principle"),
    ((GOOD, "name: a\nversion: 1\nprinciples: [kind]\n"), r"principle 1 is 'kind': it must hold `id`, `domain`"),
]


@pytest.mark.parametrize(("change", "complaint"), WRONG, ids=[complaint[:40] for _, complaint in WRONG])
def test_a_bad_file_is_told_in_a_sentence(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(BadRecord, match=complaint):
        read(tmp_path, GOOD.replace(*change))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the constitution .*no.yaml': No such file"):
        read_constitution(tmp_path / "no.yaml")
