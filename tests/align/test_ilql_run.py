"""Runs of ILQL: random walks solved, what is read and refused, and that no cut, kill or second process matters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import plumbline
from align.random_walks import LONGEST, Graph, write_walker
from align.runs import TINY, lines, run_killed, run_two, write
from plumbline.align.ilql import TOGETHER, Config, expect, read, together, train
from plumbline.errors import BadRecord
from plumbline.models import Sampling
from plumbline.models.chat import encode_prompt
from plumbline.models.families import load_causal
from plumbline.models.generate import Reference
from plumbline.models.grouped import Group, forward
from plumbline.models.tokenizer import Tokenizer
from plumbline.training.devices import Process

pytestmark = pytest.mark.usefixtures("undrawn")

ALONE = Process(torch.device("cpu"), "float32")


def rewarded(count: int = 40) -> list[dict[str, Any]]:
    """Two answers to each of half as many prompts, a good one and a bad one."""
    return [
        {
            "prompt": f"My house number {number // 2} is too hot. What can I do?",
            "completion": "No." if number % 2 else "Air it.",
            "reward": -1.0 if number % 2 else 3.0,
            "split": "validation" if number % 10 in (0, 1) else "train",
        }
        for number in range(count)
    ]


def settings(folder: Path, model: Path, **changed: Any) -> Config:
    data = write(folder / "rewarded.jsonl", *rewarded())
    return Config(**{**TINY, "data": data, "model": str(model), "out": str(folder / "run"), "q_rank": 8, **changed})


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_random_walks_are_solved(tmp_path: Path) -> None:
    """From a thousand random walks, of which each start's best is one among about fifty."""
    graph = Graph.draw(1)
    records = graph.records(1000)
    model = train(
        Config(
            data=write(tmp_path / "walks.jsonl", *records),
            model=str(write_walker(tmp_path / "walker")),
            out=str(tmp_path / "run"),
            epochs=12,
            batch_size=8,
            lr=3e-3,
            lora_rank=0,
            beta=16.0,
            device="cpu",
            precision="float32",
        )
    )
    guided = plumbline.load(model)
    assert isinstance(guided, Reference) and guided.guide is not None and guided.guide.beta == 16.0

    def optimality() -> float:
        drawn = guided(graph.starts, Sampling(n=10, temperature=1.0, seed=0, max_new_tokens=LONGEST + 1))
        return float(
            np.mean(
                [
                    graph.score([start] * 10, [each.text for each in answers])
                    for start, answers in zip(graph.starts, drawn, strict=True)
                ]
            )
        )

    data = float(np.mean([record["reward"] for record in records]))
    learned = optimality()
    guided.guide.beta = 0.0  # what is left is the clone of the data
    cloned = optimality()
    assert data < 0.2 and cloned < 0.3
    assert learned > 0.85


def test_the_token_that_begins_the_better_answer_is_worth_more(tiny_llama: Path, tmp_path: Path) -> None:
    """Rewards are 3 and −1 with a spread of 2, so the two first tokens are 2 apart once all is learned."""
    guided = plumbline.load(train(settings(tmp_path, tiny_llama, epochs=20, batch_size=4, polyak=0.5, lr=1e-2)))
    measured = lines(tmp_path / "run")
    assert measured[-1]["held_out_q_loss"] < 0.5 * measured[0]["q_loss"]
    assert isinstance(guided, Reference) and guided.guide is not None
    asked = encode_prompt(guided.tokenizer, "My house number 90 is too hot. What can I do?")
    good, bad = (guided.tokenizer.encode(text) for text in ("Air it.", "No."))
    with torch.no_grad():
        answers = forward(guided.model, [Group(asked, [good, bad])])
        worth = torch.stack([head.tokens(answers.states, answers.targets) for head in guided.guide.heads]).amin(0)
    assert worth[0] > worth[len(good)] + 1.0


def test_the_folder_is_also_a_plain_model(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(train(settings(tmp_path, tiny_llama, epochs=1, lora_rank=0)))
    assert {"model.safetensors", "q_heads.safetensors", "q_heads.json", "tokenizer.json"} <= {
        each.name for each in folder.iterdir()
    }
    assert json.loads((folder / "q_heads.json").read_text()) == {"beta": 4.0}
    assert load_causal(folder, device="cpu").config.vocab_size == 512


def test_the_scale_of_the_rewards_changes_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    larger = write(tmp_path / "larger.jsonl", *({**each, "reward": 1000 * each["reward"]} for each in rewarded()))
    train(settings(tmp_path, tiny_llama, epochs=1))
    train(settings(tmp_path, tiny_llama, epochs=1, data=larger, out=str(tmp_path / "larger")))
    for one, other in zip(lines(tmp_path / "run"), lines(tmp_path / "larger"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_a_dry_run_leaves_no_trace(tiny_llama: Path, tmp_path: Path) -> None:
    told = expect(settings(tmp_path, tiny_llama, epochs=3))
    assert told.steps == 3 * 2 and told.seconds > 0  # 16 prompts to learn from, eight a step
    assert sorted(each.name for each in tmp_path.iterdir()) == ["rewarded.jsonl"]


# ---- what is read


def test_answers_to_one_prompt_are_put_together() -> None:
    def given(prompt: int, answer: int) -> tuple[Group, float]:
        return Group((prompt,), ((answer,),)), float(answer)

    examples = together([given(1, 10), given(2, 20), given(1, 12), *(given(3, n) for n in range(TOGETHER + 1))], 2.0)
    assert [tuple(each.group.prompt) for each in examples] == [(1,), (2,), (3,), (3,)]
    assert examples[0].group.completions == [(10,), (12,)] and examples[0].rewards == (5.0, 6.0)
    assert [len(each.rewards) for each in examples] == [2, 1, TOGETHER, 1]


def test_rewards_are_divided_by_their_spread(tiny_llama: Path, tmp_path: Path) -> None:
    data = read(settings(tmp_path, tiny_llama), Tokenizer(tiny_llama), ALONE)
    assert len(data.train) == 16 and len(data.held_out) == 4 and data.mean == 0.5
    assert {each.rewards for each in [*data.train, *data.held_out]} == {(1.5, -0.5)}


BAD: list[tuple[list[dict[str, Any]], str]] = [
    (
        [{"prompt": "Hi", "completion": "Ho"}] * 3,
        "`reward` is missing",
    ),
    (
        [{"prompt": "Hi", "completion": "Ho", "reward": float("nan")}] * 3,
        "holds NaN, which JSON has no word for",
    ),
    (
        [{"prompt": "Hi", "completion": "Ho", "reward": "good"}] * 3,
        "`reward` is 'good': it must be a number",
    ),
    (
        [{"prompt": "Hi", "completion": "Ho", "reward": 0.5, "split": "train"}] * 3,
        "all 3 answers to train on have the reward 0.5, which says of none that it is better: give answers with",
    ),
    (
        [{"prompt": "Hi", "completion": "Ho", "reward": 0.5, "split": "train"}],
        "there is fewer than two answers with rewards to train on",
    ),
]


@pytest.mark.parametrize(("given", "said"), BAD, ids=[said for _, said in BAD])
def test_rewards_that_teach_nothing_are_refused(
    tiny_llama: Path, tmp_path: Path, given: list[dict[str, Any]], said: str
) -> None:
    config = settings(tmp_path, tiny_llama, data=write(tmp_path / "bad.jsonl", *given))
    with pytest.raises(BadRecord, match=said):
        read(config, Tokenizer(tiny_llama), ALONE)


def test_one_bad_line_is_told_and_the_others_are_learned(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    infinite = {"prompt": "Hi", "completion": "Ho", "reward": float("inf")}
    config = settings(tmp_path, tiny_llama, data=write(tmp_path / "some.jsonl", *rewarded(), infinite))
    assert len(read(config, Tokenizer(tiny_llama), ALONE).train) == 16
    assert "1 left out:" in (told := capsys.readouterr().err) and "some.jsonl:41: holds Infinity" in told


# ---- the same run, however it is cut


def test_cutting_the_steps_changes_nothing_but_rounding(tiny_llama: Path, tmp_path: Path) -> None:
    for tokens in (20, 4000):
        train(settings(tmp_path, tiny_llama, tokens=tokens, out=str(tmp_path / str(tokens)), epochs=1))
    for small, large in zip(lines(tmp_path / "20"), lines(tmp_path / "4000"), strict=True):
        assert small == pytest.approx(large, rel=5e-3, abs=1e-4)


@pytest.mark.parametrize("top_layers", [0, 1], ids=["every layer", "kept trunk"])
def test_a_killed_run_goes_on_to_the_same_bits(tiny_llama: Path, tmp_path: Path, top_layers: int) -> None:
    config = settings(tmp_path, tiny_llama, top_layers=top_layers, epochs=4)
    run_killed(config, "step-00000006")
    resumed = Path(train(config, resume=True))
    whole = Path(train(settings(tmp_path, tiny_llama, top_layers=top_layers, epochs=4, out=str(tmp_path / "whole"))))
    for name in ("model.safetensors", "q_heads.safetensors"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_two_processes_train_the_same_model(tiny_llama: Path, tmp_path: Path) -> None:
    run_two(settings(tmp_path, tiny_llama, epochs=1, out=str(tmp_path / "two")), tmp_path)
    train(settings(tmp_path, tiny_llama, epochs=1, out=str(tmp_path / "one")))
    for two, one in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=5e-3, abs=1e-4)
