"""The README and the documentation are run: every shell and Python block, a page from top to bottom in one folder.

`examples/` lies in that folder, as in a clone. Comments above a block say what is special about it:

    <!-- file: NAME -->        the block is written to NAME, for those below it
    <!-- needs: model -->      the block asks the bundled model, and so the page's test is marked `model`
    <!-- needs: any model -->  the block asks the bundled model, and a tiny one stands in for it, on the whole page
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

from glossary import HELD_OUT, explained, explained_with_links, written

ROOT = Path(__file__).parent.parent
BOOK = sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "reference")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *BOOK]

RUN = ("sh", "python")
SHOWN = ("text", "json", "toml", "{toctree}", "{literalinclude}", "{include}")
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


def run_page(page: Path, folder: Path, **settings: str) -> int:
    """Run the page's blocks in `folder`, each where the last one's `cd` led; returns how many were run.

    `settings` are more of the environment's.
    """
    programs = Path(sys.executable).parent
    env = {**os.environ, "HOME": str(folder), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **settings}
    (folder / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
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


def measured(folder: Path) -> set[str]:
    """The names of all metrics that runs wrote below the folder."""
    return {name.removeprefix(HELD_OUT) for name in written(folder, "metrics.jsonl")}


def assert_explained(page: Path, folder: Path) -> None:
    """Every number that the page's runs wrote is explained by it, or by a page whose metrics it links to."""
    metrics = measured(folder) - explained_with_links(page, "metric")
    fields = written(folder, "accuracy.json", "summary.json") - explained_with_links(page, "field")
    assert not metrics | fields, f"{page.name} does not explain {metrics | fields}"


def needing(*models: str) -> list[Path]:
    """The pages that need just these models."""
    needed = {page: {block.notes["needs"] for block in blocks(page) if "needs" in block.notes} for page in PAGES}
    return [page for page, its in needed.items() if its == set(models)]


@pytest.mark.parametrize("page", needing(), ids=lambda page: page.name)
def test_a_page_runs(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)
    if page.parent.name == "methods":
        assert_explained(page, tmp_path)


@pytest.mark.parametrize("page", needing("any model"), ids=lambda page: page.name)
def test_a_page_runs_with_a_tiny_model(page: Path, tmp_path: Path, stand_in: Path) -> None:
    assert run_page(page, tmp_path, PLUMBLINE_CACHE=str(stand_in)) > 0
    wrote, own = measured(tmp_path), explained(page, "metric")
    assert own <= wrote, f"no run of the page writes {own - wrote}"
    if page.parent.name == "methods":
        assert_explained(page, tmp_path)


@pytest.mark.model
@pytest.mark.parametrize("page", needing("model"), ids=lambda page: page.name)
def test_a_page_with_the_bundled_model_runs(page: Path, tmp_path: Path, smollm2: Path) -> None:
    assert run_page(page, tmp_path) > 0


def test_every_page_is_run() -> None:
    assert sorted([*needing(), *needing("any model"), *needing("model")]) == sorted(PAGES)


def test_every_block_is_of_a_known_language() -> None:
    for page in PAGES:
        found = blocks(page)
        assert [block.where for block in found if block.language.partition(" ")[0] not in (*RUN, *SHOWN)] == []
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
