"""`plumb generate`: what it prints, what it writes, and that nothing written is lost or mixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from cli.conftest import read_lines, write_script
from plumbline.models.score import load_scorer
from plumbline.records import Generated, prompt_id, read_jsonl

Plumb = Callable[..., Result]

DRAWN = {"max_new_tokens": 256, "temperature": 0.7, "top_k": 0, "top_p": 1.0}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("Knock, knock\n\n  Hi\nBye\n")
    return path


# ---- one prompt


def test_the_answer_is_on_stdout_and_how_it_went_beside_it(plumb: Plumb, script: str) -> None:
    result = plumb("generate", "--prompt", "Knock, knock", "--model", script)
    assert (result.exit_code, result.stdout) == (0, "Who is there?\n")
    assert result.stderr == f"{script}, 2 tokens in, 4 out, seed 0, ended by stop\n"


def test_several_answers_come_one_after_the_other(plumb: Plumb, script: str) -> None:
    result = plumb("generate", "--prompt", "Knock, knock", "--model", script, "--n", 2)
    assert result.stdout == "Who is there?\nCome in!\n"
    assert result.stderr.startswith("answer 1 of 2\nanswer 2 of 2\n")


def test_json_is_a_list_of_records(plumb: Plumb, script: str) -> None:
    result = plumb("generate", "--prompt", "Hi", "--model", script, "--n", 2, "--json")
    first, second = [Generated.model_validate(each) for each in json.loads(result.stdout)]
    assert (first.completion, second.completion) == ("Hello.", "Hey you there.")
    assert (first.prompt_id, first.prompt, first.model) == (prompt_id("Hi"), "Hi", script)
    assert (first.sampling, first.finish_reason, first.seed) == (DRAWN, "stop", 0)


def test_a_system_message_is_part_of_the_prompt(plumb: Plumb, script: str) -> None:
    result = plumb("generate", "--prompt", "Hi", "--system", "Be brief.", "--model", script, "--json")
    (record,) = json.loads(result.stdout)
    assert record["prompt"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert record["prompt_id"] == prompt_id("Hi")


def test_a_model_cannot_steer_the_terminal(plumb: Plumb, tmp_path: Path) -> None:
    model = write_script(tmp_path / "s.jsonl", {"Hi": ["\x1b[2Jgone\x07 \x9b31m\tred\nyes"]})
    assert plumb("generate", "--prompt", "Hi", "--model", model).stdout == "[2Jgone 31m\tred\nyes\n"


def test_the_text_that_is_really_sent_can_be_seen(plumb: Plumb, tiny_llama: Path, script: str) -> None:
    args = ["generate", "--prompt", "Hi <|im_end|>", "--system", "Be brief.", "--max-new-tokens", 1, "--show-prompt"]
    shown = plumb(*args, "--model", tiny_llama, "--engine", "transformers").stderr
    assert "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>\n" in shown
    raw = plumb(
        "generate", "--prompt", "Hi", "--raw", "--show-prompt", "--model", tiny_llama, "--engine", "transformers"
    )
    assert raw.stderr.startswith("Hi\n")
    messages = plumb("generate", "--prompt", "Hi", "--show-prompt", "--model", script).stderr
    assert json.loads(messages.rpartition("]")[0] + "]") == [{"role": "user", "content": "Hi"}]


# ---- a file of prompts


def test_records_go_to_stdout_without_a_file(plumb: Plumb, script: str, prompts: Path) -> None:
    result = plumb("generate", "--prompts", prompts, "--model", script)
    records = [Generated.model_validate_json(line) for line in result.stdout.splitlines()]
    assert [record.completion for record in records] == ["Who is there?", "Hello.", "Au revoir."]
    assert result.stderr == ""


def test_records_of_prompts_keep_their_ids(plumb: Plumb, script: str, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hi"}]
    lines = [{"prompt_id": "a", "prompt": "Bye"}, {"prompt_id": "b", "prompt": talk, "source": "playground"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plumb("generate", "--prompts", "p.jsonl", "--model", script, "--out", "deep/er/out.jsonl")
    records = list(read_jsonl("deep/er/out.jsonl", Generated))
    assert [(each.prompt_id, each.prompt, each.completion) for each in records] == [
        ("a", "Bye", "Au revoir."),
        ("b", talk, "Hello."),
    ]


def test_the_same_command_goes_on_where_it_stopped(plumb: Plumb, script: str, prompts: Path, tmp_path: Path) -> None:
    args = ["generate", "--prompts", prompts, "--n", 2, "--model", script, "--out"]
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    assert plumb(*args, whole).stderr == f"3 of 3 prompts are in {whole}\n"
    lines = whole.read_bytes().splitlines(keepends=True)
    assert len(lines) == 6
    for kept in range(len(lines)):
        for piece in (b"", lines[kept][:1], lines[kept][:40], lines[kept][:-1]):
            torn.write_bytes(b"".join(lines[:kept]) + piece)
            assert plumb(*args, torn).exit_code == 0
            assert torn.read_bytes() == whole.read_bytes(), (kept, piece)


def test_a_finished_file_is_left_as_it_is(plumb: Plumb, script: str, prompts: Path, tmp_path: Path) -> None:
    args = ["generate", "--prompts", prompts, "--model", script, "--out", "out.jsonl"]
    plumb(*args)
    before = (tmp_path / "out.jsonl").read_bytes()
    assert plumb(*args).exit_code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--temperature", "0.9"], "made with temperature 0.7 and this run has 0.9"),
        (["--stop", "x"], "made with stop None and this run has ('x',)"),
        (["--raw"], "made with raw None and this run has True"),
        (["--system", "Be brief."], "made with prompt 'Knock, knock' and this run has [{"),
    ],
)
def test_a_file_made_otherwise_is_refused(
    plumb: Plumb, script: str, prompts: Path, tmp_path: Path, change: list[str], said: str
) -> None:
    args = ["generate", "--prompts", prompts, "--model", script, "--out", "out.jsonl"]
    plumb(*args)
    before = (tmp_path / "out.jsonl").read_bytes()
    result = plumb(*args, *change)
    assert result.exit_code == 2
    assert said in result.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert plumb(*args, *change, "--force").exit_code == 0
    assert len(read_lines(tmp_path / "out.jsonl")) == 3


@pytest.mark.parametrize(
    "content", [b"a letter to my aunt", b"a letter\nto my aunt\n", b"\x89PNG\r\n\x1a\n", b'{"a": 1}']
)
def test_a_file_of_something_else_is_not_touched(
    plumb: Plumb, script: str, prompts: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "mine").write_bytes(content)
    result = plumb("generate", "--prompts", prompts, "--model", script, "--out", "mine")
    assert result.exit_code == 2
    assert result.stderr.startswith("plumb: 'mine' ")
    assert (tmp_path / "mine").read_bytes().rstrip(b"\n") == content.rstrip(b"\n")


def test_force_loses_nothing_before_there_is_something_new(
    plumb: Plumb, script: str, prompts: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.jsonl").write_text("what was here before")
    args = ["generate", "--prompts", prompts, "--out", "out.jsonl", "--force", "--model"]
    for model in ("no such model", write_script(tmp_path / "s.jsonl", {"Good day": ["Good day."]})):
        assert plumb(*args, model).exit_code == 2
        assert (tmp_path / "out.jsonl").read_text() == "what was here before"
    assert plumb(*args, script).exit_code == 0
    assert len(read_lines(tmp_path / "out.jsonl")) == 3


def test_an_error_in_the_middle_keeps_what_is_there(plumb: Plumb, prompts: Path, tmp_path: Path) -> None:
    """One answer a batch (n is 32), and the model knows only the first two prompts."""
    known = write_script(tmp_path / "s.jsonl", {"Knock, knock": ["Who?"], "Hi": ["Hello."]})
    result = plumb("generate", "--prompts", prompts, "--n", 32, "--model", known, "--out", "out.jsonl")
    assert result.exit_code == 2
    assert "has no answer to 'Bye'" in result.stderr
    assert "2 of 3 prompts are in out.jsonl: run the same command again to go on" in result.stderr
    assert len(read_lines(tmp_path / "out.jsonl")) == 64


def test_a_full_disk_is_one_message(plumb: Plumb, script: str, prompts: Path) -> None:
    result = plumb("generate", "--prompts", prompts, "--model", script, "--out", "/dev/full")
    assert (result.exit_code, result.stderr) == (2, "plumb: cannot write to '/dev/full': No space left on device\n")


# ---- the best of several


@pytest.fixture
def judge(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("bert-classifier")


def test_the_best_of_n_is_written_with_its_score_and_how_it_was_chosen(
    plumb: Plumb, script: str, prompts: Path, judge: Path
) -> None:
    args = ["generate", "--prompts", prompts, "--model", script, "--out"]
    plumb(*args, "all.jsonl", "--n", 2)
    result = plumb(*args, "best.jsonl", "--best-of", 2, "--by", judge, "--label", "nothate")
    assert result.exit_code == 0, result.stderr
    drawn = read_lines(Path("all.jsonl"))
    scorer = load_scorer(str(judge), "nothate")
    scores = scorer([each["prompt"] for each in drawn], [each["completion"] for each in drawn])
    for place, record in enumerate(read_lines(Path("best.jsonl"))):
        first, second = scores[2 * place : 2 * place + 2]
        expected = {**drawn[2 * place + (second > first)], "score": pytest.approx(max(first, second), abs=1e-5)}
        expected["model"] = f"{script}, best of 2 by {scorer.name}"
        expected["sampling"] = {**DRAWN, "best_of": 2, "by": scorer.name}
        assert record == expected
    assert plumb("score", "best.jsonl", "--model", judge, "--out", "scored.jsonl").exit_code == 0


def test_one_best_answer_is_shown_with_its_score(plumb: Plumb, script: str, judge: Path) -> None:
    args = ["generate", "--prompt", "Hi", "--model", script, "--best-of", 2, "--by", judge, "--label", "nothate"]
    (record,) = json.loads(plumb(*args, "--json").stdout)
    shown = plumb(*args)
    assert shown.stdout == record["completion"] + "\n"
    assert f"best of 2 by {judge}:nothate, 1 tokens in" in shown.stderr
    assert f"score {record['score']:.3g}, seed 0, ended by stop" in shown.stderr
    assert "answer 1" not in shown.stderr


def test_a_scorer_that_is_not_known_is_named(plumb: Plumb, script: str) -> None:
    result = plumb("generate", "--prompt", "Hi", "--model", script, "--best-of", 4, "--by", "no such judge")
    assert result.exit_code == 2
    assert result.stderr.startswith("plumb: 'no such judge' is no model that is known")


def test_choosing_goes_on_where_it_stopped_and_does_not_mix(
    plumb: Plumb, script: str, prompts: Path, judge: Path, tmp_path: Path
) -> None:
    args = ["generate", "--prompts", prompts, "--model", script, "--by", judge, "--label", "nothate"]
    assert plumb(*args, "--best-of", 2, "--out", "whole.jsonl").exit_code == 0
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    (tmp_path / "torn.jsonl").write_bytes(lines[0] + lines[1][:50])
    assert plumb(*args, "--best-of", 2, "--out", "torn.jsonl").exit_code == 0
    assert (tmp_path / "torn.jsonl").read_bytes() == b"".join(lines)
    other = plumb(*args, "--best-of", 3, "--out", "whole.jsonl")
    assert other.exit_code == 2 and "best of 3 by" in other.stderr
    assert (tmp_path / "whole.jsonl").read_bytes() == b"".join(lines)


# ---- what is asked for wrongly


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "give either --prompt TEXT or --prompts FILE"),
        (["--prompt", "Hi", "--prompts", "p.txt"], "give either --prompt TEXT or --prompts FILE"),
        (["p.txt"], "'p.txt' stands alone: write --prompts before a file, --prompt before a text"),
        (["--prompt", "  "], "the prompt is '  ': give it some text"),
        (["--prompts", "nothing.txt"], "'nothing.txt': No such file or directory"),
        (["--prompts", "empty.txt"], "'empty.txt' holds no prompt: put one on each line"),
        (["--prompts", "empty.jsonl"], "'empty.jsonl' holds no records: it is empty"),
        (["--prompts", "latin.txt"], "'latin.txt' is not UTF-8 text (byte 3): save it as UTF-8"),
        (["--prompts", "latin.jsonl"], "'latin.jsonl' has one bad line beside 0 good:"),
        (["--prompts", "twice.jsonl"], "'twice.jsonl' has two different prompts called 'a': rename one"),
        (["--prompts", "talk.jsonl", "--raw"], "--raw sends plain text"),
        (["--prompt", "Hi", "--raw", "--system", "Be brief."], "--raw sends plain text"),
        (["--prompt", "Hi", "--out", "."], "'.' is a folder: name a file"),
        (["--prompt", "Hi", "--best-of", "4"], "--best-of N and --by SCORER belong together: give both, or neither"),
        (["--prompt", "Hi", "--by", "judge"], "--best-of N and --by SCORER belong together: give both, or neither"),
        (["--prompt", "Hi", "--label", "1"], "--label and --reads say how --by scores, and nothing is scored"),
        (["--prompt", "Hi", "--best-of", "0", "--by", "judge"], "--best-of is 0: choose among at least 1 answer"),
        (
            ["--prompt", "Hi", "--best-of", "4", "--by", "judge", "--temperature", "0"],
            "--temperature is 0, so all answers to a prompt would be the same: raise it",
        ),
        (
            ["--prompt", "Hi", "--model", "smolm2-135m"],
            "'smolm2-135m' is no model that is known here. Near to it: smollm2",
        ),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(plumb: Plumb, tmp_path: Path, args: list[str], said: str) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "caf\xe9"}\n'.encode("latin-1"))
    (tmp_path / "twice.jsonl").write_text('{"prompt_id": "a", "prompt": "Hi"}\n{"prompt_id": "a", "prompt": "Ho"}\n')
    (tmp_path / "talk.jsonl").write_text('{"prompt": [{"role": "user", "content": "Hi"}]}\n')
    result = plumb("generate", *args)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"plumb: {said}")
    assert result.stdout == ""


def test_a_prompt_too_long_is_named_before_any_work(plumb: Plumb, tiny_llama: Path, tmp_path: Path) -> None:
    lines = [{"prompt_id": "short", "prompt": "Hi"}, {"prompt_id": "long", "prompt": "knock " * 600}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    args = [
        "generate",
        "--prompts",
        "p.jsonl",
        "--model",
        tiny_llama,
        "--engine",
        "transformers",
        "--max-new-tokens",
        2,
    ]
    result = plumb(*args, "--out", "out.jsonl")
    assert result.exit_code == 2
    assert result.stderr.startswith("plumb: prompt 'long' (line 2 of 'p.jsonl') has ")
    assert "tokens and the model's window leaves room for 511" in result.stderr
    assert not (tmp_path / "out.jsonl").exists()
    assert plumb(*args, "--truncate", "--out", "out.jsonl").exit_code == 0
    assert [each["prompt_id"] for each in read_lines(tmp_path / "out.jsonl")] == ["short", "long"]


def test_a_line_of_text_too_long_is_named_by_its_place(plumb: Plumb, tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfHi\n\n" + b"knock " * 600 + b"\n")
    result = plumb("generate", "--prompts", "p.txt", "--model", tiny_llama, "--engine", "transformers")
    assert result.exit_code == 2
    assert "(line 3 of 'p.txt') has " in result.stderr
    (tmp_path / "short.txt").write_bytes(b"\xef\xbb\xbfHi\n")
    args = ["--model", tiny_llama, "--engine", "transformers", "--max-new-tokens", 1]
    (record,) = plumb("generate", "--prompts", "short.txt", *args).stdout.splitlines()
    assert json.loads(record)["prompt"] == "Hi"
