"""What `plumb serve` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbline.errors import UserError
from plumbline.serve.route import Prices, Route


@dataclass(frozen=True)
class Settings:
    """How a model is served. The defaults suit a laptop."""

    model: str | None = None
    """The model; None takes the project's promoted version and follows promotions, and before the first its model."""
    engine: str = "auto"
    mode: str | None = None
    embedder: str = "minilm"
    canary: str | None = None
    """A second version that gets a share of the users."""
    share: float = 0.0
    """Which share; a user stays with one version."""
    rails: tuple[str, ...] = ()
    """Rails by name, as `guard.rails` reads them."""
    keys: bool = False
    """Whether a key is needed although the server listens on this machine alone."""
    at_once: int = 32
    """Rows of the engine's batch."""
    waiting: int = 256
    """Requests that wait at most."""
    patience: float = 60.0
    """Seconds that a request waits for a place."""
    limit: float = 300.0
    """Seconds that an answer takes at most."""
    max_tokens: int = 512
    """Most tokens of an answer whose request does not say."""
    longest_prompt: int = 1_000_000
    """Characters of a prompt."""
    keep_days: float = 0.0
    """Days after which exchanges are removed; 0 keeps them."""
    cache: bool = True
    """Whether an answer at temperature 0 is given again to the same request of the same key."""
    similar: float = 0.0
    """From which cosine on it is also given to a question that is alike; 0 gives it to none."""
    traces: str = ""
    """The collector that is told of requests as spans; "" tells none."""
    cache_url: str = ""
    """The Redis in which servers share those answers; "" keeps them in the database alone."""
    route: Route | None = None
    """Which requests go to a larger model, where there is one."""
    prices: Prices = field(default_factory=dict)
    """What tokens cost, by model."""

    def __post_init__(self) -> None:
        def need(ok: bool, message: str) -> None:
            if not ok:
                raise UserError(message)

        need(0.0 <= self.share <= 1.0, f"the canary's share is {self.share!r}: it lies between 0 and 1")
        need(not self.share or bool(self.canary), f"a share of {self.share!r} needs the version that gets it")
        need(self.at_once >= 1, f"at_once is {self.at_once!r}: one request at least must be answered at a time")
        need(self.waiting >= 0, f"waiting is {self.waiting!r}: it is a number of requests")
        need(self.patience > 0 and self.limit > 0, "the seconds to wait and to answer must be more than none")
        need(self.max_tokens >= 1, f"max_tokens is {self.max_tokens!r}: an answer has at least one")
        need(0.0 <= self.similar <= 1.0, f"similar is {self.similar!r}: it is a cosine, from 0 (never) to 1")
        need(self.keep_days >= 0, f"the days to keep are {self.keep_days!r}: 0 keeps all")
