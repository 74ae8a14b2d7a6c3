"""The OpenVINO engine against the reference, and what happens around it: crashes, cancellation, a full cache."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from plumbline.errors import EngineCrashed, PromptTooLong, UserError
from plumbline.models import Completion, Sampling
from plumbline.models.chat import encode_prompt
from plumbline.models.engines import open_local
from plumbline.models.generate import Reference

pytest.importorskip("openvino_genai", reason="the extra `openvino` is not installed")

from plumbline.models.engines.openvino import OpenVINO  # noqa: E402

PROMPTS = [
    "Knock, knock",
    "My house is too hot. What can I do about it before the night comes and the windows can be opened?",
    "Why?",
    "The cafeteria had 23 apples.",
]
FAMILIES = ("llama", "llama-tied", "mistral", "qwen2", "qwen3")


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Iterator[OpenVINO]:
    opened = OpenVINO(tiny_llama, name="tiny", cache_bytes=1 << 21)
    yield opened
    opened.close()


def rounded(folder: Path) -> Reference:
    """The reference with its matrices rounded to 16 bits, which is what the engine's exact mode stores."""
    opened = Reference.open(folder, name="tiny", device="cpu")
    for weight in opened.model.parameters():
        if weight.ndim == 2:
            weight.data = weight.data.half().float()
    return opened


@pytest.fixture(scope="module")
def reference(tiny_llama: Path) -> Reference:
    return rounded(tiny_llama)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_the_reference(tiny_model: Callable[[str], Path], family: str) -> None:
    import torch

    folder = tiny_model(family)
    reference, engine = rounded(folder), OpenVINO(folder)
    ids = encode_prompt(reference.tokenizer, PROMPTS[1])
    with torch.inference_mode():
        theirs = reference.model(torch.tensor([ids])).logits[0].numpy()
    ours = engine.logits(ids, len(ids))
    engine.close()
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_logprobs_are_those_of_the_text(engine: OpenVINO) -> None:
    """The log-probs of a sampled answer equal those of one pass over prompt and answer."""
    sampling = Sampling(temperature=0.8, max_new_tokens=12, seed=3, n=2)
    for prompt, samples in zip(PROMPTS, engine(PROMPTS, sampling), strict=True):
        ids = encode_prompt(engine.tokenizer, prompt)
        for sample in samples:
            logits = engine.logits([*ids, *sample.tokens[:-1]], len(sample.tokens)).astype(np.float64) / 0.8
            plain = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            plain -= logits.max(-1, keepdims=True)
            expected = plain[range(len(sample.tokens)), list(sample.tokens)]
            assert sample.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
            assert sample.sampler_logprobs == pytest.approx(expected.tolist(), abs=1e-4)


def _tokens(answers: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[sample.tokens for sample in samples] for samples in answers]


def test_greedy_and_sampled_texts_equal_the_reference(engine: OpenVINO, reference: Reference) -> None:
    """One sampler and one noise: with equal weights both engines write the same answers."""
    for sampling in (
        Sampling(temperature=0.0, max_new_tokens=24),
        Sampling(temperature=1.0, max_new_tokens=24, seed=7, n=3, top_p=0.9),
    ):
        assert _tokens(engine(PROMPTS, sampling)) == _tokens(reference(PROMPTS, sampling))


def test_what_else_runs_changes_no_answer(engine: OpenVINO) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=20, seed=11, n=3)
    together = _tokens(engine(PROMPTS, sampling))
    assert _tokens(engine(PROMPTS[::-1], sampling))[::-1] == together
    assert [_tokens(engine([prompt], sampling))[0] for prompt in PROMPTS] == together
    assert len(set(together[0])) == 3


def test_samples_share_their_prompt_and_part_from_it(engine: OpenVINO) -> None:
    """A sample among eight is the same answer as alone, whatever block of the cache the prompt ends in."""
    for length in (1, 31, 32, 33, 64, 70):
        prompt = [5 + place % 90 for place in range(length)]
        many = engine([prompt], Sampling(temperature=1.0, max_new_tokens=40, seed=3, n=8, ignore_eos=True))[0]
        alone = engine([prompt], Sampling(temperature=1.0, max_new_tokens=40, seed=3, ignore_eos=True))[0][0]
        assert many[0].tokens == alone.tokens
        for sample in many:
            logits = engine.logits([*prompt, *sample.tokens[:-1]], 40).astype(np.float64)
            plain = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            assert sample.logprobs == pytest.approx(plain[range(40), list(sample.tokens)].tolist(), abs=1e-4)


def test_requests_from_many_threads_join_one_batch(engine: OpenVINO) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=30, seed=5)
    alone = [_tokens(engine([prompt], sampling)) for prompt in PROMPTS]
    found: dict[int, list[list[tuple[int, ...]]]] = {}

    def ask(number: int) -> None:
        found[number] = _tokens(engine([PROMPTS[number % 4]], sampling))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == alone[number % 4] for number in range(12))


def test_more_than_the_cache_holds_waits_its_turn(engine: OpenVINO) -> None:
    """The cache of this fixture holds a few long answers at a time; thirty are asked for."""
    sampling = Sampling(temperature=1.0, max_new_tokens=300, seed=5, ignore_eos=True)
    answers = engine([[number + 5] for number in range(30)], sampling)
    assert all(len(samples[0].tokens) == 300 for samples in answers)


def test_what_can_never_fit_is_refused(engine: OpenVINO) -> None:
    with pytest.raises(UserError, match=r"needs \d+ blocks of cache and the engine has \d+: lower"):
        engine([[5] * 100], Sampling(max_new_tokens=400, n=400))
    assert engine([[5] * 100], Sampling(max_new_tokens=2)), "the next request runs"


def test_streamed_pieces_are_the_answer(engine: OpenVINO) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=60, seed=2, stop=("zq",))
    chunks = list(engine.stream(PROMPTS[0], sampling))
    whole = engine([PROMPTS[0]], sampling)[0][0]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert chunks[-1].completion == whole


def test_leaving_a_stream_frees_its_place(engine: OpenVINO) -> None:
    endless = Sampling(temperature=1.0, max_new_tokens=500, seed=2, ignore_eos=True)
    for _ in range(40):  # without cancellation the cache would be full after a few
        stream = engine.stream(PROMPTS[0], endless)
        next(stream)
        stream.close()
    assert engine([PROMPTS[0]], Sampling(max_new_tokens=2))


def test_schema_and_limits_are_those_of_the_reference(engine: OpenVINO) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    sampling = Sampling(temperature=2.0, max_new_tokens=40, n=6, seed=1, schema=schema)
    assert all("name" in json.loads(sample.text) for sample in engine(["Who?"], sampling)[0])
    with pytest.raises(UserError, match="cannot be followed"):
        engine(["Who?"], Sampling(schema={"type": "strange"}))
    with pytest.raises(PromptTooLong):
        engine([[5] * 600], Sampling())


def test_a_crash_fails_what_ran_and_the_next_call_starts_afresh(tiny_llama: Path) -> None:
    engine = OpenVINO(tiny_llama)
    stream = engine.stream(PROMPTS[0], Sampling(temperature=1.0, max_new_tokens=480, ignore_eos=True))
    next(stream)
    assert engine._child is not None
    os.kill(engine._child._process.pid, signal.SIGKILL)
    with pytest.raises(EngineCrashed, match="status -9"):
        list(stream)
    assert engine([PROMPTS[0]], Sampling(max_new_tokens=2))[0][0].tokens
    engine.close()


def test_the_process_ends_with_its_owner(tiny_llama: Path) -> None:
    """Killed without a chance to say goodbye, the owner leaves no engine behind."""
    program = (
        "import sys, time; from pathlib import Path; from plumbline.models.engines.openvino import OpenVINO\n"
        "engine = OpenVINO(Path(sys.argv[1])); print(engine._child._process.pid, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, str(tiny_llama)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    worker = int(owner.stdout.readline())
    assert _lives(worker)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    for _ in range(600):
        if not _lives(worker):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {worker} outlived its owner")


def _lives(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(") ")[2][0] != "Z"


def test_auto_takes_the_engine_that_is_exact(tiny_model: Callable[[str], Path]) -> None:
    fast = open_local(tiny_model("llama"), name="tiny")
    assert isinstance(fast, OpenVINO)
    fast.close()
    assert isinstance(open_local(tiny_model("gpt2"), name="tiny"), Reference)
    assert isinstance(open_local(tiny_model("llama"), name="tiny", engine="transformers"), Reference)
    with pytest.raises(UserError, match="does not run the family"):
        open_local(tiny_model("gpt2"), name="tiny", engine="openvino")
    with pytest.raises(UserError, match="mode 'fp8' is not one of"):
        open_local(tiny_model("llama"), name="tiny", engine="openvino", mode="fp8")
