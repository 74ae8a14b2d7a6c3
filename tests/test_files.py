"""Files of records: bad bytes are named and skipped, a kill at any moment loses nothing that was acknowledged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import BadRecord, UserError
from plumbline.records import BadLine, PromptRecord, read_jsonl, write_jsonl


def write_text(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def prompt_line(number: int, **more: Any) -> str:
    return json.dumps({"prompt_id": f"p{number}", "prompt": f"question {number}", **more})


def ids(path: Path) -> list[str]:
    return [record.prompt_id for record in read_jsonl(path, PromptRecord)]


# ---- reading


def test_bad_lines_are_reported_and_good_ones_go_on(tmp_path: Path) -> None:
    path = write_text(
        tmp_path / "p.jsonl",
        prompt_line(1),
        '{"prompt": "open',
        "",
        prompt_line(2) + "\r",
        '{"prompt": NaN}',
        '["a", "list"]',
        b'{"prompt": "caf\xe9"}',
        '{"prompt": "half \\ud83d"}',
        '{"prompt" "Why?"}',
        prompt_line(3),
    )
    bad: list[BadLine] = []
    good = [record.prompt_id for record in read_jsonl(path, PromptRecord, on_bad=bad.append)]
    assert good == ["p1", "p2", "p3"]
    assert {each.path for each in bad} == {path}
    reasons = {each.line: each.reason for each in bad}
    offset = path.read_bytes().index(b"\xe9")
    assert reasons[2].startswith("is not JSON: EOF while parsing a string at character")
    assert reasons[5] == "holds NaN, which JSON has no word for: leave the field out or put null"
    assert reasons[6] == "is ['a', 'list']: a record is one JSON object, {...}, on one line"
    assert reasons[7] == f"is not UTF-8: byte 0xe9 at offset {offset} of the file"
    assert reasons[8].startswith("is not JSON")
    assert reasons[9] == "is not JSON: expected `:` at character 11"
    assert sorted(reasons) == [2, 5, 6, 7, 8, 9]
    assert str(bad[0]).startswith(f"{path}:2: is not JSON")


def test_without_a_listener_the_good_ones_come_first_and_the_bad_ones_raise_at_the_end(tmp_path: Path) -> None:
    path = write_text(tmp_path / "p.jsonl", prompt_line(1), "oops", prompt_line(2), *["{}"] * 6)
    seen: list[str] = []
    with pytest.raises(BadRecord) as caught:
        for record in read_jsonl(path, PromptRecord):
            seen.append(record.prompt_id)
    assert seen == ["p1", "p2"]
    lines = str(caught.value).split("\n  ")
    assert lines[0] == f"{str(path)!r} has 7 bad lines beside 2 good:"
    assert lines[1].startswith(f"{path}:2: is not JSON")
    assert lines[2] == f"{path}:4: `prompt` is missing (there is nothing)"
    assert lines[-1] == "and 2 more" and len(lines) == 7


def test_reading_streams(tmp_path: Path) -> None:
    """The first record comes while the file is still being written: a pipe proves it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    first_was_read = threading.Event()

    def feed() -> None:
        with pipe.open("w", buffering=1) as file:
            file.write(prompt_line(1) + "\n")
            assert first_was_read.wait(60)
            file.write(prompt_line(2) + "\n")

    feeder = threading.Thread(target=feed)
    feeder.start()
    records = read_jsonl(pipe, PromptRecord)
    assert next(records).prompt_id == "p1"
    first_was_read.set()
    assert [record.prompt_id for record in records] == ["p2"]
    feeder.join()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no records: it is empty"),
        (b"\n \r\n\n", "holds no records: it is empty"),
        (b"\xef\xbb\xbf", "holds no records: it is empty"),
        ('{"prompt": "Why?"}'.encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        (b"\x1f\x8b\x08\x00rest", "has one bad line beside 0 good:\n  "),
    ],
)
def test_a_file_without_records_is_an_error(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadRecord) as caught:
        list(read_jsonl(path, PromptRecord))
    assert str(caught.value).startswith(f"{str(path)!r} {sentence}")


def test_a_file_of_bad_lines_only_is_an_error_for_a_listener_too(tmp_path: Path) -> None:
    bad: list[BadLine] = []
    with pytest.raises(BadRecord, match="holds no records: all its 2 lines are bad; line 1 is not JSON: "):
        list(read_jsonl(write_text(tmp_path / "p.jsonl", "a", "b"), PromptRecord, on_bad=bad.append))
    assert [each.line for each in bad] == [1, 2]


def test_a_byte_order_mark_windows_line_ends_and_a_long_line_are_read(tmp_path: Path) -> None:
    long = "é" * 1_000_000
    lines = [prompt_line(1) + "\r", json.dumps({"prompt_id": "p2", "prompt": long}, ensure_ascii=False) + "\r"]
    path = write_text(tmp_path / "p.jsonl", b"\xef\xbb\xbf" + lines[0].encode(), lines[1])
    records = list(read_jsonl(path, PromptRecord))
    assert [record.prompt_id for record in records] == ["p1", "p2"] and records[1].prompt == long


def test_the_offset_of_a_bad_byte_counts_the_byte_order_mark(tmp_path: Path) -> None:
    path = write_text(tmp_path / "p.jsonl", b'\xef\xbb\xbf{"prompt": "\xff"}', prompt_line(1))
    bad: list[BadLine] = []
    list(read_jsonl(path, PromptRecord, on_bad=bad.append))
    assert bad[0].reason == "is not UTF-8: byte 0xff at offset 15 of the file"


def test_line_separators_within_text_do_not_end_a_line(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x0bfour"
    write_jsonl(tmp_path / "p.jsonl", [PromptRecord(prompt_id="p1", prompt=text)])
    assert [record.prompt for record in read_jsonl(tmp_path / "p.jsonl", PromptRecord)] == [text]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "prompts.jsonl", prompt_line(1))
    with pytest.raises(UserError, match=r"no file '.*promts.jsonl': is 'prompts.jsonl' meant\?"):
        list(read_jsonl(tmp_path / "promts.jsonl", PromptRecord))
    with pytest.raises(UserError, match=r"no file '.*other/x.jsonl': check its name and folder"):
        list(read_jsonl(tmp_path / "other" / "x.jsonl", PromptRecord))
    with pytest.raises(UserError, match=r"cannot read '.*': Is a directory"):
        list(read_jsonl(tmp_path, PromptRecord))


# ---- writing


def prompts(*numbers: int) -> list[PromptRecord]:
    return [PromptRecord(prompt_id=f"p{number}", prompt=f"question {number}") for number in numbers]


def test_writing_replaces_and_appending_adds(tmp_path: Path) -> None:
    path = tmp_path / "new" / "p.jsonl"
    assert write_jsonl(path, prompts(1, 2)) == 2
    assert write_jsonl(path, prompts(3)) == 1
    assert ids(path) == ["p3"]
    assert write_jsonl(path, prompts(4, 5), append=True) == 2
    assert ids(path) == ["p3", "p4", "p5"]
    assert [each.name for each in path.parent.iterdir()] == ["p.jsonl"]
    with pytest.raises(UserError, match=r"is a folder: name a file"):
        write_jsonl(tmp_path, prompts(1))


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write_jsonl(path, prompts(1))
    path.chmod(0o640)

    def breaking() -> Iterator[PromptRecord]:
        yield from prompts(2, 3)
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        write_jsonl(path, breaking())
    assert ids(path) == ["p1"] and [each.name for each in tmp_path.iterdir()] == ["p.jsonl"]
    with pytest.raises(RuntimeError, match="the model broke"):
        write_jsonl(path, breaking(), append=True)
    assert ids(path) == ["p1", "p2", "p3"]
    write_jsonl(path, prompts(4))
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link_and_a_pipe_is_written_through(tmp_path: Path) -> None:
    real = write_text(tmp_path / "real.jsonl", prompt_line(1))
    link = tmp_path / "link.jsonl"
    link.symlink_to(real)
    write_jsonl(link, prompts(2))
    assert link.is_symlink() and ids(real) == ["p2"]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        write_jsonl(pipe, prompts(3), append=True)
        assert json.loads(reader.communicate()[0])["prompt_id"] == "p3"


@pytest.mark.parametrize("cut", [1, 2, 20, -2, -1])
def test_appending_mends_a_torn_line(tmp_path: Path, cut: int) -> None:
    """The beginning of a record is taken out; a whole record that lacks its end only gets it."""
    path = tmp_path / "p.jsonl"
    write_jsonl(path, prompts(1, 2))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[:first] + whole[first:][:cut])
    write_jsonl(path, prompts(3), append=True)
    assert ids(path) == (["p1", "p2", "p3"] if cut == -1 else ["p1", "p3"])


def test_a_long_torn_line_is_taken_out_whole(tmp_path: Path) -> None:
    path = write_text(tmp_path / "p.jsonl", prompt_line(1))
    with path.open("ab") as file:
        file.write(b'{"prompt": "' + b"x" * 300_000)
    assert write_jsonl(path, [], append=True) == 0
    assert path.read_text() == prompt_line(1) + "\n"


def test_a_torn_line_is_named_by_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(prompt_line(1) + '\n{"prompt_id": "p2", "pro')
    bad: list[BadLine] = []
    list(read_jsonl(path, PromptRecord, on_bad=bad.append))
    assert bad == [BadLine(path, 2, "is cut off: the file ends in the middle of it")]


def test_appending_never_cuts_a_file_that_holds_something_else(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("buy milk\ncall Ann")
    with pytest.raises(BadRecord, match="ends with b'call Ann', which is no record: name another file"):
        write_jsonl(path, prompts(1), append=True)
    assert path.read_text() == "buy milk\ncall Ann"


WRITER = """
import os, sys
from plumbline.records import PromptRecord, write_jsonl

def endless():
    number = int(sys.argv[2])
    while True:
        yield PromptRecord(prompt_id=f"p{number}", prompt=f"question {number} " + "x" * 200_000)
        print(number, flush=True)
        number += 1

write_jsonl(sys.argv[1], endless(), append=sys.argv[3] == "append")
"""


def kill_a_writer(path: Path, start: int, mode: str, after: int) -> int:
    """Starts a process that writes without end, kills it when `after` records are said to be written, and returns the
    number of the last one that it had acknowledged."""
    command = [sys.executable, "-c", WRITER, str(path), str(start), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(after)]
        writer.kill()
        rest = [int(line) for line in writer.stdout.read().splitlines()]
    assert writer.returncode == -9
    return (said + rest)[-1]


def test_a_killed_append_loses_nothing_that_was_written_and_spoils_nothing_that_follows(tmp_path: Path) -> None:
    path, start = tmp_path / "p.jsonl", 0
    for after in (1, 3, 5, 8):
        last = kill_a_writer(path, start, "append", after)
        write_jsonl(path, [], append=True)
        there = ids(path)
        # all that was acknowledged, and at most the one that was whole but not yet acknowledged
        assert there in ([f"p{number}" for number in range(last + 1 + more)] for more in (0, 1))
        start = len(there)
    write_jsonl(path, prompts(start), append=True)
    assert ids(path)[-1] == f"p{start}"


def test_a_killed_replacement_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    write_jsonl(path, prompts(1))
    kill_a_writer(path, 100, "replace", after=4)
    assert ids(path) == ["p1"]


def test_two_processes_that_append_take_turns(tmp_path: Path) -> None:
    """Each record is far longer than what a system writes in one go, so without turns lines would mix."""
    path = tmp_path / "p.jsonl"
    program = (
        "import sys\n"
        "from plumbline.records import PromptRecord, write_jsonl\n"
        "for number in range(15):\n"
        "    record = PromptRecord(prompt_id=f'{sys.argv[2]}{number}', prompt=sys.argv[2] * 300_000)\n"
        "    write_jsonl(sys.argv[1], [record], append=True)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert sorted(ids(path)) == sorted(f"{name}{number}" for name in "ab" for number in range(15))
