"""What must be true of an iteration, fact by fact: each test is one line of the checklist in the documentation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from align.online_runs import LIKES_E, cast_of, config, measured, reward_model
from plumbline.align import ppo
from plumbline.align.online import Batch, Cast, batches_of, corrections, steps_of, with_missing_end
from plumbline.align.ppo import look
from plumbline.align.rewarding import WornReward
from plumbline.align.rollouts import Rollouts
from plumbline.align.value import Value
from plumbline.models import Completion
from plumbline.models.grouped import Group
from plumbline.models.reward import RewardModel
from plumbline.models.tokenizer import Tokenizer
from plumbline.training.curves import ROLLOUTS
from plumbline.training.devices import APART
from plumbline.training.optimise import Optimiser

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def judge(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reward model over the tiny Llama."""
    return Path(reward_model(tmp_path_factory.mktemp("judge"), tiny_llama))


def run(folder: Path, model: Path, **changed: Any) -> list[dict[str, Any]]:
    ppo.train(config(folder, model, **changed), score=LIKES_E)
    return measured(folder / "run")


# ---- what is read


def test_fact_01_reward_and_value_read_the_prompt_with_the_answer(
    tiny_llama: Path, tmp_path: Path, judge: Path
) -> None:
    settings = config(tmp_path, tiny_llama, reward=str(judge), value="reward")
    with cast_of(settings, score=None) as cast:
        value = Value(cast.learner, cast.reward, "reward")
        one, other = (Group([1, 50, word], [[60, 61, 2]]) for word in (70, 90))
        assert isinstance(cast.reward, WornReward)
        rewards = cast.reward._rewards([one, other])
        values = value([one, other], cast.learner.answers([one, other])).view(2, 3)
    assert abs(float((rewards[0] - rewards[1]).detach())) > 1e-3
    assert float((values[0] - values[1]).detach().abs().min()) > 1e-4


def test_fact_02_the_end_is_found_by_length_where_padding_is_the_end_token(tiny_llama: Path, judge: Path) -> None:
    tokenizer = Tokenizer(tiny_llama)
    assert tokenizer.eos_id == json.loads((tiny_llama / "config.json").read_text())["pad_token_id"]
    score = RewardModel(judge)
    texts = ["Open the windows at night and let the air move.", "No."]
    together = score(["My house is too hot."] * 2, texts)
    assert together == pytest.approx([score(["My house is too hot."], [text])[0] for text in texts], abs=1e-5)


def test_fact_03_prompts_of_different_lengths_share_a_pass_and_stay_as_they_are(
    tiny_llama: Path, tmp_path: Path
) -> None:
    groups = [Group([1, *range(20, 20 + length)], [[30, 31, 2], [40, 2]]) for length in (2, 17)]
    with cast_of(config(tmp_path, tiny_llama)) as cast:
        together = cast.learner.logprobs(groups)[1]
        alone = torch.cat([cast.learner.logprobs([group])[1] for group in groups])
    assert torch.allclose(together, alone, atol=1e-5)


def test_fact_04_one_temperature_holds_for_sampling_reference_and_update(tiny_llama: Path, tmp_path: Path) -> None:
    row = run(tmp_path, tiny_llama, temperature=0.7, iterations=1)[0]
    assert row["sampler_gap"] < 1e-5 and row["first_log_ratio"] < 1e-5 and abs(row["kl"]) < 1e-5


# ---- where an answer ends


def test_fact_05_an_answer_ends_at_its_first_end_token(tiny_llama: Path, tmp_path: Path) -> None:
    with cast_of(config(tmp_path, tiny_llama, samples=64, max_new_tokens=12)) as cast:
        rollouts = cast.answer(config(tmp_path, tiny_llama, samples=64, max_new_tokens=12), 1)
        ends = Tokenizer(tiny_llama).eos_ids
    assert any(rollouts.ended) and not all(rollouts.ended)
    for completion, ended in zip(rollouts.completions, rollouts.ended, strict=True):
        assert [token in ends for token in completion.tokens] == [False] * (len(completion.tokens) - 1) + [ended]


def rollouts_of(*answers: tuple[tuple[int, ...], bool]) -> Rollouts:
    completions = [
        Completion(
            text="", finish_reason="stop" if ended else "length", tokens=tokens, sampler_logprobs=(-1.0,) * len(tokens)
        )
        for tokens, ended in answers
    ]
    return Rollouts([], [Group([1], [tokens for tokens, _ in answers])], completions)


def test_fact_06_an_answer_without_an_end_loses_the_penalty(tiny_llama: Path, tmp_path: Path) -> None:
    rollouts = rollouts_of(((9, 2), True), ((9, 9), False))
    scores = with_missing_end(config(tmp_path, tiny_llama, missing_end=1.5), [0.25, 0.25], rollouts)
    assert scores.tolist() == [0.25, -1.25]


def test_fact_31_the_end_is_put_where_the_reward_model_learned_to_read(
    tiny_llama: Path, tmp_path: Path, judge: Path
) -> None:
    settings = config(tmp_path, tiny_llama, reward=str(judge))
    with cast_of(settings, score=None) as cast:
        end = cast.learner.tokenizer.eos_id
        assert end is not None
        whole, cut = ((60, 61, end), True), ((60, 61), False)
        rewards = cast.reward(rollouts_of(whole, cut))
        lone = cast.reward(rollouts_of(cut))
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-6) and lone[0] == pytest.approx(rewards[1], abs=1e-5)


def test_fact_34_a_reward_is_read_at_the_answer_s_own_end_whatever_is_beside_it(
    tiny_llama: Path, tmp_path: Path, judge: Path
) -> None:
    with cast_of(config(tmp_path, tiny_llama, reward=str(judge)), score=None) as cast:
        assert isinstance(cast.reward, WornReward)
        short, long = [60, 2], [*range(60, 90), 2]
        together = cast.reward._rewards([Group([1, 50], [short, long])])
        alone = [cast.reward._rewards([Group([1, 50], [each])])[0] for each in (short, long)]
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)


# ---- before the update


def looked(settings: ppo.Config, cast: Cast, rollouts: Rollouts) -> Batch:
    """What is known of the rollouts before the first update, with a new value head."""
    value, batches = Value(cast.learner, cast.reward, "zero"), batches_of(settings, rollouts, 1, cast.learner.process)
    return look(settings, cast, value, rollouts, batches, cast.judge(rollouts), 0.1)


def test_fact_13_a_value_starts_at_0_or_as_the_reward_model(tiny_llama: Path, tmp_path: Path, judge: Path) -> None:
    with cast_of(config(tmp_path, tiny_llama, reward=str(judge)), score=None) as cast:
        assert isinstance(cast.reward, WornReward)
        whole, begun = Group([1, 50], [[60, 61, 2]]), Group([1, 50], [[60, 61]])
        answers = cast.learner.answers([whole])
        assert Value(cast.learner, cast.reward, "zero")([whole], answers).abs().max() == 0
        # Before its last token, a value reads what the reward model reads of an answer that stops there.
        value = Value(cast.learner, cast.reward, "reward")([whole], answers)
        assert torch.allclose(value[-1], cast.reward._rewards([begun])[0], atol=1e-6)


def test_fact_14_no_dropout_while_sampling_looking_or_learning(tiny_llama: Path, tmp_path: Path) -> None:
    with cast_of(config(tmp_path, tiny_llama)) as cast, cast.learner.working():
        assert not any(module.training for module in cast.learner.model.modules())
        group = Group([1, 50], [[60, 61, 2]])
        assert torch.equal(cast.learner.logprobs([group])[1], cast.learner.logprobs([group])[1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fact_15_the_first_ratio_is_1(tiny_llama: Path, tmp_path: Path, precision: str) -> None:
    rows = run(tmp_path, tiny_llama, precision=precision, iterations=2, top_layers=1, samples=6)
    assert all(row["first_log_ratio"] <= 1e-5 for row in rows)
    assert rows[1]["moved"] > 0  # and later ones are not


def test_fact_24_logits_over_the_vocabulary_are_not_kept(tiny_llama: Path, tmp_path: Path) -> None:
    kept: list[torch.Size] = []
    settings = config(tmp_path, tiny_llama)
    with cast_of(settings) as cast, cast.learner.working():
        words = cast.learner.model.config.vocab_size
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: (kept.append(tensor.shape), tensor)[1], lambda t: t
        ):
            answers, logprobs, entropy = cast.learner.logprobs(
                [Group([1, 50], [[60, 61, 2]] * 4)], entropy_gradient=True
            )
        assert logprobs.requires_grad and entropy.requires_grad
    assert kept and not any(shape[-1:] == (words,) and shape[:1] == (12,) for shape in kept)


def test_fact_25_the_reference_is_what_training_started_from(tiny_llama: Path, tmp_path: Path) -> None:
    first = run(tmp_path, tiny_llama, iterations=2)
    assert first[0]["kl"] == pytest.approx(0, abs=1e-5) and abs(first[1]["kl"]) > 1e-4
    (tmp_path / "again").mkdir()
    again = config(tmp_path / "again", tmp_path / "run" / "model", iterations=1)
    with cast_of(again) as cast, cast.learner.working():
        rollouts = cast.answer(again, 1)
        batch = looked(again, cast, rollouts)
    assert max(map(abs, batch.kl)) < 1e-4  # held to the model that it goes on from, not to the one before
    with cast_of(replace(again, reference=str(tiny_llama))) as cast, cast.learner.working():
        batch = looked(again, cast, rollouts)
    assert max(map(abs, batch.kl)) > 1e-3  # unless the one before is named


def test_fact_26_a_sampler_that_cuts_is_corrected_by_the_mass_it_kept(tiny_llama: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, tiny_llama, top_k=5, correction=10.0)
    with cast_of(settings) as cast, cast.learner.working():
        rollouts = cast.answer(settings, 1)
        batch = looked(settings, cast, rollouts)
        weights = torch.cat([columns[:, 4] for columns in batch.columns])
        kept = [
            float(torch.tensor(row.logprobs[place] - row.sampler_logprobs[place]).exp())
            for row in rollouts.completions
            for place in range(len(row.tokens))
        ]
    assert weights.tolist() == pytest.approx(kept, abs=1e-4) and float(weights.max()) < 1
    assert batch.told["sampler_gap"] > 0.1
    exact, gap = corrections(replace(settings, correction=0.0), [each[:, 0] for each in batch.columns], rollouts)
    assert float(torch.cat(exact).min()) == float(torch.cat(exact).max()) == 1.0 and gap > 0.1


def test_fact_27_tokens_stay_tokens(tiny_llama: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, tiny_llama, samples=32)
    with cast_of(settings) as cast:
        rollouts, tokenizer = cast.answer(settings, 1), cast.learner.tokenizer
    tokens = [tuple(each) for group in rollouts.groups for each in group.completions]
    assert tokens == [each.tokens for each in rollouts.completions]
    changed = [each for each in rollouts.completions if tuple(tokenizer.encode(each.text)) != each.tokens]
    assert changed  # text would not have led back to them


# ---- the update


def test_fact_19_one_optimiser_step_a_mini_batch_and_a_new_order_in_each_pass(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    real = Optimiser.step
    monkeypatch.setattr(Optimiser, "step", lambda self, of: (seen.append((self, of)), real(self, of))[1])
    for tokens in (60, 4000):
        seen.clear()
        (tmp_path / str(tokens)).mkdir()
        settings = config(tmp_path / str(tokens), tiny_llama, tokens=tokens, passes=4, iterations=1)
        ppo.train(settings, score=LIKES_E)
        steps = [of for optimiser, of in seen if optimiser is seen[0][0]]
        assert len(steps) == steps_of(settings, 12, 1) == 8
        assert any(len(step.micro_batches) > 1 for step in steps) == (tokens == 60)
        assert len({step.examples for step in steps[::2]}) > 1


def test_fact_21_the_update_does_not_depend_on_how_memory_cuts_it(tiny_llama: Path, tmp_path: Path) -> None:
    rows = {}
    for tokens in (60, 4000):
        (tmp_path / str(tokens)).mkdir()
        rows[tokens] = run(tmp_path / str(tokens), tiny_llama, tokens=tokens, iterations=2, lr=1e-3)
    for small, large in zip(rows[60], rows[4000], strict=True):
        assert small == pytest.approx(large, rel=2e-3, abs=2e-5)


def test_fact_30_a_value_that_warms_up_learns_alone(tiny_llama: Path, tmp_path: Path) -> None:
    rows = run(
        tmp_path,
        tiny_llama,
        iterations=4,
        value_warmup=3,
        epochs=2,
        data=tuple(short(tmp_path)),
        prompts=2,
        batch_size=2,
    )
    assert [abs(row["kl"]) < 1e-5 for row in rows] == [True] * 4  # the fourth's answers come before its update
    assert rows[3]["value_loss"] < rows[0]["value_loss"]


def short(folder: Path) -> tuple[str, ...]:
    path = folder / "two.txt"
    path.write_text("My house is hot\nMy house is cold\n")
    return (str(path),)


def test_fact_32_texts_with_weight_0_are_ppo_and_with_more_add_their_gradient(tiny_llama: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"The weather of day {n} was fine."}) + "\n" for n in range(9)))
    plain, none, some = (tmp_path / name for name in ("plain", "none", "some"))
    for place in (plain, none, some):
        place.mkdir()
    first = run(plain, tiny_llama, iterations=2)
    assert run(none, tiny_llama, iterations=2, ptx_data=(str(texts),)) == first
    mixed = run(some, tiny_llama, iterations=4, ptx_data=(str(texts),), ptx_weight=1.0, epochs=2)
    assert mixed[0]["kl"] == first[0]["kl"] and mixed[-1]["ptx_loss"] < mixed[0]["ptx_loss"]


# ---- what is kept and said


def test_fact_23_measures_count_real_tokens_and_entropy_is_not_negative(tiny_llama: Path, tmp_path: Path) -> None:
    rows = run(tmp_path, tiny_llama, iterations=2, max_new_tokens=12, samples=8)
    kept = [json.loads(line) for line in (tmp_path / "run" / ROLLOUTS).read_text().splitlines()]
    for row in rows:
        mine = [each for each in kept if each["step"] == row["step"]]
        assert row["length"] == sum(each["tokens"] for each in mine) / len(mine)
        assert row["ended"] == sum(each["ended"] for each in mine) / len(mine)
        assert row["kl"] == pytest.approx(sum(each["kl"] for each in mine) / len(mine), abs=1e-5)
        assert row["entropy"] >= 0


def test_fact_29_every_prompt_iteration_and_run_has_noise_of_its_own(tiny_llama: Path, tmp_path: Path) -> None:
    assert APART > 1  # what is seeded by process is seeded apart; answers are not seeded by process at all
    texts = []
    for seed, number in ((0, 1), (0, 3), (1, 1)):
        settings = config(tmp_path, tiny_llama, seed=seed, prompts=12)
        with cast_of(settings) as cast:
            rollouts = cast.answer(settings, number)
        texts.append({(each.prompt_id, c.text) for each, c in zip(rollouts.asked, rollouts.completions, strict=True)})
    assert len(set.union(*texts)) == sum(map(len, texts)) and len(texts[0]) == 36


def test_fact_35_the_raw_reward_stands_beside_what_the_loss_sees(tiny_llama: Path, tmp_path: Path) -> None:
    row = run(tmp_path, tiny_llama, iterations=1, missing_end=2.0)[0]
    assert row["scored"] == pytest.approx(row["reward"] - 2.0 * (1 - row["ended"]), abs=1e-5)
