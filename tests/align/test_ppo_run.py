"""Runs of PPO and GRPO: the optimum that is known, the bits after a kill, two processes, and input that is bad."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from align.online_runs import LIKES_E, config, measured, prompts, reward_model
from align.runs import run_killed, run_two, write
from plumbline.align import grpo, ppo
from plumbline.errors import UserError
from plumbline.models import Raw
from plumbline.models.chat import encode_prompt
from plumbline.models.families import load_causal
from plumbline.models.functions import FunctionScore
from plumbline.models.tokenizer import Tokenizer
from plumbline.project import Project
from plumbline.records import Rollout, read_jsonl
from plumbline.training.curves import ROLLOUTS

pytestmark = pytest.mark.usefixtures("undrawn")

KINDS: list[Any] = [
    pytest.param(ppo, {}, id="ppo"),
    pytest.param(grpo, {"scale": False}, id="grpo"),
    pytest.param(grpo, {"baseline": "leave-one-out", "kl_place": "reward", "kl": "k1"}, id="rloo"),
]


def wave(text: str) -> float:
    return math.sin(7 * sum(map(ord, text))) if text else 0.5


def next_token(folder: Path | str, ids: list[int]) -> torch.Tensor:
    """The model's distribution (vocabulary,) after these tokens."""
    model: Any = load_causal(folder, device="cpu", dtype="float32")
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("method", "settings"), KINDS)
def test_the_optimum_is_reached(tiny_llama: Path, tmp_path: Path, method: Any, settings: dict[str, Any]) -> None:
    """Of answers of one token, π* ∝ π_ref · exp(r / β) is best: E[r] − β KL is within 3 % of the way to it."""
    beta, tokenizer = 0.5, Tokenizer(tiny_llama)
    given = {"data": write(tmp_path / "one.jsonl", {"prompt": "say"}), "raw": True, "max_new_tokens": 1, "beta": beta}
    given |= {"lora_rank": 0, "lr": 1e-3, "warmup": 0.0, "samples": 256, "prompts": 1, "batch_size": 1, "passes": 4}
    given |= {"iterations": 60, "missing_end": 0.0, "every": 100, "tokens": 4000}
    score = FunctionScore(lambda _, completion: wave(completion), "wave")
    name = method.train(config(tmp_path, tiny_llama, method.Config, **given, **settings), score=score)

    ids = encode_prompt(tokenizer, Raw("say"))
    reference, learned = next_token(tiny_llama, ids), next_token(name, ids)
    texts = ["" if token in tokenizer.eos_ids else tokenizer.decode([token]) for token in range(len(reference))]
    rewards = torch.tensor([wave(text) for text in texts], dtype=torch.double)
    best = reference * (rewards / beta).exp() / (reference * (rewards / beta).exp()).sum()

    def worth(policy: torch.Tensor) -> float:
        return float((policy * rewards).sum() - beta * (policy * (policy.log() - reference.log())).sum())

    assert worth(learned) > worth(best) - 0.06 * (worth(best) - worth(reference))
    assert float((learned - best).abs().sum()) / 2 < 0.08 < 0.5 * float((reference - best).abs().sum())


def test_the_engine_that_answers_follows_the_policy(tiny_llama: Path, tmp_path: Path) -> None:
    """Its answers are as likely to it as to the model in training, before the updates and after them."""
    pytest.importorskip("openvino")
    given = {"sampler": "openvino", "iterations": 3, "lr": 3e-3, "samples": 4, "max_new_tokens": 12}
    ppo.train(config(tmp_path, tiny_llama, ppo.Config, **given), score=LIKES_E)
    rows = measured(tmp_path / "run")
    assert max(row["sampler_gap"] for row in rows) < 0.01
    assert rows[-1]["kl"] > 0.1, "the policy has moved so little that an engine that stays behind would not be seen"


@pytest.mark.parametrize("method", [ppo, grpo])
def test_fact_28_a_killed_run_goes_on_to_the_same_bits(
    tiny_llama: Path, tmp_path: Path, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rewards.py").write_text("def likes(prompt, completion):\n    return completion.count('e') / 2\n")
    given = {"reward": f"{tmp_path / 'rewards.py'}:likes", "iterations": 6, "kl_target": 1.0, "kl_horizon": 50.0}
    killed = config(tmp_path, tiny_llama, method.Config, **given)
    run_killed(killed, "step-00000004")
    assert [each.name for each in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000002"]
    resumed = Path(method.train(killed, resume=True))
    whole = Path(method.train(config(tmp_path, tiny_llama, method.Config, **given, out=str(tmp_path / "whole"))))
    for file in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (resumed / file).read_bytes() == (whole / file).read_bytes()
    assert measured(tmp_path / "run") == measured(tmp_path / "whole")
    assert (tmp_path / "run" / ROLLOUTS).read_bytes() == (tmp_path / "whole" / ROLLOUTS).read_bytes()
    assert len({row["beta"] for row in measured(tmp_path / "run")}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("method", [ppo, grpo])
def test_two_processes_sample_and_learn_what_one_does(tiny_llama: Path, tmp_path: Path, method: Any) -> None:
    judge = reward_model(tmp_path, tiny_llama)
    given = {"reward": judge, "iterations": 4}
    run_two(config(tmp_path, tiny_llama, method.Config, **given, out=str(tmp_path / "two")), tmp_path)
    method.train(config(tmp_path, tiny_llama, method.Config, **given, out=str(tmp_path / "one")))
    for two, one in zip(measured(tmp_path / "two"), measured(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=2e-3, abs=2e-5)


@pytest.mark.parametrize("method", [ppo, grpo])
def test_it_learns_what_pays_and_keeps_every_answer(tiny_llama: Path, tmp_path: Path, method: Any) -> None:
    given = {"iterations": 16, "samples": 8, "beta": 0.0, "missing_end": 0.0, "lr": 1e-2, "held_out": 0.2}
    method.train(config(tmp_path, tiny_llama, method.Config, **given), score=LIKES_E)
    rows = measured(tmp_path / "run")
    assert rows[-1]["reward"] > rows[0]["reward"] + rows[0]["reward_spread"] / 2
    assert math.isfinite(rows[-1]["held_out_reward"]) and rows[-1]["kl"] > 0.1
    kept = list(read_jsonl(tmp_path / "run" / ROLLOUTS, Rollout))
    assert [sum(each.step == row["step"] for each in kept) > 0 for row in rows] == [True] * 16
    assert all(LIKES_E([each.prompt], [each.completion])[0] == each.reward for each in kept)


def test_a_reward_model_on_the_same_base_is_worn_and_says_what_it_says_alone(tiny_llama: Path, tmp_path: Path) -> None:
    from plumbline.models.score import load_scorer

    judge = reward_model(tmp_path, tiny_llama)
    ppo.train(
        config(
            tmp_path, tiny_llama, reward=judge, value="reward", iterations=2, top_layers=1, max_new_tokens=3, samples=24
        )
    )
    alone = load_scorer(judge)
    kept = [each for each in read_jsonl(tmp_path / "run" / ROLLOUTS, Rollout)]
    plain = [each for each in kept if each.completion.isascii()]  # text that leads back to the same tokens
    tokenizer = Tokenizer(tiny_llama)
    plain = [each for each in plain if len(tokenizer.encode(each.completion)) + each.ended == each.tokens]
    given = alone([each.prompt for each in plain], [each.completion for each in plain])
    assert len(plain) > 3 and given == pytest.approx([each.reward for each in plain], abs=2e-3)
    assert (tmp_path / "run" / "model" / "value" / "scalar_head.safetensors").is_file()


# ---- what ends a run


def test_a_run_stops_at_its_reward_or_its_budget_of_kl(
    tiny_llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = {"iterations": 9, "lr": 1e-2, "beta": 0.0}
    settings = config(tmp_path, tiny_llama, **given, stop_kl=0.05)
    ppo.train(settings, score=LIKES_E)
    rows = measured(tmp_path / "run")
    assert len(rows) < 9 and rows[-1]["kl"] > 0.05
    assert "has gone beyond --stop-kl 0.05" in capfd.readouterr().err
    ppo.train(settings, resume=True, score=LIKES_E)  # a budget that is spent stays so
    assert len(measured(tmp_path / "run")) == len(rows)
    (tmp_path / "b").mkdir()
    ppo.train(config(tmp_path / "b", tiny_llama, **given, stop_reward=-100.0), score=LIKES_E)
    assert len(measured(tmp_path / "b" / "run")) == 1


def broken(answer: Callable[[int], Any]) -> FunctionScore:
    calls: list[int] = []

    def judge(prompts: list[Any], completions: list[str]) -> Any:
        calls.append(1)
        return answer(len(calls)) if len(calls) == 3 else [len(each) / 10 for each in completions]

    return FunctionScore(judge, "mine")


def fails(_: int) -> Any:
    raise RuntimeError("no network")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (fails, r"the reward 'mine' failed \(RuntimeError: no network\)"),
        (lambda _: [1.0], r"gave 1 numbers for 18 answers"),
        (lambda _: [math.nan] * 18, r"gave nan for the answer"),
    ],
)
def test_a_reward_that_fails_halfway_loses_nothing(tiny_llama: Path, tmp_path: Path, answer: Any, said: str) -> None:
    settings = config(tmp_path, tiny_llama, iterations=4, every=10)
    with pytest.raises(UserError, match=said):
        ppo.train(settings, score=broken(answer))
    assert len(measured(tmp_path / "run")) == 2
    score = FunctionScore(lambda _, completion: len(completion) / 10, "mine")
    ppo.train(settings, resume=True, score=score)
    ppo.train(config(tmp_path, tiny_llama, iterations=4, every=10, out=str(tmp_path / "whole")), score=score)
    assert measured(tmp_path / "run") == measured(tmp_path / "whole")


def test_prompts_that_fill_the_window_are_named(
    tiny_llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = write(
        tmp_path / "p.jsonl", {"prompt": "Hi", "prompt_id": "a"}, {"prompt": "heat " * 700, "prompt_id": "long"}
    )
    ppo.train(config(tmp_path, tiny_llama, data=data, iterations=1), score=LIKES_E)
    assert "prompt 'long' has" in (said := capfd.readouterr().err) and "leaves 504 beside an answer of 8" in said
    with pytest.raises(UserError, match="there is no prompt to train on"):
        ppo.train(
            config(
                tmp_path,
                tiny_llama,
                data=write(tmp_path / "q.jsonl", {"prompt": "heat " * 700}),
                out=str(tmp_path / "x"),
            ),
            score=LIKES_E,
        )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "no reward was named"),
        ({"reward": "here.py:judge"}, "there is no file 'here.py'"),
        ({"value": "reward"}, "--value reward copies the reward model, and 'likes e' is no adapter"),
        ({"sampler": "openvino", "lora_rank": 0}, "the openvino sampler follows adapters"),
    ],
)
def test_settings_that_cannot_be_met_are_told(
    tiny_llama: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    score = LIKES_E if "value" in changed or "sampler" in changed else None
    with pytest.raises(UserError, match=said):
        ppo.train(config(tmp_path, tiny_llama, **changed), score=score)


def test_a_reference_that_is_no_ancestor_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    project = Project.create(tmp_path / "house")
    settings = config(tmp_path, tiny_llama, out=str(project.runs / "first"), iterations=1)
    before = os.getcwd()
    os.chdir(project.folder)
    try:
        assert ppo.train(settings, score=LIKES_E) == "first@1"
        first = Path("first@1")
        with pytest.raises(UserError, match="the reference 'smollm2-135m' is no ancestor of 'first@1'"):
            stranger = config(tmp_path, first, out=str(project.runs / "a"), reference="smollm2-135m")
            ppo.train(stranger, score=LIKES_E)
        held = config(tmp_path, first, iterations=1, out=str(project.runs / "b"), reference=str(tiny_llama))
        assert ppo.train(held, score=LIKES_E) == "b@1"
    finally:
        os.chdir(before)


def test_a_dry_run_reckons_and_leaves_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("def likes(prompt, completion):\n    return len(completion)\n")
    (tmp_path / "more").mkdir()
    data = prompts(tmp_path / "more", 20)
    settings = config(tmp_path, tiny_llama, reward=f"{tmp_path / 'rewards.py'}:likes", data=data, epochs=3)
    told = ppo.expect(settings)
    assert told.steps == 3 * 2 * (2 + 2 + 2 + 1) and told.tokens > 0 and told.seconds > 0 and told.memory > 0
    assert not (tmp_path / "run").exists()
    assert json.loads((Path(settings.data[0])).read_text().splitlines()[0])["prompt"].startswith("My house")
