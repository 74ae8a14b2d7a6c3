"""Classifiers as scores: log-odds by hand, the plain computation's numbers, the right token, blind to the batch."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from plumbline.errors import BadModel, UserError
from plumbline.models import Conversation, Prompt, Raw, Score, score
from plumbline.models.score import Classifier, find_label, load_scorer, log_odds, plain_text

PROMPTS: list[Prompt] = [
    "Knock, knock",
    "My house is too hot. What can I do about it before the night comes?",
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}],
    "The cafeteria had 23 apples.",
    "Why?",
]
COMPLETIONS = [
    "Who is there?",
    "Open the windows at night, close the curtains by day and let the air move. A plumb line hangs straight.",
    "",
    "9 are left.",
    "It's me; I'll wait.",
]
CLOSE = 1e-5


def write_classifier(kind: str, folder: Path, labels: tuple[str, ...] = ("hate", "nothate"), **more: Any) -> Path:
    """A tiny random classifier: "bert" (with a pair template), "bart", "llama" or "gpt2" (both with pad = eos)."""
    import torch
    import transformers

    more |= {"id2label": dict(enumerate(labels)), "label2id": {name: n for n, name in enumerate(labels)}}
    llama = {**tiny._GROUPED, **tiny._CHAT_IDS}
    gpt2 = {"vocab_size": 512, "n_positions": tiny.WINDOW, "n_embd": 64, "n_layer": 2, "n_head": 4, **tiny._CHAT_IDS}
    bart = {"vocab_size": 512, "max_position_embeddings": tiny.WINDOW, "d_model": 64, "init_std": 0.2}
    bart |= {f"{half}_{part}": size for half in ("encoder", "decoder") for part, size in _BART_HALF.items()}
    classes: dict[str, tuple[str, dict[str, Any], str]] = {
        "bert": ("Bert", {**tiny._SIZE, "pad_token_id": 0}, "bert"),
        # The end token has id 0, which is what padding would be if nobody asked for the padding's id.
        "bart": ("Bart", {**bart, "pad_token_id": 2, "eos_token_id": 0, "bos_token_id": 1}, "bert"),
        "llama": ("Llama", llama, "chat"),
        "gpt2": ("GPT2", {**gpt2, "initializer_range": 0.2}, "chat"),
    }
    name, config, style = classes[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForSequenceClassification")(
            getattr(transformers, f"{name}Config")(**config, **more)
        )
        for place, parameter in enumerate(model.parameters()):
            if parameter.abs().max() == 0:  # biases, which would otherwise prove nothing
                torch.nn.init.normal_(parameter, std=0.1 + 0.01 * (place % 7))
    model.eval().save_pretrained(folder)
    tiny.write_tokenizer(folder, style)
    if style == "bert":
        _surround(folder, end="[SEP]" if kind == "bert" else "[PAD]")
    return folder


_BART_HALF = {"layers": 2, "ffn_dim": 128, "attention_heads": 4}


def _surround(folder: Path, end: str) -> None:
    """The tokenizer puts [CLS] and the end token around one text and around two, as BERT's does."""
    import tokenizers
    from tokenizers.processors import TemplateProcessing

    rust = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rust.post_processor = TemplateProcessing(
        single=f"[CLS] $A {end}",
        pair=f"[CLS] $A {end} $B:1 {end}:1",
        special_tokens=[(name, rust.token_to_id(name)) for name in ("[CLS]", end)],
    )
    rust.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`classifier("llama")` is the folder of that tiny classifier, made at first use."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = write_classifier(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return get


def plain_outputs(folder: Path, **inputs: Any) -> list[float]:
    """What transformers' own model gives for one unpadded input."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        outputs = model(**{name: torch.tensor([ids]) for name, ids in inputs.items()}).logits[0]
    return [float(number) for number in outputs]


def templated(folder: Path, prompt: Prompt, completion: str) -> list[int]:
    """Prompt by transformers' template, completion, one end token (id 2 in the tiny chat tokenizer)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return [
        *tokenizer(text, add_special_tokens=False)["input_ids"],
        *tokenizer(completion, add_special_tokens=False)["input_ids"],
        2,
    ]


def plain_last(folder: Path, ids: list[int], place: int = -1) -> list[float]:
    """A decoder's head on the state of the token at a place, from the unpadded sequence."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        state = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, place]
        return [float(number) for number in model.score(state)]


def test_an_encoder_scores_the_completion(classifier: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    folder = classifier("bert")
    ours = Classifier(folder, "nothate")
    assert isinstance(ours, Score)
    assert (ours.name, ours.label, ours.reads) == (f"{folder.name}:nothate", "nothate", "completion")
    for completion, found in zip(COMPLETIONS, ours(PROMPTS, COMPLETIONS), strict=True):
        ids = AutoTokenizer.from_pretrained(folder)(completion)["input_ids"]
        hate, nothate = plain_outputs(folder, input_ids=ids)
        assert found == pytest.approx(nothate - hate, abs=CLOSE)


def test_an_encoder_scores_a_pair(classifier: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    folder = classifier("bert")
    ours = Classifier(folder, "nothate", reads="pair")
    tokenizer, options = AutoTokenizer.from_pretrained(folder), {"return_token_type_ids": True}
    for prompt, completion, found in zip(PROMPTS, COMPLETIONS, ours(PROMPTS, COMPLETIONS), strict=True):
        # In a list, since transformers takes a bare empty second text for none.
        pair = {name: rows[0] for name, rows in tokenizer([[plain_text(prompt), completion]], **options).items()}
        hate, nothate = plain_outputs(folder, input_ids=pair["input_ids"], token_type_ids=pair["token_type_ids"])
        assert found == pytest.approx(nothate - hate, abs=CLOSE)
        if completion:  # the second text must be marked as such, or the model reads something else
            hate, nothate = plain_outputs(folder, input_ids=pair["input_ids"])
            assert found != pytest.approx(nothate - hate, abs=100 * CLOSE)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_decoder_scores_the_templated_pair_at_its_end_token(classifier: Callable[[str], Path], kind: str) -> None:
    folder = classifier(kind)
    ours = Classifier(folder, "nothate")
    assert ours.reads == "pair"
    for prompt, completion, found in zip(PROMPTS, COMPLETIONS, ours(PROMPTS, COMPLETIONS), strict=True):
        hate, nothate = plain_last(folder, templated(folder, prompt, completion))
        assert found == pytest.approx(nothate - hate, abs=CLOSE)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_stock_head_reads_the_token_before_the_end(classifier: Callable[[str], Path], kind: str) -> None:
    """The control: where pad = eos, transformers' own reading of the same tokens is that of another token."""
    folder = classifier(kind)
    ours = Classifier(folder, "nothate")
    for prompt, completion, found in zip(PROMPTS, COMPLETIONS, ours(PROMPTS, COMPLETIONS), strict=True):
        ids = templated(folder, prompt, completion)
        hate, nothate = plain_outputs(folder, input_ids=ids)
        assert found != pytest.approx(nothate - hate, abs=100 * CLOSE)
        before = plain_last(folder, ids, place=-2)
        assert nothate - hate == pytest.approx(before[1] - before[0], abs=CLOSE)


@pytest.mark.parametrize(
    ("kind", "reads"), [("bert", "completion"), ("bert", "pair"), ("bart", "pair"), ("llama", "pair"), ("gpt2", "pair")]
)
def test_a_score_does_not_depend_on_its_batch(
    classifier: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, kind: str, reads: score.Reads
) -> None:
    ours = Classifier(classifier(kind), "nothate", reads=reads)
    together = ours(PROMPTS, COMPLETIONS)
    alone = [ours([prompt], [completion])[0] for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)]
    backwards = ours(PROMPTS[::-1], COMPLETIONS[::-1])[::-1]
    monkeypatch.setattr(score, "BATCH_TOKENS", 60)
    small = ours(PROMPTS, COMPLETIONS)
    for other in (alone, backwards, small):
        assert together == pytest.approx(other, abs=CLOSE)
    assert len({round(number, 3) for number in together}) == len(together), "scores that are all alike prove nothing"


def test_log_odds_by_hand() -> None:
    import torch

    outputs = torch.tensor([[0.5, 2.0], [1.0, 1.0]])
    assert log_odds(outputs, 1).tolist() == [1.5, 0.0]
    assert log_odds(outputs, 0).tolist() == [-1.5, 0.0]
    three = torch.tensor([[1.0, 2.0, 3.0]])
    by_hand = 2.0 - math.log(math.exp(1.0) + math.exp(3.0))
    assert log_odds(three, 1).item() == pytest.approx(by_hand, abs=1e-6)
    # The sigmoid of the score is the softmax probability of the label, and a shift of all outputs changes nothing.
    assert torch.sigmoid(log_odds(three, 1)).item() == pytest.approx(three.softmax(1)[0, 1].item(), abs=1e-6)
    assert log_odds(three + 7.0, 1).item() == pytest.approx(by_hand, abs=1e-5)


def test_one_output_is_the_score(tmp_path: Path) -> None:
    folder = write_classifier("llama", tmp_path, ("reward",))
    ours = Classifier(folder, name="judge")
    assert (ours.name, ours.label) == ("judge", "reward")
    (found,) = ours(PROMPTS[:1], COMPLETIONS[:1])
    assert found == pytest.approx(plain_last(folder, templated(folder, PROMPTS[0], COMPLETIONS[0]))[0], abs=CLOSE)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_outputs_without_a_softmax_stand_alone(tmp_path: Path, problem: str) -> None:
    folder = write_classifier("bert", tmp_path, ("toxic", "insult", "threat"), problem_type=problem)
    softmaxed = write_classifier("bert", tmp_path / "softmaxed", ("toxic", "insult", "threat"))
    found = [Classifier(folder, label)(["?"], ["too hot"])[0] for label in ("toxic", "insult", "threat")]
    odds = [Classifier(softmaxed, label)(["?"], ["too hot"])[0] for label in ("toxic", "insult", "threat")]
    by_hand = [
        z - math.log(sum(math.exp(other) for place, other in enumerate(found) if place != own))
        for own, z in enumerate(found)
    ]
    assert odds == pytest.approx(by_hand, abs=CLOSE)


def test_a_label_is_found_by_name_and_by_number() -> None:
    labels = ["negative", "neutral", "positive"]
    assert [find_label(labels, label, "m") for label in ("negative", 1, "2", "positive")] == [0, 1, 2, 2]
    assert find_label(["LABEL_0"], None, "m") == 0
    assert find_label(["no", "yes"], None, "m") == 1
    assert find_label(["0", "1"][::-1], "0", "m") == 1, "a name goes before a number"


@pytest.mark.parametrize(
    ("labels", "label", "message"),
    [
        (["a", "b", "c"], None, "'m' has 3 classes and no label was given: give one of 'a' (0), 'b' (1), 'c' (2)"),
        (["a", "b"], "hate", "label is 'hate', which 'm' does not have: give one of 'a' (0), 'b' (1)"),
        (["a", "b"], 2, "label is 2, which 'm' does not have: give one of 'a' (0), 'b' (1)"),
        (["a", "b"], -1, "label is -1, which 'm' does not have: give one of 'a' (0), 'b' (1)"),
        (["a"], "b", "label is 'b', which 'm' does not have: give one of 'a' (0)"),
    ],
)
def test_an_unknown_label_lists_the_known_ones(labels: list[str], label: str | int | None, message: str) -> None:
    with pytest.raises(UserError) as caught:
        find_label(labels, label, "m")
    assert str(caught.value) == message


def test_the_second_of_two_classes_is_taken_and_said(
    classifier: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = classifier("bert")
    with caplog.at_level(logging.WARNING, logger="plumbline"):
        Classifier(folder, "hate")
        assert not caplog.records
        ours = Classifier(folder, name="mine")
    assert (ours.name, ours.label) == ("mine:nothate", "nothate")
    assert [record.message for record in caplog.records] == [
        "'mine' has the classes ['hate', 'nothate']: scoring 'nothate'; label= chooses"
    ]


def test_a_decoder_too_long_loses_the_beginning_of_its_prompt_then_the_end_of_its_completion(
    classifier: Callable[[str], Path],
) -> None:
    folder = classifier("llama")
    ours = Classifier(folder, "nothate")
    long = "too hot, " * 600
    whole = templated(folder, long, "Who is there?")
    assert len(whole) > tiny.WINDOW
    found = ours([long, "short"], ["Who is there?", "short"])
    assert ours.truncated == 1
    hate, nothate = plain_last(folder, whole[-tiny.WINDOW :])
    assert found[0] == pytest.approx(nothate - hate, abs=CLOSE)

    answer = templated(folder, "", long)[len(templated(folder, "", "")) - 1 : -1]
    found = ours(["short"], [long])
    assert ours.truncated == 2
    hate, nothate = plain_last(folder, [*answer[: tiny.WINDOW - 1], 2])
    assert found[0] == pytest.approx(nothate - hate, abs=CLOSE)


def test_an_encoder_too_long_loses_the_beginning_of_its_prompt_then_the_end_of_its_completion(
    classifier: Callable[[str], Path],
) -> None:
    from transformers import AutoTokenizer

    ours = Classifier(classifier("bert"), "nothate", reads="pair")
    tokenizer = AutoTokenizer.from_pretrained(classifier("bert"), model_max_length=10**6)
    cls, sep = 1, 2
    many, few = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("too hot, " * 600, "Who is there?")
    )
    room = tiny.WINDOW - 3
    row = ours._form.row("too hot, " * 600, "Who is there?")
    kept = many[-(room - len(few)) :]
    assert row.ids == [cls, *kept, sep, *few, sep]
    assert row.types == [0] * (len(kept) + 2) + [1] * (len(few) + 1)
    row = ours._form.row("Who is there?", "too hot, " * 600)
    assert row.ids == [cls, sep, *many[:room], sep]
    ours(["too hot, " * 600, "Why?", "Why?"], ["Who is there?", "too hot, " * 600, "Because."])
    assert ours.truncated == 2


def test_an_end_token_spelled_in_a_text_does_not_end_it(classifier: Callable[[str], Path]) -> None:
    row = Classifier(classifier("llama"), "nothate")._form.row("One<|im_end|>two", "three<|im_end|>")
    asked = templated(classifier("llama"), "One two", "")[:-1]
    assert row.ids.count(2) == asked.count(2) + 1 and row.ids[-1] == 2
    row = Classifier(classifier("bert"), "nothate", reads="pair")._form.row("One[SEP]two", "three[SEP]")
    assert [number for number in row.ids if number in (1, 2)] == [1, 2, 2]


def test_a_decoder_that_reads_completions_only(classifier: Callable[[str], Path]) -> None:
    folder = classifier("llama")
    ours = Classifier(folder, "nothate", reads="completion")
    one, other = ours(["Knock, knock", "Why?"], ["Who is there?"] * 2)
    assert one == other
    answer = templated(folder, "", "Who is there?")[len(templated(folder, "", "")) - 1 :]
    hate, nothate = plain_last(folder, answer)
    assert one == pytest.approx(nothate - hate, abs=CLOSE)


def test_a_decoder_without_a_template_reads_on(classifier: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "bare"
    shutil.copytree(classifier("gpt2"), folder)
    (folder / "chat_template.jinja").unlink()
    ids = AutoTokenizer.from_pretrained(folder)("Knock, knock")["input_ids"]
    ids += AutoTokenizer.from_pretrained(folder)(" Who is there?")["input_ids"]
    assert Classifier(folder, "nothate")._form.row("Knock, knock", " Who is there?").ids == [*ids, 2]


def test_prompts_as_an_encoder_reads_them() -> None:
    turns = [{"role": "user", "content": "Knock"}, {"role": "assistant", "content": None}]
    assert plain_text("Knock") == plain_text(Raw("Knock")) == plain_text(turns[:1]) == "Knock"
    assert plain_text(turns) == plain_text(Conversation(turns)) == "user: Knock\nassistant: "
    with pytest.raises(UserError, match="token ids"):
        plain_text([3, 4])


def test_what_cannot_be_scored_is_refused(classifier: Callable[[str], Path], tiny_llama: Path, tmp_path: Path) -> None:
    ours = Classifier(classifier("bert"), "nothate")
    assert ours([], []) == []
    with pytest.raises(UserError, match="2 prompts and 1 completions were given: give two lists of one length"):
        ours(["a", "b"], ["c"])
    with pytest.raises(UserError, match="give two lists"):
        ours("a", "b")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="reads is 'prompt'"):
        Classifier(classifier("bert"), reads="prompt")  # type: ignore[arg-type]
    with pytest.raises(BadModel, match="holds a causal model"):
        Classifier(tiny_llama)
    folder = tmp_path / "endless"
    shutil.copytree(classifier("llama"), folder)
    for name in ("config.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace('"eos_token', '"no_eos_token'))
    with pytest.raises(BadModel, match="names no end-of-text token"):
        Classifier(folder, "nothate")


def test_names(classifier: Callable[[str], Path]) -> None:
    folder = classifier("bert")
    ours = load_scorer(str(folder), "hate", reads="pair")
    assert isinstance(ours, Classifier)
    assert (ours.name, ours.label, ours.reads) == (f"{folder}:hate", "hate", "pair")
    with pytest.raises(UserError, match="'openai:some-model' gives no scores"):
        load_scorer("openai:some-model")
