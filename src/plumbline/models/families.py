"""The model families, loaded through transformers from a local folder.

Decoder-only (GPT, GLM, Llama, Mistral, Qwen), encoder-decoder (T5, BART), encoders with a classification head and
plain encoders (BERT). Only safetensors are loaded, since unpickling weights runs whatever code is in them, and no code
that comes with a model is run. `family` and `missing_files` are quick and need no torch.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plumbline.errors import BadModel, UserError
from plumbline.models.weights import weight_files

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Family = Literal["causal", "seq2seq", "classifier", "encoder"]

_AUTO = {
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "classifier": "AutoModelForSequenceClassification",
    "encoder": "AutoModel",
}
_DTYPES = ("auto", "float32", "bfloat16", "float16")


def family(folder: str | Path) -> Family:
    """Which of the four kinds of model the folder holds, by the architecture that its config.json names."""
    config = read_config(folder)
    architecture = str((config.get("architectures") or [""])[0])
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal"
    if architecture.endswith("ForConditionalGeneration") and config.get("is_encoder_decoder"):
        return "seq2seq"
    if architecture.endswith("ForSequenceClassification"):
        return "classifier"
    if architecture.endswith(("Model", "ForMaskedLM")):
        return "encoder"
    raise BadModel(
        f"{str(folder)!r} holds the architecture {architecture!r}: text models for generation (ForCausalLM, "
        "ForConditionalGeneration with an encoder), classification (ForSequenceClassification) and embedding (Model) "
        "are loaded"
    )


def missing_files(folder: str | Path, *, tokenizer: bool = True) -> list[str]:
    """What the folder lacks to be a model: config.json, safetensors with every shard, and tokenizer.json."""
    folder = Path(folder)
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    lacking += [file.name for file in weight_files(folder) if not file.is_file()]
    if tokenizer and not (folder / "tokenizer.json").is_file():
        lacking.append("tokenizer.json")
    return lacking


def refuse_incomplete(folder: str | Path, *, tokenizer: bool = True) -> None:
    """BadModel where the folder lacks a file, with the list of what it lacks."""
    folder = Path(folder)
    lacking = missing_files(folder, tokenizer=tokenizer)
    if not lacking:
        return
    pickles = sorted(file.name for file in folder.glob("*.bin")) if folder.is_dir() else []
    remedy = (
        f"it has {pickles[0]}, which is never loaded since unpickling runs code: save the model as safetensors"
        if pickles and any(name.endswith(".safetensors") for name in lacking)
        else "a model folder is what save_pretrained of transformers writes"
    )
    raise BadModel(f"{str(folder)!r} lacks {', '.join(lacking)}: {remedy}")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The folder's config.json."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        refuse_incomplete(folder)
    return _read_json(path)


def load_causal(folder: str | Path, *, device: str = "auto", dtype: str | torch.dtype = "auto") -> PreTrainedModel:
    """A decoder-only language model, ready for inference.

    Its padding token can learn: in most models it is the end-of-text token, which stands in every conversation, and
    torch gives an embedding's padding row no gradient. Padding itself reaches no loss here and needs no such guard.
    """
    model = _load("causal", folder, device, dtype)
    embedding: Any = model.get_input_embeddings()
    embedding.padding_idx = None
    return model


def load_seq2seq(folder: str | Path, *, device: str = "auto", dtype: str | torch.dtype = "auto") -> PreTrainedModel:
    """An encoder-decoder language model, ready for inference."""
    return _load("seq2seq", folder, device, dtype)


def load_classifier(folder: str | Path, *, device: str = "auto", dtype: str | torch.dtype = "auto") -> PreTrainedModel:
    """A sequence classifier, ready for inference."""
    return _load("classifier", folder, device, dtype)


def start_classifier(
    folder: str | Path, labels: Sequence[str], *, device: str = "auto", dtype: str | torch.dtype = "auto"
) -> tuple[PreTrainedModel, list[str]]:
    """A model with a head for these classes, to be trained; and the names of the weights that are new, and random.

    New are the head and BERT's pooler where the folder holds an encoder or a decoder alone, or has other classes.
    """
    refuse_incomplete(folder, tokenizer=False)
    place = pick_device(device)
    model, loading = _read_model(
        _AUTO["classifier"],
        folder,
        dtype=pick_dtype(dtype, place),
        ignore_mismatched_sizes=True,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        problem_type="single_label_classification",
    )
    new = sorted({*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])})
    body = f"{model.base_model_prefix}."
    _refuse_lacking(folder, [name for name in new if name.startswith(body) and ".pooler." not in name])
    return model.eval().to(place), new


def load_encoder(folder: str | Path, *, device: str = "auto", dtype: str | torch.dtype = "auto") -> PreTrainedModel:
    """An encoder without a head, ready for inference."""
    return _load("encoder", folder, device, dtype)


def _load(wanted: Family, folder: str | Path, device: str, dtype: str | torch.dtype) -> PreTrainedModel:
    refuse_incomplete(folder, tokenizer=False)
    held = family(folder)
    if held != wanted:
        architecture = read_config(folder)["architectures"][0]
        raise BadModel(f"{str(folder)!r} holds a {held} model ({architecture}), and a {wanted} model is needed here")
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    model, loading = _read_model(_AUTO[wanted], folder, dtype=kind)
    lacking = sorted(loading["missing_keys"])
    if wanted == "encoder":  # a pooler is BERT's own; embeddings are pooled by us
        lacking = [name for name in lacking if not name.startswith("pooler.")]
    _refuse_lacking(folder, lacking)
    loaded: PreTrainedModel = model.eval().to(place)
    return loaded


def _read_model(auto: str, folder: str | Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The model in the folder as that class of transformers has it, and what it says about its weights."""
    import transformers

    try:
        with quiet():
            model, loading = getattr(transformers, auto).from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # whatever transformers raises is its answer about this folder
        raise BadModel(f"{str(folder)!r} cannot be loaded: {error}") from error
    return model, loading


def _refuse_lacking(folder: str | Path, lacking: list[str]) -> None:
    """BadModel where weights are lacking: transformers would fill them with random numbers."""
    if lacking:
        more = f" and {len(lacking) - 4} more" if len(lacking) > 4 else ""
        raise BadModel(f"{str(folder)!r} lacks weights that its config.json promises: {', '.join(lacking[:4])}{more}")


def pick_device(device: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, else the CPU."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device is {device!r}: give 'auto', 'cpu', 'cuda' or 'cuda:0'") from error


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" is float32 on the CPU and bfloat16 on CUDA where it has it."""
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise UserError(f"dtype is {dtype!r}: give one of {', '.join(_DTYPES)}")
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    picked: torch.dtype = getattr(torch, dtype)
    return picked


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers without its bars and warnings: what matters of them is raised by the caller as an error."""
    import transformers

    logging: Any = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadModel(f"{str(path)!r} does not hold JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadModel(f"{str(path)!r} holds a {type(value).__name__}, not a JSON object")
    return value
