"""Tiny models with random weights, one of each family, written as transformers-style folders.

Each has two layers and its own small tokenizer, trained here on a few sentences, so that every path (encode, template,
forward, decode) is the real one. As in the bundled model, the padding token is the end token and id 0 ends a text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

SENTENCES = (
    "My house is too hot. What can I do?",
    "Open the windows at night, close the curtains by day and let the air move.",
    "The cafeteria had 23 apples, used 20 for lunch and bought 6 more: 9 are left.",
    "A plumb line hangs straight, whatever the wall beside it does.",
    "Please return the pair of jeans that I ordered on 14 March, order number 4071.",
    'The answer is written as {"name": "Ada", "age": 36, "born": true, "tags": ["a", "b"]}.',
    "def add(a, b):\n    return a + b\n\nprint(add(2, 40))\n",
    "Der Weg ist kurz, das Café schließt um acht, 寒い日 и снег, and ☂ helps.",
    "Knock, knock. Who is there? It's me; I'll wait, they've gone, we're late.",
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

WINDOW = 512
_VOCABULARY = 512
_SIZE = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.2,
}
_GROUPED = {**_SIZE, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False}
_CHAT_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def write_tokenizer(folder: Path, style: str = "chat", window: int = WINDOW) -> None:
    """A byte-level BPE tokenizer of the given style: chat (ChatML), t5 (text, </s>) or bert ([CLS], text, [SEP])."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials, names, around = {
        "chat": (
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
            None,
        ),
        "t5": (
            ["<pad>", "</s>", "<unk>"],
            {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
            "$A </s>",
        ),
        "bert": (
            ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"],
            {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"},
            "[CLS] $A [SEP]",
        ),
    }[style]
    rust = tokenizers.Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator(SENTENCES, trainer)
    if around:
        rust.post_processor = processors.TemplateProcessing(
            single=around, special_tokens=[(name, rust.token_to_id(name)) for name in specials]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=rust, model_max_length=window, **names)
    if style == "chat":
        fast.chat_template = CHATML
    fast.save_pretrained(folder)


def _llama(tied: bool = False) -> tuple[Any, str]:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**{**_GROUPED, "tie_word_embeddings": tied}, **_CHAT_IDS)), "chat"


def _llama_tied() -> tuple[Any, str]:
    return _llama(tied=True)


def _mistral() -> tuple[Any, str]:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**_GROUPED, **_CHAT_IDS, sliding_window=None)), "chat"


def _qwen2() -> tuple[Any, str]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    size = {name: value for name, value in _GROUPED.items() if name != "head_dim"}
    return Qwen2ForCausalLM(Qwen2Config(**size, **_CHAT_IDS)), "chat"


def _qwen3() -> tuple[Any, str]:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    # Qwen3's heads are wider than hidden size / heads, which is what makes it worth a model of its own.
    return Qwen3ForCausalLM(Qwen3Config(**{**_GROUPED, "head_dim": 32}, **_CHAT_IDS)), "chat"


def _glm() -> tuple[Any, str]:
    from transformers import GlmConfig, GlmForCausalLM

    return GlmForCausalLM(GlmConfig(**_GROUPED, **_CHAT_IDS)), "chat"


def _glm4() -> tuple[Any, str]:
    from transformers import Glm4Config, Glm4ForCausalLM

    return Glm4ForCausalLM(Glm4Config(**_GROUPED, **_CHAT_IDS)), "chat"


def _gpt2() -> tuple[Any, str]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=_VOCABULARY,
        n_positions=WINDOW,
        n_embd=64,
        n_layer=2,
        n_head=4,
        initializer_range=0.2,
        tie_word_embeddings=False,
        **_CHAT_IDS,
    )
    return GPT2LMHeadModel(config), "chat"


def _t5() -> tuple[Any, str]:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=_VOCABULARY,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config), "t5"


def _bart() -> tuple[Any, str]:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=_VOCABULARY,
        max_position_embeddings=WINDOW,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        init_std=0.2,
        bos_token_id=1,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )
    return BartForConditionalGeneration(config), "bert"


def _bert_classifier() -> tuple[Any, str]:
    from transformers import BertConfig, BertForSequenceClassification

    labels = {0: "hate", 1: "nothate"}
    config = BertConfig(**_SIZE, pad_token_id=0, id2label=labels, label2id={name: n for n, name in labels.items()})
    return BertForSequenceClassification(config), "bert"


def _bert() -> tuple[Any, str]:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**_SIZE, pad_token_id=0)), "bert"


FAMILIES: dict[str, Callable[[], tuple[Any, str]]] = {
    "llama": _llama,
    "llama-tied": _llama_tied,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "glm": _glm,
    "glm4": _glm4,
    "gpt2": _gpt2,
    "t5": _t5,
    "bart": _bart,
    "bert-classifier": _bert_classifier,
    "bert": _bert,
}


def write_model(family: str, folder: Path, seed: int = 0) -> Path:
    """The tiny model of that family with its tokenizer, in `folder`; the same seed gives the same weights."""
    import torch
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, style = FAMILIES[family]()
        model.eval().save_pretrained(folder)
        write_tokenizer(folder, style)
    finally:
        if bars:
            logging.enable_progress_bar()
    return folder
