"""A model with an output for each class, in training, which reads a text as `models.score` does.

    decoder   W h      h: the state of the one end-of-text token after the text, found by its place
    encoder   its family's own head

Saved, either is a folder that transformers loads as a sequence classifier. For a decoder, transformers takes the last
token that is not padding to be the text's last. Where padding and end-of-text are one token, as in many models, it
would read the token before the end. So the saved model gets another token as its padding, or, where there is no other,
none: then it is read right one text at a time, and batches are refused.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from plumbline.align.data import Limits
from plumbline.align.labels import Labelled, LabelledTexts, about
from plumbline.align.sft import count_tokens
from plumbline.errors import BadModel, UserError
from plumbline.models import Raw
from plumbline.models.adapters import TOKENIZER_FILES, Hats, LoRA
from plumbline.models.encoder import Reader, Row, class_outputs
from plumbline.models.families import family, quiet, read_config, start_classifier
from plumbline.models.grouped import Group, decoder_layers, recomputed
from plumbline.models.resolve import resolve
from plumbline.models.score import READS, plain_text, reads_last_token
from plumbline.models.tokenizer import Tokenizer
from plumbline.training.batches import size
from plumbline.training.devices import Process
from plumbline.training.learner import HAT, Learner
from plumbline.training.run import Settings

if TYPE_CHECKING:
    import torch

LM_WEIGHT = 0.5
"""λ for a decoder, as Radford et al. had it."""


@dataclass(frozen=True)
class Outputs:
    """What a model makes of some texts."""

    classes: torch.Tensor  # (texts, classes)
    logprobs: torch.Tensor | None = None  # (tokens,), of the texts' own tokens, where they were asked for
    entropy: torch.Tensor | None = None  # (tokens,)


def class_model(config: Settings, texts: LabelledTexts, lm_weight: float | None, process: Process) -> Decoder | Encoder:
    """The model that the settings name, with a head for these classes, the same on every process."""
    source = resolve(config.model)
    if source.kind != "folder":
        raise UserError(f"{config.model!r} cannot be trained here: name a local model or one from a hub")
    kind = family(source.folder)
    if kind == "causal":
        return Decoder(config, texts, LM_WEIGHT if lm_weight is None else lm_weight, process)
    if kind == "seq2seq":
        raise BadModel(f"{config.model!r} is an encoder-decoder: a classifier starts from an encoder or a decoder")
    if lm_weight:
        raise UserError(
            f"lm_weight is {lm_weight!r}: {config.model!r} is an encoder and predicts no next token: drop it"
        )
    return Encoder(config, source.folder, texts, process)


class Decoder:
    """A language model and one linear map."""

    def __init__(self, config: Settings, texts: LabelledTexts, lm_weight: float, process: Process) -> None:
        import torch
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

        self.learner = Learner.load(config, process)
        kind = self.learner.model.config.model_type
        if kind not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
            raise BadModel(f"transformers has no sequence classifier for models of type {kind!r}: start from another")
        self.classes, self.reads, self.lm_weight, self.process = texts.classes, texts.reads, lm_weight, process
        self.limits = Limits.of(self.learner.tokenizer, truncate=config.truncate_prompt)
        width = self.learner.model.get_output_embeddings().weight.shape[1]
        start = torch.randn(len(self.classes), width) / math.sqrt(width + 1)
        self.head = torch.nn.Parameter(start.to(process.device))  # (classes, width)
        process.spread([self.head])
        self.weights = [*self.learner.weights, self.head]

    def read(self, record: Labelled, left_out: list[str]) -> Group | None:
        """The text's token ids, all but the first as what follows it; None, told, where they do not fit."""
        asked = record.prompt if self.reads == "pair" else Raw("")
        group = self.limits.group(about(record), asked, [record.text], left_out)
        if group is None:
            return None
        ids = (*group.prompt, *group.completions[0])
        return Group(ids[:1], (ids[1:],))

    def size(self, group: Group) -> int:
        """Its tokens."""
        return size(group)

    def predicted(self, group: Group) -> int:
        """Its tokens that are predicted: all but the first."""
        return count_tokens([group])

    def prepare(self, groups: Sequence[Group], config: Settings) -> None:
        self.learner.prepare(groups, config)

    def working(self) -> AbstractContextManager[None]:
        return self.learner.working()

    def outputs(self, groups: Sequence[Group], *, lm: bool = False) -> Outputs:
        """With `lm` also how likely each token after the first is."""
        if not lm:
            return Outputs(self._classes(self.learner.answers(groups).last))
        answers, logprobs, entropy = self.learner.logprobs(groups)
        return Outputs(self._classes(answers.last), logprobs, entropy)

    def _classes(self, states: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.nn.functional.linear(states.to(self.head.dtype), self.head)

    def save(self, folder: Path) -> None:
        import torch

        tokenizer = self.learner.tokenizer
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as between:
            self.learner.save(Path(between))
            model: Any
            model, new = start_classifier(between, self.classes, device="cpu", dtype="float32")
        assert new == ["score.weight"], new
        with torch.no_grad():
            model.score.weight.copy_(self.head)
        padding = other_padding(tokenizer, model.config.vocab_size)
        model.config.pad_token_id = padding
        setattr(model.config, READS, self.reads)
        with quiet():
            model.save_pretrained(folder)
        copy_tokenizer(self.learner.folder, folder)
        set_padding(folder, None if padding is None else tokenizer.special_tokens[padding])


class Encoder:
    """BERT and its kin. It predicts no next token, so it has no language-model loss."""

    lm_weight = 0.0

    def __init__(self, config: Settings, folder: Path, texts: LabelledTexts, process: Process) -> None:
        self.folder, self.reads, self.process = Path(folder), texts.reads, process
        self.classes = as_before(folder, texts.classes)
        self.truncate, self.recompute = config.truncate_prompt, config.recompute
        self.model: Any
        self.model, new = start_classifier(folder, self.classes, device=str(process.device), dtype="float32")
        if reads_last_token(self.model):
            raise BadModel(
                f"{config.model!r} is a decoder without its vocabulary head: start from the language model it is of"
            )
        setattr(self.model.config, READS, self.reads)
        self.reader = Reader(self.folder, self.model)
        self.hats: Hats | None = None
        if config.lora_rank and not decoder_layers(self.model):
            raise UserError(f"{config.model!r} has no layers that adapters fit: pass --lora-rank 0")
        if config.lora_rank:
            body = f"{self.model.base_model_prefix}."
            named = list(self.model.named_parameters())
            head = [each for name, each in named if name in new or not name.startswith(body)]
            self.hats = Hats(self.model)
            self.hats.add(HAT, LoRA(rank=config.lora_rank, alpha=config.lora_alpha, top_layers=config.top_layers))
            self.weights = [*self.hats.parameters(HAT), *(each.requires_grad_(True) for each in head)]
        else:
            self.weights = list(self.model.requires_grad_(True).parameters())
        process.spread(self.weights)

    def read(self, record: Labelled, left_out: list[str]) -> Row | None:
        """The text, or the pair, as token ids; None, told, where they do not fit."""
        alone = self.reader.read(record.text)
        row = self.reader.read_pair(plain_text(record.prompt), record.text) if self.reads == "pair" else alone
        if not row.cut or (self.truncate and not alone.cut):
            return row
        hint = "shorten it" if alone.cut else "shorten its prompt, or pass --truncate-prompt to cut it from the left"
        left_out.append(
            f"{about(record)}: it is longer than the {self.reader.limit} tokens that the model reads: {hint}"
        )
        return None

    def size(self, row: Row) -> int:
        """Its tokens."""
        return len(row.ids)

    def predicted(self, row: Row) -> int:
        return 0

    def prepare(self, rows: Sequence[Row], config: Settings) -> None:
        """There is nothing that an encoder could compute beforehand."""

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        with self.hats.wearing(HAT) if self.hats else contextlib.nullcontext():
            yield

    def outputs(self, rows: Sequence[Row], *, lm: bool = False) -> Outputs:
        assert not lm, "an encoder predicts no next token"
        with self.process.autocast(), recomputed(self.model) if self.recompute else contextlib.nullcontext():
            return Outputs(class_outputs(self.model, rows).float())

    def save(self, folder: Path) -> None:
        if self.hats is not None:
            self.hats.export(HAT, folder)
            return
        with quiet():
            self.model.save_pretrained(folder)
        copy_tokenizer(self.folder, folder)


def as_before(folder: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The classes in the order of the classifier in the folder, where it has the same ones and so keeps its head."""
    labels = read_config(folder).get("id2label") or {}
    known = tuple(labels[number] for number in sorted(labels, key=int))
    return known if sorted(known) == sorted(classes) else classes


def other_padding(tokenizer: Tokenizer, words: int) -> int | None:
    """A special token that ends no text: the tokenizer's own padding, else the first one there is."""
    own = tokenizer.rust.token_to_id(tokenizer.special_map.get("pad_token", ""))
    able = [number for number in sorted(tokenizer.special_tokens) if number != tokenizer.eos_id and number < words]
    return own if own in able else next(iter(able), None)


def copy_tokenizer(source: Path, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copy2(source / name, folder / name)


def set_padding(folder: Path, token: str | None) -> None:
    """The saved tokenizer pads with this token, without one not at all."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (path := folder / name).is_file():
            said = json.loads(path.read_text(encoding="utf-8"))
            said.pop("pad_token", None)
            said |= {"pad_token": token} if token else {}
            path.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
