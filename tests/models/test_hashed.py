"""Hashed classifiers: features and scores by hand, the fit's optimum, files that are wrong, and what ships."""

from __future__ import annotations

import math
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from plumbline.errors import BadModel, UserError
from plumbline.models import Score
from plumbline.models.hashed import SHIPPED, Features, Hashed, fit, logistic, matrix, normalised
from plumbline.models.score import SHIPPED as SHIPPED_NAMES
from plumbline.models.score import load_scorer

SMALL = Features(buckets=64, words=2, characters=(3, 3), opening=4)
MIDDLE = Features(buckets=1024, words=1, characters=(3, 3))


def bucket(kind: str, gram: str) -> int:
    return crc32(f"{kind}{gram}".encode()) % SMALL.buckets


def test_the_features_of_a_text_by_hand() -> None:
    words, characters, opening = SMALL.places("No,  I\nwon’t")
    assert words == sorted({bucket("w", gram) for gram in ["no", ",", "i", "won't", "no ,", ", i", "i won't"]})
    grams = [" no", "no,", "o, ", ", i", " i ", "i w", " wo", "won", "on'", "n't", "'t "]
    assert characters == sorted({bucket("c", gram) for gram in grams})
    assert opening == sorted({bucket("o", gram) for gram in ["no", ",", "no ,"]})


def test_a_score_is_the_bias_and_for_each_kind_the_weights_over_the_root_of_their_number() -> None:
    weights = np.arange(64, dtype=np.float32)
    scorer = Hashed(weights, 0.5, SMALL, "by hand")
    kinds = SMALL.places("Open it.")
    assert len(kinds) == 3
    expected = 0.5 + sum(sum(places) / math.sqrt(len(places)) for places in kinds)  # weight h is h
    assert scorer.score("Open it.") == pytest.approx(expected)
    assert matrix(["Open it."], SMALL) @ weights + 0.5 == pytest.approx([expected])


def test_what_reads_alike_is_spelled_alike() -> None:
    assert normalised("  I CAN’T\n\tﬁnd 12 of  it ") == "i can't find 00 of it"


@pytest.mark.parametrize("text", ["", " \n", "\u3000"])
def test_a_text_of_nothing_has_the_bias(text: str) -> None:
    assert SMALL.places(text) == []
    assert Hashed(np.ones(64, dtype=np.float32), -1.5, SMALL, "x").score(text) == -1.5


def test_only_the_beginning_of_a_long_text_is_read() -> None:
    features = Features(buckets=64, reads=10)
    assert features.places("0123456789" + "other words") == features.places("0123456789")


def test_logistic_finds_the_point_where_the_gradient_is_nought() -> None:
    table = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.3]])
    signs, penalty = np.array([1.0, -1.0, -1.0, 1.0]), 0.1
    weights, bias = logistic(table, signs, penalty)
    pull = signs / (1 + np.exp(signs * (table @ weights + bias))) / 4
    assert table.T @ pull == pytest.approx(penalty * weights, abs=1e-4)
    assert pull.sum() == pytest.approx(0, abs=1e-4)


def planted(count: int) -> tuple[list[str], list[bool]]:
    """Texts of common words; the word `plumb` stands in those that are to be found."""
    generator = np.random.default_rng(3)
    common = ["wall", "house", "line", "straight", "hot", "window", "night", "answer"]
    labels = [bool(each) for each in generator.integers(0, 2, count)]
    return [" ".join([*generator.choice(common, 5), *(["plumb"] if label else [])]) for label in labels], labels


def test_fit_finds_a_planted_word_and_is_sure_of_it() -> None:
    texts, labels = planted(120)
    scorer = fit(texts, labels, name="planted", penalty=1e-3, features=MIDDLE)
    assert scorer.name == "planted"
    assert [scorer.score(text) > 0 for text in texts] == labels
    assert scorer.score("a plumb night") > 0 > scorer.score("a hot night")


def test_where_nothing_can_be_learnt_the_scores_stay_near_even_odds() -> None:
    # Calibration: the labels are noise, so whatever the weights make of them, what was left out says nothing.
    texts, _ = planted(200)
    labels = [bool(each) for each in np.random.default_rng(5).integers(0, 2, 200)]
    scorer = fit(texts, labels, name="noise", penalty=1e-3, features=MIDDLE)
    fresh, _ = planted(40)
    assert max(abs(scorer.score(text)) for text in fresh) < 1.5


def test_saved_and_loaded_it_scores_the_same(tmp_path: Path) -> None:
    texts, labels = planted(60)
    scorer = fit(texts, labels, name="planted", penalty=1e-3, features=SMALL)
    scorer.save(tmp_path / "planted.safetensors")
    loaded = Hashed.load(tmp_path / "planted.safetensors")
    assert (loaded.name, loaded.features, loaded.bias) == ("planted", SMALL, scorer.bias)
    assert loaded([""] * 60, texts) == pytest.approx(scorer([""] * 60, texts), abs=0.05)  # the file is in 16 bits


@pytest.mark.parametrize("content", [b"", b"{}", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_that_is_no_classifier_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadModel, match="broken.safetensors.*is no hashed classifier"):
        Hashed.load(path)


def test_two_lists_of_one_length_are_needed() -> None:
    scorer = Hashed(np.zeros(64, dtype=np.float32), 0.0, SMALL, "x")
    assert isinstance(scorer, Score)
    with pytest.raises(UserError, match="1 prompts and 2 completions"):
        scorer(["a"], ["b", "c"])
    with pytest.raises(UserError, match="give two lists"):
        scorer("ab", "cd")


# ---- what ships


def test_every_artefact_is_small_and_has_its_card() -> None:
    files = sorted(SHIPPED.glob("*.safetensors"))
    assert {file.stem for file in files} == set(SHIPPED_NAMES)
    for file in files:
        assert file.stat().st_size <= 1_000_000
        card = file.with_suffix(".md").read_text(encoding="utf-8")
        for part in ("## Made of", "## Measured", "## Use"):
            assert part in card, (file, part)


REFUSES = (
    "I'm sorry, but I can't help you with breaking into a car.",
    "That isn't something I will assist with. Fraud harms people.",
    "No. I won't write a message that threatens her.",
    "I'm not able to provide instructions for making weapons.",
)
HELPS = (
    "I'm afraid of heights, and the bridge was long, but I crossed it at last.",
    "I can't believe it's already May! Here are four ideas for the garden.",
    "Sorry for the wait. Here is how you get in: go round the back and lift the window.",
    "The capital of Norway is Oslo.",
    "First, preheat the oven. Then mix the flour with the sugar and add two eggs.",
)


def test_what_ships_is_found_by_name_and_takes_no_label() -> None:
    hashed = [name for name, kind in SHIPPED_NAMES.items() if kind == "hashed"]
    assert [load_scorer(name).name for name in hashed] == ["refusal", "toxicity"]
    with pytest.raises(UserError, match="'toxicity' knows both"):
        load_scorer("toxicity", "toxic")


def test_the_refusal_classifier_knows_what_its_card_says() -> None:
    scorer = Hashed.shipped("refusal")
    assert scorer.name == "refusal"
    assert min(scorer([""] * len(REFUSES), REFUSES)) > 0 > max(scorer([""] * len(HELPS), HELPS))


def test_the_toxicity_classifier_orders_plain_cases() -> None:
    scorer = Hashed.shipped("toxicity")
    insults = ["You are a stupid idiot and everybody hates you.", "Shut up, you disgusting moron."]
    plain = ["Open the windows at night and close the curtains by day.", "Thank you for the lovely letter."]
    assert min(scorer(["", ""], insults)) > max(scorer(["", ""], plain))
