"""CodeBLEU: how near a program is to a reference by its words, its tree and its data flow (Ren et al. 2020,
arXiv 2009.10297).

    CodeBLEU = ¼ · BLEU + ¼ · BLEU with keywords weighted + ¼ · syntax match + ¼ · data-flow match

    weighted     p_1 = Σ w · matched / Σ w · in the reference, w = 1 for keywords and 0.2 for others; p_2 … p_4 by count
    syntax       subtrees of the reference (kinds of nodes, no words) that the program has too / its subtrees
    data flow    flows of the reference (`trees.flows`) that the program has too / its flows

An order of n-grams without a match counts as 0.1 of one, as in the original, so that one missing four-gram is not
everything. Where no reference has any flow, that part is left out of the mean; the original counts it as 0. Its way to
find flows is its own and longer, so our data-flow match is near it and not the same. The score is blind to what code
does: show it beside pass@k.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from plumbline.evaluate.statistics import Floats
from plumbline.evaluate.text import ORDER, bleu_counts, ngrams
from plumbline.evaluate.trees import flows, language_of, parse_program, subtrees

PLAIN = 0.2
"""The weight of a word that is no keyword."""
ALMOST_NONE = 0.1
"""What stands for an order without a match (Chen and Cherry 2014)."""
NUMBERS = (
    *(f"bleu{place}" for place in range(2 * ORDER + 2)),
    *(f"weighted{place}" for place in range(2 * ORDER)),
    "subtrees_matched",
    "subtrees",
    "flows_matched",
    "flows",
)
"""What an item adds, in this order."""


def counts(program: str, references: Sequence[str], language: str) -> list[float]:
    """The numbers of an item; of several references those of the one whose tree is nearest."""
    own_tree = parse_program(program, language)
    own_subtrees, own_flows = set(subtrees(own_tree)), Counter(flows(own_tree, language))
    found = []
    for reference in references:
        tree = parse_program(reference, language)
        parts, edges = list(subtrees(tree)), Counter(flows(tree, language))
        matched = sum(part in own_subtrees for part in parts)
        found.append([float(matched), float(len(parts)), float((own_flows & edges).total()), float(edges.total())])
    nearest = max(range(len(found)), key=lambda place: found[place][0] / max(1.0, found[place][1]))
    keywords = language_of(language).keywords
    weighted = weighted_counts(program.split(), references[nearest].split(), keywords)
    return [*bleu_counts(program.split(), [each.split() for each in references]), *weighted, *found[nearest]]


def weighted_counts(own: Sequence[str], reference: Sequence[str], keywords: frozenset[str]) -> list[float]:
    """Matched and there for each order, as shares of the reference; single words by their weight."""
    numbers: list[float] = []
    for n in range(1, ORDER + 1):
        there = ngrams(reference, n)
        matched = there & ngrams(own, n)
        weight = {gram: 1.0 if n > 1 or gram[0] in keywords else PLAIN for gram in there}
        numbers += [sum(weight[gram] * each[gram] for gram in each) for each in (matched, there)]
    return numbers


# ---- the parts, and their mean


def parts_of(rows: Floats, weights: Floats) -> Floats:
    """(draws, 4): words, weighted words, syntax, data flow; not a number where there is no flow to match."""
    sums = weights @ rows
    precision, recall = sums[:, : 2 * ORDER], sums[:, 2 * ORDER + 2 : 4 * ORDER + 2]
    own, nearest = sums[:, 2 * ORDER], sums[:, 2 * ORDER + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        shortness = np.where(own > 0, np.minimum(1.0, np.exp(1 - nearest / own)), 0.0)
        words, weighted = (shortness * geometric_mean(each) for each in (precision, recall))
        syntax, flow = sums[:, -4] / sums[:, -3], sums[:, -2] / sums[:, -1]
    return np.column_stack([words, weighted, syntax, flow])


def geometric_mean(sums: Floats) -> Floats:
    """Of matched / there over the orders (draws,)."""
    matched, there = sums[:, 0::2], np.maximum(sums[:, 1::2], 1e-9)
    return np.asarray(np.exp(np.log(np.where(matched > 0, matched, ALMOST_NONE) / there).mean(1)), dtype=np.float64)


def codebleu(rows: Floats, weights: Floats) -> Floats:
    """The mean of the parts that there are."""
    return np.asarray(np.nanmean(parts_of(rows, weights), axis=1), dtype=np.float64)


def words_match(rows: Floats, weights: Floats) -> Floats:
    return parts_of(rows, weights)[:, 0]


def weighted_match(rows: Floats, weights: Floats) -> Floats:
    return parts_of(rows, weights)[:, 1]


def syntax_match(rows: Floats, weights: Floats) -> Floats:
    return parts_of(rows, weights)[:, 2]


def flow_match(rows: Floats, weights: Floats) -> Floats:
    return parts_of(rows, weights)[:, 3]


PARTS = {
    "words": (words_match, "BLEU of words between blanks"),
    "weighted_words": (weighted_match, "the same with keywords weighted"),
    "syntax": (syntax_match, "subtrees of the reference that the program has"),
    "data_flow": (flow_match, "flows of the reference that the program has"),
}
