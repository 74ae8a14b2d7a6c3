"""Chat templates: from messages to the text and the tokens that are really sent.

A model's template is its own Jinja text; a fix for one that is wrong or too strict belongs in this file, as
`fold_system` is one for templates that refuse a system message. Special tokens inside what people, documents or
models wrote are neutralised: content is rendered with stand-ins for them, and the stand-ins are encoded as content.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

from plumbline.errors import UserError
from plumbline.models import Conversation, Prompt, Raw
from plumbline.models.tokenizer import Tokenizer
from plumbline.records import Message

_STAND_IN = 0xF0000
"""First code point of a private plane: stand-ins for special tokens that content spells out."""


def conversation(prompt: Prompt) -> Conversation:
    """Any prompt but raw text and token ids as a conversation; a plain string is one user turn."""
    if isinstance(prompt, Conversation):
        return prompt
    if isinstance(prompt, str):
        return Conversation([{"role": "user", "content": prompt}])
    messages = cast("Sequence[Message]", prompt)
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message:
            raise UserError(f"message {number} is {message!r}: each message needs a role and a content")
    if not messages:
        raise UserError("the prompt holds no message: give at least one")
    return Conversation(messages)


def is_tokens(prompt: Prompt) -> bool:
    """Whether the prompt is a sequence of token ids already."""
    return not isinstance(prompt, (str, Conversation)) and len(prompt) > 0 and isinstance(prompt[0], int)


def render(tokenizer: Tokenizer, prompt: Prompt, *, answer: bool = True) -> str:
    """The text that is sent to the model, special tokens shown as they are spelled.

    `answer` ends it where the model's turn begins.
    """
    if is_tokens(prompt):
        return str(tokenizer.rust.decode(list(cast("Sequence[int]", prompt)), skip_special_tokens=False))
    if isinstance(prompt, Raw) or (isinstance(prompt, str) and tokenizer.chat_template is None):
        return str(prompt)
    text, spelled = _render(tokenizer, conversation(prompt), answer)
    for number, special in enumerate(spelled):
        text = text.replace(chr(_STAND_IN + number), special)
    return text


def encode_prompt(tokenizer: Tokenizer, prompt: Prompt, *, answer: bool = True) -> list[int]:
    """The token ids that are sent to the model. A model without a template gets a plain string as it is."""
    if is_tokens(prompt):
        given = list(cast("Sequence[int]", prompt))
        size = tokenizer.vocabulary
        strange = next((each for each in given if not 0 <= each < size), None)
        if strange is not None:
            raise UserError(f"the prompt holds the token id {strange}, and the model's lie between 0 and {size - 1}")
        return given
    if isinstance(prompt, Raw):
        return tokenizer.encode_raw(prompt)
    if isinstance(prompt, str) and tokenizer.chat_template is None:
        neutral = not tokenizer.find_special(prompt)
        return tokenizer.encode_raw(prompt) if neutral else tokenizer.encode(prompt)
    text, spelled = _render(tokenizer, conversation(prompt), answer)
    ids: list[int] = []
    begin = 0
    for position, character in enumerate(text) if spelled else ():
        if 0 <= ord(character) - _STAND_IN < len(spelled):
            ids += tokenizer.encode_markup(text[begin:position])
            ids += tokenizer.encode(spelled[ord(character) - _STAND_IN])
            begin = position + 1
    return ids + tokenizer.encode_markup(text[begin:])


def fold_system(messages: Sequence[Message]) -> list[Message] | None:
    """System messages moved into the first user turn, for templates that refuse them; None where there are none."""
    system = [message["content"] or "" for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    if not system or not rest or rest[0]["role"] != "user":
        return None
    first = cast("Message", {**rest[0], "content": "\n\n".join([*system, rest[0]["content"] or ""])})
    return [first, *rest[1:]]


def _render(tokenizer: Tokenizer, talk: Conversation, answer: bool) -> tuple[str, list[str]]:
    """Text with stand-ins, and the special tokens that they stand for, in order."""
    if tokenizer.chat_template is None:
        raise UserError(
            f"the model in {str(tokenizer.folder)!r} has no chat template: give it a plain string, or put a "
            "chat_template.jinja into its folder"
        )
    messages, spelled = _neutral(tokenizer, talk.messages)
    template = _compiled(tokenizer.chat_template)
    folded = fold_system(messages)
    for attempt in (messages, folded):
        if attempt is None:
            continue
        try:
            text = template.render(
                messages=attempt,
                tools=list(talk.tools) or None,
                add_generation_prompt=answer,
                **tokenizer.special_map,
            )
        except Exception as error:  # whatever a model's template raises is the template's answer
            refusal = error
        else:
            return text, spelled
    roles = [message["role"] for message in talk.messages]
    raise UserError(f"the model's chat template refuses this conversation (roles {roles!r}): {refusal}") from refusal


def _neutral(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[Message], list[str]]:
    """Messages whose spelled special tokens are replaced by one stand-in character per kind."""
    spelled: list[str] = []

    def stand_in(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stand_in(item) for key, item in value.items()}
        if isinstance(value, list):
            return [stand_in(item) for item in value]
        if not isinstance(value, str):
            return value
        for special in sorted(set(tokenizer.find_special(value)), key=len, reverse=True):
            if special not in spelled:
                spelled.append(special)
            value = value.replace(special, chr(_STAND_IN + spelled.index(special)))
        return value

    return [cast("Message", stand_in(dict(message))) for message in messages], spelled


@lru_cache(maxsize=32)
def _compiled(template: str) -> Any:
    """The template in the sandbox that chat templates are written for."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks the model's own words for training; in rendering it changes nothing."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    def refuse(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **rest: Any) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, **rest)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)
