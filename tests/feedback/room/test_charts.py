"""The charts as elements: where things stand, what is said in words, and that no stranger's text is markup in them."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from plumbline.feedback.room.charts import Part, bar, columns, interval

HOSTILE = "<script>alert(1)</script> \"&'"


def read(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def share(value: str) -> float:
    assert value.endswith("%")
    return float(value[:-1])


def test_the_stretches_of_a_bar_are_shares_one_after_the_other() -> None:
    element = read(bar("Sets", [Part("done", "done", 6), Part("open", "open", 0), Part("waiting", "waiting", 2)]))
    rects = element.findall("rect")
    assert [(share(each.attrib["x"]), share(each.attrib["width"])) for each in rects] == [(0, 75), (75, 0), (75, 25)]
    assert [each.attrib["data-part"] for each in rects] == ["done", "open", "waiting"]
    assert element.findtext("desc") == "Of 8: 6 done, 0 open, 2 waiting."


def test_a_bar_of_nothing_says_so() -> None:
    element = read(bar("Sets", [Part("done", "done", 0)]))
    assert element.findtext("desc") == "Of 0: nothing yet."
    assert share(element.find("rect").attrib["width"]) == 0  # type: ignore[union-attr]


def test_an_interval_lies_where_its_scale_says() -> None:
    element = read(interval("Alpha", 0.5, 0.0, 3.0, scale=(-1, 1), mark=0.0))
    dot, (_, mark, reach) = element.find("circle"), element.findall("line")
    assert dot is not None and share(dot.attrib["cx"]) == 75
    assert (share(reach.attrib["x1"]), share(reach.attrib["x2"])) == (
        50,
        100,
    )  # what lies beyond the scale ends with it
    assert share(mark.attrib["x1"]) == 50
    assert "0.50, between 0.00 and 3.00" in (element.findtext("desc") or "")


def test_columns_stand_on_the_ground_and_the_line_at_its_share() -> None:
    element = read(columns("First places", [0.5, 0.25, 0.25], mark=0.25))
    for rect in element.findall("rect"):
        assert share(rect.attrib["y"]) + share(rect.attrib["height"]) == pytest.approx(100)
    assert [share(rect.attrib["height"]) for rect in element.findall("rect")] == [100, 50, 50]
    line = element.find("line")
    assert line is not None and share(line.attrib["y1"]) == 50


@pytest.mark.parametrize(
    "svg",
    [
        bar(HOSTILE, [Part("done", HOSTILE, 1)]),
        interval(HOSTILE, 0.5, 0.4, 0.6, mark=None),
        columns(HOSTILE, [1.0], mark=1.0),
    ],
)
def test_what_is_said_is_text(svg: str) -> None:
    element = read(svg)
    assert element.findtext("title") == HOSTILE
    assert "script" not in {each.tag for each in element.iter()}
    named = element.attrib["aria-labelledby"].split()
    assert named == [each.attrib["id"] for each in element if "id" in each.attrib]
    assert not {"style", "onload"} & {key for each in element.iter() for key in each.attrib}
