"""Our reward models as a `Score`: a language model with a scalar head, read at each answer's last token.

An answer is read the way it was in training: after its prompt, with exactly one end-of-text token. Answers to one
prompt are computed as one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plumbline.errors import BadModel, UserError
from plumbline.models import Prompt
from plumbline.models.batches import by_length
from plumbline.models.chat import encode_prompt
from plumbline.models.grouped import Group, forward
from plumbline.models.heads import ScalarHead
from plumbline.models.tokenizer import Tokenizer

BATCH_TOKENS = 4096
"""Most tokens of one forward pass, padding included."""


class RewardModel:
    """A reward for each answer: mean 0 and spread 1 over the answers that it was made with.

    An input above the window loses the beginning of its prompt, then the end of its completion; `truncated` counts
    those so far.
    """

    def __init__(
        self, folder: str | Path, *, name: str | None = None, device: str = "auto", dtype: str = "float32"
    ) -> None:
        from plumbline.models.families import load_causal

        self.name = name or Path(folder).name
        self._model: Any = load_causal(folder, device=device, dtype=dtype)
        self._head = ScalarHead.load(folder, device=self._model.device)
        self._tokenizer = Tokenizer(folder)
        if self._tokenizer.eos_id is None:
            raise BadModel(f"{str(folder)!r} names no end-of-text token: put eos_token into its tokenizer_config.json")
        self.truncated = 0

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One number per pair of prompt and completion, in the order given."""
        import torch

        if len(prompts) != len(completions) or isinstance(prompts, str) or isinstance(completions, str):
            raise UserError(
                f"{len(prompts)} prompts and {len(completions)} completions were given: give two lists of one length"
            )
        together: dict[tuple[int, ...], list[int]] = {}
        answers: list[list[int]] = []
        for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            asked, answer = self._encode(prompt, completion)
            together.setdefault(tuple(asked), []).append(place)
            answers.append(answer)
        groups = list(together.items())
        sizes = [len(asked) + sum(len(answers[place]) for place in places) for asked, places in groups]
        scores = [0.0] * len(answers)
        with torch.inference_mode():
            for batch in by_length(sizes, BATCH_TOKENS):
                chosen = [groups[number] for number in batch]
                last = forward(
                    self._model, [Group(asked, [answers[place] for place in places]) for asked, places in chosen]
                ).last
                order = [place for _, places in chosen for place in places]
                for place, score in zip(order, self._head(last).tolist(), strict=True):
                    scores[place] = score
        return scores

    def _encode(self, prompt: Prompt, completion: str) -> tuple[list[int], list[int]]:
        assert self._tokenizer.eos_id is not None
        asked, answer = encode_prompt(self._tokenizer, prompt), self._tokenizer.encode(completion)
        room = self._tokenizer.window - 1  # one place is the end-of-text token's
        over = len(asked) + len(answer) - room
        if over > 0:
            self.truncated += 1
            answer = answer[: room - 1]
            asked = asked[-(room - len(answer)) :]
        return asked, [*answer, self._tokenizer.eos_id]
