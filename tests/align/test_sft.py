"""Supervised fine-tuning: what is learned, that it is learned, and that no kill and no second process changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from align.runs import TINY, lines, run_killed, run_two, write
from plumbline.align import sft
from plumbline.align.sft import Config, read, residual_dropout, sft_loss, train
from plumbline.errors import BadRecord, UserError
from plumbline.models import Sampling, load
from plumbline.models.chat import encode_prompt
from plumbline.models.families import load_causal
from plumbline.models.grouped import Group, forward
from plumbline.models.logprobs import Head, token_logprobs
from plumbline.models.tokenizer import Tokenizer
from plumbline.training.checkpoint import latest
from plumbline.training.devices import Process
from plumbline.training.learner import Learner
from plumbline.training.optimise import Optimiser

pytestmark = pytest.mark.usefixtures("undrawn")

ALONE = Process(torch.device("cpu"), "float32")


def sums(count: int = 40) -> list[dict[str, str]]:
    return [
        {"prompt": f"How much is {n} and {n + 1}?", "completion": f"It is {2 * n + 1}." + " Yes." * (n % 4)}
        for n in range(count)
    ]


def settings(folder: Path, model: Path, **changed: Any) -> Config:
    given: dict[str, Any] = {
        "data": write(folder / "d.jsonl", *sums()),
        "model": str(model),
        "out": str(folder / "run"),
        "tokens": 160,
    }
    return Config(**{**TINY, **given, **changed})


# ---- the loss


def test_the_loss_by_hand() -> None:
    """Two micro-batches of a step with five tokens: −(−1 − 2 − 3) / 5 and −(−0.5 − 1) / 5."""
    first, told = sft_loss(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([0.5, 1.0, 1.0]), 5)
    second, _ = sft_loss(torch.tensor([-0.5, -1.0]), torch.tensor([0.0, 0.0]), 5)
    assert first.item() == pytest.approx(6 / 5) and second.item() == pytest.approx(1.5 / 5)
    assert first + second == pytest.approx(7.5 / 5)
    assert told == {"loss": pytest.approx(6 / 5), "entropy": pytest.approx(2.5 / 5)}


def test_the_loss_is_that_of_the_models_own_class(tiny_llama: Path) -> None:
    """transformers, given labels of −100 on the prompt, for loss and gradient."""
    model: Any = load_causal(tiny_llama, device="cpu", dtype="float32")
    group = Group(list(range(10, 25)), [[40, 41, 42, 43, 2]])
    answers = forward(model, [group])
    logprobs, entropy = token_logprobs(Head.of(model), answers.states, answers.targets)
    loss, _ = sft_loss(logprobs, entropy, 5)
    loss.backward()  # type: ignore[no-untyped-call]
    ours = torch.cat([each.grad.flatten() for each in model.parameters()])
    model.zero_grad()
    ids = torch.tensor([[*group.prompt, *group.completions[0]]])
    theirs = model(ids, labels=torch.where(torch.arange(20) < 15, -100, ids)).loss
    theirs.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-6)
    gradient = torch.cat([each.grad.flatten() for each in model.parameters()])
    assert (ours - gradient).norm() <= 1e-5 * gradient.norm()


# ---- the data


def examples(folder: Path, model: Path, *records: Any, **changed: Any) -> tuple[list[Group], list[Group]]:
    data = write(folder / "own.jsonl", *records)
    return read(settings(folder, model, **{"data": data, "held_out": 0.0, **changed}), Tokenizer(model), ALONE)


def test_an_answer_is_its_text_and_one_end_token(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(tiny_llama)
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Knock, knock."}]
    (chat, plain), _ = examples(
        tmp_path,
        tiny_llama,
        {"messages": [*talk, {"role": "assistant", "content": "Who is there?"}]},
        {"prompt": "Knock, knock.", "completion": "Who is there?"},
    )
    assert chat.completions == plain.completions == ((*tokenizer.encode("Who is there?"), tokenizer.eos_id),)
    assert list(chat.prompt) == encode_prompt(tokenizer, talk)  # type: ignore[arg-type]
    assert list(plain.prompt) == encode_prompt(tokenizer, "Knock, knock.")


def test_an_end_token_that_people_typed_is_text(tiny_llama: Path, tmp_path: Path) -> None:
    (group,), _ = examples(tmp_path, tiny_llama, {"prompt": "Hello", "completion": "a<|im_end|>b"})
    assert group.completions[0].count(Tokenizer(tiny_llama).eos_id) == 1  # type: ignore[arg-type]


def test_splits_are_kept_and_tests_are_not_looked_at(tiny_llama: Path, tmp_path: Path) -> None:
    records = [{"prompt": f"Say {n}", "completion": str(n), "split": split} for n, split in
               enumerate(["train", "validation", "test", "train"])]  # fmt: skip
    learn, held_out = examples(tmp_path, tiny_llama, *records)
    assert (len(learn), len(held_out)) == (2, 1)


def test_what_cannot_be_learned_is_named_and_the_rest_goes_on(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    records = [
        {"prompt": "Good", "completion": "Yes."},
        {"prompt": "too long " * 300, "completion": "Yes."},
        {"prompt": "Empty", "completion": "  "},
        {
            "messages": [
                {"role": "user", "content": "Call"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
            ]
        },
    ]
    learn, _ = examples(tmp_path, tiny_llama, *records)
    told = capsys.readouterr().err
    assert len(learn) == 1
    assert "3 left out:" in told and "own.jsonl:3:" in told and "its answer calls tools" in told
    assert "the window of 512 leaves room for" in told and "--truncate-prompt" in told
    (_, cut), _ = examples(tmp_path, tiny_llama, *records, truncate_prompt=True)
    assert len(cut.prompt) + len(cut.completions[0]) == 512


def test_nothing_to_learn_is_an_error(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match="there is no demonstration to train on"):
        examples(tmp_path, tiny_llama, {"prompt": "too long " * 300, "completion": "Yes."})


# ---- dropout


@pytest.mark.parametrize("family", ["llama", "gpt2", "glm4"])
def test_dropout_is_felt_in_training_only(tiny_model: Callable[[str], Path], family: str) -> None:
    model: Any = load_causal(tiny_model(family), device="cpu", dtype="float32")
    groups = [Group(list(range(5, 15)), [[20, 21, 22]])]
    plain = forward(model, groups).states.detach()
    with residual_dropout(model, 0.5):
        assert not torch.allclose(forward(model, groups).states, plain)
        with torch.no_grad():
            assert torch.equal(forward(model, groups).states, plain)
    assert torch.equal(forward(model, groups).states, plain)


def test_recomputing_drops_the_same(tiny_llama: Path) -> None:
    model: Any = load_causal(tiny_llama, device="cpu", dtype="float32")
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        torch.manual_seed(3)
        with residual_dropout(model, 0.3):
            forward(model, [Group(list(range(5, 15)), [[20, 21]])], recompute=recompute).states.sum().backward()
        gradients.append(torch.cat([each.grad.flatten() for each in model.base_model.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-6)


def test_dropout_out_of_range_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dropout is 1.0: it must be at least 0 and below 1"):
        settings(tmp_path, tiny_llama, dropout=1.0)


def test_the_preset_is_what_the_paper_says() -> None:
    """Ouyang et al. 2022, appendices C and C.1, for the models of 1.3 and 6 billion parameters: "16 epochs with
    residual dropout of 0.2", "cosine LR schedule down to 10% of the original learning rate, with no learning rate
    warmup", "LR of 9.65e-6 and a batch size of 32", Adam with betas of 0.9 and 0.95; and all weights."""
    config = Config(**sft.PRESETS["instructgpt"])
    assert (config.epochs, config.dropout, config.batch_size, config.lr) == (16, 0.2, 32, 9.65e-6)
    assert (config.schedule, config.lr_floor, config.warmup, config.lora_rank) == ("cosine", 0.1, 0.0, 0)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = Optimiser.of(config, [weight], steps=1000)
    rates = []
    for _ in range(1000):
        weight.grad = torch.ones(1)
        rates.append(optimiser.step()["lr"])
    assert rates[0] == 9.65e-6 and rates[-1] == pytest.approx(0.965e-6, rel=1e-3)
    assert rates == sorted(rates, reverse=True)
    assert {group["betas"] for group in optimiser.adam.param_groups} == {(0.9, 0.95)}


# ---- the whole


@pytest.mark.parametrize("rank", [0, 8])
def test_an_answer_is_learned_by_heart(tiny_llama: Path, tmp_path: Path, rank: int) -> None:
    """The trained model, loaded by the name that comes back, gives the answer greedily and stops."""
    data = write(tmp_path / "one.jsonl", {"prompt": "Knock, knock.", "completion": "Who is there?", "split": "train"})
    name = train(
        settings(tmp_path, tiny_llama, data=data, epochs=25, every=100, lr=0.01, lora_rank=rank, schedule="constant")
    )
    measured = lines(tmp_path / "run")
    assert measured[-1]["loss"] < 0.05 < measured[0]["loss"]
    [[answer]] = load(name, engine="transformers")(["Knock, knock."], Sampling(temperature=0.0, max_new_tokens=40))
    assert (answer.text, answer.finish_reason) == ("Who is there?", "stop")
    assert (Path(name) / "adapter").exists() == bool(rank)


def test_held_out_figures_do_not_depend_on_the_budget(tiny_llama: Path, tmp_path: Path) -> None:
    config = settings(tmp_path, tiny_llama, held_out=0.5)
    learner = Learner.load(config, ALONE)
    _, held_out = read(config, learner.tokenizer, ALONE)
    assert len(held_out) > 5
    small, large = (sft.measure(learner, held_out, budget) for budget in (1, 10_000))
    assert small == pytest.approx(large, rel=1e-5) and set(small) == {"held_out_loss", "held_out_entropy"}
    assert sft.measure(learner, [], 100) == {}


def test_cutting_the_steps_changes_nothing_but_rounding(tiny_llama: Path, tmp_path: Path) -> None:
    for tokens in (20, 4000):
        train(settings(tmp_path, tiny_llama, tokens=tokens, out=str(tmp_path / str(tokens)), epochs=1))
    for small, large in zip(lines(tmp_path / "20"), lines(tmp_path / "4000"), strict=True):
        assert small == pytest.approx(large, rel=2e-3)


def test_a_diverging_run_stops_and_leaves_its_checkpoint(tiny_llama: Path, tmp_path: Path) -> None:
    config = settings(tmp_path, tiny_llama, lr=1e36, every=1, clip=0.0, warmup=0.0, lora_rank=0, schedule="constant")
    with pytest.raises(UserError, match=r"the gradients of step \d+ \(examples .*\) are not finite"):
        train(config)
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_an_endpoint_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be trained here"):
        train(settings(tmp_path, Path("anthropic:some-model")))


@pytest.mark.parametrize("changed", [{"lora_rank": 0}, {"top_layers": 1}], ids=["all weights", "kept trunk"])
def test_a_killed_run_goes_on_to_the_same_bits(tiny_llama: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    """Killed while the checkpoint of step 9 gets its name: steps 7 to 9 are lost and done again. Dropout draws on."""
    config = settings(tmp_path, tiny_llama, dropout=0.2, epochs=3, **changed)
    run_killed(config, "step-00000009")
    assert latest(tmp_path / "run" / "checkpoints").step == 6  # type: ignore[union-attr]
    resumed = Path(train(config, resume=True))
    whole = Path(train(replace(config, out=str(tmp_path / "whole"))))
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_finished_run_resumed_changes_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    config = settings(tmp_path, tiny_llama, epochs=1)
    name = Path(train(config))
    weights, measured = (name / "model.safetensors").read_bytes(), lines(tmp_path / "run")
    assert Path(train(config, resume=True)) == name
    assert (name / "model.safetensors").read_bytes() == weights and lines(tmp_path / "run") == measured


def test_another_setting_is_refused_on_the_way(tiny_llama: Path, tmp_path: Path) -> None:
    train(settings(tmp_path, tiny_llama, epochs=1))
    with pytest.raises(UserError, match="epochs was 1 and is 2"):
        train(settings(tmp_path, tiny_llama, epochs=2), resume=True)


def test_two_processes_train_the_same_model(tiny_llama: Path, tmp_path: Path) -> None:
    run_two(settings(tmp_path, tiny_llama, out=str(tmp_path / "two")), tmp_path)
    train(settings(tmp_path, tiny_llama, out=str(tmp_path / "one")))
    for two, one in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert two == pytest.approx(one, rel=2e-3)
