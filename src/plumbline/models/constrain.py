"""Answers that follow a JSON schema or a grammar, on the llguidance library's automaton.

The automaton says which tokens may come next; the sampler draws among them. A grammar alone does not make a small
model come to an end (it can fill a string until the tokens run out), so a schema's answer is also brought to a close
in time: from the last moment at which the shortest way out still fits, only tokens that lead out are allowed.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import UserError
from plumbline.models import Sampling
from plumbline.models.tokenizer import Tokenizer

_MARGIN = 8  # tokens kept in reserve beside the shortest way out


class Automata:
    """Makes the automaton of each answer for one tokenizer; grammars are compiled once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        import llguidance

        if not tokenizer.eos_ids:
            raise UserError(f"the model in {str(tokenizer.folder)!r} has no end-of-text token, which a schema needs")
        self.tokenizer = tokenizer
        self.table = llguidance.LLTokenizer(
            str(tokenizer.folder / "tokenizer.json"), n_vocab=tokenizer.vocabulary, eos_token=sorted(tokenizer.eos_ids)
        )
        self.ways_out = _ways_out(self.table, tokenizer.vocabulary)
        self.start = lru_cache(maxsize=64)(self._start)

    def begin(self, sampling: Sampling, limit: int) -> Automaton | None:
        """The automaton of an answer of at most `limit` tokens, None where the answer is free."""
        if sampling.schema is None and sampling.grammar is None:
            return None
        text = None if sampling.schema is None else json.dumps(sampling.schema)  # its order is the answer's order
        matcher, shortest = self.start(text, sampling.grammar)
        if text is not None and shortest > limit:
            raise UserError(
                f"max_new_tokens leaves {limit} tokens and the shortest answer that the schema allows needs "
                f"{shortest}: raise --max-new-tokens"
            )
        return Automaton(self, matcher.deep_copy(), None if text is None else shortest + _MARGIN)

    def _start(self, schema: str | None, grammar: str | None) -> tuple[Any, int]:
        """A matcher at its beginning and the tokens of the shortest way out (0 for a grammar)."""
        from llguidance import LLMatcher

        kind, given = ("schema", schema) if schema is not None else ("grammar", grammar)
        try:
            compiled = (
                # Compact JSON: free white space lets a small model write blanks until its tokens run out.
                LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
                if schema is not None
                else LLMatcher.grammar_from_lark(grammar or "")
            )
        except ValueError as error:
            raise UserError(f"the {kind} {given!r} cannot be read: {error}") from error
        matcher = LLMatcher(self.table, compiled, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().strip().splitlines()[0]
            raise UserError(f"the {kind} {given!r} cannot be followed: {reason}")
        return matcher, 0 if schema is None else self._shortest(matcher)

    def _shortest(self, matcher: Any) -> int:
        probe = Automaton(self, matcher.deep_copy(), None)
        for count in range(1, 4097):
            token = int(np.argmax(probe.closing()))
            if token in self.tokenizer.eos_ids:
                return count
            probe.accept(token)
        raise UserError("the schema allows no answer shorter than 4,096 tokens: make it simpler")


class Automaton:
    """Where one answer stands in its grammar."""

    def __init__(self, automata: Automata, matcher: Any, reserve: int | None) -> None:
        self.automata = automata
        self.matcher = matcher
        self.reserve = reserve

    def allowed(self, left: int) -> NDArray[np.bool_]:
        """Which tokens (vocabulary,) may come next, when `left` more can be written."""
        if self.reserve is not None and left <= self.reserve:
            return self.closing()
        return self._mask()

    def accept(self, token: int) -> None:
        """Take the token that was drawn."""
        ok = self.matcher.consume_token(token)
        assert ok, (token, self.matcher.get_error())

    def closing(self) -> NDArray[np.bool_]:
        """The allowed tokens that lead out soonest: the end, then a quote, a closing bracket, a comma, anything."""
        mask = self._mask()
        for way in self.automata.ways_out:
            if (found := mask & way).any():
                return found
        return mask

    def _mask(self) -> NDArray[np.bool_]:
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        words = allocate_token_bitmask(1, self.automata.table.vocab_size)
        fill_next_token_bitmask(self.matcher, words)
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        return bits[: self.automata.tokenizer.vocabulary].astype(np.bool_)


def _ways_out(table: Any, vocabulary: int) -> list[NDArray[np.bool_]]:
    """Masks over the vocabulary, best way out first: end of text, a quote, a closing bracket, a comma.

    The quote comes before the brackets, which inside a string are only more text.
    """
    masks = [np.zeros(vocabulary, dtype=np.bool_) for _ in range(4)]
    masks[0][list(table.eos_tokens)] = True
    for place, characters in ((1, ('"',)), (2, ("}", "]")), (3, (",",))):
        for character in characters:
            ids = table.tokenize_str(character)
            if len(ids) == 1:
                masks[place][ids[0]] = True
    return masks
