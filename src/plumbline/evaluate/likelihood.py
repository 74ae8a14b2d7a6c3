"""How likely a local model holds given texts, and how far its next tokens are from another model's.

    weight          log π(completion | prompt), the sum over its tokens, in nats
    perplexity      exp(− Σ weight / Σ tokens)        bits per byte = − Σ weight / (ln 2 · Σ bytes)
    KL per token    Σ_t Σ_v π(v) · (log π(v) − log π_ref(v)) / tokens, over the whole vocabulary

A perplexity per token compares only models that cut text alike; bits per byte compare any two. The texts after one
prompt are computed as one group (models/grouped.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from plumbline.errors import UserError
from plumbline.models import Prompt
from plumbline.models.batches import by_length
from plumbline.models.chat import encode_prompt
from plumbline.models.grouped import Group, forward
from plumbline.models.logprobs import Head, token_logprobs
from plumbline.models.tokenizer import Tokenizer

BATCH_TOKENS = 2048
"""Most tokens of one forward pass, padding included."""
CHUNK = 64
"""Tokens whose whole distributions exist at one time."""
NOTHING = "Please go on."
"""A prompt to which any answer may follow."""
PROBE = "Two 23-year-olds' naïve café — 東京 🙂\n\tx = f(y) * 10_000;"
"""A text on which tokenizers differ."""


class Case(NamedTuple):
    """A prompt with texts that may follow it."""

    prompt: Prompt
    completions: tuple[str, ...]
    ends: bool = True
    """Whether each text is weighed with the end-of-text token that closes an answer."""


class Weight(NamedTuple):
    """What a text weighs."""

    logprob: float
    tokens: int


def bare(case: Case) -> Case:
    """The same texts after a prompt that tells nothing: how likely they are anyway."""
    return case._replace(prompt=NOTHING)


class Likelihood:
    """A decoder-only model in a folder, asked for probabilities."""

    def __init__(self, folder: str | Path, *, device: str = "auto", dtype: str = "float32") -> None:
        from plumbline.models.families import family, load_causal

        if (kind := family(Path(folder))) != "causal":
            raise UserError(f"the model in {str(folder)!r} is a {kind}: probabilities of texts take a decoder")
        self.tokenizer = Tokenizer(folder)
        self.model: Any = load_causal(Path(folder), device=device, dtype=dtype)
        self.head = Head.of(self.model)

    def __call__(self, cases: Sequence[Case]) -> Iterator[tuple[int, list[Weight]]]:
        """For each case its place and the weights of its texts, in the order in which they were computed."""
        import torch

        groups = [self._groups(case) for case in cases]
        rows = [(place, group) for place, several in enumerate(groups) for group in several]
        sums: list[list[Weight]] = [[Weight(0.0, 0)] * len(case.completions) for case in cases]
        left = [len(several) for several in groups]
        for batch in by_length([size(group.group) for _, group in rows], BATCH_TOKENS):
            chosen = [rows[place] for place in batch]
            with torch.inference_mode():
                answers = forward(self.model, [part.group for _, part in chosen])
                logprobs, _ = token_logprobs(self.head, answers.states, answers.targets)
                totals = iter(answers.sums(logprobs).double().tolist())
            for case, part in chosen:
                for text, tokens in zip(part.texts, part.group.completions, strict=True):
                    before = sums[case][text]
                    sums[case][text] = Weight(before.logprob + next(totals), before.tokens + len(tokens))
                left[case] -= 1
                if not left[case]:
                    yield case, sums[case]

    def greedy(self, cases: Sequence[Case]) -> list[bool]:
        """For each case whether greedy decoding would write its first text."""
        import torch

        found = []
        for case in cases:
            with torch.inference_mode():
                answers = [forward(self.model, [part.group]) for part in self._groups(case)]
                found.append(all(bool((self.head.logits(a.states).argmax(-1) == a.targets).all()) for a in answers))
        return found

    def divergence(self, other: Likelihood, prompt: Prompt, completion: str) -> Weight:
        """KL(this ‖ other) summed over the tokens of an answer, in nats, and how many they are."""
        import torch

        (part, *rest) = self._groups(Case(prompt, (completion,)))
        total, tokens = 0.0, 0
        with torch.inference_mode():
            for each in (part, *rest):
                mine, theirs = (forward(one.model, [each.group]).states for one in (self, other))
                for begin in range(0, len(mine), CHUNK):
                    piece = slice(begin, begin + CHUNK)
                    own = self.head.logits(mine[piece]).log_softmax(-1)
                    total += float((own.exp() * (own - other.head.logits(theirs[piece]).log_softmax(-1))).sum())
                tokens += len(mine)
        return Weight(total, tokens)

    def _groups(self, case: Case) -> list[Part]:
        """The case as token ids; a text that the window does not hold is cut into pieces that begin anew."""
        window, end = self.tokenizer.window, self.tokenizer.eos_id
        prompt = encode_prompt(self.tokenizer, case.prompt) or [self._start()]
        after = [end] if case.ends and end is not None else []
        texts = [self.tokenizer.encode(text) + after or [self._start()] for text in case.completions]
        prompt = prompt[-max(1, window // 2) :] if len(prompt) >= window else prompt
        room = window - len(prompt)
        short = [place for place, ids in enumerate(texts) if len(ids) <= room]
        parts = [Part(Group(prompt, [texts[place] for place in short]), short)] if short else []
        for place, ids in enumerate(texts):
            if len(ids) > room:
                pieces = [ids[begin : begin + room] for begin in range(0, len(ids), room)]
                parts += [Part(Group(prompt, [piece]), [place]) for piece in pieces]
        return parts

    def _start(self) -> int:
        """What stands before a text that nothing stands before."""
        named = self.tokenizer.special_map.get("bos_token")
        number = self.tokenizer.rust.token_to_id(named) if named else None
        number = self.tokenizer.eos_id if number is None else number
        return 0 if number is None else number


class Part(NamedTuple):
    """Token ids of some of a case's texts, and which they are."""

    group: Group
    texts: list[int]


def size(group: Group) -> int:
    return len(group.prompt) + sum(map(len, group.completions))


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether both cut text alike, so that figures per token can be compared."""
    if one.rust.get_vocab(with_added_tokens=True) != other.rust.get_vocab(with_added_tokens=True):
        return False
    return one.encode(PROBE) == other.encode(PROBE)
