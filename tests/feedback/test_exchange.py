"""What is written in any format is read back, but for what the table says is lost; all of it is there, or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plumbline.errors import BadRecord, UserError
from plumbline.feedback.ballots import together
from plumbline.feedback.exchange import FORMATS, Exported, RankedSet, export, votes_of
from plumbline.feedback.pairs import pairs_of
from plumbline.formats import TURN, AnyLine, read_lines
from plumbline.records import Demonstration, Message, Pair, Ranking, Rating, Record, parse

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path) -> list[Record]:
    left_out: list[str] = []
    records = [record for line in read_lines([path], AnyLine, left_out) for record in line.records]
    assert left_out == []
    return records


def written(records: list[Any], out: Path, format: str) -> tuple[Exported, list[Record]]:
    done = export(records, out, format, force=True)
    return done, read(out)


def turns(prompt: str | list[Message]) -> list[Any]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


# ---- any record

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=25)
SOME = st.one_of(
    TEXT.filter(str.strip), st.sampled_from(["Hi\n\nHuman: no", "\n\nAssistant: x", " padded ", "مرحبا", "你好"])
)
SPLIT = st.sampled_from([None, "train", "validation", "test"])
TOLD = st.builds(lambda text: {"role": "system", "content": text}, SOME)
ASKED = st.builds(lambda text: {"role": "user", "content": text}, SOME)
SAID = st.builds(lambda text: {"role": "assistant", "content": text}, SOME)
PROMPT = st.one_of(
    SOME,
    st.builds(lambda told, before, asked: [*told, *[turn for pair in before for turn in pair], asked],
              st.lists(TOLD, max_size=1), st.lists(st.tuples(ASKED, SAID), max_size=2), ASKED),
    st.lists(st.one_of(ASKED, SAID, TOLD), min_size=1, max_size=3),
)  # fmt: skip


@st.composite
def pair(draw: st.DrawFn) -> Pair:
    chosen, rejected = draw(st.lists(SOME, min_size=2, max_size=2, unique=True))
    about = {"set_id": draw(st.sampled_from(["1", "two"])), "n_votes": draw(st.integers(1, 9)), "split": draw(SPLIT)}
    margin = draw(st.integers(1, about["n_votes"])) / about["n_votes"]
    return parse(Pair, {"prompt": draw(PROMPT), "chosen": chosen, "rejected": rejected, "margin": margin, **about})


@st.composite
def ranked_set(draw: st.DrawFn) -> list[Ranking]:
    """The rankings of one set by one to three labelers, ties and flags included."""
    size = draw(st.integers(2, 5))
    shared = {
        "set_id": draw(st.sampled_from("abc")),
        "prompt": draw(PROMPT),
        "completions": draw(st.lists(SOME, min_size=size, max_size=size)),
        "split": draw(SPLIT),
    }
    said = []
    for labeler in range(draw(st.integers(1, 3))):
        ranks = draw(st.lists(st.one_of(st.none(), st.integers(1, 4)), min_size=size, max_size=size))
        flags = [rank is None for rank in ranks]
        line = {
            **shared,
            "ranks": ranks,
            "flags": flags,
            "labeler_id": f"l{labeler}",
            "instruction_version": f"v{labeler}",
        }
        said.append(parse(Ranking, line))
    return said


PEOPLES = ("set_id", "prompt_id", "ranks", "flags", "completions", "labeler_id", "instruction_version", "split")


def as_said(ranking: Record) -> dict[str, Any]:
    said = {name: getattr(ranking, name, None) for name in PEOPLES}
    return {**said, "prompt": turns(ranking.prompt)}  # type: ignore[attr-defined]


def as_judged(pair: Record) -> dict[str, Any]:
    assert isinstance(pair, Pair)
    return {**pair.model_dump(exclude={"prompt", "chosen", "rejected"}), "prompt": turns(pair.prompt), **answers(pair)}


def answers(pair: Pair) -> dict[str, str]:
    return {"chosen": pair.chosen, "rejected": pair.rejected}


# ---- there and back


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "parquet"])
@quick
@given(rankings=st.lists(ranked_set(), min_size=1, max_size=3))
def test_rankings_come_back_whole(tmp_path: Path, ending: str, rankings: list[list[Ranking]]) -> None:
    flat = [each for said in rankings for each in said]
    done, back = written(flat, tmp_path / f"rankings.{ending}", "rankings")
    assert done.rows == len(flat) and done.left_out == {}
    assert [as_said(each) for each in back] == [as_said(each) for each in flat]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@quick
@given(pairs=st.lists(pair(), min_size=1, max_size=4))
def test_pairs_come_back_whole_from_dpo(tmp_path: Path, ending: str, pairs: list[Pair]) -> None:
    done, back = written(pairs, tmp_path / f"pairs.{ending}", "trl-dpo")
    assert done.rows == len(pairs)
    assert [as_judged(each) for each in back] == [as_judged(each) for each in pairs]


@quick
@given(pairs=st.lists(pair(), min_size=1, max_size=4))
def test_pairs_come_back_whole_from_reward(tmp_path: Path, pairs: list[Pair]) -> None:
    _, back = written(pairs, tmp_path / "pairs.jsonl", "trl-reward")
    assert [as_judged(each) for each in back] == [as_judged(each) for each in pairs]
    row = json.loads((tmp_path / "pairs.jsonl").read_text().split("\n")[0])
    assert row["chosen"][:-1] == row["rejected"][:-1] == turns(pairs[0].prompt)
    assert row["margin"] == pairs[0].margin and "prompt" not in row


def plain(pair: Pair) -> bool:
    """Whether a transcript carries the pair."""
    texts = [turn["content"].strip() for turn in turns(pair.prompt)] + [pair.chosen.strip(), pair.rejected.strip()]
    roles = {turn["role"] for turn in turns(pair.prompt)}
    return roles <= {"user", "assistant"} and not any(map(TURN.search, texts)) and texts[-1] != texts[-2]


@quick
@given(pairs=st.lists(pair(), min_size=1, max_size=5))
def test_transcripts_carry_what_the_table_says_and_count_the_rest(tmp_path: Path, pairs: list[Pair]) -> None:
    carried = [each for each in pairs if plain(each)]
    if not carried:
        with pytest.raises(UserError, match="nothing to write"):
            export(pairs, tmp_path / "none.jsonl", "hh-rlhf")
        return
    done, back = written(pairs, tmp_path / "pairs.jsonl", "hh-rlhf")
    assert (done.rows, sum(done.left_out.values())) == (len(carried), len(pairs) - len(carried))
    for one, other in zip(back, carried, strict=True):
        wanted, found = as_judged(other), as_judged(one)
        stripped = [{**turn, "content": turn["content"].strip()} for turn in wanted["prompt"]]
        assert found == {**wanted, **{key: text.strip() for key, text in answers(other).items()}, "prompt": stripped}


def by_turns(pair: Pair) -> bool:
    roles = [turn["role"] for turn in turns(pair.prompt)]
    roles = roles[1:] if roles[0] == "system" else roles
    return len(roles) % 2 == 1 and all(role == ("user", "assistant")[place % 2] for place, role in enumerate(roles))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@quick
@given(pairs=st.lists(pair(), min_size=1, max_size=4))
def test_llama_factory_carries_turns_that_alternate(tmp_path: Path, ending: str, pairs: list[Pair]) -> None:
    carried = [each for each in pairs if by_turns(each)]
    if not carried:
        return
    done, back = written(pairs, tmp_path / f"pairs.{ending}", "llama-factory")
    assert (done.rows, sum(done.left_out.values())) == (len(carried), len(pairs) - len(carried))
    assert [as_judged(each) for each in back] == [as_judged(each) for each in carried]


@quick
@given(said=ranked_set())
def test_a_tree_keeps_every_ranking_of_its_set(tmp_path: Path, said: list[Ranking]) -> None:
    asked = turns(said[0].prompt)
    if {turn["role"] for turn in asked} - {"user", "assistant"} or asked[-1]["role"] != "user":
        with pytest.raises(UserError, match="nothing to write"):
            export([RankedSet(said[0], said)], tmp_path / "none.jsonl", "oasst")
        return
    _, back = written([RankedSet(said[0], said)], tmp_path / "trees.jsonl.gz", "oasst")
    assert [as_said(each) for each in back] == [as_said(each) for each in said]


@pytest.mark.parametrize("format", ["kto", "llama-factory-kto"])
@quick
@given(prompt=PROMPT, text=SOME, label=st.booleans(), split=SPLIT)
def test_ratings_come_back(tmp_path: Path, format: str, prompt: Any, text: str, label: bool, split: str | None) -> None:
    rating = parse(Rating, {"prompt": prompt, "completion": text, "label": label, "split": split, "user_id": "u"})
    if format == "llama-factory-kto" and not by_turns(parse(Pair, {"prompt": prompt, "chosen": "a", "rejected": "b"})):
        return
    _, (back,) = written([rating], tmp_path / "ratings.jsonl", format)
    assert isinstance(back, Rating) and (turns(back.prompt), back.completion) == (turns(prompt), text)
    kept = {"label", "prompt_id", "split", "user_id"}
    assert back.model_dump(include=kept) == rating.model_dump(include=kept)


@quick
@given(prompt=PROMPT, text=SOME, split=SPLIT)
def test_demonstrations_come_back(tmp_path: Path, prompt: Any, text: str, split: str | None) -> None:
    messages = [*turns(prompt), {"role": "assistant", "content": text}]
    shown = parse(Demonstration, {"messages": messages, "split": split})
    _, (back,) = written([shown], tmp_path / "shown.jsonl", "sft")
    assert back.model_dump() == {**shown.model_dump(), "user_id": None}


@quick
@given(pair=pair())
def test_a_pair_becomes_votes_that_make_the_same_pair(pair: Pair) -> None:
    (back,) = pairs_of(votes_of(pair, "file"))
    assert (back.chosen, back.rejected, back.n_votes) == (pair.chosen, pair.rejected, pair.n_votes)
    assert back.margin == pytest.approx(pair.margin) and back.prompt == pair.prompt


def test_votes_of_the_same_two_answers_are_about_one_set() -> None:
    one = parse(Pair, {"prompt": "x", "chosen": "a", "rejected": "b"})
    other = parse(Pair, {"prompt": "x", "chosen": "b", "rejected": "a"})
    first, second = next(votes_of(one, "f")), next(votes_of(other, "f"))
    assert first.set_id == second.set_id and first.completions == second.completions == ("a", "b")
    assert (first.ranks, second.ranks) == ((1, 2), (2, 1))
    assert len(together([first, second])) == 2


def test_a_margin_that_is_no_share_of_votes_is_one_vote_for() -> None:
    scored = parse(Pair, {"prompt": "x", "chosen": "a", "rejected": "b", "margin": 2.7})
    assert [vote.ranks for vote in votes_of(scored, "f")] == [(1, 2)]
    with pytest.raises(BadRecord, match="is none of people"):
        list(votes_of(scored.model_copy(update={"n_votes": 10**9}), "f"))


# ---- what others expect to find

HOT = {
    "prompt": "My house is too hot.",
    "chosen": "Air it.",
    "rejected": "Move.",
    "set_id": "s",
    "n_votes": 3,
    "margin": 1 / 3,
}


def reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def first_row(tmp_path: Path, format: str, record: Any) -> dict[str, Any]:
    export([record], tmp_path / "row.jsonl", format, force=True)
    row: dict[str, Any] = json.loads((tmp_path / "row.jsonl").read_text())
    return row


def test_each_format_has_its_readers_columns(tmp_path: Path) -> None:
    user, air, move = {"role": "user", "content": HOT["prompt"]}, reply("Air it."), reply("Move.")
    pair = parse(Pair, HOT)
    about = {"set_id": "s", "prompt_id": pair.prompt_id, "split": None, "n_votes": 3, "margin": 1 / 3}
    assert first_row(tmp_path, "trl-dpo", pair) == {"prompt": [user], "chosen": [air], "rejected": [move], **about}
    assert first_row(tmp_path, "trl-reward", pair) == {"chosen": [user, air], "rejected": [user, move], **about}
    asked = "\n\nHuman: My house is too hot.\n\nAssistant: "
    assert first_row(tmp_path, "hh-rlhf", pair) == {"chosen": asked + "Air it.", "rejected": asked + "Move.", **about}
    assert first_row(tmp_path, "llama-factory", pair) == {
        "conversations": [{"from": "human", "value": "My house is too hot."}],
        "chosen": {"from": "gpt", "value": "Air it."},
        "rejected": {"from": "gpt", "value": "Move."},
        **about,
    }
    rating = parse(Rating, {"prompt": HOT["prompt"], "completion": "Air it.", "label": True})
    of_one = {"prompt_id": pair.prompt_id, "split": None, "user_id": None}
    assert first_row(tmp_path, "kto", rating) == {"prompt": [user], "completion": [air], "label": True, **of_one}
    shown = parse(Demonstration, {"messages": [user, air]})
    assert first_row(tmp_path, "sft", shown) == {"messages": [user, air], **of_one}


def test_llama_factory_finds_its_entry_and_the_others_stay(tmp_path: Path) -> None:
    registry = tmp_path / "dataset_info.json"
    registry.write_text('{"theirs": {"file_name": "x.json"}}')
    done = export([parse(Pair, HOT)], tmp_path / "ours.jsonl", "llama-factory")
    rating = parse(Rating, {"prompt": "x", "completion": "y", "label": False})
    export([rating], tmp_path / "thumbs.parquet", "llama-factory-kto")
    assert done.files == (tmp_path / "ours.jsonl", registry)
    assert json.loads(registry.read_text()) == {
        "theirs": {"file_name": "x.json"},
        "ours": {
            "file_name": "ours.jsonl",
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
        },
        "thumbs": {
            "file_name": "thumbs.parquet",
            "formatting": "sharegpt",
            "columns": {"messages": "conversations", "kto_tag": "kto_tag"},
        },
    }
    registry.write_text("[1]")
    with pytest.raises(UserError, match="is no registry of LLaMA-Factory"):
        export([parse(Pair, HOT)], tmp_path / "ours.jsonl", "llama-factory", force=True)


def test_a_tree_is_what_other_readers_know(tmp_path: Path) -> None:
    line = {
        "set_id": "s",
        "prompt": "Hi",
        "completions": ["a", "b", "c"],
        "ranks": [2, 1, None],
        "flags": [False, False, True],
    }
    ranking = parse(Ranking, {**line, "labeler_id": "ann", "instruction_version": "1"})
    tree = first_row(tmp_path, "oasst", RankedSet(ranking, [ranking]))
    root = tree["prompt"]
    assert (root["role"], root["text"], root["parent_id"], root["message_id"]) == (
        "prompter",
        "Hi",
        None,
        tree["message_tree_id"],
    )
    assert [(each["text"], each["rank"], each["review_result"]) for each in root["replies"]] == [
        ("a", 1, True),
        ("b", 0, True),
        ("c", None, False),
    ]
    ids = [each["message_id"] for each in root["replies"]]
    assert {each["parent_id"] for each in root["replies"]} == {root["message_id"]} and len(set(ids)) == 3
    (event,) = root["events"]["ranking"]
    assert (event["user_id"], event["ranking"], event["ranked_message_ids"]) == ("ann", [1, 0], [ids[1], ids[0]])


# ---- files


def test_a_format_that_does_not_exist_and_a_name_that_says_nothing_are_refused(tmp_path: Path) -> None:
    pair = parse(Pair, HOT)
    for out, format, complaint in (
        ("a.jsonl", "trl", "there is no format 'trl': take one of rankings, trl-dpo"),
        ("a.csv", "trl-dpo", "ends with '.csv': take .jsonl, .jsonl.gz, .parquet, or none for a folder"),
        ("a.parquet", "oasst", "trees have no columns"),
        ("a.jsonl.gz", "llama-factory", "LLaMA-Factory reads a .jsonl or a .parquet file"),
    ):
        with pytest.raises(UserError) as error:
            export([pair], tmp_path / out, format)
        assert complaint in str(error.value)
    assert list(tmp_path.iterdir()) == []


def breaking(pair: Pair) -> Iterator[Pair]:
    yield pair
    raise RuntimeError("the power is gone")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a"])
def test_what_was_there_stays_until_the_last_row_is_written(tmp_path: Path, name: str) -> None:
    out, pair = tmp_path / name, parse(Pair, HOT)
    export([pair], out, "trl-dpo")
    with pytest.raises(UserError, match="is there already"):
        export([pair, pair], out, "trl-dpo")
    with pytest.raises(RuntimeError):
        export(breaking(pair), out, "trl-dpo", force=True)
    assert len(read(out)) == 1
    with pytest.raises(UserError, match="nothing to write"):
        export([], out, "trl-dpo", force=True)
    assert len(read(out)) == 1
    export([pair, pair], out, "trl-dpo", force=True)
    assert len(read(out)) == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    pair = parse(Pair, HOT)
    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet"):
        other = name.replace("a.", "b.")
        export([pair] * 3, tmp_path / name, "trl-dpo")
        export([pair] * 3, tmp_path / other, "trl-dpo")
        assert (tmp_path / name).read_bytes() == (tmp_path / other).read_bytes()


def test_what_a_parquet_column_cannot_hold_is_refused(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    shown = parse(Demonstration, {"messages": messages})
    with pytest.raises(UserError, match=r"a message in `messages` has `tool_calls`.*name a .jsonl file"):
        export([shown], tmp_path / "a.parquet", "sft")
    _, (back,) = written([shown], tmp_path / "a.jsonl", "sft")
    assert back.model_dump()["messages"] == messages


def test_a_folder_has_its_splits_and_a_card_with_counts_and_hashes(tmp_path: Path) -> None:
    from plumbline.feedback import containers
    from plumbline.project import file_digest

    pair = parse(Pair, HOT)
    rows = [pair.model_copy(update={"split": part}) for part in ("train", "test", None, "train", "validation")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(containers, "ROWS_OF_A_SHARD", 2)
        done = export(rows, tmp_path / "hot", "trl-dpo")
    names = sorted(path.name for path in (tmp_path / "hot" / "data").iterdir())
    assert names == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
        "validation-00000-of-00001.parquet",
    ]
    assert done.splits == {"train": 2, "test": 1, "none": 1, "validation": 1} and done.rows == 5
    text = (tmp_path / "hot" / "README.md").read_text()
    front, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert "license_name: to-be-chosen" in front and "path: data/validation-*" in front and "n<1K" in front
    assert "| train | 3 |" in body and "To be chosen" in body
    for path in (tmp_path / "hot" / "data").iterdir():
        assert f"| `data/{path.name}` | `{file_digest(path)}` |" in body
    assert len(read(tmp_path / "hot")) == 5


def test_the_card_begins_with_yaml_that_the_hub_reads(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    export([parse(Pair, HOT).model_copy(update={"split": "train"})], tmp_path / "hot", "trl-dpo")
    front = yaml.safe_load((tmp_path / "hot" / "README.md").read_text().split("---\n")[1])
    assert front["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]},
    ]
    assert front["license"] == "other" and "trl-dpo" in front["tags"]


def test_rows_are_written_as_they_come_and_not_gathered(tmp_path: Path) -> None:
    """Millions of pairs must not lie in memory: while the last comes, few of those before it are still alive."""
    import gc
    import weakref

    alive: weakref.WeakSet[Pair] = weakref.WeakSet()
    most = 0

    def many() -> Iterator[Pair]:
        nonlocal most
        for number in range(3000):
            pair = parse(Pair, {**HOT, "rejected": f"No. {number}"})
            alive.add(pair)
            if number % 500 == 0:
                gc.collect()
                most = max(most, len(alive))
            yield pair

    for name in ("a.jsonl", "a.parquet"):
        assert export(many(), tmp_path / name, "trl-dpo").rows == 3000
    assert most <= 5


@pytest.mark.parametrize("format", [name for name, shape in FORMATS.items() if shape.holds == "pairs"])
@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs"])
def test_the_datasets_library_loads_it(tmp_path: Path, format: str, name: str) -> None:
    datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
    if format == "llama-factory" and name == "pairs":
        pytest.skip("LLaMA-Factory reads files alone")
    export([parse(Pair, {**HOT, "split": "train"})] * 3, tmp_path / name, format)
    kind, files = ("json", str(tmp_path / name)) if name.endswith("jsonl") else (str(tmp_path / name), None)
    loaded = datasets.load_dataset(kind, data_files=files, cache_dir=str(tmp_path / "cache"), split="train")
    assert loaded.num_rows == 3 and set(loaded.column_names) == set(FORMATS[format].columns)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the peer's own
@pytest.mark.parametrize(
    ("format", "trainer"), [("trl-dpo", "DPO"), ("trl-reward", "Reward"), ("kto", "KTO"), ("sft", "SFT")]
)
def test_trl_trains_a_step_on_it(tmp_path: Path, tiny_llama: Path, format: str, trainer: str) -> None:
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    datasets = pytest.importorskip("datasets", reason="the datasets library is not installed")
    import transformers

    records: dict[str, list[Record]] = {
        "pairs": [parse(Pair, HOT)],
        "ratings": [
            parse(Rating, {"prompt": "Hot.", "completion": "Air it.", "label": good}) for good in (True, False)
        ],
        "demonstrations": [parse(Demonstration, {"messages": [{"role": "user", "content": "Hot."}, reply("Air it.")]})],
    }
    export(records[FORMATS[format].holds] * 4, tmp_path / "rows.jsonl", format)
    file = str(tmp_path / "rows.jsonl")
    rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=str(tmp_path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = "{% for each in messages %}{{ each['role'] }}: {{ each['content'] }}\n{% endfor %}"
    kind = transformers.AutoModelForSequenceClassification if trainer == "Reward" else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(tiny_llama, **({"num_labels": 1} if trainer == "Reward" else {}))
    model.config.pad_token_id = tokenizer.pad_token_id
    arguments = getattr(trl, f"{trainer}Config")(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    made = getattr(trl, f"{trainer}Trainer")(model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    assert made.train().global_step == 1
