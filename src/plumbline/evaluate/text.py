"""How near a text is to a reference: exact match, BLEU, ROUGE, and what pass@k makes of programs that pass or fail.

    BLEU     = min(1, e^(1 − r/c)) · (Π_{n=1..4} p_n)^(1/4)   p_n = matched n-grams / n-grams   Papineni et al. 2002
    ROUGE-n  = F1 of the n-grams, ROUGE-L of the longest common subsequence                         Lin 2004
    pass@k   = 1 − C(n − c, k) / C(n, k)    c of n samples pass           Chen et al. 2021, arXiv 2107.03374

c and r are the lengths of the texts and of their nearest references, summed over all items: BLEU belongs to a whole set
of texts. So each item gives its counts (`bleu_counts`), and `bleu` makes the figure of their sums; the bootstrap draws
items and adds again.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from plumbline.evaluate.statistics import Floats

Tokens: TypeAlias = Sequence[str]

ORDER = 4
"""The longest n-gram of BLEU."""
WORD = re.compile(r"\w+|[^\w\s]")
LETTERS = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """Runs of letters and digits, and every sign by itself."""
    return WORD.findall(text)


def plain_words(text: str) -> list[str]:
    """Words of ROUGE: runs of a to z and digits in small letters; signs are left out."""
    return LETTERS.findall(text.lower())


# ---- exact match


def exact_match(text: str, references: Iterable[str]) -> float:
    """1 where the text is one of the references, white space around it apart."""
    return float(text.strip() in {reference.strip() for reference in references})


def final_number(text: str) -> str:
    """The last number in a text, without commas and idle zeros; "" where there is none: the answer to a sum."""
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    if not found:
        return ""
    number = str(found[-1]).replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


# ---- BLEU


def ngrams(tokens: Tokens, n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[begin : begin + n]) for begin in range(len(tokens) - n + 1))


def bleu_counts(text: Tokens, references: Sequence[Tokens]) -> list[float]:
    """What an item adds to BLEU: matched n-grams and n-grams for n = 1 to 4, its length, that of its reference."""
    counts: list[float] = []
    for n in range(1, ORDER + 1):
        own, allowed = ngrams(text, n), Counter[tuple[str, ...]]()
        for reference in references:
            allowed |= ngrams(reference, n)
        counts += [(own & allowed).total(), own.total()]
    nearest = min((len(reference) for reference in references), key=lambda length: (abs(length - len(text)), length))
    return [*counts, len(text), nearest]


def bleu(rows: Floats, weights: Floats) -> Floats:
    """BLEU (draws,) from the items' counts; 0 where an order has no match."""
    return bleu_of(weights @ rows, smooth=0.0)


def smooth_bleu(rows: Floats, weights: Floats) -> Floats:
    """BLEU with 1 added to the matches and to the n-grams of every order (Lin and Och 2004), as CodeXGLUE reports."""
    return bleu_of(weights @ rows, smooth=1.0)


def bleu_of(sums: Floats, *, smooth: float) -> Floats:
    """BLEU of each row of summed counts."""
    matched, there = sums[:, 0 : 2 * ORDER : 2] + smooth, sums[:, 1 : 2 * ORDER : 2] + smooth
    own, nearest = sums[:, -2], sums[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(there > 0, matched / there, 0.0)
        shortness = np.where(own > 0, np.minimum(1.0, np.exp(1 - nearest / own)), 0.0)
        means = np.exp(np.log(precision).mean(1))
    return np.asarray(shortness * means, dtype=np.float64)


def corpus_bleu(
    texts: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    smooth: bool = False,
    tokens: Callable[[str], list[str]] = str.split,
) -> float:
    """BLEU of texts, each with its references."""
    pairs = zip(texts, references, strict=True)
    rows = np.array([bleu_counts(tokens(text), [tokens(each) for each in several]) for text, several in pairs])
    return float((smooth_bleu if smooth else bleu)(rows, np.ones((1, len(rows))))[0])


# ---- ROUGE


def f_measure(matched: float, own: float, reference: float) -> float:
    return 2 * matched / (own + reference) if own + reference else 0.0


def rouge_n(text: Tokens, reference: Tokens, n: int) -> float:
    """F1 of the n-grams."""
    own, there = ngrams(text, n), ngrams(reference, n)
    return f_measure((own & there).total(), own.total(), there.total())


def rouge_l(text: Tokens, reference: Tokens) -> float:
    """F1 of the longest common subsequence."""
    return f_measure(common_subsequence(text, reference), len(text), len(reference))


def common_subsequence(one: Tokens, other: Tokens) -> int:
    """The length of the longest one."""
    row = [0] * (len(other) + 1)
    for token in one:
        before = 0  # the value up and to the left
        for place, each in enumerate(other, 1):
            before, row[place] = row[place], before + 1 if token == each else max(row[place], row[place - 1])
    return row[-1]


def rouge(text: str, references: Iterable[str]) -> dict[str, float]:
    """ROUGE-1, -2 and -L, each against the reference that is nearest by it."""
    own = plain_words(text)
    against = [plain_words(reference) for reference in references]
    return {
        "rouge1": max(rouge_n(own, each, 1) for each in against),
        "rouge2": max(rouge_n(own, each, 2) for each in against),
        "rougeL": max(rouge_l(own, each) for each in against),
    }


# ---- programs


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance that of k samples one passes, without bias, from `passed` of `samples`."""
    assert 0 <= passed <= samples and 1 <= k <= samples, (samples, passed, k)
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)
