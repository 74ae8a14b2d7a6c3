"""What every tracked text file keeps to: clean lines, no path of the machine it was written on, links that resolve."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Where people keep their checkouts, and what names a particular package registry.
MACHINE = re.compile(
    r"(?<![\w.:])/(?:home|root|Users|work|mnt|opt)/\w|index[-_]url|pypi\.\w|python[h]osted|download\.pytorch"
)
LINK = re.compile(r"!?\[[^\]\n]*\]\(<?([^)>\s]+)>?\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)


def tracked(*patterns: str) -> list[Path]:
    """The files that git tracks, those of the patterns if any are given."""
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(f"{ROOT} is not a git checkout: nothing says which files belong to the repository")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def line_faults(name: str, text: str) -> Iterator[str]:
    """Stray white space and this machine's names, by line."""
    if text and not text.endswith("\n"):
        yield f"{name}: the last line does not end"
    if text.endswith("\n\n"):
        yield f"{name}: empty lines at the end"
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            yield f"{name}:{number}: white space at the end of the line"
        if "\t" in line and name != "Makefile":
            yield f"{name}:{number}: a tab"
        if found := MACHINE.search(line):
            yield f"{name}:{number}: {found.group()!r} names a machine or a registry"


def prose(file: Path) -> str:
    """A Markdown file without its code blocks."""
    return FENCE.sub("", file.read_text(encoding="utf-8"))


def anchor(heading: str) -> str:
    """A heading's address as GitHub and the documentation builder form it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def link_faults(file: Path, top: Path) -> Iterator[str]:
    """Relative links of a Markdown file that lead nowhere."""
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(file))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        other = (file.parent / path).resolve() if path else file
        if not other.is_relative_to(top) or not other.exists():
            yield f"{file.relative_to(top)}: {target!r} leads nowhere"
        elif fragment and other.suffix == ".md":
            headings = HEADING.findall(prose(other))
            if fragment not in map(anchor, headings):
                yield f"{file.relative_to(top)}: {target!r} names no heading there"


def test_lines_are_clean_and_name_no_machine() -> None:
    faults = []
    for file in tracked():
        if b"\0" not in (data := file.read_bytes()):
            faults += line_faults(str(file.relative_to(ROOT)), data.decode("utf-8"))
    assert faults == []


def test_relative_links_resolve() -> None:
    files = tracked("*.md")
    assert ROOT / "README.md" in files
    assert [fault for file in files for fault in link_faults(file, ROOT)] == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a \n", "white space at the end"),
        ("a\r\n", "white space at the end"),
        ("a\tb\n", "a tab"),
        ("a", "does not end"),
        ("a\n\n", "empty lines at the end"),
        ("see /home" + "/ann/plumbline\n", "names a machine or a registry"),
        ("pip install --index" + "-url X\n", "names a machine or a registry"),
    ],
)
def test_a_fault_in_a_line_is_caught(text: str, complaint: str) -> None:
    faults = list(line_faults("a.md", text))
    assert len(faults) == 1 and complaint in faults[0], faults


def test_a_dead_link_is_caught(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# One, two\n```\n# no heading\n```\n")
    page = tmp_path / "a.md"
    page.write_text(
        "[good](b.md) [good](b.md#one-two) [good](https://example.org) `[code](c.md)`\n"
        "[gone](c.md) [no heading](b.md#no-heading) [outside](../b.md)\n"
    )
    assert [fault.split("'")[1] for fault in link_faults(page, tmp_path)] == ["c.md", "b.md#no-heading", "../b.md"]
