"""The README and the documentation are run: every shell and Python block, a page from top to bottom in one folder.

Comments above a block say what is special about it:

    <!-- file: NAME -->        the block is written to NAME, for those below it
    <!-- needs: model -->      the block asks the bundled model, and so the page's test is marked `model`
    <!-- fails: CODE -->       the block ends with that exit code
    <!-- printed: above -->    the block run before it printed these lines, among others
    <!-- not run: REASON -->   the block is left out
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

RUN = ("sh", "python")
SHOWN = ("text", "json", "toml", "{toctree}")
MOST_NOT_RUN = 8
"""Blocks that are left out, over all pages: every one is a sentence nobody checks."""

NOTE = re.compile(r"<!-- (file|needs|fails|printed|not run): *(.*?) *-->")
BLOCK = re.compile(
    r"(?P<notes>(?:^<!-- [^\n]* -->\n+)*)^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    where: str
    language: str
    text: str
    notes: dict[str, str]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            f"{page.name}:{text.count(chr(10), 0, found.start('language')) + 1}",
            found["language"],
            found["text"],
            dict(NOTE.findall(found["notes"])),
        )
        for found in BLOCK.finditer(text)
    ]


def run_page(page: Path, folder: Path) -> int:
    """Run the page's blocks in `folder`, each where the last one's `cd` led; returns how many were run."""
    programs = Path(sys.executable).parent
    env = {**os.environ, "HOME": str(folder), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    note = folder / ".where"
    printed = ""
    count = 0
    for block in blocks(page):
        if "file" in block.notes:
            (folder / block.notes["file"]).write_text(block.text, encoding="utf-8")
        elif "printed" in block.notes:
            missing = [line for line in block.text.splitlines() if line.strip() not in printed]
            assert missing == [], f"{block.where} was not printed; this was:\n{printed}"
        elif block.language in RUN and "not run" not in block.notes:
            shell = ["bash", "-euo", "pipefail", "-c", f"{block.text}\npwd > '{note}'"]
            command = shell if block.language == "sh" else [sys.executable, "-c", block.text]
            ran = subprocess.run(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            printed = ran.stdout + ran.stderr
            wanted = int(block.notes.get("fails", 0))
            assert ran.returncode == wanted, f"{block.where} ended with {ran.returncode}:\n{printed}"
            if block.language == "sh" and not wanted:
                folder = Path(note.read_text().strip())
            count += 1
    return count


def needs_model(page: Path) -> bool:
    return any(block.notes.get("needs") == "model" for block in blocks(page))


@pytest.mark.parametrize("page", [page for page in PAGES if not needs_model(page)], ids=lambda page: page.name)
def test_a_page_runs(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


@pytest.mark.model
@pytest.mark.parametrize("page", [page for page in PAGES if needs_model(page)], ids=lambda page: page.name)
def test_a_page_with_the_bundled_model_runs(page: Path, tmp_path: Path, smollm2: Path) -> None:
    assert run_page(page, tmp_path) > 0


def test_every_block_is_of_a_known_language() -> None:
    for page in PAGES:
        found = blocks(page)
        assert [block.where for block in found if block.language not in (*RUN, *SHOWN)] == []
        fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(found), f"{page.name} has a block that is indented or not closed"


def test_what_is_not_run_is_rare_and_says_why() -> None:
    left_out = [block for page in PAGES for block in blocks(page) if "not run" in block.notes]
    assert [block.where for block in left_out if len(block.notes["not run"].split()) < 3] == []
    assert len(left_out) <= MOST_NOT_RUN, [block.where for block in left_out]


def test_the_generated_pages_say_what_the_code_says() -> None:
    program = [sys.executable, str(ROOT / "docs" / "make_reference.py"), "--check"]
    ran = subprocess.run(program, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


# ---- the negative controls


def test_a_page_is_run_from_top_to_bottom(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- file: a.txt -->\n```text\nhello\n```\n\n```sh\nmkdir inner\ncd inner\n```\n"
        "```python\nassert open('../a.txt').read() == 'hello\\n'\n```\n"
        "<!-- fails: 3 -->\n```sh\necho one; echo two; exit 3\n```\n<!-- printed: above -->\n```text\ntwo\n```\n"
        "<!-- not run: it would fail here -->\n```sh\nfalse\n```\n```text\nfalse\n```\n"
    )
    assert run_page(page, tmp_path) == 3


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("```sh\nfalse\n```\n", "page.md:3 ended with 1"),
        ("```sh\nfalse | true\n```\n", "page.md:3 ended with 1"),
        ("```python\nassert 0\n```\n", "page.md:3 ended with 1"),
        ("<!-- fails: 2 -->\n```sh\ntrue\n```\n", "page.md:4 ended with 0"),
        ("```sh\necho two\n```\n<!-- printed: above -->\n```text\none\n```\n", "page.md:7 was not printed"),
    ],
)
def test_a_block_that_fails_is_caught(tmp_path: Path, block: str, complaint: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{block}")
    with pytest.raises(AssertionError, match=complaint):
        run_page(page, tmp_path)
