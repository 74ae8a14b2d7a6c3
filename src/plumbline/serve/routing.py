"""The way of a request that is routed: the small model's try, the rule, the larger model, and back where that fails.

A rule that looks at the small model's answer needs all of it, so that such an answer comes in one piece even of a
stream. Of the larger model the pieces come as they are written. Until its first one the small model can take its place;
whatever goes wrong with the larger one is the reason then, and not a refusal.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plumbline.guard.guarded import Blocked, Held
from plumbline.serve.draft import Begun, Draft, Text
from plumbline.serve.engine import Engine, TooLong
from plumbline.serve.route import AFTER, RULES, Route, Seen, cost_of

if TYPE_CHECKING:
    from plumbline.serve.service import Service

log = logging.getLogger("plumbline.serve")


async def routed(
    service: Service, draft: Draft, small: Engine, route: Route | None
) -> AsyncGenerator[Begun | Text, None]:
    """What happens until the draft has its answers; without a route the small model gives them."""
    if route is None:
        yield draft.announced()
        async with aclosing(service.ask(small, draft)) as steps:
            async for text in steps:
                yield text
        return
    asked, large = draft.asked, service.versions.large
    tried, seen = await tried_by(service, draft, small, route) if route.by in AFTER else (None, Seen.of(asked))
    why = "it does not fit the small model" if tried == [] else RULES[route.by](route, seen)
    draft.route = {"to": "large" if why else "small", "why": why}
    if why:
        draft.version = route.large
        steps = service.ask(large, draft)
        try:
            async with asyncio.timeout(route.patience):
                first = await anext(steps, None)
        except Blocked:
            raise
        except Exception as error:  # whatever it is, the small model can still answer
            log.warning("%r is asked instead of %r: %s", small.name, large.name, type(error).__name__)
            draft.begin_again(asked)
            draft.fault = f"{type(error).__name__}: {error}"
            draft.route["to"] = "fallback"
        else:
            async with aclosing(steps):
                yield draft.announced()
                if first is not None:
                    yield first
                async for text in steps:
                    yield text
            return
    draft.version = small.name
    if tried:
        draft.spent = 0.0  # the try is the answer, and is counted as that
        await service.take(draft, tried, Held(service.guards))
        yield draft.announced()
        return
    yield draft.announced()
    async with aclosing(service.ask(small, draft)) as steps:
        async for text in steps:
            yield text


async def tried_by(service: Service, draft: Draft, small: Engine, route: Route) -> tuple[list[dict[str, Any]], Seen]:
    """The small model's whole answers, none where the prompt is too long for it, and what is seen of them."""
    asked, seen = draft.asked, Seen.of(draft.asked)
    tells = asked.logprobs is None and route.by == "confidence"
    deadline = asyncio.get_running_loop().time() + service.settings.limit
    try:
        pieces = await service.wholes(small, replace(asked, logprobs=0) if tells else asked, deadline)
    except TooLong:
        return [], seen
    answers = [done for piece in pieces for done in piece["done"]]
    told = [each["logprob"] for done in answers for each in done.get("logprobs", ())]
    if tells:
        for done in answers:
            del done["logprobs"]
    if route.by == "score":
        texts = [{"prompt": asked.prompts[place], "texts": [done["text"] for done in piece["done"]]}
                 for place, piece in enumerate(pieces)]  # fmt: skip
        found = [await service.versions.scorer.whole({"do": "score", **each}, deadline) for each in texts]
        numbers = [number for piece in found for number in piece["done"]]
        seen = replace(seen, score=None if any(map(math.isnan, numbers)) else min(numbers))
    read, written = sum(piece["done"][0]["prompt_tokens"] for piece in pieces), sum(done["tokens"] for done in answers)
    draft.spent = cost_of(service.settings.prices, small.name, read, written)
    return pieces, replace(seen, logprob=sum(told) / len(told) if told else None)
