"""The tokenizer in a GGUF file: written from a folder's, and mended where transformers reads it incompletely.

A GGUF file names the rule by which text is split before the merges (`tokenizer.ggml.pre`) instead of spelling it out.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plumbline.errors import BadModel
from plumbline.models.tokenizer import Tokenizer

DIGITS_FIRST = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2")
"""Rules that split off each digit before GPT-2's rule; transformers leaves that out."""

WHOLE_WORDS_FIRST = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken")
"""Rules of models that take a word that is a token as it is, merges or not; transformers leaves that out."""

PLAIN_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo", "jais", "roberta-bpe", "exaone4", "trillion", "granite-docling")
"""Names for GPT-2's rule, which is what transformers falls back to."""

_SPLITS = {
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "tekken": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
"""The patterns that tokenizer.json files spell out where a GGUF file has the name."""


def mend(rust: Any, metadata: dict[str, Any], file: Path) -> None:
    """Make the tokenizer that transformers read from the file split text as the file's rule says.

    An unknown rule is told once, on standard error: the file is converted once.
    """
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    rule = metadata.get("tokenizer.ggml.pre")
    if metadata.get("tokenizer.ggml.model") != "gpt2":
        return  # only byte-level vocabularies are split before their merges
    if rule in DIGITS_FIRST:
        gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
        rust.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    elif rule in WHOLE_WORDS_FIRST:
        rust.model.ignore_merges = True
    elif rule not in GGUF_PRE_TOKENIZER_SPLITS and rule not in PLAIN_GPT2:
        print(
            f"{file.name}: its tokenizer splits text by a rule named {rule!r}, which is not known here; GPT-2's rule "
            "is used, and some texts will be split otherwise than in training. The model's own folder has the rule",
            file=sys.stderr,
        )


def add_tokenizer(writer: Any, tokenizer: Tokenizer) -> None:
    """Give the writer vocabulary, merges, splitting rule, special tokens and chat template."""
    described = json.loads(tokenizer.rust.to_str())
    tokens, types = _tokens(described, tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in described["model"]["merges"]]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    if described["model"].get("byte_fallback"):  # SentencePiece's kind, whose readers order merges by score
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(_scores(tokens, merges))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_rule(described, tokenizer.folder))
    _add_specials(writer, tokenizer)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _tokens(described: dict[str, Any], tokenizer: Tokenizer) -> tuple[list[str], list[int]]:
    """The text and the type of every row of the embedding."""
    from gguf.constants import TokenType

    model = described["model"]
    if model["type"] != "BPE":
        raise BadModel(
            f"{str(tokenizer.folder)!r} has a tokenizer of type {model['type']}, and the GGUF format's are of type BPE"
        )
    tokens = [f"[PAD{number}]" for number in range(tokenizer.vocabulary)]
    types = [int(TokenType.UNUSED)] * len(tokens)
    for text, number in model["vocab"].items():
        tokens[number] = text
        types[number] = int(TokenType.BYTE if re.fullmatch("<0x[0-9A-F]{2}>", text) else TokenType.NORMAL)
    for added in described["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = int(TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    if model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = int(TokenType.UNKNOWN)
    return tokens, types


def _scores(tokens: Sequence[str], merges: Sequence[Sequence[str]]) -> list[float]:
    """The earlier a merge, the higher the score of what it makes."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _rule(described: dict[str, Any], folder: Path) -> str:
    """The name of the tokenizer's splitting rule."""
    steps = described.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0]["use_regex"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1]["use_regex"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1]["use_regex"]:
        spelled = steps[0]["pattern"].get("Regex")
        named = next((name for name, pattern in _SPLITS.items() if pattern == spelled), None)
        if named is not None:
            return named
    print(
        f"{str(folder)!r}: the GGUF format has no name that is known here for how its tokenizer splits text; the "
        "file says 'default', and programs that use the tokenizer in it may split some texts otherwise",
        file=sys.stderr,
    )
    return "default"


def _add_specials(writer: Any, tokenizer: Tokenizer) -> None:
    ids = {name: tokenizer.rust.token_to_id(text) for name, text in tokenizer.special_map.items()}
    for name, add in (
        ("bos_token", writer.add_bos_token_id),
        ("eos_token", writer.add_eos_token_id),
        ("unk_token", writer.add_unk_token_id),
        ("pad_token", writer.add_pad_token_id),
    ):
        if ids.get(name) is not None:
            add(ids[name])
    other_ends = sorted(tokenizer.eos_ids - {ids.get("eos_token", -1)})
    if other_ends:
        writer.add_eot_token_id(other_ends[0])
    # What the tokenizer puts around a text, and before its first letter, is seen by letting it.
    framed = tokenizer.encode_raw("a")
    writer.add_add_bos_token(framed[0] == ids.get("bos_token"))
    writer.add_add_eos_token(framed[-1] == ids.get("eos_token"))
    first = str(tokenizer.rust.id_to_token(tokenizer.encode_markup("a")[0]))
    writer.add_add_space_prefix(first.startswith(("\u0120", "\u2581")))  # how the two kinds of vocabulary spell it
