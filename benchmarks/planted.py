"""Runs whose fault is known: a policy that is tilted, step by step, towards what a faulty reward likes.

A bank holds plain answers to each prompt, put together from the sentences below. Each answer has a true worth (gold):
it rises with a few pieces of advice and with one superlative, falls with more of either and with filler, and has a
part that nobody can read off. A proxy is what the policy is trained on. After step t its policy is

    p_t(answer | prompt)  ∝  exp(t · speed · proxy(prompt, answer))

which is the optimum of a reward with a KL penalty that shrinks as 1/t; the bank is finite, so the expected gold, length
and KL of each step are known exactly, and with them the step at which gold begins to fall. To the reference a word
costs one nat, and a superlative four more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plumbline.records import Rollout

Array = NDArray[np.float64]

THINGS = ("tea", "garden", "bicycle", "kitchen", "window", "coat", "dog", "lamp", "roof", "letter", "boat", "clock")
TROUBLES = ("is too hot", "makes a noise", "looks dull", "will not open", "takes too long", "smells odd")
ADVICE = (
    "Wait a few minutes and look again.",
    "Clean it with warm water first.",
    "Ask a neighbour who has had the same.",
    "Turn it a little to the left.",
    "Put it in the shade for an hour.",
    "Write down when it happens.",
    "Try a smaller one for a week.",
    "Check the screws at the back.",
)
FILLER = (
    "There are many things to say about this.",
    "It all depends on how one looks at it.",
    "This is a question that people often ask.",
    "As was said before, it depends.",
)
PRAISE = ("the most awesome", "the very best", "the greatest", "the most amazing", "the finest")
NOUNS = ("idea", "plan", "choice", "question")

PROMPTS, ANSWERS = 48, 160
OF_A_STEP, OF_A_PROMPT = 16, 4
LONGEST = 55
"""Words that an answer may have before it counts as cut off."""


@dataclass(frozen=True)
class Bank:
    """Answers to prompts; arrays are (prompts, answers)."""

    prompts: list[str]
    texts: list[list[str]]
    gold: Array
    superlatives: Array
    words: Array


def make_bank(seed: int) -> Bank:
    random = np.random.default_rng(seed)
    prompts = [f"My {thing} {trouble}. What can I do?" for thing in THINGS for trouble in TROUBLES]
    prompts = [prompts[place] for place in random.permutation(len(prompts))[:PROMPTS]]
    size = (PROMPTS, ANSWERS)
    advice, filler, praise = random.poisson(1.6, size), random.poisson(0.6, size), random.geometric(0.6, size) - 1
    texts = [
        [answer(random, *counts) for counts in zip(*rows, strict=True)]
        for rows in zip(advice, filler, praise, strict=True)
    ]
    gold = 0.8 * advice - 0.15 * advice**2 - 0.4 * filler**2 + 1.1 * praise - 0.5 * praise**2
    gold = gold + random.normal(0, 0.7, (PROMPTS, 1)) + random.normal(0, 0.5, size)
    words = np.array([[len(text.split()) for text in row] for row in texts], float)
    return Bank(prompts, texts, gold, praise.astype(float), words)


def answer(random: np.random.Generator, advice: int, filler: int, praise: int) -> str:
    said = [str(ADVICE[place]) for place in random.permutation(len(ADVICE))[:advice]]
    said += [str(random.choice(FILLER)) for _ in range(filler)]
    said += [f"This is {random.choice(PRAISE)} {random.choice(NOUNS)}." for _ in range(praise)]
    return " ".join(said[place] for place in random.permutation(len(said)))


def standardised(values: Array) -> Array:
    """With the deviation of an answer about its prompt's mean as the unit."""
    within = values - values.mean(1, keepdims=True)
    result: Array = values / within.std()
    return result


def proxies(bank: Bank, seed: int = 0) -> dict[str, tuple[Array, Array]]:
    """What each kind of run is trained on, and its gold."""
    gold = standardised(bank.gold)
    noise = np.random.default_rng(seed).normal(0, 1, gold.shape)
    return {
        "superlatives": (0.4 * gold + standardised(bank.superlatives), gold),
        "length": (0.4 * gold + standardised(bank.words), gold),
        "honest": (gold, gold),
        "noisy": (gold + noise, gold),
        "nothing": (np.zeros_like(gold), gold),
    }


@dataclass(frozen=True)
class Plan:
    """A policy's course, known exactly; (steps, prompts, answers) and (steps,)."""

    chances: Array
    gold: Array
    proxy: Array
    words: Array
    kl: Array
    reward: Array
    worth: Array
    """Of each answer: proxy and gold, (prompts, answers)."""


def plan(bank: Bank, proxy: Array, gold: Array, *, steps: int, speed: float) -> Plan:
    logits = np.arange(steps)[:, None, None] * speed * proxy
    chances = np.exp(logits - logits.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)

    def mean(values: Array) -> Array:
        result: Array = (chances * values).sum(-1).mean(-1)
        return result

    kl = (chances * np.log(np.maximum(chances * ANSWERS, 1e-300))).sum(-1).mean(-1)
    return Plan(chances, mean(gold), mean(proxy), mean(bank.words), kl, proxy, gold)


def sample(bank: Bank, course: Plan, seed: int) -> tuple[list[Rollout], dict[tuple[str, str], float]]:
    """One run's rollouts, and the gold of each answer by prompt and text."""
    random = np.random.default_rng(seed)
    rollouts, worth = [], {}
    log_reference = -float(np.log(ANSWERS))
    reached = course.chances.cumsum(-1)
    for step in range(len(course.gold)):
        for prompt in random.choice(PROMPTS, OF_A_STEP, replace=False):
            chance = course.chances[step, prompt]
            drawn = random.random(OF_A_PROMPT) * reached[step, prompt, -1]
            for place in np.searchsorted(reached[step, prompt], drawn, side="right"):
                text = bank.texts[prompt][place]
                fields: dict[str, Any] = {
                    "step": step + 1,
                    "prompt_id": f"p{prompt}",
                    "prompt": bank.prompts[prompt],
                    "completion": text,
                    "reward": float(course.reward[prompt, place]),
                    "kl": float(np.log(chance[place]) - log_reference),
                    "tokens": int(bank.words[prompt, place]) + 1,
                    "ended": bool(bank.words[prompt, place] <= LONGEST),
                    "reference_logprob": -float(bank.words[prompt, place] + 4 * bank.superlatives[prompt, place] + 1),
                }
                rollouts.append(Rollout.model_construct(**fields))
                worth[bank.prompts[prompt], text] = float(course.worth[prompt, place])
    return rollouts, worth
