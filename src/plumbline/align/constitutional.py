"""Constitutional AI: the model is taught by its own critiques, under principles that people wrote down.

    revise    x → y0 ~ π(· | x);  c_t ~ critic(x, y_{t-1}, principle_t);  y_t ~ critic(x, y_{t-1}, c_t, principle_t)
              demonstrations (x, y_T), for `plumb train sft`
    rank      y_1 … y_K ~ π_SFT(· | x);  for each two of them a verdict under one principle, asked in both orders
              rankings by points (1 for a win, 1/2 for a tie), for `plumb train reward` and `plumb train dpo`

Bai et al. 2022 (arXiv 2212.08073). Prompts named harmless take part with their answers as they are: a model that is
shown refusals only unlearns to help. Refusals are counted on both kinds of prompt, before and after.

OUT/trail.jsonl            every step: principle, prompt, what was said, model, seed
OUT/demonstrations.jsonl, rankings.jsonl, pairs.jsonl, summary.json    made from it
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from plumbline.align.critic import (
    brief_revision_prompt,
    critique_prompt,
    opening_grammar,
    revision_prompt,
    stripped,
    whole,
)
from plumbline.align.principles import Constitution, Principle
from plumbline.align.trail import Key, Step, Trail, Wanted, digest_of, open_folder, write_summary
from plumbline.errors import UserError
from plumbline.files import shown
from plumbline.models import Generate, Sampling, Score
from plumbline.models.best import BestOf
from plumbline.models.preference import Case, Criterion, Prefer, SolvedCase, Verdict
from plumbline.records import Demonstration, Message, Pair, PromptRecord, Ranking, write_jsonl

AT_ONCE = 16
"""Prompts that go through a round together."""
MUTE = 16
"""Judgements after which a judge that names no answer in more than half of them is given up."""


@dataclass(frozen=True)
class Config:
    """Settings of both stages."""

    domains: tuple[str, ...] = ()
    """Use the principles of this domain only; give it several times for several."""
    rounds: int = 1
    """Times that an answer is criticised and revised, each time by a principle drawn anew (revise)."""
    per_prompt: int = 2
    """Answers per prompt that are compared (rank)."""
    shots: int = 3
    """Worked examples that a critic or a judge is shown before each case."""
    full: bool = False
    """Have a local critic revise from answer and critique, as an endpoint does; a small one copies from both."""
    drafts: int = 8
    """Drafts of a revision, of which the one that most clearly declines is taken; of a local critic that is held to
    openings."""
    max_new_tokens: int = 160
    """Most tokens of an answer, a critique and a revision."""
    temperature: float = 0.7
    """How varied they are."""
    top_p: float = 0.95
    """Keep the smallest set of likeliest tokens whose probabilities reach p."""
    seed: int = 0
    """Decides principles, answers, critiques and revisions."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "domains", tuple(self.domains))
        for name, least in (("rounds", 1), ("per_prompt", 2), ("shots", 0), ("drafts", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)!r}: it must be at least {least}")

    def drawing(self, *what: object, n: int = 1, grammar: str | None = None) -> Sampling:
        """How the step that `what` names is drawn, with a seed of its own."""
        digest = hashlib.sha256(repr((self.seed, *what)).encode()).digest()
        return Sampling(
            n=n,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=int.from_bytes(digest[:4], "big"),
            grammar=grammar,
        )


Advance = Callable[[int], object]


# ---- stage 1: answer, critique, revision


def revise(
    out: str | Path,
    prompts: Sequence[PromptRecord],
    assistant: Generate,
    critic: Generate,
    constitution: Constitution,
    config: Config,
    *,
    harmless: Sequence[PromptRecord] = (),
    refusal: Score | None = None,
    keep: Sequence[Score] = (),
    held: bool = False,
    advance: Advance = lambda steps: None,
) -> dict[str, Any]:
    """Asks, criticises and revises; writes trail, demonstrations and summary, and returns the summary.

    `held` says that the critic is a local model: it is held to a principle's openings, and revises by examples alone.
    `refusal` counts refusals, and chooses among the drafts of a held critic, which without it writes one. `keep` tells
    what is learned: revisions of which each of these scorers says that they decline, and harmless answers of which none
    does. It changes no step, so a finished run can be chosen from anew. Stopped at any moment and called again with the
    same arguments, it goes on.
    """
    refuse_shared(prompts, harmless)
    constitution = constitution.within(config.domains)
    held = held and not config.full
    reviser = BestOf(critic, refusal, config.drafts) if held and refusal is not None else critic
    given = {
        "stage": "revise",
        "assistant": assistant.name,
        "critic": critic.name,
        "reviser": reviser.name,
        "held": held,
        "harmless": digest_of(harmless),
    }
    with open_folder(out, given | settings_of(config, prompts, constitution)) as folder:
        trail = Trail(folder / "trail.jsonl", advance)
        advance(len(trail))
        fine = {each.prompt_id for each in harmless}
        for part in parts([*prompts, *harmless]):
            trail.ask(assistant, [Wanted(each, "answer", 0, each.prompt, config.drawing("answer")) for each in part])
            red_team = [each for each in part if each.prompt_id not in fine]
            for turn in range(1, config.rounds + 1):
                revise_once(trail, red_team, critic, reviser, constitution, config, turn, held=held)
        learned = [
            *demonstrations(trail, chosen(trail, prompts, config.rounds, keep, len(keep)), config.rounds),
            *demonstrations(trail, chosen(trail, harmless, 0, keep, 0), 0),
        ]
        if not learned:
            raise UserError(
                f"no answer is left to be learned: look into {str(trail.path)!r}, and try another model or keep more"
            )
        write_jsonl(folder / "demonstrations.jsonl", learned)
        return write_summary(folder, revised_summary(trail, prompts, harmless, config, len(learned), refusal))


def revise_once(
    trail: Trail,
    part: Sequence[PromptRecord],
    critic: Generate,
    reviser: Generate,
    constitution: Constitution,
    config: Config,
    turn: int,
    *,
    held: bool,
) -> None:
    """One round over a few prompts: a principle for each, its critique, its revision.

    The reviser writes those that are held to openings, the critic the others.
    """
    drawn = {each.prompt_id: constitution.choose(config.seed, each.prompt_id, turn) for each in part}

    def wanted(record: PromptRecord, kind: Any) -> Wanted:
        principle = drawn[record.prompt_id]
        answer = latest(trail, record, turn - 1)
        if kind == "critique":
            asked = critique_prompt(constitution, principle, record.prompt, answer, shots=config.shots)
            return Wanted(record, kind, turn, asked, config.drawing(kind, turn), principle.id)
        critique = stripped(trail[Key(record.prompt_id, "critique", turn)].text)
        asked = (
            brief_revision_prompt(constitution, principle, record.prompt, shots=config.shots)
            if held
            else revision_prompt(constitution, principle, record.prompt, answer, critique, shots=config.shots)
        )
        grammar = opening_grammar(principle.openings) if held and principle.openings else None
        return Wanted(record, kind, turn, asked, config.drawing(kind, turn, grammar=grammar), principle.id)

    trail.ask(critic, [wanted(record, "critique") for record in part])
    revisions = [wanted(record, "revision") for record in part]
    trail.ask(reviser, [each for each in revisions if each.sampling.grammar])
    trail.ask(critic, [each for each in revisions if not each.sampling.grammar])


def latest(trail: Trail, record: PromptRecord, turn: int) -> str:
    """The answer as it stands after that many rounds. Of an answer that was cut off, its whole sentences: who learns
    it shall not learn to stop in the middle of one."""
    step = trail[Key(record.prompt_id, "revision", turn) if turn else Key(record.prompt_id, "answer")]
    if turn:
        return stripped(step.text)
    return whole(step.text) if step.finish_reason == "length" else step.text


def chosen(
    trail: Trail, prompts: Sequence[PromptRecord], rounds: int, scorers: Sequence[Score], yes: int
) -> list[PromptRecord]:
    """The prompts to whose last answer that many of the scorers say yes."""
    asked, said = [each.prompt for each in prompts], [latest(trail, each, rounds) for each in prompts]
    scores = [score(asked, said) if prompts else [] for score in scorers]
    return [each for place, each in enumerate(prompts) if sum(of[place] > 0 for of in scores) == yes]


def demonstrations(trail: Trail, prompts: Sequence[PromptRecord], rounds: int) -> Iterator[Demonstration]:
    """What is to be learned: each prompt with its last answer. One without text shows nothing and is left out."""
    for record in prompts:
        if text := latest(trail, record, rounds):
            asked: list[Message] = (
                [{"role": "user", "content": record.prompt}] if isinstance(record.prompt, str) else record.prompt
            )
            yield Demonstration(
                messages=[*asked, {"role": "assistant", "content": text}],
                prompt_id=record.prompt_id,
                split=record.split,
            )


def revised_summary(
    trail: Trail,
    prompts: Sequence[PromptRecord],
    harmless: Sequence[PromptRecord],
    config: Config,
    written: int,
    refusal: Score | None,
) -> dict[str, Any]:
    """What came of it: how much changed, and how often an answer declines, where it should and where it should not."""
    pairs = [(latest(trail, each, 0), latest(trail, each, config.rounds)) for each in prompts]
    found: dict[str, Any] = {
        "prompts": len(prompts),
        "harmless": len(harmless),
        "demonstrations": written,
        "changed": sum(before != after for before, after in pairs),
    }
    if refusal is not None:
        found["refused_by"] = refusal.name
        found["refused_before"] = refused(refusal, prompts, [before for before, _ in pairs])
        found["refused_after"] = refused(refusal, prompts, [after for _, after in pairs])
        found["refused_harmless"] = refused(refusal, harmless, [latest(trail, each, 0) for each in harmless])
    return found


def refused(refusal: Score, prompts: Sequence[PromptRecord], answers: Sequence[str]) -> int:
    scores = refusal([each.prompt for each in prompts], list(answers)) if prompts else []
    return sum(score > 0 for score in scores)


# ---- stage 2: several answers, compared under a principle


def rank(
    out: str | Path,
    prompts: Sequence[PromptRecord],
    assistant: Generate,
    judge: Prefer,
    constitution: Constitution,
    config: Config,
    *,
    advance: Advance = lambda steps: None,
) -> dict[str, Any]:
    """Draws answers and has them compared; writes trail, rankings, pairs and summary, and returns the summary.

    Stopped at any moment and called again with the same arguments, it goes on.
    """
    constitution = constitution.within(config.domains)
    given = {"stage": "rank", "assistant": assistant.name, "judge": judge.name}
    with open_folder(out, given | settings_of(config, prompts, constitution)) as folder:
        trail = Trail(folder / "trail.jsonl", advance)
        advance(len(trail))
        drawn = config.drawing("answers", n=config.per_prompt)
        for part in parts(prompts):
            trail.ask(assistant, [Wanted(each, "answer", 0, each.prompt, drawn) for each in part])
            judge_part(trail, part, judge, constitution, config)
            refuse_mute(trail, judge.name)
        rankings = [ranking(trail, each, judge.name, constitution, config) for each in prompts]
        write_jsonl(folder / "rankings.jsonl", rankings)
        pairs = list(preferred(rankings))
        write_jsonl(folder / "pairs.jsonl", pairs)
        judged = [step for step in trail if step.kind == "judgement"]
        return write_summary(
            folder,
            {
                "prompts": len(prompts),
                "answers": sum(step.kind == "answer" for step in trail),
                "judged": len(judged),
                "ties": sum(step.winner == "tie" for step in judged),
                "unanswered": sum(unanswered(step) for step in judged),
                "pairs": len(pairs),
            },
        )


def judge_part(
    trail: Trail, part: Sequence[PromptRecord], judge: Prefer, constitution: Constitution, config: Config
) -> None:
    """The verdicts that the trail lacks, those under one principle together."""
    by_principle: defaultdict[str, list[Wish]] = defaultdict(list)
    named = {principle.id: principle for principle in constitution.principles}
    for record in part:
        wishes = [(record, turn, two) for turn, two in enumerate(comparable(trail, record, config.per_prompt))]
        by_principle[constitution.choose(config.seed, record.prompt_id).id] += wishes
    for name, wishes in by_principle.items():
        lacking = [wish for wish in wishes if Key(wish[0].prompt_id, "judgement", wish[1]) not in trail]
        cases = [Case(record.prompt, *(answer(trail, record, n) for n in between)) for record, _, between in lacking]
        each = getattr(judge, "each", judge)  # a judge behind an endpoint gives verdict after verdict
        verdicts = each(cases, criterion(constitution, named[name], config.shots))
        for wish, verdict in zip(lacking, verdicts, strict=True):
            trail.add([judgement(wish, verdict, name, judge.name)])


Wish = tuple[PromptRecord, int, tuple[int, int]]
"""A judgement that is to be made: of which prompt, its number, and which two answers."""


def judgement(wish: Wish, verdict: Verdict, principle: str, judge: str) -> Step:
    record, turn, between = wish
    return Step(
        prompt_id=record.prompt_id,
        kind="judgement",
        turn=turn,
        prompt=record.prompt,
        principle=principle,
        text="\n".join(verdict.said),
        model=judge,
        between=between,
        odds=(verdict.forward, verdict.backward),
        winner=verdict.winner,
    )


def comparable(trail: Trail, record: PromptRecord, answers: int) -> list[tuple[int, int]]:
    """Numbers of each two answers that have text and differ; the others need no judge."""
    texts = [answer(trail, record, number) for number in range(answers)]
    return [(a, b) for a, b in combinations(range(answers), 2) if texts[a] and texts[b] and texts[a] != texts[b]]


def answer(trail: Trail, record: PromptRecord, number: int) -> str:
    return trail[Key(record.prompt_id, "answer", number)].text


def criterion(constitution: Constitution, principle: Principle, shots: int) -> Criterion:
    """The principle as a judge is asked about it, with worked examples whose revision is the better answer."""
    solved = [
        SolvedCase(example.prompt, example.revision, example.answer)
        for example in constitution.examples_for(principle, shots)
    ]
    return Criterion(principle.comparison, principle.labels, tuple(solved))


def unanswered(step: Step) -> bool:
    return step.odds is not None and None in step.odds


def refuse_mute(trail: Trail, judge: str) -> None:
    """UserError where the judge mostly names no answer; a few such replies count as ties."""
    judged = [step for step in trail if step.kind == "judgement"]
    mute = [step for step in judged if unanswered(step)]
    if len(judged) >= MUTE and len(mute) > len(judged) / 2:
        raise UserError(
            f"{judge!r} named neither A nor B in {len(mute)} of {len(judged)} judgements (it said "
            f"{shown(mute[0].text.splitlines()[0] if mute[0].text else '')}): give another --judge, or another --way"
        )


def ranking(trail: Trail, record: PromptRecord, judge: str, constitution: Constitution, config: Config) -> Ranking:
    """The answers by points over all verdicts; equal points are ties, an empty answer is flagged."""
    texts = [answer(trail, record, number) for number in range(config.per_prompt)]
    points = [0.0] * len(texts)
    verdicts = {
        between: trail[Key(record.prompt_id, "judgement", turn)].winner
        for turn, between in enumerate(comparable(trail, record, len(texts)))
    }
    for a, b in combinations(range(len(texts)), 2):
        winner = verdicts.get((a, b), "tie")
        points[a] += {"first": 1.0, "tie": 0.5}.get(str(winner), 0.0)
        points[b] += {"second": 1.0, "tie": 0.5}.get(str(winner), 0.0)
    levels = sorted({-each for each, text in zip(points, texts, strict=True) if text})
    principle = constitution.choose(config.seed, record.prompt_id).id
    return Ranking(
        set_id=hashlib.sha256(json.dumps([record.prompt_id, *texts]).encode()).hexdigest()[:16],
        prompt_id=record.prompt_id,
        prompt=record.prompt,
        completions=tuple(texts),
        ranks=tuple(levels.index(-each) + 1 if text else None for each, text in zip(points, texts, strict=True)),
        flags=tuple(not text for text in texts),
        labeler_id=judge,
        instruction_version=f"{constitution.name} {constitution.version}: {principle}",
    )


def preferred(rankings: Sequence[Ranking]) -> Iterator[Pair]:
    """Each two answers of different rank, the better one first."""
    for each in rankings:
        ranked = [(rank, text) for rank, text in zip(each.ranks, each.completions, strict=True) if rank is not None]
        for one, other in combinations(sorted(ranked, key=lambda pair: pair[0]), 2):
            if one[0] < other[0]:
                yield Pair(
                    prompt=each.prompt, chosen=one[1], rejected=other[1], set_id=each.set_id, prompt_id=each.prompt_id
                )


# ---- what both stages stand on


def settings_of(config: Config, prompts: Sequence[PromptRecord], constitution: Constitution) -> dict[str, Any]:
    """All that decides the outcome beside the models' names."""
    if not prompts:
        raise UserError("there is no prompt: name a file of them")
    return {**asdict(config), "prompts": digest_of(prompts), "constitution": constitution.digest}


def parts(prompts: Sequence[PromptRecord]) -> Iterator[Sequence[PromptRecord]]:
    """The prompts a few at a time, the same ones together whatever is there already."""
    return (prompts[begin : begin + AT_ONCE] for begin in range(0, len(prompts), AT_ONCE))


def refuse_shared(prompts: Sequence[PromptRecord], harmless: Sequence[PromptRecord]) -> None:
    ids = {each.prompt_id for each in prompts}
    for each in harmless:
        if each.prompt_id in ids:
            raise UserError(f"the prompt {shown(each.prompt)} is in both files: it is to be revised, or it is harmless")


def steps_of(config: Config, stage: str, prompts: int, harmless: int = 0) -> int:
    """How many steps a run has at most, for a bar."""
    if stage == "revise":
        return prompts * (1 + 2 * config.rounds) + harmless
    return prompts * (config.per_prompt + config.per_prompt * (config.per_prompt - 1) // 2)
