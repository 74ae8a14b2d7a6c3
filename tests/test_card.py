"""Model cards and self-reports: that they say what is on record, and say of the rest that it is not."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner, Result

from plumbline.card import gather, write_card
from plumbline.cli.main import app
from plumbline.errors import BadRecord, UserError
from plumbline.project import Project
from plumbline.records import Change, Demonstration, Evaluation, Measured, write_jsonl
from plumbline.transparency import ANSWERS, Indicator, read_indicators, reply_to, write_report


@pytest.fixture
def project(tmp_path: Path, tiny_llama: Path) -> Project:
    """A version with weights, data, an evaluation and a forced promotion."""
    project = Project.create(tmp_path / "bot")
    (project.folder / "plumb.toml").write_text('criterion = "kind and true"\nguarded = ["toxicity"]\n')
    shown = Demonstration.model_validate(
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    )
    data = project.folder / "shown.jsonl"
    write_jsonl(data, [shown])

    def write(folder: Path) -> None:
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes((tiny_llama / name).read_bytes())

    project.record_version("bot", write, base="smollm2-135m", data=[data], config={"lr": 0.1})
    change = Change(other=0.05, value=0.05, low=0.01, high=0.09)
    figure = Measured(
        task="toxicity",
        metric="rate",
        value=0.1,
        n=80,
        low=0.05,
        high=0.18,
        better="lower",
        change=change,
        command="plumb evaluate bot@1 | tee x",
    )
    for value in (0.9, 0.1):  # the latest of a task is what the card says
        told = figure.model_copy(update={"value": value})
        project.record_evaluation("bot@1", Evaluation(version="bot@1", against="old@1", measured=(told,)))
    project.promote("bot@1", by="ann", why="the demo", overrode=["toxicity is worse"])
    return project


def test_a_card_says_what_is_on_record(project: Project) -> None:
    text = write_card(gather(project, "bot"))
    for said in (
        "kind and true",
        "**bot@1**, learned `shown.jsonl`",
        "model: **smollm2-135m** (not made in this project)",
        "architecture LlamaForCausalLM",
        '"lr": 0.1',
        "| toxicity: rate | 0.1 | 0.05 to 0.18 | 80 | worse than old@1 | `plumb evaluate bot@1 \\| tee x` |",
        "put in force by ann, because: the demo",
        "against it spoke: toxicity is worse",
        "- the licence",
    ):
        assert said in text
    assert "0.9" not in text


def test_the_hub_s_own_library_reads_the_head(project: Project) -> None:
    card = ModelCard(write_card(gather(project, "bot@1")))
    assert (card.data.base_model, card.data.model_name, card.data.tags) == ("smollm2-135m", "bot", ["plumbline"])
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("toxicity", "rate", 0.1)
    assert "95 % 0.05 to 0.18, n 80" in result.metric_name


def test_parameters_are_counted_from_the_headers(project: Project, tiny_llama: Path) -> None:
    from safetensors import safe_open

    with safe_open(tiny_llama / "model.safetensors", "np") as file:
        expected = sum(file.get_tensor(name).size for name in file.keys())
    assert gather(project, "bot").parameters == expected > 0


def test_a_card_of_a_bare_version_says_that_nothing_is_on_record(tmp_path: Path) -> None:
    project = Project.create(tmp_path)
    project.record_version("bare", lambda folder: (folder / "w").write_text(""))
    text = write_card(gather(project, "bare"))
    for heading in ("What it is for", "Data", "Evaluation", "Release"):
        assert f"## {heading}\n\nNothing is on record." in text
    assert ModelCard(text).data.eval_results is None


def test_data_that_is_gone_is_listed_as_not_recorded(project: Project) -> None:
    (project.folder / "shown.jsonl").unlink()
    assert "- rows of `shown.jsonl`, which is gone" in write_card(gather(project, "bot"))


# ---- indicators

LISTED = "Domain,Subdomain,Indicator,Definition\nModel,Basics,Model size,How large?\nUpstream,Work,Wages ,How much?\n"


def test_an_indicator_is_answered_from_records_or_unanswered(project: Project, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("\ufeff" + LISTED + "Upstream,Data,Data size,x\n", encoding="utf-8")
    facts = gather(project, "bot")
    text = write_report(facts, read_indicators(tmp_path / "list.csv"))
    assert "Of 3 indicators 1 are answered from records, 1 in part, and 1 are unanswered" in text
    assert f"| Model size | {facts.parameters:,} parameters | the safetensors files |" in text
    assert "| Wages | unanswered |  |" in text
    assert "| Data size | in part: 1 rows in 1 files |" in text
    assert "it is no score of any index" in text


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_has_a_source_or_is_none(project: Project, tmp_path: Path, name: str) -> None:
    bare = Project.create(tmp_path / "bare")
    bare.record_version("bare", lambda folder: (folder / "w").write_text(""))
    full, empty = (reply_to(Indicator("", "", name.title()), gather(*of)) for of in ((project, "bot"), (bare, "bare")))
    assert full is None or (full.text and full.source)
    always = {"core frameworks", "centralized model documentation", "versioning protocol"}
    assert (empty is not None) == (name in always)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("Domain,Indicator\na,b\n", "has no column 'Subdomain'"),
        ("", "has no column 'Domain'"),
        ("Domain,Subdomain,Indicator\n", "lists no indicator"),
    ],
)
def test_a_bad_list_is_named(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(BadRecord, match=complaint):
        read_indicators(tmp_path / "list.csv")
    with pytest.raises(UserError, match="cannot read '.*no.csv': No such file"):
        read_indicators(tmp_path / "no.csv")


def test_the_published_list_is_covered(project: Project) -> None:
    """Against the index's own file: 100 indicators, and every name that we answer is one of them."""
    folder = os.environ.get("PLUMBLINE_TEST_DATA")
    path = Path(folder or "", "fmti", "fmti-indicators.csv")
    if not folder or not path.is_file():
        pytest.skip("PLUMBLINE_TEST_DATA names no folder with fmti/fmti-indicators.csv")
    listed = read_indicators(path)
    assert len(listed) == 100
    assert set(ANSWERS) <= {" ".join(each.name.lower().split()) for each in listed}
    text = write_report(gather(project, "bot"), listed)
    with path.open(encoding="utf-8-sig", newline="") as file:
        assert all(row["Definition"] not in text for row in csv.DictReader(file))  # names alone, no rows
    assert text.count("| unanswered |") == 100 - sum(
        reply_to(each, gather(project, "bot")) is not None for each in listed
    )


def test_the_command_writes_both_pages(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.folder)
    (project.folder / "list.csv").write_text(LISTED)

    def run(*args: str) -> Result:
        return CliRunner().invoke(app, list(args), prog_name="plumb")

    printed = run("report", "bot")
    assert (printed.exit_code, printed.stdout) == (0, write_card(gather(project, "bot")))
    result = run("report", "bot", "--indicators", "list.csv", "--out", str(tmp_path / "pages"))
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "pages" / "README.md").read_text() == printed.stdout
    assert "| Wages | unanswered |" in (tmp_path / "pages" / "TRANSPARENCY.md").read_text()
    refused = run("report", "bot", "--indicators", "list.csv", "--out", "list.csv")
    assert (refused.exit_code, "which is a file: name a folder" in refused.stderr) == (2, True)
    assert json.loads(run("versions", "--json").stdout)[0]["promoted"]
