"""A model's tokenizer, read from its folder without transformers or torch.

`encode` treats its argument as content: text that spells a special token (`<|im_end|>` typed by a user) becomes
ordinary tokens, never the special one. `encode_markup` is for what a template wrote, and only there are special
tokens real. Masks come from lengths everywhere, so no method here speaks of padding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from plumbline.errors import BadModel

NO_WINDOW = 1 << 30
"""The window of a model whose config names none (T5's relative positions, say)."""


class Tokenizer:
    """Text to token ids and back, with the facts that decoding needs: end tokens, window, chat template."""

    def __init__(self, folder: str | Path) -> None:
        import tokenizers

        self.folder = Path(folder)
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise BadModel(
                f"{str(folder)!r} has no tokenizer.json: load it once with transformers' AutoTokenizer and save it "
                "there again with save_pretrained, which writes one"
            )
        try:
            self.rust = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise BadModel(f"{str(path)!r} is not a tokenizer that the tokenizers library reads: {error}") from error
        self.rust.no_truncation()
        self.rust.no_padding()
        self._config = _read_json(self.folder / "tokenizer_config.json")
        self._model = _read_json(self.folder / "config.json")
        self._generation = _read_json(self.folder / "generation_config.json")

    @cached_property
    def special_tokens(self) -> dict[int, str]:
        """Ids and texts of the tokens that only a template may write."""
        added = self.rust.get_added_tokens_decoder()
        return {number: token.content for number, token in added.items() if token.special and token.content}

    @cached_property
    def _special_text(self) -> re.Pattern[str] | None:
        texts = sorted(self.special_tokens.values(), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts))) if texts else None

    def find_special(self, text: str) -> list[str]:
        """The special tokens that `text` spells out."""
        return self._special_text.findall(text) if self._special_text else []

    def encode(self, text: str) -> list[int]:
        """Content to token ids; a special token spelled in it becomes ordinary tokens."""
        ids: list[int] = []
        begin = 0
        for match in self._special_text.finditer(text) if self._special_text else ():
            # A special token is matched as a whole, so cutting it after its first character takes its meaning away.
            cut = match.start() + 1
            ids += self.encode_markup(text[begin:cut])
            begin = cut
        return ids + self.encode_markup(text[begin:])

    def encode_markup(self, text: str) -> list[int]:
        """What a template wrote to token ids; special tokens in it are real."""
        return list(self.rust.encode(text, add_special_tokens=False).ids) if text else []

    def encode_raw(self, text: str) -> list[int]:
        """Text without a template, with what the model itself puts around a text (BERT's [CLS], T5's </s>)."""
        return list(self.rust.encode(text, add_special_tokens=True).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids to text, special tokens left out."""
        return str(self.rust.decode(list(ids), skip_special_tokens=True))

    def token_text(self, token: int) -> str:
        """One token as a person would read it, special ones by name."""
        return self.special_tokens.get(token) or str(self.rust.decode([token], skip_special_tokens=False))

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Every token that ends an answer, from the generation config, the model's and the tokenizer's own."""
        ids: set[int] = set()
        for config in (self._generation, self._model):
            value = config.get("eos_token_id")
            ids.update([value] if isinstance(value, int) else value or [])
        named = (
            self.rust.token_to_id(self.special_map.get("eos_token", "")) if "eos_token" in self.special_map else None
        )
        return frozenset(ids if named is None else ids | {named})

    @cached_property
    def eos_id(self) -> int | None:
        """The one token that training and scoring put after an answer."""
        named = self.special_map.get("eos_token")
        number = self.rust.token_to_id(named) if named else None
        return number if number is not None else min(self.eos_ids, default=None)

    @cached_property
    def special_map(self) -> dict[str, str]:
        """`bos_token`, `eos_token` and their kind, as texts, for templates."""
        names = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
        values = {name: self._config.get(name) for name in names}
        return {name: value["content"] if isinstance(value, dict) else value for name, value in values.items() if value}

    @cached_property
    def window(self) -> int:
        """Most tokens the model can attend to, from its config (a tokenizer's `model_max_length` may be 1e30)."""
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
            value = self._model.get(name)
            if isinstance(value, int) and value > 0:
                return value
        return NO_WINDOW

    @cached_property
    def vocabulary(self) -> int:
        """Rows of the model's output head, which can be more than the tokenizer has tokens."""
        return max(int(self._model.get("vocab_size") or 0), self.rust.get_vocab_size())

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja text of the chat template, None where the model has none."""
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        template = self._config.get("chat_template")
        if isinstance(template, list):  # several by name: the one called default
            template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
        return template


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadModel(f"{str(path)!r} does not hold JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadModel(f"{str(path)!r} holds a {type(value).__name__}, not a JSON object")
    return value
