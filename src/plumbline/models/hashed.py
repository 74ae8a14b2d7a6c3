"""A linear classifier of hashed n-grams as a `Score`: no torch, a millisecond an answer, and nobody's text in it.

    score(x) = b + Σ_kinds  w · φ_kind(x) / |φ_kind(x)|
    φ_kind(x)_h = 1 where some n-gram of that kind in x has the hash h, else 0      h = crc32(kind, n-gram) mod buckets

There are three kinds: words and runs of words, runs of characters, and words once more where they stand in the opening,
since an answer that refuses usually begins with it. Each kind weighs the same however long the text is. What is kept
is a vector of weights; which n-grams fell into a bucket cannot be read from it (feature hashing: Weinberger et al.
2009, arXiv 0902.2206). The scores are calibrated on texts that the weights were not fitted to: their sigmoid is meant
as a probability.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from plumbline.errors import BadModel, UserError
from plumbline.models import Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHIPPED = Path(__file__).with_name("shipped")
"""Where the classifiers that come with the package lie, each beside its card."""

FOLDS = 5


@dataclass(frozen=True)
class Features:
    """Which n-grams are looked at."""

    buckets: int = 1 << 17
    words: int = 2
    """The longest run of words."""
    characters: tuple[int, int] = (3, 5)
    """The shortest and the longest run of characters."""
    opening: int = 80
    """Characters at the beginning whose words count once more; 0 for none."""
    reads: int = 2000
    """Characters of a text that are read."""

    def places(self, text: str) -> list[list[int]]:
        """For every kind that the text has any of, the buckets of its n-grams, each once, in order."""
        text = normalised(text[: self.reads])
        kinds = {"w": self._words(text), "c": self._characters(text), "o": self._words(text[: self.opening])}
        found = [
            sorted({crc32(f"{kind}{gram}".encode()) % self.buckets for gram in grams}) for kind, grams in kinds.items()
        ]
        return [places for places in found if places]

    def _words(self, text: str) -> Iterator[str]:
        words = re.findall(r"\w+(?:'\w+)*|[^\w\s]", text)
        for size in range(1, self.words + 1):
            for begin in range(len(words) - size + 1):
                yield " ".join(words[begin : begin + size])

    def _characters(self, text: str) -> Iterator[str]:
        padded = f" {text} " if text else ""
        for size in range(self.characters[0], self.characters[1] + 1):
            for begin in range(len(padded) - size + 1):
                yield padded[begin : begin + size]


def normalised(text: str) -> str:
    """One spelling for what reads alike: compatible forms, small letters, straight quotes, one blank, 0 for a digit."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("‘", "'")
    return re.sub(r"\d", "0", re.sub(r"\s+", " ", text)).strip()


class Hashed:
    """The classifier as a `Score`; it reads the completion alone."""

    def __init__(self, weights: NDArray[np.float32], bias: float, features: Features, name: str) -> None:
        assert weights.shape == (features.buckets,), f"{weights.shape} weights for {features.buckets} buckets"
        self.weights, self.bias, self.features, self.name = weights, bias, features, name

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One number per pair of prompt and completion, in the order given."""
        if len(prompts) != len(completions) or isinstance(prompts, str) or isinstance(completions, str):
            raise UserError(
                f"{len(prompts)} prompts and {len(completions)} completions were given: give two lists of one length"
            )
        return [self.score(completion) for completion in completions]

    def score(self, text: str) -> float:
        """The log-odds of one text."""
        kinds = self.features.places(text)
        return self.bias + sum(float(self.weights[places].sum()) / math.sqrt(len(places)) for places in kinds)

    def save(self, path: str | Path) -> None:
        """Writes weights, bias and features into one safetensors file."""
        import numpy as np
        from safetensors.numpy import save_file

        about = {"bias": repr(self.bias), "features": json.dumps(asdict(self.features))}
        save_file({"weights": self.weights.astype(np.float16)}, path, metadata=about)

    @classmethod
    def load(cls, path: str | Path, name: str | None = None) -> Hashed:
        """The classifier in that file."""
        import numpy as np
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as file:
                about: dict[str, str] = file.metadata() or {}
                weights: NDArray[Any] = file.get_tensor("weights").astype(np.float32)
            kept = json.loads(about["features"])
            features = Features(**{**kept, "characters": tuple(kept["characters"])})
            return cls(weights, float(about["bias"]), features, name or Path(path).stem)
        except (SafetensorError, KeyError, OSError, TypeError, ValueError) as error:
            raise BadModel(f"{str(path)!r} is no hashed classifier: {error}; write one with Hashed.save") from error

    @classmethod
    def shipped(cls, name: str) -> Hashed:
        """One that comes with the package."""
        return cls.load(SHIPPED / f"{name}.safetensors", name)


# ---- how one is made


def fit(
    texts: Sequence[str],
    labels: Sequence[bool],
    *,
    name: str,
    penalty: float,
    features: Features | None = None,
    groups: Sequence[Any] | None = None,
) -> Hashed:
    """Logistic regression with a quadratic penalty, then calibrated on what was left out of each fold.

        J(w, b) = 1/n · Σ log(1 + exp(−y · score(x)))  +  penalty / 2 · |w|²

    Texts of one group fall into one fold; without groups every text is its own.
    """
    import numpy as np

    features = features or Features()
    table, signs = matrix(texts, features), np.where(labels, 1.0, -1.0)
    used = np.unique(table.indices)  # most buckets stay empty, and their weights nought
    weights, bias = calibrated(table[:, used], signs, penalty, groups or texts)
    kept = np.zeros(features.buckets, dtype=np.float32)
    kept[used] = weights
    return Hashed(kept, bias, features, name)


def calibrated(
    table: Any, signs: NDArray[np.float64], penalty: float, groups: Sequence[Any]
) -> tuple[NDArray[np.float64], float]:
    """Weights and bias over a table (texts, features), moved and stretched by a fit to what each fold left out."""
    import numpy as np

    assert len(set(signs.tolist())) == 2, "both classes are needed"
    folds = np.array([crc32(repr(group).encode()) % FOLDS for group in groups])
    left_out = np.zeros(len(signs))
    for fold in set(folds.tolist()):
        weights, bias = logistic(table[folds != fold], signs[folds != fold], penalty)
        left_out[folds == fold] = table[folds == fold] @ weights + bias
    slope, shift = logistic(left_out[:, None], signs, 1e-6)
    weights, bias = logistic(table, signs, penalty)
    return slope[0] * weights, float(slope[0]) * bias + shift


def matrix(texts: Sequence[str], features: Features) -> Any:
    """The texts' features as a sparse matrix (texts, buckets)."""
    import numpy as np
    from scipy.sparse import csr_array

    rows, columns, values = [], [], []
    for row, text in enumerate(texts):
        for places in features.places(text):
            rows += [row] * len(places)
            columns += places
            values += [1 / math.sqrt(len(places))] * len(places)
    # What falls into one bucket twice, from two kinds, is added up, as in `score`.
    return csr_array((np.array(values), (rows, columns)), shape=(len(texts), features.buckets))


def logistic(table: Any, signs: NDArray[np.float64], penalty: float) -> tuple[NDArray[np.float64], float]:
    """The weights and the bias that minimise J over a table (texts, features) and signs ±1; the bias goes free."""
    import numpy as np
    from scipy.optimize import minimize

    count, width = table.shape

    def loss(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, margins = point[:width], signs * (table @ point[:width] + point[width])
        value = np.logaddexp(0, -margins).mean() + penalty / 2 * (weights @ weights)
        by_score = -signs / (1 + np.exp(np.minimum(margins, 500))) / count
        return float(value), np.append(table.T @ by_score + penalty * weights, by_score.sum())

    found = minimize(loss, np.zeros(width + 1), jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    assert found.success, found.message
    return found.x[:width], float(found.x[width])
