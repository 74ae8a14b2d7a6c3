"""Which version answers: the promoted one, a canary's share of the users, and what happens while that changes.

A promotion is noticed within a second. The new version is loaded beside the old one, requests that get a place from
then on go to it, and the old one ends when its last request has. One that cannot be loaded changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable

from plumbline.errors import UserError
from plumbline.project import PROMOTIONS, Project
from plumbline.serve.engine import Engine, Spec
from plumbline.serve.requests import ApiError
from plumbline.serve.route import Route
from plumbline.serve.settings import Settings

log = logging.getLogger("plumbline.serve")

WHATEVER = "plumbline"
"""The name under which one asks for whatever is served."""
PAUSE = 1.0
"""Seconds between two looks at the promotions."""


class Versions:
    """The engines of one server."""

    def __init__(
        self, settings: Settings, project: Project, default: str, *, make: Callable[[Spec], Engine] = Engine
    ) -> None:
        self.settings = settings
        self.project = project
        self.fault = ""
        """Why the promoted version is not the one that is served; "" where it is."""
        self.switches = 0
        self._default = default
        self._make = make
        self._primary: Engine | None = None
        self._canary: Engine | None = None
        self._embedder: Engine | None = None
        self._large: Engine | None = None
        self._scorer: Engine | None = None
        self._loading = asyncio.Lock()
        self._seen: object = None
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def primary(self) -> Engine:
        """The engine of the version in force."""
        assert self._primary is not None, "start() comes first"
        return self._primary

    @property
    def canary(self) -> Engine | None:
        """The engine of the second version, if there is one."""
        return self._canary

    def engines(self) -> list[Engine]:
        """Those that are loaded."""
        known = (self._primary, self._canary, self._embedder, self._large, self._scorer)
        return [engine for engine in known if engine is not None]

    async def start(self) -> None:
        """Loads what is to be served; what is wrong with it is raised."""
        self._seen = self._mark()
        self._primary = await self._load(self._wanted())
        if self.settings.canary:
            self._canary = await self._load(self.settings.canary)
        if (route := self.settings.route) is not None:
            if route.by == "confidence" and not self.primary.known.get("logprobs"):
                raise UserError(
                    f"{self.primary.name!r} tells no log-probabilities, and [route] goes by its confidence: "
                    'serve a model that runs here, or take another rule, by = "rule"'
                )
            self._large = await self._load(route.large)
            if route.by == "score":
                self._scorer = self._make(Spec(route.scorer, scores=True))
                await self._scorer.start()

    async def close(self) -> None:
        """Ends all engines."""
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await asyncio.gather(*(engine.close() for engine in self.engines()))

    # ---- whose turn

    @property
    def large(self) -> Engine:
        """The engine of the larger model, where there is a route to it."""
        assert self._large is not None, "there is no route"
        return self._large

    @property
    def scorer(self) -> Engine:
        """The engine that judges the small model's answers, where the route goes by that."""
        assert self._scorer is not None, "the route goes by no scorer"
        return self._scorer

    def route_of(self, model: str) -> Route | None:
        """The route of a request that asks for this model, if it is to be routed."""
        route = self.settings.route
        return route if route is not None and route.name == model else None

    def names(self) -> list[str]:
        """By which models can be asked for."""
        served = (self._primary, self._canary, self._embedder)
        routed = [] if self.settings.route is None else [self.settings.route.name]
        return list(dict.fromkeys([WHATEVER, *routed, *(engine.name for engine in served if engine is not None)]))

    def pick(self, model: str, user_id: str) -> Engine:
        """The engine for a request; an unknown model is a refusal."""
        if self._canary is not None and model == self._canary.name:
            return self._canary
        if model == self.primary.name:
            return self.primary
        if model not in ("", WHATEVER, *self._names()) and self.route_of(model) is None:
            said = f"The model {model!r} is not served here: ask for {WHATEVER!r} or {self.primary.name!r}."
            raise ApiError(404, said, param="model", code="model_not_found")
        if self._canary is not None and draw(f"{self._canary.name} {user_id}") < self.settings.share:
            return self._canary
        return self.primary

    def _names(self) -> tuple[str, ...]:
        """What else the version in force is called: as it was named, and without its number."""
        return (self.primary.spec.name, self.primary.name.rpartition("@")[0] or self.primary.name)

    async def embedder(self, model: str) -> Engine:
        """The engine that embeds, loaded at the first request."""
        named = (self.settings.embedder, "", WHATEVER)
        if model not in named and (self._embedder is None or model != self._embedder.name):
            said = f"The embedder {model!r} is not served here: ask for {self.settings.embedder!r}."
            raise ApiError(404, said, param="model", code="model_not_found")
        async with self._loading:
            if self._embedder is None:
                engine = self._make(Spec(self.settings.embedder, embeds=True))
                await engine.start()
                self._embedder = engine
        return self._embedder

    # ---- promotion

    async def watch(self) -> None:
        """Looks for promotions until it is cancelled."""
        while self.settings.model is None:
            await asyncio.sleep(PAUSE)
            await self.look()

    async def look(self) -> None:
        """Switches to the promoted version where that is another one now."""
        mark = self._mark()
        if mark == self._seen:
            return
        self._seen = mark
        try:
            wanted = self._wanted()
            if wanted == self.primary.name:
                self.fault = ""
                return
            new = await self._load(wanted)
        except Exception as error:  # whatever it is: the next promotion must still be noticed
            self.fault = f"the promotion changes nothing: {error}"
            log.error("%s", self.fault)
            return
        old, self._primary, self.fault = self.primary, new, ""
        self.switches += 1
        log.warning("%r answers from now on, no longer %r", new.name, old.name)
        task = asyncio.create_task(old.drain())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _wanted(self) -> str:
        promoted = None if self.settings.model else self.project.promoted()
        return promoted.ref if promoted else self._default

    def _mark(self) -> object:
        """What changes when the promotions do."""
        try:
            state = (self.project.folder / PROMOTIONS).stat()
        except OSError:
            return None
        return state.st_mtime_ns, state.st_ino, state.st_size

    async def _load(self, name: str) -> Engine:
        engine = self._make(Spec(name, self.settings.engine, self.settings.mode))
        await engine.start()
        return engine


def draw(text: str) -> float:
    """A number in [0, 1) that the text decides, so that a user stays with one version."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
