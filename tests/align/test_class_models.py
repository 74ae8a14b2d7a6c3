"""Models with classes: they read the right token whatever they are padded with, here and wherever they are loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.align.class_models import Decoder, class_model, other_padding
from plumbline.align.labels import Labelled, LabelledTexts
from plumbline.errors import BadModel, UserError
from plumbline.files import parse
from plumbline.models.score import Classifier, Reads
from plumbline.models.tokenizer import Tokenizer
from plumbline.training.devices import Process
from plumbline.training.run import Settings

ALONE = Process(torch.device("cpu"), "float32")
TEXTS = [
    "Knock, knock.",
    "Open the windows at night, close the curtains by day and let the air move.",
    "Why?",
]
PROMPT = "My house is too hot. What can I do?"
CLOSE = 1e-4
TinyModel = Callable[[str], Path]


def record(text: str, prompt: str = "") -> Labelled:
    line = {"text": text, "label": "air"}
    return parse(Labelled, {**line, "prompt": prompt} if prompt else line)


def built(
    folder: Path,
    classes: tuple[str, ...] = ("air", "joke"),
    reads: Reads = "completion",
    lm_weight: float | None = None,
    **settings: Any,
) -> Any:
    torch.manual_seed(0)
    config = Settings(model=str(folder), **{"lora_rank": 4, **settings})
    return class_model(config, LabelledTexts([], [], classes, reads), lm_weight, ALONE)


def moved(model: Any) -> Any:
    """With weights that are no longer those it began with."""
    with torch.no_grad():
        for weight in model.weights:
            weight.add_(torch.randn_like(weight) * 0.05)
    return model


def readings(model: Any, prompt: str = "") -> list[Any]:
    left_out: list[str] = []
    found = [model.read(record(text, prompt), left_out) for text in TEXTS]
    assert left_out == []
    return found


def outputs(model: Any, given: list[Any]) -> torch.Tensor:
    with torch.no_grad(), model.working():
        return model.outputs(given).classes


def stock(folder: Path, texts: list[str], side: str = "right") -> torch.Tensor:
    """What transformers alone makes of the texts, in one padded batch."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    batch = tokenizer(
        texts, padding=len(texts) > 1, return_tensors="pt", add_special_tokens=tokenizer.eos_token is None
    )
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_outputs_do_not_depend_on_what_shares_the_pass(tiny_model: TinyModel, family: str) -> None:
    model = moved(built(tiny_model(family)))
    given = readings(model)
    together = outputs(model, given)
    alone = torch.cat([outputs(model, [each]) for each in given])
    assert torch.allclose(together, alone, atol=CLOSE)
    assert len({round(float(number), 3) for number in together.flatten()}) == together.numel()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_decoder_reads_the_one_end_token(tiny_model: TinyModel, family: str) -> None:
    """Against its head on the last state of the unpadded text; the control is the state before."""
    model = built(tiny_model(family))
    given = readings(model)
    found = outputs(model, given)
    for reading, row in zip(given, found, strict=True):
        ids = [*reading.prompt, *reading.completions[0]]
        assert ids[-1] == 2 and ids.count(2) == 1
        with torch.no_grad():
            states = model.learner.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            at_end, before = states[-1] @ model.head.T, states[-2] @ model.head.T
        assert torch.allclose(row, at_end, atol=CLOSE) and not torch.allclose(row, before, atol=100 * CLOSE)


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2"])
def test_a_saved_decoder_is_read_right_elsewhere(tiny_model: TinyModel, tmp_path: Path, family: str, rank: int) -> None:
    """Its base pads with the end token; with that, transformers reads the token before it, as the control shows."""
    model = moved(built(tiny_model(family), lora_rank=rank))
    ours = outputs(model, readings(model))
    model.save(tmp_path / "saved")
    ended = [f"{text}<|im_end|>" for text in TEXTS]
    # transformers' GPT-2 numbers its positions through padding on the left, whatever its head then reads.
    for side in ("right", "left") if family != "gpt2" else ("right",):
        assert torch.allclose(stock(tmp_path / "saved", ended, side), ours, atol=CLOSE)
    scored = Classifier(tmp_path / "saved", "joke")([""] * len(TEXTS), TEXTS)
    assert scored == pytest.approx((ours[:, 1] - ours[:, 0]).tolist(), abs=CLOSE)

    pad_with(tmp_path / "saved", 2, "<|im_end|>")
    assert not torch.allclose(stock(tmp_path / "saved", ended), ours, atol=100 * CLOSE)


def pad_with(folder: Path, number: int, token: str) -> None:
    for name, value in (("config.json", {"pad_token_id": number}), ("tokenizer_config.json", {"pad_token": token})):
        said = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**said, **value}))


def test_a_saved_decoder_without_another_token_refuses_batches(tiny_llama: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_llama, base)
    said = json.loads((base / "tokenizer.json").read_text())
    for token in said["added_tokens"]:
        token["special"] = token["id"] == 2
    (base / "tokenizer.json").write_text(json.dumps(said))
    model = moved(built(base))
    ours = outputs(model, readings(model))
    model.save(tmp_path / "saved")
    for text, row in zip(TEXTS, ours, strict=True):
        assert torch.allclose(stock(tmp_path / "saved", [f"{text}<|im_end|>"])[0], row, atol=CLOSE)
    with pytest.raises(ValueError, match="pad"):
        stock(tmp_path / "saved", [f"{text}<|im_end|>" for text in TEXTS])


def test_the_other_padding_is_a_special_token_that_the_model_has(tiny_llama: Path) -> None:
    tokenizer = Tokenizer(tiny_llama)
    assert (tokenizer.eos_id, sorted(tokenizer.special_tokens)) == (2, [0, 1, 2])
    assert other_padding(tokenizer, 512) == 0
    assert other_padding(tokenizer, 0) is None
    tokenizer.special_map["pad_token"] = "<|im_start|>"
    assert other_padding(tokenizer, 512) == 1


def test_a_saved_decoder_of_pairs_reads_them_through_the_template(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = moved(built(tiny_llama, reads="pair"))
    ours = outputs(model, readings(model, PROMPT))
    model.save(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], add_generation_prompt=True, tokenize=False
    )
    assert torch.allclose(stock(tmp_path / "saved", [f"{asked}{text}<|im_end|>" for text in TEXTS]), ours, atol=CLOSE)
    scored = Classifier(tmp_path / "saved", "joke")([PROMPT] * len(TEXTS), TEXTS)
    assert scored == pytest.approx((ours[:, 1] - ours[:, 0]).tolist(), abs=CLOSE)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_saved_encoder_is_read_right_elsewhere(tiny_model: TinyModel, tmp_path: Path, rank: int) -> None:
    model = moved(built(tiny_model("bert"), lora_rank=rank))
    ours = outputs(model, readings(model))
    model.save(tmp_path / "saved")
    assert torch.allclose(stock(tmp_path / "saved", TEXTS), ours, atol=CLOSE)
    scored = Classifier(tmp_path / "saved", "joke")([""] * len(TEXTS), TEXTS)
    assert scored == pytest.approx((ours[:, 1] - ours[:, 0]).tolist(), abs=CLOSE)


def test_an_encoder_of_pairs_is_known_as_one(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = moved(built(reads_pairs(tiny_model("bert"), tmp_path / "base"), reads="pair"))
    ours = outputs(model, readings(model, PROMPT))
    model.save(tmp_path / "saved")
    score = Classifier(tmp_path / "saved", "joke")
    assert score.reads == "pair"
    assert score([PROMPT] * len(TEXTS), TEXTS) == pytest.approx((ours[:, 1] - ours[:, 0]).tolist(), abs=CLOSE)
    assert Classifier(tmp_path / "saved", "joke", reads="completion").reads == "completion"


def reads_pairs(source: Path, folder: Path) -> Path:
    """The model with a tokenizer that puts [CLS] and [SEP] around two texts, as BERT's does."""
    import tokenizers
    from tokenizers.processors import TemplateProcessing

    shutil.copytree(source, folder)
    rust = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rust.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, rust.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    rust.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_the_head_and_what_is_meant_to_learns_and_nothing_else(tiny_model: TinyModel, family: str, rank: int) -> None:
    model = built(tiny_model(family), lora_rank=rank)
    with model.working():
        model.outputs(readings(model)).classes.square().sum().backward()
    body = model.learner.model if isinstance(model, Decoder) else model.model
    learned = {name for name, each in body.named_parameters() if each.grad is not None}
    assert all(any(part in name for part in (".lora_", "classifier.", "pooler.")) for name in learned) == bool(rank)
    assert learned, "nothing learns"
    if isinstance(model, Decoder):
        assert model.head.grad is not None
    else:
        assert {"classifier.weight", "classifier.bias"} <= learned


def test_recomputing_changes_no_gradient(tiny_model: TinyModel) -> None:
    gradients = []
    for recompute in (False, True):
        model = built(tiny_model("bert"), recompute=recompute)
        with model.working():
            model.outputs(readings(model)).classes.square().sum().backward()
        gradients.append(torch.cat([each.grad.flatten() for each in model.weights]))
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-6)


def test_a_classifier_goes_on_with_its_head_where_the_classes_are_the_same(tiny_model: TinyModel) -> None:
    folder = tiny_model("bert-classifier")
    same = built(folder, classes=("nothate", "hate"))
    assert same.classes == ("hate", "nothate"), "in the order that the head has"
    assert torch.allclose(outputs(same, readings(same)), stock(folder, TEXTS), atol=CLOSE)
    other = built(folder, classes=("air", "joke", "sum"))
    assert outputs(other, readings(other)).shape == (3, 3)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_what_does_not_fit_is_told(tiny_model: TinyModel, tmp_path: Path, family: str) -> None:
    base = tiny_model(family) if family == "llama" else reads_pairs(tiny_model(family), tmp_path / "base")
    long = "too hot, " * 600
    for truncate in (False, True):
        left_out: list[str] = []
        model = built(base, reads="pair", truncate_prompt=truncate)
        assert model.read(record(long, "Why?"), left_out) is None
        cut = model.read(record("Why?", long), left_out)
        assert (cut is None) != truncate
        if cut is not None:
            assert model.size(cut) == 512
        assert len(left_out) == 1 + (cut is None)
        assert "shorten it" in left_out[0] and left_out[0].startswith("the text 'too hot, too hot")
        assert truncate or "--truncate-prompt" in left_out[1]


def test_what_cannot_become_a_classifier_is_told(
    tiny_model: TinyModel, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadModel, match="is an encoder-decoder: a classifier starts from an encoder or a decoder"):
        built(tiny_model("t5"))
    with pytest.raises(UserError, match=r"lm_weight is 0.5: .* is an encoder and predicts no next token: drop it"):
        built(tiny_model("bert"), lm_weight=0.5)
    with pytest.raises(UserError, match="cannot be trained here"):
        built(Path("anthropic:some-model"))
    built(tiny_llama).save(tmp_path / "saved")
    with pytest.raises(BadModel, match="is a decoder without its vocabulary head: start from the language model"):
        built(tmp_path / "saved")

    from transformers.models.auto import modeling_auto

    monkeypatch.delitem(modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, "llama")
    with pytest.raises(BadModel, match="transformers has no sequence classifier for models of type 'llama'"):
        built(tiny_llama)
