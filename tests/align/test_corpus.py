"""Reading, copies, quality, mixture and pieces of one's own texts."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from plumbline.align.corpus import (
    Text,
    likeness,
    mix,
    overlap,
    pieces_of,
    read_texts,
    runs_of,
    shares,
    split,
    without_copies,
    without_the_worst,
)
from plumbline.errors import BadRecord, UserError
from plumbline.models.grouped import Group
from plumbline.models.tokenizer import Tokenizer

WORDS = "river stone lamp quiet seven under paper green walk table orange listen winter north".split()


def prose(seed: int, count: int = 120) -> str:
    draw = Random(seed)
    return " ".join(draw.choice(WORDS) + str(draw.randrange(40)) for _ in range(count))


def texts(*values: str) -> list[Text]:
    return [Text(value, 0) for value in values]


# ---- reading


def test_files_and_folders_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("first")
    (folder / "deep" / "b.txt").write_text("\ufeffsecond", encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "empty.txt").write_text(" \n")
    (folder / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    lines = tmp_path / "c.jsonl"
    lines.write_text("".join(json.dumps(line) + "\n" for line in [{"text": "third"}, {"txt": "lost"}]))
    left_out: list[str] = []
    assert read_texts([str(folder), str(lines)], left_out) == [Text("first", 0), Text("second", 0), Text("third", 1)]
    assert len(left_out) == 3
    assert (
        "not read (.png)" in left_out[0]
        and "is not UTF-8 (byte 3)" in left_out[1]
        and "`text` is missing" in left_out[2]
    )


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file or folder '.*nowhere'"):
        read_texts([str(tmp_path / "nowhere")], [])


# ---- copies


def test_the_overlap_by_hand() -> None:
    """Six and seven words in a row: runs 1-5, 2-6 and 1-5, 2-6, 3-7 share two of three."""
    a, b = runs_of("one two three four five six"), runs_of("One, two: three FOUR five six seven")
    assert (len(a), len(b)) == (2, 3)
    assert overlap(a, b) == pytest.approx(2 / 3)
    assert overlap(runs_of("short"), runs_of("short")) == 1.0
    assert overlap(runs_of("short"), runs_of("other")) == 0.0


def test_copies_go_and_the_first_stays() -> None:
    original = prose(1)
    words = original.split()
    changed = " ".join([*words[:60], "changed", *words[61:]])  # 5 of 116 runs differ on either side: 111 / 121
    spaced = original.replace(" ", "\n\n").upper()
    half = " ".join([*words[:60], *prose(2).split()[:60]])  # 56 runs in common of 176
    assert without_copies(texts(original, changed, spaced, half, original)) == texts(original, half)


def test_different_texts_all_stay() -> None:
    different = texts(*(prose(seed) for seed in range(200)))
    assert without_copies(different) == different


def test_copies_at_the_bound_are_found_and_those_below_stay() -> None:
    """Texts that share exactly a share of their runs, fifty of each: MinHash may not lose them, nor add any."""
    for shared, found in ((190, 50), (140, 0)):  # of 216 runs on each side: 186/206 = 0.9 and 136/256 = 0.53
        pairs = []
        for seed in range(50):
            words = prose(seed, 200).split()
            pairs.append((" ".join(words), " ".join([*words[:shared], *prose(1000 + seed, 200 - shared).split()])))
        gone = sum(len(without_copies(texts(*pair))) == 1 for pair in pairs)
        assert gone == found, shared


# ---- quality


def test_the_least_like_the_good_ones_go() -> None:
    """The words differ by kind; what is scored was never among the good ones."""
    spam = [f"buy now cheap pills click here offer {prose(seed, 20)}" for seed in range(20)]
    sound = [f"the theorem follows since the sum converges {prose(100 + seed, 20)}" for seed in range(20)]
    good = [f"hence the theorem holds and the sum converges {prose(200 + seed, 20)}" for seed in range(20)]
    scores = likeness([*spam, *sound], good)
    assert scores[:20].max() < scores[20:].min()
    mixed = texts(*(each for pair in zip(spam, sound, strict=True) for each in pair))
    assert without_the_worst(mixed, texts(*good), 0.5) == texts(*sound)
    assert without_the_worst(mixed, texts(*good), 0.0) == mixed


def test_the_gradient_of_the_filter_ends_at_nought() -> None:
    """A filter whose two sides say the same has nothing to tell them apart by."""
    same = [prose(seed, 30) for seed in range(10)]
    assert np.abs(likeness(same, same)).max() < 1e-3


# ---- pieces and mixture


def test_every_token_is_learned_once_after_the_one_before_it(tiny_llama: Path) -> None:
    tokenizer = Tokenizer(tiny_llama)
    text = prose(3, 40)
    whole = [*tokenizer.encode(text), tokenizer.eos_id]
    for length in (2, 7, 64, 10_000):
        pieces = pieces_of(text, tokenizer, length)
        assert [token for piece in pieces for token in piece.completions[0]] == whole
        before = [tokenizer.eos_id, *whole]
        place = 0
        for piece in pieces:
            assert list(piece.prompt) == [before[place]]
            assert 1 + len(piece.completions[0]) <= length
            place += len(piece.completions[0])


def test_shares_are_read_and_wrong_ones_named() -> None:
    assert shares("", 2) is None
    assert shares("3, 1", 2) == [0.75, 0.25]
    for wrong in ("3", "a,b", "-1,2", "0,0"):
        with pytest.raises(UserError, match=f"mixture is '{wrong}': give a number for each of the 2 sources"):
            shares(wrong, 2)


def test_a_mixture_has_its_shares_and_wastes_nothing() -> None:
    """30 and 10 pieces, mixed half and half: 20 different ones of the first, each of the second twice."""
    first, second = ([Group([source], [[place]]) for place in range(count)] for source, count in ((1, 30), (2, 10)))
    mixed = mix([first, second], [0.5, 0.5], seed=0)
    ones = [group.completions[0][0] for group in mixed if group.prompt == [1]]
    twos = [group.completions[0][0] for group in mixed if group.prompt == [2]]
    assert len(ones) == len(set(ones)) == 20
    assert sorted(twos) == sorted([*range(10), *range(10)])
    assert mix([first, second], None, seed=0) == [*first, *second]
    assert mix([first, second], [0.5, 0.5], seed=0) == mixed != mix([first, second], [0.5, 0.5], seed=1)


def test_an_empty_source_cannot_be_mixed_in() -> None:
    with pytest.raises(BadRecord, match="source 2 of --data has no text left and is to be 50% of the mixture"):
        mix([[Group([1], [[2]])] * 4, []], [0.5, 0.5], seed=0)


def test_what_is_held_out_depends_on_the_text_alone() -> None:
    many = texts(*(prose(seed, 10) for seed in range(300)))
    learn, apart = split(many, 0.2)
    assert 30 < len(apart) < 90 and len(learn) + len(apart) == 300
    assert split(many[150:], 0.2)[1] == [text for text in apart if text in many[150:]]
