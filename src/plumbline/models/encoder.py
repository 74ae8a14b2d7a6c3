"""How an encoder reads text: one text or a pair, with the tokens the model puts around them, never above its limit.

The same way in training and in scoring.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from plumbline.models.batches import pad_right
from plumbline.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch


class Row(NamedTuple):
    """One input: token ids, for each the text it belongs to (0 or 1), and whether something was cut."""

    ids: list[int]
    types: list[int]
    cut: bool


class Reader:
    """Texts to rows of at most `limit` tokens. A special token spelled in a text becomes ordinary tokens."""

    def __init__(self, folder: Path, model: Any, limit: int | None = None) -> None:
        tokenizer = Tokenizer(folder)
        most = _places(model) or tokenizer.window
        self.limit = min(limit or most, most)
        self._rust = tokenizer.rust
        self._rust.encode_special_tokens = True

    def read(self, text: str) -> Row:
        """One text; what is too long loses its end."""
        pieces = self._rust.encode(text, add_special_tokens=False)
        room = self.limit - self._rust.num_special_tokens_to_add(False)
        cut = len(pieces) > room
        if cut:
            pieces.truncate(room)
        return _row(self._rust.post_process(pieces), cut)

    def read_pair(self, first: str, second: str) -> Row:
        """Two texts; what is too long loses the beginning of the first, then the end of the second."""
        one = self._rust.encode(first, add_special_tokens=False)
        two = self._rust.encode(second, add_special_tokens=False)
        room = self.limit - self._rust.num_special_tokens_to_add(True)
        cut = len(one) + len(two) > room
        if cut:
            two.truncate(min(len(two), room))
            one.truncate(room - len(two), direction="left")
        return _row(self._rust.post_process(one, two), cut)


def class_outputs(model: Any, rows: Sequence[Row]) -> torch.Tensor:
    """(rows, classes) from a classifier whose own head finds the place that it reads."""
    config, device = model.config, model.device
    ids, mask = pad_right([row.ids for row in rows])
    # A head that finds its token by id must be able to tell padding from it.
    inputs = {"input_ids": ids.masked_fill(mask == 0, config.pad_token_id or 0), "attention_mask": mask}
    if getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"], _ = pad_right([row.types for row in rows])
    outputs: torch.Tensor = model(**{name: value.to(device) for name, value in inputs.items()}).logits
    return outputs


def _row(whole: Any, cut: bool) -> Row:
    # A tokenizer that puts nothing around a text leaves an empty one without a token to attend to.
    return Row(whole.ids or [0], whole.type_ids or [0], cut)


def _places(model: Any) -> int | None:
    """Most tokens the model's position table has room for, None where it has no such table.

    RoBERTa and its kin number positions from their padding id on: a table of 514 has room for 512.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and hasattr(module, "padding_idx"):
            unused = 0 if module.padding_idx is None else int(module.padding_idx) + 1
            return int(module.num_embeddings) - unused
    return None
