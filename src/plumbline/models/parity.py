"""How far an engine's mode is from the reference: KL per token, and whether greedy answers stay the same.

    KL(reference ‖ mode) = Σ_t p_ref(t) · log(p_ref(t) / p_mode(t)), in nats, at temperature 1

over every token of the reference's own greedy answers to a few prompts. A mode whose mean lies over its bound is
refused as a default. What was measured is kept beside the engine's graph.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import UserError
from plumbline.models import Prompt, Raw, Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from plumbline.models.engines.openvino import OpenVINO
    from plumbline.models.generate import Reference

PROMPTS = (
    "My house is too hot. What can I do?",
    "Explain how a bill becomes a law, in three short steps.",
    "Write two sentences about a lighthouse keeper who is afraid of the dark.",
    "List the prime numbers below 30 and say why 1 is not among them.",
    "Translate into French: The train leaves at nine, and we are late.",
    "def mean(values):",
)
"""What is asked: talk, facts, a story, numbers, another language, code."""

TOKENS = 40
"""Length of each answer compared: 6 prompts make 240 tokens."""


@dataclass(frozen=True)
class Parity:
    """One mode against the reference."""

    mode: str
    mean_kl: float
    worst_kl: float
    top1_agreement: float
    """Share of positions at which both would say the same next token, given the same text."""
    greedy_agreement: float
    """Share of tokens that are equal when both write freely: an answer counts up to its first difference."""
    tokens: int
    bound: float
    accepted: bool


def measure(name: str, modes: Sequence[str] | None = None) -> list[Parity]:
    """Every mode of the OpenVINO engine for the model of that name, against `transformers` in float32."""
    from plumbline.models.resolve import resolve

    source = resolve(name)
    if source.kind != "folder":
        raise UserError(f"{name!r} runs elsewhere: parity compares the engines of a local model")
    return measure_folder(source.folder, modes)


def measure_folder(folder: Path, modes: Sequence[str] | None = None) -> list[Parity]:
    """The same for a model's folder; the results are kept for `accepted`."""
    from plumbline.models.engines.openvino import MODES, OpenVINO
    from plumbline.models.generate import Reference

    for mode in modes or ():
        if mode not in MODES:
            raise UserError(f"mode {mode!r} is not one of the openvino engine's: {', '.join(MODES)}")
    reference = Reference.open(folder, mode="f32", device="cpu")
    prompts: list[Prompt] = [Raw(text) if reference.tokenizer.chat_template is None else text for text in PROMPTS]
    answers = reference(prompts, Sampling(temperature=0.0, max_new_tokens=TOKENS, ignore_eos=True, truncate=True))
    texts = _texts(reference, prompts, [samples[0].tokens for samples in answers])
    expected = [_reference_logprobs(reference, *text) for text in texts]
    results = []
    for mode in modes or MODES:
        engine = OpenVINO(folder, mode=mode)
        try:
            results.append(_compare(engine, mode, texts, expected, MODES[mode].bound))
        finally:
            engine.close()
        _keep(folder, results[-1])
    return results


def accepted(folder: Path, mode: str) -> bool:
    """Whether the mode may be a default for this model; measured now if nobody has yet."""
    kept = _kept(folder).get(mode)
    if kept is None:
        print(f"plumb: comparing the openvino engine ({mode}) with transformers, once for this model", file=sys.stderr)
        return measure_folder(folder, [mode])[0].accepted
    return bool(kept["accepted"])


def _texts(
    reference: Reference, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]
) -> list[tuple[list[int], int]]:
    """Prompt and answer as one list of ids, and how many of its last positions predict the answer's tokens."""
    from plumbline.models.chat import encode_prompt

    return [
        (encode_prompt(reference.tokenizer, prompt) + list(answer[:-1]), len(answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _reference_logprobs(reference: Reference, ids: list[int], wanted: int) -> NDArray[np.float64]:
    import torch

    with torch.inference_mode():
        logits = reference.model(torch.tensor([ids])).logits[0, -wanted:]
    return logits.double().log_softmax(-1).numpy()  # type: ignore[no-any-return]


def _compare(
    engine: OpenVINO,
    mode: str,
    texts: Sequence[tuple[list[int], int]],
    expected: Sequence[NDArray[np.float64]],
    bound: float,
) -> Parity:
    import numpy as np

    kls: list[NDArray[Any]] = []
    agree: list[NDArray[Any]] = []
    same = 0
    for (ids, wanted), ours in zip(texts, expected, strict=True):
        logits = engine.logits(ids, wanted).astype(np.float64)
        shifted = logits - logits.max(-1, keepdims=True)
        theirs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        kls.append((np.exp(ours) * (ours - theirs)).sum(-1))
        agree.append(ours.argmax(-1) == theirs.argmax(-1))
        # The reference's answer is its own greedy one, so it is the argmax of `ours`.
        prompt = ids[: len(ids) - wanted + 1]
        greedy = Sampling(temperature=0.0, max_new_tokens=wanted, ignore_eos=True)
        written = engine([prompt], greedy)[0][0].tokens
        equal = np.array(written) == ours.argmax(-1)
        same += wanted if equal.all() else int(equal.argmin())
    kl = np.concatenate(kls)
    mean = float(kl.mean())
    return Parity(
        mode=mode,
        mean_kl=mean,
        worst_kl=float(kl.max()),
        top1_agreement=float(np.concatenate(agree).mean()),
        greedy_agreement=same / len(kl),
        tokens=len(kl),
        bound=bound,
        accepted=mean <= bound,
    )


def _record(folder: Path) -> Path:
    from plumbline.models.cache import folder_digest
    from plumbline.project import cache_folder

    return cache_folder() / "graphs" / f"{folder_digest(folder)}.parity.json"


def _kept(folder: Path) -> dict[str, Any]:
    path = _record(folder)
    return json.loads(path.read_text()) if path.is_file() else {}


def _keep(folder: Path, result: Parity) -> None:
    path = _record(folder)
    scratch = path.with_suffix(".scratch")
    scratch.write_text(json.dumps({**_kept(folder), result.mode: asdict(result)}, indent=1))
    scratch.replace(path)
