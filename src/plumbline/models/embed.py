"""Texts to vectors: local sentence embedders, and one door to the remote ones.

A local embedder is an encoder in a transformers-style folder. Where sentence-transformers' files lie beside it
(modules.json, 1_Pooling/config.json, sentence_bert_config.json) they say how tokens become one vector and how much of
a text is read. Every row has unit length, whether or not those files ask for it, so a dot product is a cosine.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from plumbline.errors import BadModel, UserError
from plumbline.models import Embed
from plumbline.models.batches import by_length, pad_right
from plumbline.models.encoder import Reader

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

BATCH_TOKENS = 4096
"""Most tokens of one forward pass, padding included."""

Pooling = Literal["mean", "cls", "max"]

_POOLINGS: dict[str, Pooling] = {
    "mean": "mean",
    "cls": "cls",
    "max": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
"""The two ways in which a pooling file names a mode; the longer one is older and has a switch for each."""

_say = logging.getLogger(__name__)


def load_embedder(name: str = "minilm", *, device: str = "auto") -> Embed:
    """The embedder of that name: a bundled one, a local folder, a hub id, or `openai:MODEL@URL`."""
    from plumbline.models.resolve import resolve

    source = resolve(name)
    if source.kind == "openai":
        from plumbline.models.remote import RemoteEmbed

        return RemoteEmbed(source.model, source.url)
    if source.kind != "folder":
        raise UserError(
            f"{name!r} gives no embeddings: use 'minilm', the folder or hub id of an encoder, or openai:MODEL@URL"
        )
    return Embedder(source.folder, name=source.name, device=device)


class Embedder:
    """A local encoder as an `Embed`. A text's vector does not depend on what else is in the call.

    A text above `limit` tokens loses its end; `truncated` counts those so far.
    """

    def __init__(self, folder: str | Path, *, name: str | None = None, device: str = "auto") -> None:
        from plumbline.models.families import load_encoder

        folder = Path(folder)
        self.name = name or folder.name
        layout = _read_layout(folder)
        self.pooling = layout.pooling
        self.truncated = 0
        self._lower = layout.lower
        self._model = load_encoder(folder, device=device, dtype="float32")
        self._reader = Reader(folder, self._model, layout.limit)
        self.limit = self._reader.limit
        self.dimensions = int(self._model.config.hidden_size)

    def __call__(self, texts: Sequence[str]) -> NDArray[Any]:
        """One float32 row of unit length per text, in the order given (texts, dimensions)."""
        import numpy as np
        import torch

        if isinstance(texts, str):
            raise UserError(f"texts is the one string {texts!r}: give a list of texts")
        rows = [self._reader.read((text.lower() if self._lower else text).strip()) for text in texts]
        self.truncated += sum(row.cut for row in rows)
        vectors = np.empty((len(rows), self.dimensions), dtype=np.float32)
        with torch.inference_mode():
            for batch in by_length([len(row.ids) for row in rows], BATCH_TOKENS):
                ids, mask = pad_right([rows[place].ids for place in batch])
                ids, mask = ids.to(self._model.device), mask.to(self._model.device)
                hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
                pooled = pool(hidden, mask, self.pooling)
                vectors[batch] = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return vectors


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """One vector per row (batch, width) from its tokens' states (batch, time, width) and its mask (batch, time)."""
    if pooling == "cls":
        return hidden[:, 0]
    real = mask.bool()[:, :, None]
    if pooling == "max":
        return hidden.masked_fill(~real, float("-inf")).amax(1)
    return (hidden * real).sum(1) / mask.sum(1, keepdim=True)


class _Layout(NamedTuple):
    """What sentence-transformers' files in a folder ask for."""

    pooling: Pooling = "mean"
    limit: int | None = None
    lower: bool = False


def _read_layout(folder: Path) -> _Layout:
    if not (folder / "modules.json").is_file():
        _say.warning("%r says nothing about pooling (no modules.json): taking the mean over the tokens", str(folder))
        return _Layout()
    try:
        modules = {module["type"].rpartition(".")[2]: module["path"] for module in _read_json(folder / "modules.json")}
    except (AttributeError, KeyError, TypeError) as error:
        raise BadModel(
            f"{str(folder / 'modules.json')!r} is not a list of modules, each with type and path: save it anew"
        ) from error
    strange = [kind for kind in modules if kind not in ("Transformer", "Pooling", "Normalize")]
    if strange or modules.get("Transformer") != "" or "Pooling" not in modules:
        raise BadModel(
            f"the embedder in {str(folder)!r} is built of {list(modules)!r} and we run Transformer (in the folder "
            "itself), Pooling and Normalize only: choose another embedder, or serve this one and name it "
            "openai:MODEL@URL"
        )
    settings = folder / "sentence_bert_config.json"
    reading = _read_json(settings) if settings.is_file() else {}
    return _Layout(
        _read_pooling(folder / modules["Pooling"] / "config.json"),
        reading.get("max_seq_length"),
        bool(reading.get("do_lower_case")),
    )


def _read_pooling(path: Path) -> Pooling:
    config = _read_json(path)
    switched_on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    asked = config.get("pooling_mode", switched_on)
    modes = [asked] if isinstance(asked, str) else list(asked)
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise BadModel(
            f"{str(path)!r} asks for the pooling {modes!r} and we know mean, cls and max, one at a time: choose "
            "another embedder, or serve this one and name it openai:MODEL@URL"
        )
    return _POOLINGS[modes[0]]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadModel(f"{str(path)!r} does not hold readable JSON: {error}") from error
