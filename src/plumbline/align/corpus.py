"""One's own texts, made fit to learn from: read, freed of copies and of the least good, mixed and cut into pieces.

copies    two texts whose sets of five-word runs overlap by 4/5 or more (Jaccard); the first one stays. Candidates
          come from MinHash signatures in bands (Broder 1997; Lee et al. 2022, arXiv 2107.06499) and are compared
          exactly; a pair at the bound is missed once in 5,000.
quality   log-odds that a text is one of the good examples and not of the corpus: logistic regression on hashed
          words and pairs of words, as GPT-3's filter (Brown et al. 2020, arXiv 2005.14165, appendix A)
mixture   a source's share of what is learned, whatever its size: small ones are repeated, large ones sampled
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import BadRecord, UserError
from plumbline.formats import read_lines
from plumbline.models.grouped import Group
from plumbline.models.tokenizer import Tokenizer
from plumbline.records import Record, held_out, prompt_id
from plumbline.training.batches import shuffled

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAIN = {".txt", ".md", ".rst"}
LINES = {".jsonl", ".json"}
ALIKE = 0.8
RUN, BANDS, ROWS = 5, 16, 4
FEATURES = 1 << 16


class TextLine(Record):
    """A line of a JSON Lines file of texts."""

    text: str


@dataclass(frozen=True)
class Text:
    """A text and the source, by its place in the settings, that it came from."""

    text: str
    source: int


# ---- reading


def read_texts(paths: Sequence[str], left_out: list[str]) -> list[Text]:
    """The texts of files and folders. A plain file is one text, a line of a JSON Lines file is one (`text`)."""
    texts = []
    for source, path in enumerate(map(Path, paths)):
        if not path.exists():
            raise UserError(f"there is no file or folder {str(path)!r}: check its name")
        for file in files_of(path, left_out):
            texts += [Text(text, source) for text in texts_of(file, left_out) if text.strip()]
    return texts


def files_of(path: Path, left_out: list[str]) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
    other = sorted({each.suffix or each.name for each in files if each.suffix.lower() not in PLAIN | LINES})
    if other:
        kinds = ", ".join(sorted(PLAIN | LINES))
        left_out.append(f"{path}: files that are not {kinds} were not read ({', '.join(other[:5])})")
    return [each for each in files if each.suffix.lower() in PLAIN | LINES]


def texts_of(file: Path, left_out: list[str]) -> Iterator[str]:
    if file.suffix.lower() in LINES:
        yield from (line.text for line in read_lines([file], TextLine, left_out))
        return
    try:
        yield file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        left_out.append(f"{file}: is not UTF-8 (byte {error.start}): save it as UTF-8")


# ---- copies


def without_copies(texts: Sequence[Text]) -> list[Text]:
    """The texts, each kind once."""
    import numpy as np

    draw = np.random.default_rng(0)
    factors = draw.integers(1, 2**63, BANDS * ROWS, np.uint64) | np.uint64(1)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    kept: list[Text] = []
    runs: list[NDArray[Any]] = []
    for text in texts:
        mine = runs_of(text.text)
        signature = np.array([(factor * mine >> np.uint64(32)).min() for factor in factors])
        keys = [(band, row.tobytes()) for band, row in enumerate(signature.reshape(BANDS, ROWS))]
        near = {place for key in keys for place in buckets[key]}
        if any(overlap(mine, runs[place]) >= ALIKE for place in near):
            continue
        for key in keys:
            buckets[key].append(len(kept))
        kept.append(text)
        runs.append(mine)
    return kept


def overlap(a: NDArray[Any], b: NDArray[Any]) -> float:
    """The Jaccard index of two sets: what is in both over what is in either."""
    import numpy as np

    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


def runs_of(text: str) -> NDArray[Any]:
    """The text's runs of five words as a sorted set of 64-bit numbers; a shorter text is one run."""
    import numpy as np

    words = re.findall(r"\w+", text.lower()) or [text.strip()]
    ids = np.array([number_of(word) for word in words], np.uint64)
    total = np.zeros(max(1, len(ids) - RUN + 1), np.uint64)
    for place in range(min(RUN, len(ids))):
        total = total * np.uint64(0x9E3779B97F4A7C15) + ids[place : place + len(total)]
    return np.unique(total ^ (total >> np.uint64(29)))


@lru_cache(maxsize=1 << 18)
def number_of(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")


# ---- quality


def without_the_worst(texts: Sequence[Text], good: Sequence[Text], share: float) -> list[Text]:
    """The texts but for that share of them which is least like the good ones."""
    import numpy as np

    scores = likeness([each.text for each in texts], [each.text for each in good])
    worst = set(np.argsort(scores, kind="stable")[: round(share * len(texts))].tolist())
    return [text for place, text in enumerate(texts) if place not in worst]


def likeness(texts: Sequence[str], good: Sequence[str]) -> NDArray[Any]:
    """For each text the log-odds that it is a good one (texts,)."""
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import expit

    features = words_in([*texts, *good])
    label = np.repeat([0.0, 1.0], [len(texts), len(good)])
    weight = np.repeat([0.5 / len(texts), 0.5 / len(good)], [len(texts), len(good)])

    def loss(w: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        odds = features @ w
        value = weight @ (np.logaddexp(0, odds) - label * odds) + 0.5e-3 * w @ w
        return float(value), features.T @ (weight * (expit(odds) - label)) + 1e-3 * w

    fitted = minimize(loss, np.zeros(FEATURES), jac=True, method="L-BFGS-B", options={"maxiter": 100})
    odds: NDArray[Any] = features[: len(texts)] @ fitted.x
    return odds


def words_in(texts: Sequence[str]) -> Any:
    """Sparse rows of unit length (texts, FEATURES): how often words and pairs of words occur, hashed."""
    import numpy as np
    from scipy.sparse import csr_array

    columns: list[int] = []
    ends = [0]
    for text in texts:
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        pairs = map(" ".join, zip(words, words[1:], strict=False))
        columns += [zlib.crc32(each.encode()) % FEATURES for each in (*words, *pairs)]
        ends.append(len(columns))
    rows = csr_array((np.ones(len(columns)), columns, ends), shape=(len(texts), FEATURES))
    rows.sum_duplicates()
    rows.data = np.log1p(rows.data)
    lengths = np.sqrt(rows.multiply(rows).sum(1))
    return csr_array(rows.multiply(1 / np.maximum(lengths, 1e-12)[:, None]))


# ---- pieces


def pieces_of(text: str, tokenizer: Tokenizer, length: int) -> list[Group]:
    """The text and its end token in pieces that `length` tokens hold, each learned after the token before it.

    The first follows an end token, so every token of the text is learned exactly once.
    """
    assert tokenizer.eos_id is not None
    ids = [tokenizer.eos_id, *tokenizer.encode(text), tokenizer.eos_id]
    step = length - 1
    return [Group(ids[begin : begin + 1], [ids[begin + 1 : begin + length]]) for begin in range(0, len(ids) - 1, step)]


def shares(mixture: str, sources: int) -> list[float] | None:
    """The sources' shares that a text such as "3,1" asks for; None where it is empty."""
    if not mixture:
        return None
    try:
        parts = [float(each) for each in mixture.split(",")]
    except ValueError:
        parts = []
    if len(parts) != sources or min(parts) < 0 or not sum(parts):
        raise UserError(
            f"mixture is {mixture!r}: give a number for each of the {sources} sources of --data, for example "
            f"{','.join(['1'] * sources)}"
        )
    return [each / sum(parts) for each in parts]


def mix(by_source: Sequence[Sequence[Group]], wanted: Sequence[float] | None, seed: int) -> list[Group]:
    """As many pieces as there are in all, from each source its share of the tokens' pieces; all once without shares."""
    if wanted is None:
        return [group for groups in by_source for group in groups]
    total = sum(map(len, by_source))
    mixed: list[Group] = []
    for number, (groups, share) in enumerate(zip(by_source, wanted, strict=True)):
        count = round(share * total)
        if count and not groups:
            raise BadRecord(f"source {number + 1} of --data has no text left and is to be {share:.0%} of the mixture")
        for turn in range(-(-count // len(groups)) if groups else 0):
            order = shuffled(len(groups), seed, turn)
            mixed += [groups[place] for place in order[: count - turn * len(groups)]]
    return mixed


def split(texts: Iterable[Text], share: float) -> tuple[list[Text], list[Text]]:
    """Texts to learn and texts held out, each by what it says alone."""
    parts: tuple[list[Text], list[Text]] = ([], [])
    for text in texts:
        parts[held_out(prompt_id(text.text), share)].append(text)
    return parts
