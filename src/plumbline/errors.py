"""Everything Plumbline raises on purpose.

    PlumblineError
    ├── UserError            the caller can mend it; the command line prints it without a traceback, exit code 2
    │   ├── BadRecord        a line or a field of a data file is wrong
    │   ├── BadProject       plumb.toml or the project folder is wrong
    │   ├── UnknownModel     a model name that resolves to nothing
    │   ├── BadModel         a model was found and cannot be used
    │   ├── PromptTooLong    a prompt does not fit the model's window
    │   ├── EndpointError    a remote endpoint refused, failed or stayed silent
    │   ├── HubUnreachable   the model hub did not answer
    │   └── MissingExtra     an optional dependency is not installed
    └── EngineCrashed        an engine's process died; requests in flight are lost, the next call restarts it

A message says what was given, what is wrong and what to do. A bug of ours is an `assert` that shows its value, not
one of these. An error that a model caused (a tool call that does not parse, say) goes back to the model.
"""

from __future__ import annotations


class PlumblineError(Exception):
    """The root: `except PlumblineError` catches all that we raise on purpose."""


class UserError(PlumblineError):
    """Something the caller gave is wrong, and the message says how to mend it."""


class BadRecord(UserError):
    """A line or a field of a data file is wrong; the message names file, line and reason."""


class BadProject(UserError):
    """The project folder or its plumb.toml is wrong or missing."""


class UnknownModel(UserError):
    """A model name that resolves to nothing; the message lists the nearest names and how to install."""


class BadModel(UserError):
    """A model was found and cannot be used: corrupt, truncated, of a kind we do not load."""


class PromptTooLong(UserError):
    """A prompt does not fit the model's window."""

    def __init__(self, tokens: int, limit: int, where: str = "the prompt") -> None:
        self.tokens = tokens
        self.limit = limit
        super().__init__(
            f"{where} has {tokens} tokens and the model's window leaves room for {limit}: "
            "shorten it, lower --max-new-tokens, or pass --truncate to cut it from the left"
        )


class EndpointError(UserError):
    """A remote endpoint refused, failed or stayed silent. `status` is the HTTP status, None when none came."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class HubUnreachable(UserError):
    """The model hub did not answer in time."""


class MissingExtra(UserError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str, needed_for: str) -> None:
        self.extra = extra
        super().__init__(f"{needed_for} needs the extra `{extra}`: pip install 'plumbline[{extra}]'")


class EngineCrashed(PlumblineError):
    """An engine's child process died. What was in flight is lost; the next call starts a fresh process."""
