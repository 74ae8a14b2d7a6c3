"""The random walks themselves: what a walk is worth, and that a model folder reads and writes them as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import plumbline
from align.random_walks import GOAL, LONGEST, NODES, Graph, distances, nodes, text, write_walker
from plumbline.models import Sampling
from plumbline.models.tokenizer import Tokenizer


def test_a_walk_is_worth_the_shortest_way_over_its_own() -> None:
    edges = np.zeros((NODES, NODES), dtype=bool)
    for here, there in [(1, 0), (2, 1), (3, 2), (3, 1), (1, 2)]:
        edges[here, there] = True
    graph = Graph(edges, distances(edges))
    assert graph.distance[:5].tolist() == [0, 1, 2, 2, NODES]
    assert graph.optimality([3, 1, 0]) == 1
    assert graph.optimality([3, 2, 1, 0]) == 2 / 3
    assert graph.optimality([1, 2, 1, 0]) == 1 / 3
    assert graph.optimality([3, 2, 1]) == 0, "it never arrives"
    assert graph.optimality([3, 0]) == 0, "there is no such edge"
    assert graph.optimality([3, 1, 0, 1, 0]) == 0, "no edge leads on from the goal"
    assert graph.optimality([2, *[1, 2] * 5, 1, 0]) == 0, "longer than the longest"
    assert graph.score(["d", "d", "d"], ["ba", "", "b?"]) == [1, 0, 0]


def test_random_walks_follow_edges_and_are_poor() -> None:
    graph = Graph.draw()
    assert graph.distance.max() <= LONGEST and not graph.edges[GOAL].any() and graph.edges[1:].any(1).all()
    records = graph.records(400, seed=1)
    assert records == graph.records(400, seed=1) != graph.records(400, seed=2)
    walks = [nodes(record["prompt"] + record["completion"]) for record in records]
    assert all(graph.edges[here, there] for walk in walks for here, there in zip(walk[:-1], walk[1:], strict=True))
    assert {walk[0] for walk in walks} == set(range(1, NODES)) and max(map(len, walks)) == LONGEST + 1
    rewards = [record["reward"] for record in records]
    assert rewards == [graph.optimality(walk) for walk in walks]
    assert 0.05 < np.mean(rewards) < 0.35 and max(rewards) == 1


@pytest.mark.filterwarnings("error")
def test_a_walker_reads_a_letter_as_a_node_and_draws_letters(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_walker(tmp_path))
    assert tokenizer.encode(text(range(NODES))) == list(range(NODES))
    assert tokenizer.decode([3, 1, 0, NODES]) == "dba" and tokenizer.eos_id == NODES
    draw = plumbline.load(str(tmp_path), engine="transformers")
    (answer,) = draw(["d"], Sampling(max_new_tokens=LONGEST, seed=0))[0]
    assert answer.prompt_tokens == 1 and answer.text == tokenizer.decode(answer.tokens)
