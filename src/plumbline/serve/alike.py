"""Answers to questions that are alike: the semantic cache, which is off unless plumb.toml has `similar`.

A question is held against those of the same tenant, version, settings and conversation before it: the nearest by its
vector, if that is near enough, and then only if a second check finds that both ask for the same. A vector alone takes
2015 for 2016 and "Poles dislike Russians" for its opposite (`design/014-caches.md` has the figures).

The vector of a question is a column of its exchange, so what is erased, too old or of another version is never near.
"""

from __future__ import annotations

import asyncio
import logging
import re
import struct
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.feedback.store import Exchange, Store
from plumbline.serve.draft import Draft
from plumbline.serve.requests import Asked
from plumbline.serve.versions import Versions
from plumbline.web.errors import Refusal

log = logging.getLogger("plumbline.serve")

LONGEST = 300
"""Characters of a question; a longer one has more in it than its vector tells."""
MOST = 2000
"""Questions, the latest, that one is held against."""
NEAREST = 3
"""Of those, how many are looked at a second time."""

WITHOUT_WEIGHT = frozenset("a an the some any really just actually exactly so please is are".split())
"""Words that two questions may differ in."""
OF_WORDS = frozenset(
    "word words letter letters article articles verb tense grammar sentence spell spelling pronounce mean means "
    "meaning difference between vs versus".split()
)
"""Words beside which even those carry weight: what is the difference between a and an?"""
SHORT = {"can't": "can not", "won't": "will not", "shan't": "shall not", "cannot": "can not"}
ENDINGS = (("n't", " not"), ("'m", " am"), ("'re", " are"), ("'ve", " have"), ("'ll", " will"))
WITH_IS = re.compile(r"\b(what|who|where|when|how|why|that|it|there|he|she)'s\b")
QUOTING = re.compile(r"""["“”«»„`{}\[\]<>:\n]|(?<!\w)['‘’]|['‘’](?!\w)""")
TOKEN = re.compile(r"\w+(?:[.,'-]\w+)*|[^\w\s?.,;]")


def is_question(text: str) -> bool:
    """Whether it is one plain question. A task, a quotation or code is not: there every letter may matter."""
    text = text.strip()
    return len(text) <= LONGEST and text.endswith("?") and text.count("?") == 1 and not QUOTING.search(text)


def agree(one: str, other: str) -> bool:
    """The second check: the same words, names, numbers, signs and negations in the same order.

    They may differ in articles, in words that only stress, in short forms, and in a plural.
    """
    return len(core := core_of(one)) > 1 and core == core_of(other)


def core_of(text: str) -> list[str]:
    """The words of a question that carry weight."""
    text = unicodedata.normalize("NFC", text).lower().replace("’", "'")
    for short, whole in (*SHORT.items(), *ENDINGS):
        text = text.replace(short, whole)
    words = TOKEN.findall(WITH_IS.sub(r"\1 is", text))
    if not OF_WORDS.isdisjoint(words):
        return words
    return [singular(word) for word in words if word not in WITHOUT_WEIGHT]


def singular(word: str) -> str:
    """The word without the s of a plural, as far as its letters tell."""
    if len(word) < 5 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    return word[:-3] + "y" if word.endswith("ies") else word[:-1]


def question_of(asked: Asked) -> str | None:
    """The last turn of a chat, where that is a question which may get the answer of another one."""
    sampling = asked.sampling
    if len(asked.prompts) > 1 or sampling.n > 1 or asked.tools or sampling.schema or sampling.grammar:
        return None
    last = asked.prompts[0].get("messages", [{}])[-1]
    text = last.get("content") if last.get("role") == "user" else None
    return text if text and is_question(text) else None


def before_question(asked: Asked) -> tuple[dict[str, Any], ...]:
    """The prompts without that question, which must be the same to the letter."""
    (prompt,) = asked.prompts
    *before, last = prompt["messages"]
    return ({**prompt, "messages": [*before, {**last, "content": ""}]},)


@dataclass
class Alike:
    """The questions of a store, and from which cosine on two of them are near."""

    store: Store
    versions: Versions
    least: float
    patience: float = 2.0
    """Longest seconds that a request waits for its vector."""

    async def find(self, draft: Draft) -> Exchange | None:
        """An earlier exchange whose question is alike. The draft keeps its own vector, for those that come after it."""
        question, key = question_of(draft.asked), draft.alike_key
        assert question is not None and key is not None, draft.asked
        try:
            draft.vector = vector = await self._vector(question)
        except (PlumblineError, Refusal, TimeoutError) as error:
            log.error("a question has no vector, so no other one is held against it: %r", error)
            return None
        return await asyncio.to_thread(self._nearest, question, vector, key, draft.caller.tenant)

    async def _vector(self, question: str) -> bytes:
        engine = await self.versions.embedder("")
        deadline = asyncio.get_running_loop().time() + self.patience
        piece = await engine.whole({"do": "embed", "texts": [question]}, deadline)
        (row,) = piece["done"]
        return struct.pack(f"<{len(row)}f", *row)

    def _nearest(self, question: str, vector: bytes, key: str, tenant: str) -> Exchange | None:
        known = self.store.vectors(key, MOST)
        for place in nearest(vector, [each for _, each in known], self.least):
            found = self.store.exchange(known[place][0], tenant)
            if found is not None and agree(question, found.prompt["messages"][-1]["content"]):
                return found
        return None


def nearest(vector: bytes, known: Sequence[bytes], least: float) -> list[int]:
    """The places of the few vectors whose cosine with this one is largest, and at least that much."""
    import numpy as np

    same = [place for place, each in enumerate(known) if len(each) == len(vector)]  # another embedder's are not
    if not same:
        return []
    rows = np.frombuffer(b"".join(known[place] for place in same), "<f4").reshape(len(same), -1)
    cosines = rows @ np.frombuffer(vector, "<f4")
    best = np.argsort(-cosines, kind="stable")[:NEAREST]
    return [same[place] for place in best if cosines[place] >= least]
