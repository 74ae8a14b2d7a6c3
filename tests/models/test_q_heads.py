"""Q heads of low rank: their equation, what they save, and the policy that they guide."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import plumbline
from plumbline.errors import BadModel, UserError
from plumbline.models import Sampling
from plumbline.models.engines import open_local
from plumbline.models.families import load_causal
from plumbline.models.generate import Reference
from plumbline.models.q_heads import CARD, FILE, QHead, save_q_heads


def drawn(hidden: int, vocabulary: int, rank: int, seed: int = 0, level: float = 0.0) -> QHead:
    """A head that has learned something, whatever it is."""
    torch.manual_seed(seed)
    head = QHead(hidden, vocabulary, rank, level=level)
    head.up.data.normal_()
    return head


def test_it_is_the_equation() -> None:
    head = QHead(2, 3, rank=1)
    head.down.data = torch.tensor([[1.0, -1.0]])
    head.up.data = torch.tensor([[1.0], [0.0], [-2.0]])
    head.level.data = torch.tensor(0.5)
    states = torch.tensor([[3.0, 1.0], [0.0, 1.0]])
    expected = torch.tensor([[2.0, 0.0, -4.0], [-1.0, 0.0, 2.0]]) + 0.5
    assert torch.equal(head(states), expected)
    assert head.tokens(states, torch.tensor([2, 0])).tolist() == [-3.5, -0.5]


def test_at_the_start_every_token_is_worth_the_level() -> None:
    assert torch.equal(QHead(8, 5, rank=4, level=1.5)(torch.randn(3, 8)), torch.full((3, 5), 1.5))


def test_a_head_of_full_rank_is_a_full_head() -> None:
    """Any matrix is u · D with D = 1, and one of rank r with D of r rows: values, log-probs and gradients agree."""
    torch.manual_seed(0)
    full, states, tokens = torch.randn(30, 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64), [4] * 9
    head = QHead(6, 30, rank=6, dtype=torch.float64)
    head.down.data, head.up.data = torch.eye(6, dtype=torch.float64), full
    theirs, mine = states.clone().requires_grad_(), states.clone().requires_grad_()
    torch.testing.assert_close(head(mine), theirs @ full.T)
    ours = head.tokens(mine, torch.tensor(tokens)).square() - head.logprobs(mine, torch.tensor(tokens))
    plain = (theirs @ full.T)[:, 4].square() - (theirs @ full.T).log_softmax(-1)[:, 4]
    torch.testing.assert_close(ours, plain)
    ours.sum().backward()
    plain.sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_four_heads_are_a_twentieth_of_the_bundled_model_where_full_ones_would_be_most_of_it() -> None:
    """Its vocabulary is 49,152, its states have 576 numbers, and it has 134,515,008 in all."""
    with torch.device("meta"):
        numbers = sum(each.numel() for each in QHead(576, 49_152, rank=32, device="meta").parameters())
    assert numbers == (576 + 49_152) * 32 + 1
    assert 4 * numbers < 0.05 * 134_515_008 and 4 * 576 * 49_152 > 0.8 * 134_515_008


# ---- the guided policy


@pytest.fixture(scope="module")
def guided(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def get(family: str) -> Path:
        folder = tmp_path_factory.mktemp("guided") / family
        shutil.copytree(tiny_model(family), folder)
        rows, hidden = load_causal(folder, device="cpu").get_output_embeddings().weight.shape
        save_q_heads(folder, [drawn(hidden, rows, 4, seed) for seed in (0, 1)], beta=0.5)
        return folder

    return get


@pytest.mark.parametrize("family", ["llama", "gpt2", "glm4"])
def test_answers_are_drawn_from_the_guided_policy(guided: Callable[[str], Path], family: str) -> None:
    """log π + β min(Q₁, Q₂), written out with the model's own logits, at every token of a ragged batch's answers."""
    folder = guided(family)
    generate = plumbline.load(str(folder))
    assert isinstance(generate, Reference)
    heads = [drawn(64, generate.model.config.vocab_size, 4, seed) for seed in (0, 1)]
    prompts = [[5, 6, 7, 8, 9, 10, 11], [20, 21]]
    answers = generate(prompts, Sampling(n=2, max_new_tokens=6, temperature=0.8, seed=3))
    for prompt, samples in zip(prompts, answers, strict=True):
        for answer in samples:
            ids = torch.tensor([[*prompt, *answer.tokens]])
            with torch.no_grad():
                output = generate.model(ids, output_hidden_states=True)
            states = output.hidden_states[-1][0, len(prompt) - 1 : -1]
            worth = torch.minimum(heads[0](states), heads[1](states))
            logits = output.logits[0, len(prompt) - 1 : -1].log_softmax(-1) + 0.5 * (worth - 17.0)
            expected = (logits / 0.8).log_softmax(-1)[torch.arange(len(answer.tokens)), list(answer.tokens)]
            torch.testing.assert_close(torch.tensor(answer.logprobs), expected, rtol=1e-3, atol=1e-4)


def test_without_beta_it_is_the_policy_alone(guided: Callable[[str], Path], tiny_llama: Path) -> None:
    folder = guided("llama")
    (folder / CARD).write_text('{"beta": 0}')
    greedy = Sampling(temperature=0.0, max_new_tokens=12)
    ours, theirs = (plumbline.load(str(each), engine="transformers")(["Why?"], greedy) for each in (folder, tiny_llama))
    assert ours[0][0].tokens == theirs[0][0].tokens
    (folder / CARD).write_text('{"beta": 30}')
    assert plumbline.load(str(folder))(["Why?"], greedy)[0][0].tokens != theirs[0][0].tokens


def test_no_other_engine_drops_the_heads_in_silence(guided: Callable[[str], Path]) -> None:
    folder = guided("llama")
    with pytest.raises(UserError, match="does not add the Q heads of 'mine': use --engine transformers"):
        open_local(folder, name="mine", engine="openvino")
    assert isinstance(open_local(folder, name="mine"), Reference)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / CARD).unlink(), "does not say beta: write"),
        (lambda folder: (folder / CARD).write_text('{"beta": "high"}'), "has the beta 'high': it must be a finite"),
        (lambda folder: (folder / CARD).write_text(json.dumps({"beta": float("nan")})), "has the beta nan"),
        (lambda folder: (folder / FILE).write_bytes(b"x" * 99), "does not hold Q heads"),
        (
            lambda folder: save_q_heads(folder, [drawn(32, 512, 4)], beta=1.0),
            "holds Q heads for 512 tokens and states of 32 numbers, and its model has 512 and 64",
        ),
    ],
)
def test_what_is_wrong_with_the_files_is_said(
    guided: Callable[[str], Path], change: Callable[[Path], object], said: str
) -> None:
    folder = guided("llama-tied")
    change(folder)
    with pytest.raises(BadModel, match=said):
        plumbline.load(str(folder))
    shutil.rmtree(folder)
