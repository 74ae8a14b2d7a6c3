"""Random walks: the smallest task in which text is drawn, rewarded at its end, and can be drawn better.

    graph        21 nodes, each with an edge to about a tenth of the others; node 0 is the goal and has none
    prompt       the letter of a node to start from
    completion   the letters of the nodes walked through, one edge a letter, then end-of-text
    reward       shortest possible steps to the goal / the walk's steps; 0 where it does not end at the goal, takes an
                 edge that is not there, or is longer than ten steps

Random walks are poor answers, and a few of them are good ones. Whoever learns from them offline must put good steps of
different walks together; whoever draws new ones must find out. (The idea is Chen et al. 2021's, arXiv 2106.01345;
trlX made it an example.) Numpy alone, but for `write_walker`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
from numpy.typing import NDArray

NODES, GOAL, LONGEST = 21, 0, 10
LETTERS = ascii_lowercase[:NODES]
END, PAD = "<end>", "<pad>"


@dataclass(frozen=True)
class Graph:
    """A directed graph in which every node reaches the goal within a walk's length."""

    edges: NDArray[np.bool_]  # (from, to)
    distance: NDArray[np.int64]  # (nodes,), the shortest possible steps to the goal

    @classmethod
    def draw(cls, seed: int = 0, share: float = 0.1) -> Graph:
        """The first graph, of those that the seed gives, in which every node reaches the goal."""
        random = np.random.default_rng(seed)
        while True:
            edges = random.random((NODES, NODES)) < share
            np.fill_diagonal(edges, False)
            edges[GOAL] = False
            distance = distances(edges)
            if distance.max() <= LONGEST:
                return cls(edges, distance)

    @property
    def starts(self) -> list[str]:
        """The prompts."""
        return [LETTERS[node] for node in range(NODES) if node != GOAL]

    def optimality(self, walk: Sequence[int]) -> float:
        """The reward of a walk, given as its nodes with the start."""
        steps = len(walk) - 1
        linked = all(self.edges[here, there] for here, there in zip(walk[:-1], walk[1:], strict=True))
        if not 1 <= steps <= LONGEST or walk[-1] != GOAL or not linked:
            return 0.0
        return float(self.distance[walk[0]]) / steps

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """The rewards of texts, as a `Score` gives them; what spells no nodes has reward 0."""
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        return [self.optimality(nodes(text)) if set(text) <= set(LETTERS) else 0.0 for text in texts]

    def walk(self, random: np.random.Generator, start: int) -> list[int]:
        """A random walk that ends at the goal or after the longest number of steps."""
        steps = [start]
        while steps[-1] != GOAL and len(steps) <= LONGEST:
            steps.append(int(random.choice(np.flatnonzero(self.edges[steps[-1]]))))
        return steps

    def records(self, count: int = 1000, seed: int = 0) -> list[dict[str, Any]]:
        """So many random walks from random starts, with their rewards; none is held out."""
        random = np.random.default_rng(seed)
        walks = [self.walk(random, int(start)) for start in random.integers(1, NODES, count)]
        return [
            {"prompt": text(walk[:1]), "completion": text(walk[1:]), "reward": self.optimality(walk), "split": "train"}
            for walk in walks
        ]


def distances(edges: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The shortest possible steps from each node to the goal; NODES where there is no way."""
    found = np.full(NODES, NODES)
    found[GOAL] = 0
    for _ in range(NODES):
        onward = np.where(edges, found[None, :], NODES).min(1) + 1
        found = np.minimum(found, onward)
    return found


def text(walk: Sequence[int]) -> str:
    return "".join(LETTERS[node] for node in walk)


def nodes(letters: str) -> list[int]:
    return [LETTERS.index(letter) for letter in letters]


def write_walker(folder: Path, *, seed: int = 0, layers: int = 2, hidden: int = 64) -> Path:
    """A tiny random Llama whose vocabulary is the nodes, end-of-text and padding, as a folder; it has no template."""
    import tokenizers
    import torch
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from plumbline.models.families import quiet

    words = {word: number for number, word in enumerate([*LETTERS, END, PAD])}
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2 * LONGEST,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=words[END],
        pad_token_id=words[PAD],
    )
    rust = tokenizers.Tokenizer(models.WordLevel(words, unk_token=PAD))
    rust.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    rust.decoder = decoders.Fuse()
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).eval().save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=rust, eos_token=END, pad_token=PAD).save_pretrained(folder)
    return folder
