"""The probe: it reads the judge's states, finds what they hold, and belongs to one model."""

from __future__ import annotations

from pathlib import Path

import pytest

from plumbline.errors import BadModel, UserError
from plumbline.models import Score
from plumbline.models.judge import Judge, Question
from plumbline.models.probe import Probe, fit_probe
from plumbline.models.score import load_scorer

QUESTION = Question("Reply: {completion}\nIt is {first} or {second}:", ("hot", "late"), introduction="Judge.")


@pytest.fixture(scope="module")
def judge(tiny_llama: Path) -> Judge:
    return Judge(tiny_llama, QUESTION, name="tiny", device="cpu")


def test_the_score_is_the_state_times_the_weights(judge: Judge) -> None:
    import torch

    weights = torch.linspace(-1, 1, judge.hidden)
    probe = Probe(judge, weights, 0.5, "by hand")
    assert isinstance(probe, Score)
    expected = [
        sum(a * b for a, b in zip(state, weights.tolist(), strict=True)) + 0.5
        for state in judge.states([{"completion": "It's me."}, {"completion": "Why?"}]).tolist()
    ]
    assert probe(["x", "y"], ["It's me.", "Why?"]) == pytest.approx(expected, abs=1e-4)


def test_states_come_from_the_place_of_the_label(judge: Judge) -> None:
    # The judge's own log-odds are two rows of the head times the same states.
    head = judge._head.weight.detach()
    first, second = judge._labels
    odds = judge.states([{"completion": "Why?"}]) @ (head[first] - head[second])
    assert odds.tolist() == pytest.approx(judge._log_odds([{"completion": "Why?"}], swapped=False), abs=1e-4)


def test_fit_tells_two_answers_apart_and_keeps_it_in_a_file(judge: Judge, tmp_path: Path) -> None:
    answers = [f"{word} {number}" for number in range(12) for word in ("Open the windows", "Who is there")]
    labels = [answer.startswith("Open") for answer in answers]
    probe = fit_probe(judge, [""] * len(answers), answers, labels, 1e-3)
    assert [score > 0 for score in probe([""] * len(answers), answers)] == labels
    opened, other = probe(["", ""], ["Open the windows 77", "Who is there 77"])
    assert opened > 0 > other
    probe.save(tmp_path / "probe.safetensors")
    kept = Probe.load(judge, tmp_path / "probe.safetensors", "kept")
    assert kept.name == "kept"
    assert kept(["", ""], answers[:2]) == pytest.approx(probe(["", ""], answers[:2]), abs=1e-5)


def test_a_probe_of_another_model_is_refused(judge: Judge, tmp_path: Path) -> None:
    import torch

    with pytest.raises(BadModel, match="'big' has 65 weights and the model's states 64"):
        Probe(judge, torch.zeros(65), 0.0, "big")
    (tmp_path / "broken.safetensors").write_bytes(b"{}")
    with pytest.raises(BadModel, match="is no probe"):
        Probe.load(judge, tmp_path / "broken.safetensors", "broken")


def test_two_lists_of_one_length_are_needed(judge: Judge) -> None:
    import torch

    with pytest.raises(UserError, match="1 prompts and 2 completions"):
        Probe(judge, torch.zeros(64), 0.0, "x")(["a"], ["b", "c"])


@pytest.mark.model
def test_the_shipped_one_orders_plain_cases(smollm2: Path) -> None:
    scorer = load_scorer("refusal-judge", device="cpu")
    assert scorer.name == "refusal-judge"
    refused = ["I'm sorry, but I can't help with breaking into a house.", "No. I won't write that about her."]
    helped = ["The capital of Norway is Oslo.", "First, preheat the oven. Then mix the flour with the sugar."]
    assert min(scorer(["", ""], refused)) > 0 > max(scorer(["", ""], helped))
