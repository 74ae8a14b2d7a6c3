"""The book says what the code says: its equations, metrics, papers, messages and claims are held to the sources."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from glossary import HELD_OUT, explained
from plumbline.align import METHODS

ROOT = Path(__file__).parent.parent
SOURCE, DOCS = ROOT / "src" / "plumbline", ROOT / "docs"
LIVES_IN = {"rloo": "plumbline.align.grpo", "constitutional": "plumbline.align.constitutional"}
"""Methods that are no command of `plumb train`, and their files."""
PAGES = {name: method.module for name, method in METHODS.items()} | LIVES_IN


def plain(text: str) -> str:
    """With one space wherever there are some, and lines joined."""
    return re.sub(r"\s+", " ", text)


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


# ---- the methods


def test_each_method_has_a_page_and_each_page_a_method() -> None:
    assert {page.stem for page in (DOCS / "methods").glob("*.md")} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_same_parts_as_the_others(name: str) -> None:
    text = text_of(f"methods/{name}.md")
    assert text.startswith(f"# {name}: ")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    wanted = ["The equation", "The code", "Metrics"]
    assert [each for each in headings if each in wanted] == wanted
    assert f"`src/plumbline/{PAGES[name].removeprefix('plumbline.').replace('.', '/')}.py`" in text


@pytest.mark.parametrize("name", PAGES)
def test_the_equation_is_the_one_in_the_docstring(name: str) -> None:
    block = re.search(
        r"^## The equation\n.*?```text\n(.*?)```", text_of(f"methods/{name}.md"), re.DOTALL | re.MULTILINE
    )
    lines = [plain(line).strip() for line in block[1].splitlines() if line.strip()] if block else []
    said = plain(import_module(PAGES[name]).__doc__ or "")
    assert lines and [line for line in lines if line not in said] == []


# ---- the metrics


def metrics_in(source: str) -> Iterator[str]:
    """The names in what functions return that promise names with numbers, beside a loss or alone."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or function.returns is None:
            continue
        if "dict[str, torch.Tensor]" not in (told := ast.unparse(function.returns)) and told != "dict[str, float]":
            continue
        for node in ast.walk(function):
            keys = node.keys if isinstance(node, ast.Dict) else []
            keys = [node.slice] if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) else keys
            yield from (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def test_every_metric_in_the_code_is_explained_somewhere() -> None:
    """Also one that no page's run writes, since it takes a setting. What a run writes is held in test_docs."""
    pages = [DOCS / "training.md", *(DOCS / "methods").glob("*.md")]
    known = {name for page in pages for name in explained(page, "metric")}
    files = [*(SOURCE / "align").glob("*.py"), SOURCE / "training" / "optimise.py"]
    found = {name.removeprefix(HELD_OUT) for file in files for name in metrics_in(file.read_text(encoding="utf-8"))}
    assert {"chosen_reward", "kl_loss", "ptx_loss", "gradient_norm", "tokens_per_second"} <= found
    assert found - known == set()


def test_a_metric_that_nobody_explains_is_found() -> None:
    source = """
def some_loss(x) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    told = {"loss": x}
    if x:
        told["sudden"] = x
    return x, told

def other() -> dict[str, str]:
    return {"not": "a metric"}
"""
    assert set(metrics_in(source)) == {"loss", "sudden"}


# ---- the papers

NUMBER = re.compile(r"arXiv (\d{4}\.\d{4,5})|doi (10\.\d+/[\w.()-]*\w)")
NAMED = re.compile(r"\b([A-Z][a-zé]+)(?: et al\.| and [A-Z][a-z]+)?(?:'s interval)?,? \(?((?:18|19|20)\d\d)\b")


def docstrings(file: Path) -> str:
    """All of a file's, those below fields too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    texts = [
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return plain(" ".join(texts))


def numbers(text: str) -> set[str]:
    return {one or other for one, other in NUMBER.findall(text)}


@cache
def cited() -> dict[str, str]:
    """The docstrings of each file under src/plumbline, by its path there."""
    return {file.relative_to(SOURCE).as_posix(): docstrings(file) for file in sorted(SOURCE.rglob("*.py"))}


def rows() -> list[tuple[str, str, list[str]]]:
    """Of the index: the work, its number or "", and the files."""
    found = []
    for line in text_of("papers.md").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and "*" in cells[0]:
            found.append((cells[0], cells[1] if len(cells) == 3 else "", re.findall(r"`([\w/.]+)`", cells[-1])))
    return found


def test_the_index_has_every_paper_that_a_docstring_numbers_and_where() -> None:
    listed = {(number, file) for _, said, files in rows() for number in numbers(said) for file in files}
    assert listed == {(number, file) for file, text in cited().items() for number in numbers(text)}


def test_the_index_has_every_work_that_a_docstring_names_with_a_year() -> None:
    works = [work for work, _, _ in rows()]
    for file, text in cited().items():
        for name, year in set(NAMED.findall(text)):
            assert any(name in work and year in work for work in works), f"{file} names {name} {year}"
    for work, _, files in rows():
        surname, year = work.split()[0].rstrip(","), re.search(r"\d{4}", work)
        for file in files:
            assert surname in cited()[file] and year and year[0] in cited()[file], f"{file} does not name {work}"


def test_the_pages_number_no_paper_that_the_index_lacks() -> None:
    listed = {number for _, said, _ in rows() for number in numbers(said)}
    for page in DOCS.rglob("*.md"):
        assert numbers(page.read_text(encoding="utf-8")) <= listed, page.name


def test_a_number_is_read_in_every_form_it_has() -> None:
    text = "(Hu et al. 2021, arXiv 2106.09685.) By doi 10.1080/01621459.1927.10502953), or doi 10.2307/2346806."
    assert numbers(text) == {"2106.09685", "10.1080/01621459.1927.10502953", "10.2307/2346806"}
    assert NAMED.findall("Alain and Bengio 2016, Wilson's interval (1927)") == [("Alain", "2016"), ("Wilson", "1927")]


# ---- the doctor


def said(node: ast.expr) -> str:
    """A text as it stands in the source, with … for what is put into it."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)


def doctors_messages() -> set[str]:
    """Each symptom that it tells and each cause that it names."""
    from plumbline.align import doctor

    found = set()
    for function in ast.walk(ast.parse(inspect.getsource(doctor))):
        if isinstance(function, ast.FunctionDef) and function.name == "symptoms":
            calls = [
                node for node in ast.walk(function) if isinstance(node, ast.Call) and ast.unparse(node.func) == "see"
            ]
            found |= {said(text) for call in calls for text in call.args[2:]}
        elif isinstance(function, ast.FunctionDef) and function.name == "_cause":
            returns = [node for node in ast.walk(function) if isinstance(node, ast.Return)]
            found |= {said(each.value) for each in returns if each.value is not None}
    return found


def test_every_message_of_the_doctor_stands_in_troubleshooting() -> None:
    messages, page = doctors_messages(), text_of("troubleshooting.md")
    assert len(messages) >= 20, messages
    assert [each for each in messages if f"| {each} |" not in page] == []


# ---- the claims about security


def test_every_claim_about_security_names_a_test_that_there_is() -> None:
    lines = [line for line in text_of("security.md").splitlines() if line.startswith("|")]
    claims = [line for line in lines if not line.startswith(("|---", "| what could"))]
    assert len(claims) > 20
    for claim in claims:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", claim.split("|")[-2])
        assert tests, f"no test holds: {claim}"
        for file, name in tests:
            assert re.search(rf"^(?:async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), (
                name
            )
