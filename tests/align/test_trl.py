"""Loss and gradients of the reward model and of DPO equal those of TRL, for three ranked answers as for their pairs.

TRL computes every pair by itself, prompt included; we compute the prompt once and each answer once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.align.data import Order, Preference, compare, pairs_of
from plumbline.align.dpo import dpo_loss, ipo_loss
from plumbline.align.reward import reward_loss
from plumbline.models.families import load_causal
from plumbline.models.grouped import Group, forward
from plumbline.models.heads import ScalarHead
from plumbline.models.logprobs import Head, token_logprobs

pytestmark = pytest.mark.filterwarnings("ignore")  # the peer's own

END, PAD = 2, 0


def sets() -> list[Preference]:
    """Two prompts of different lengths; three answers ranked 2, 1, 3 and two ranked 1, 2."""
    made = []
    for prompt, answers, ranks in (
        (range(10, 40), ([50, 51, 52, END], [60, END], [70, 71, 72, 73, 74, END]), (2, 1, 3)),
        (range(80, 87), ([90, 91, END], [95, END]), (1, 2)),
    ):
        orders = (Order(ranks),)
        group = Group(list(prompt), [list(answer) for answer in answers])
        made.append(Preference("a set", group, orders, tuple(compare(orders, ties=True))))
    return made


def rows(example: Preference) -> list[dict[str, list[int]]]:
    """A set's pairs, as TRL tokenises them."""
    prompt, answers = list(example.group.prompt), [list(each) for each in example.group.completions]
    return [
        {"prompt_ids": prompt, "chosen_ids": answers[each.better], "rejected_ids": answers[each.worse]}
        for each in example.comparisons
    ]


def moved(folder: Path, model: Any) -> Any:
    """The model, a little away from what the folder holds, so that it is not its own reference."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def gradient(parameters: Any) -> torch.Tensor:
    return torch.cat([each.grad.flatten() for each in parameters if each.grad is not None])


def settings(kind: Any, folder: Path, **more: Any) -> Any:
    quiet = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "max_length": None}
    return kind(output_dir=str(folder / "trl"), **quiet, **more)


def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    loaded: Any = AutoTokenizer.from_pretrained(folder)
    loaded.pad_token = loaded.convert_ids_to_tokens(PAD)
    return loaded


def one_row(row: dict[str, Any]) -> Any:
    """A dataset that a trainer can be made with. Its name is given, since naming it by its content needs pickling."""
    import pyarrow  # type: ignore[import-not-found]
    from datasets import Dataset  # type: ignore[import-not-found]

    return Dataset(pyarrow.table({name: [value] for name, value in row.items()}), fingerprint="one-row")


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_dpo(tiny_llama: Path, tmp_path: Path, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trl = pytest.importorskip("trl", reason="TRL is installed only where it is measured against")
    policy = moved(tiny_llama, load_causal(tiny_llama, device="cpu", dtype="float32"))
    reference: Any = load_causal(tiny_llama, device="cpu", dtype="float32")
    monkeypatch.setattr(trl.DPOTrainer, "_prepare_dataset", lambda _, dataset, *__: dataset)  # rows are given below
    trainer = trl.DPOTrainer(
        policy,
        ref_model=reference,
        args=settings(trl.DPOConfig, tmp_path, beta=0.2, loss_type=loss),
        processing_class=tokenizer(tiny_llama),
        train_dataset=one_row({"prompt": "Hi", "chosen": "a", "rejected": "b"}),
    )
    parameters = list(policy.parameters())
    per_set = []
    for example in sets():
        policy.zero_grad()
        theirs = trainer.compute_loss(policy, trainer.data_collator(rows(example)))
        theirs.backward()
        per_set.append((theirs.item(), gradient(parameters)))

    policy.zero_grad()
    groups = [example.group for example in sets()]
    ratios = []
    for model in (policy, reference):
        with torch.set_grad_enabled(model is policy):
            answers = forward(model, groups, path="grouped")
            ratios.append(answers.sums(token_logprobs(Head.of(model), answers.states, answers.targets)[0]))
    ours = ratios[0] - ratios[1]
    pairs = pairs_of(sets(), sets())
    if loss == "ipo":
        lengths = torch.tensor([len(answer) for group in groups for answer in group.completions])
        found, _ = ipo_loss(ours / lengths, pairs, beta=0.2)
    else:
        found, _ = dpo_loss(ours, pairs, beta=0.2)
    found.backward()  # type: ignore[no-untyped-call]
    expected = sum(gradient for _, gradient in per_set) / len(per_set)
    assert found.item() == pytest.approx(sum(each for each, _ in per_set) / len(per_set), rel=1e-5)
    assert (gradient(parameters) - expected).norm() <= 1e-4 * expected.norm()


def test_reward(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trl = pytest.importorskip("trl", reason="TRL is installed only where it is measured against")
    from transformers import AutoModelForSequenceClassification

    classifier: Any = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1, pad_token_id=PAD)
    monkeypatch.setattr(trl.RewardTrainer, "_prepare_dataset", lambda _, dataset, *__: dataset)  # rows are given below
    trainer = trl.RewardTrainer(
        classifier,
        args=settings(trl.RewardConfig, tmp_path),
        processing_class=tokenizer(tiny_llama),
        train_dataset=one_row({"chosen_ids": [1, END], "rejected_ids": [1, 5, END]}),
    )
    head = ScalarHead(classifier.config.hidden_size)
    head.weight.data.copy_(classifier.score.weight.detach()[0])
    model: Any = load_causal(tiny_llama, device="cpu", dtype="float32")

    losses = []
    for example in sets():
        whole = [
            {name: [*row["prompt_ids"], *row[name]] for name in ("chosen_ids", "rejected_ids")} for row in rows(example)
        ]
        loss = trainer.compute_loss(classifier, trainer.data_collator(whole))
        (loss / len(sets())).backward()
        losses.append(loss.item())
    rewards = head(forward(model, [example.group for example in sets()], path="grouped").last)
    found, _ = reward_loss(rewards, pairs_of(sets(), sets()))
    found.backward()  # type: ignore[no-untyped-call]

    assert found.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    # Embeddings apart: torch takes no gradient of a padding token's, and the padding tokens are two different ones.
    theirs = torch.cat([gradient(classifier.model.layers.parameters()), gradient([classifier.score.weight])])
    ours = torch.cat([gradient(model.model.layers.parameters()), gradient([head.weight])])
    assert (ours - theirs).norm() <= 1e-4 * theirs.norm()
