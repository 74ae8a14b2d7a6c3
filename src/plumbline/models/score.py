"""Sequence classifiers as a `Score`: an encoder such as BERT, or a decoder with a classification head.

The score is the log-odds of one label: its sigmoid is the probability that the classifier gives the label.

    one output               score = z
    several, softmax         score = z_label - log Σ_{other} exp z_other     (two classes: z_label - z_other)
    several, no softmax      score = z_label                                 (problem_type multi-label or regression)

The label's own output z_label would not do as a reward where a softmax follows: the same number added to every output
changes no probability, so a policy could raise the reward without making the label any likelier.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plumbline.errors import BadModel, UserError
from plumbline.models import Prompt, Raw, Score
from plumbline.models.batches import by_length, pad_right
from plumbline.models.chat import conversation, encode_prompt, is_tokens
from plumbline.models.encoder import Reader, Row, class_outputs
from plumbline.models.functions import is_function, load_function
from plumbline.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

BATCH_TOKENS = 4096
"""Most tokens of one forward pass, padding included."""

Reads = Literal["completion", "pair"]

READS = "plumbline_reads"
"""Under which name the config of a classifier that was trained here keeps what it reads."""

SHIPPED: dict[str, Literal["hashed", "probe"]] = {"refusal": "hashed", "refusal-judge": "probe", "toxicity": "hashed"}
"""Scorers that come with the package; models/shipped/ has a card for each."""

_say = logging.getLogger(__name__)


def load_scorer(
    name: str, label: str | int | None = None, *, reads: Reads | None = None, device: str = "auto"
) -> Score:
    """The scorer of that name: one that ships, `file.py:function`, or a model: in the project, a folder, a hub id.

    Options as in `Classifier`; what ships takes none but the device, and a reward model has no labels.
    """
    from plumbline.models.heads import FILE
    from plumbline.models.resolve import resolve

    if name in SHIPPED:
        if label is not None or reads is not None:
            raise UserError(f"label is {label!r} and reads {reads!r}, and {name!r} knows both: leave them out")
        return shipped(name, device)
    if is_function(name):
        return load_function(name)
    source = resolve(name)
    if source.kind != "folder":
        raise UserError(f"{name!r} gives no scores: use the folder, the hub id or the project's name of a classifier")
    if (Path(source.folder) / FILE).is_file():
        from plumbline.models.reward import RewardModel

        if label is not None:
            raise UserError(f"label is {label!r}, and {name!r} is a reward model, which gives one number: leave it out")
        return RewardModel(source.folder, name=source.name, device=device)
    return Classifier(source.folder, label, reads=reads, name=source.name, device=device)


def shipped(name: str, device: str = "auto") -> Score:
    """A scorer that comes with the package."""
    if SHIPPED[name] == "hashed":
        from plumbline.models.hashed import Hashed

        return Hashed.shipped(name)
    from plumbline.models.probe import Probe

    return Probe.shipped(name, device=device)


class Classifier:
    """A sequence classifier as a `Score`. A score does not depend on what else is in the call.

    `label` chooses the class by name or number. One output needs none; of two classes the second is taken, as
    classifiers are commonly trained with 1 for yes, and said; more need one. Scores of two labels are different
    things, so the scorer's `name` ends with the label wherever there are several.

    `reads` is what the classifier was trained on: the completion alone, or the pair of prompt and completion. One of
    ours knows it; else an encoder reads the completion and a decoder the pair, unless told otherwise. A decoder reads
    the prompt through its chat template, and at the end exactly one end-of-text token, where its answer is taken.

    An input above the window loses the beginning of its prompt, then the end of its completion; `truncated` counts
    those so far. `dtype` is the model's precision; in bfloat16 a score moves a little with its batch.
    """

    def __init__(
        self,
        folder: str | Path,
        label: str | int | None = None,
        *,
        reads: Reads | None = None,
        name: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        from plumbline.models.families import load_classifier

        folder = Path(folder)
        name = name or folder.name
        if reads not in (None, "completion", "pair"):
            raise UserError(f"reads is {reads!r}: give 'completion' or 'pair'")
        model: Any = load_classifier(folder, device=device, dtype=dtype)
        labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
        self._place = find_label(labels, label, name)
        self.label: str = labels[self._place]
        self.name = name if len(labels) == 1 else f"{name}:{self.label}"
        if label is None and len(labels) == 2:
            _say.warning("%r has the classes %r: scoring %r; label= chooses", name, labels, self.label)
        self._alone = len(labels) == 1 or model.config.problem_type in ("multi_label_classification", "regression")
        reads = reads or getattr(model.config, READS, None)
        self._form = (_Decoder if reads_last_token(model) else _Encoder)(folder, model, reads)
        self.reads = self._form.reads
        self.truncated = 0

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One number per pair of prompt and completion, in the order given."""
        import torch

        if len(prompts) != len(completions) or isinstance(prompts, str) or isinstance(completions, str):
            raise UserError(
                f"{len(prompts)} prompts and {len(completions)} completions were given: give two lists of one length"
            )
        rows = [self._form.row(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        self.truncated += sum(row.cut for row in rows)
        scores = [0.0] * len(rows)
        with torch.inference_mode():
            for batch in by_length([len(row.ids) for row in rows], BATCH_TOKENS):
                outputs = self._form.outputs([rows[place] for place in batch]).float()
                picked = outputs[:, self._place] if self._alone else log_odds(outputs, self._place)
                for place, score in zip(batch, picked.tolist(), strict=True):
                    scores[place] = score
        return scores


def log_odds(outputs: torch.Tensor, label: int) -> torch.Tensor:
    """log p / (1 - p) of one class (batch,) under the softmax of the outputs (batch, classes)."""
    others = [place for place in range(outputs.shape[1]) if place != label]
    return outputs[:, label] - outputs[:, others].logsumexp(1)


def find_label(labels: Sequence[str], label: str | int | None, model: str) -> int:
    """The place of the label that is scored; a number may come as text, as it does from a command line."""
    known = ", ".join(f"{name!r} ({place})" for place, name in enumerate(labels))
    if label is None:
        if len(labels) > 2:
            raise UserError(f"{model!r} has {len(labels)} classes and no label was given: give one of {known}")
        return len(labels) - 1
    if label in labels:
        return labels.index(label)
    place = int(label) if str(label).isdecimal() else -1
    if not 0 <= place < len(labels):
        raise UserError(f"label is {label!r}, which {model!r} does not have: give one of {known}")
    return place


def plain_text(prompt: Prompt) -> str:
    """A prompt as an encoder reads it: one turn is its content, more are lines of `role: content`."""
    if isinstance(prompt, str):
        return prompt
    if is_tokens(prompt):
        raise UserError("the prompt is given as token ids, which belong to another model's tokenizer: give its text")
    messages = conversation(prompt).messages
    if len(messages) == 1:
        return messages[0]["content"] or ""
    return "\n".join(f"{message['role']}: {message['content'] or ''}" for message in messages)


def reads_last_token(model: Any) -> bool:
    """Whether the head is a decoder's: one linear map, `score`, of the state of a text's last token."""
    import torch

    return isinstance(getattr(model, "score", None), torch.nn.Linear)


class _Encoder:
    """A classifier whose own head finds the place it reads (BERT's first token, BART's last end token)."""

    def __init__(self, folder: Path, model: Any, reads: Reads | None) -> None:
        self.reads: Reads = reads or "completion"
        self._model = model
        self._reader = Reader(folder, model)

    def row(self, prompt: Prompt, completion: str) -> Row:
        if self.reads == "completion":
            return self._reader.read(completion)
        return self._reader.read_pair(plain_text(prompt), completion)

    def outputs(self, rows: Sequence[Row]) -> torch.Tensor:
        """(batch, classes)"""
        return class_outputs(self._model, rows)


class _Decoder:
    """A decoder with a head on its last token, which we find by length.

    The stock head takes the last token that is not padding. Where padding and end-of-text are one id, that is the
    token before the end.
    """

    def __init__(self, folder: Path, model: Any, reads: Reads | None) -> None:
        self.reads: Reads = reads or "pair"
        self._model = model
        self._model.config.use_cache = False
        self._tokenizer = Tokenizer(folder)
        end = self._tokenizer.eos_id
        if end is None:
            raise BadModel(f"{str(folder)!r} names no end-of-text token: put eos_token into its tokenizer_config.json")
        self._end = end

    def row(self, prompt: Prompt, completion: str) -> Row:
        asked = encode_prompt(self._tokenizer, prompt if self.reads == "pair" else Raw(""))
        answer = self._tokenizer.encode(completion)
        room = self._tokenizer.window - 1
        over = len(asked) + len(answer) - room
        if over > 0:
            answer = answer[:room]
            asked = asked[over:]
        return Row([*asked, *answer, self._end], [], over > 0)

    def outputs(self, rows: Sequence[Row]) -> torch.Tensor:
        """(batch, classes)"""
        import torch

        ids, mask = pad_right([row.ids for row in rows])
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        states = self._model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state  # (batch, time, width)
        last = mask.sum(1) - 1
        outputs: torch.Tensor = self._model.score(states[torch.arange(len(rows), device=last.device), last])
        return outputs
