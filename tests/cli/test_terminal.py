"""What is written where, and how."""

from __future__ import annotations

import pytest

from plumbline.cli.terminal import Stream, complain, note, print_json, printable, table


def test_notes_and_complaints_stand_beside_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    note("quiet [dim]word")
    complain("loud [red]word")
    print_json({"word": "čaj"})
    out, err = capsys.readouterr()
    assert out == '{\n  "word": "čaj"\n}\n'
    assert err == "quiet [dim]word\nplumb: loud [red]word\n"


def test_a_long_message_is_one_line_where_no_one_looks(capsys: pytest.CaptureFixture[str]) -> None:
    complain("word " * 100)
    assert capsys.readouterr().err == f"plumb: {'word ' * 100}\n"


def test_control_characters_are_left_out() -> None:
    assert printable("a\x00b\x1b[1mc\x7f\x85d\r\te\nf é 寒 👩\u200d🚀") == "ab[1mcd\te\nf é 寒 👩\u200d🚀"


def test_a_stream_by_pipe_is_the_text_itself(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Stream()
    for piece in ("One long", " line ", "x" * 200, "\n\nand\tmore"):
        stream.write(piece)
    stream.end()
    assert capsys.readouterr().out == f"One long line {'x' * 200}\n\nand\tmore\n"


def test_a_column_with_a_mark_stands_at_the_right() -> None:
    assert [column.justify for column in table("name", ">size").columns] == ["left", "right"]
    assert table("", "").show_header is False
