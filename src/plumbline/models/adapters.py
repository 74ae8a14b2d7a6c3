"""One base, many hats: policy, value, reward and reference are low-rank adapters over a single frozen model.

    W' x = W x + alpha / rank · B A x        A (rank, in), B (out, rank), B = 0 at the start

Hu et al. 2021 (LoRA, arXiv 2106.09685). The adapters are PEFT's, put into the model's linear layers, so the model keeps
its class and every function that takes a model takes this one. Which of them computes is chosen with `wearing`;
whether an adapter is trained does not change with it. (PEFT's own switch turns gradients on and off, so a policy
would stop learning after the value's pass.)
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.errors import BadModel, UserError
from plumbline.models.families import load_causal, quiet
from plumbline.models.grouped import decoder_layers, works
from plumbline.models.lora import adapted_linear

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True)
class LoRA:
    """What an adapter looks like. It sits on every linear layer of the decoder blocks."""

    rank: int = 16
    """Rank of the change that it can make to a weight."""
    alpha: float = 32.0
    """Its output is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of its input that is dropped while the model is in training mode."""
    top_layers: int = 0
    """Only on the top N layers; 0 is every layer."""

    def __post_init__(self) -> None:
        for name, ok, must in (
            ("rank", self.rank >= 1, "be at least 1"),
            ("alpha", self.alpha > 0, "be above 0"),
            ("dropout", 0.0 <= self.dropout < 1.0, "be at least 0 and below 1"),
            ("top_layers", self.top_layers >= 0, "be 0 (every layer) or more"),
        ):
            if not ok:
                raise UserError(f"{name} is {getattr(self, name)!r}: it must {must}")


class Hats:
    """The adapters of one model, by name. The model's own weights are frozen, and nothing is worn at first.

    New adapters change nothing until they are trained. The model knows its hats as `model.hats`.
    """

    def __init__(self, model: Any) -> None:
        from transformers.pytorch_utils import Conv1D

        assert getattr(model, "hats", None) is None, "the model has its hats already: model.hats"
        self.model = model.requires_grad_(False)
        self.worn: str | None = None
        self._configs: dict[str, Any] = {}
        self._layers = decoder_layers(model)
        name_of = {module: name for name, module in model.named_modules()}
        self._list_name = name_of[self._layers[0]].split(".")[-2]  # "layers", or "h" in GPT-2
        linear = [module for layer in self._layers for module in layer.modules() if _is_linear(module)]
        self._linear = linear
        self._targets = sorted({name_of[module].rpartition(".")[2] for module in linear})
        self._rounded = False
        self._transposed = any(isinstance(module, Conv1D) for module in linear)
        model.hats = self

    def add(self, name: str, lora: LoRA) -> None:
        """A fresh adapter, to be trained."""
        from peft import LoraConfig

        count = len(self._layers)
        if lora.top_layers > count:
            raise UserError(f"top_layers is {lora.top_layers!r}: the model has {count} layers")
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT multiplies by it, whatever number it is
            lora_dropout=lora.dropout,
            target_modules=self._targets,
            layers_to_transform=list(range(count - lora.top_layers, count)) if lora.top_layers else None,
            layers_pattern=self._list_name if lora.top_layers else None,
            fan_in_fan_out=self._transposed,
            task_type="CAUSAL_LM",
        )
        self._put_in(name, config)

    def load(self, name: str, folder: str | Path) -> None:
        """The adapter of a PEFT folder, to be trained further or worn as it is."""
        from safetensors.torch import load_file

        config = _read_config(Path(folder))
        try:
            kept = load_file(Path(folder) / WEIGHTS)
            self._put_in(name, config)
        except Exception as error:  # whatever safetensors and peft raise is their answer about this folder
            raise BadModel(f"{str(folder)!r} does not fit {self._about()}: {error}") from error
        mine = self._weights(name)
        shapes = {key: tuple(tensor.shape) for key, tensor in mine.items()}
        theirs = {key: tuple(tensor.shape) for key, tensor in kept.items()}
        for key in sorted(shapes | theirs):
            if shapes.get(key) != theirs.get(key):
                raise BadModel(
                    f"{str(folder)!r} does not fit {self._about()}: {key} is {theirs.get(key, 'not there')} and "
                    f"{shapes.get(key, 'nothing')} is expected; load the base that it was trained on"
                )
        _copy(kept, mine)

    def snapshot(self, source: str, name: str) -> None:
        """A copy of an adapter as it is now, which is not trained: the reference of a policy that goes on from it."""
        self._put_in(name, copy.deepcopy(self._configs[source]))
        _copy(self._weights(source), self._weights(name))
        for parameter in self.parameters(name):
            parameter.requires_grad_(False)

    @contextlib.contextmanager
    def wearing(self, name: str | None) -> Iterator[None]:
        """Inside, the model computes with that adapter, with None as the base does. It changes nothing else."""
        assert name is None or name in self._configs, f"{name!r} is none of {list(self._configs)}"
        before = self.worn
        self._wear(name)
        try:
            yield
        finally:
            self._wear(before)

    def round_base(self, dtype: torch.dtype) -> None:
        """Holds the matrices of the decoder blocks in `dtype`, the one that autocast turns them into anyway.

        Autocast would convert a frozen weight anew in every pass; the results are the same to the bit. What is
        exported is merged into the weights as they were. From here on the model computes under autocast only.
        """
        works(self.model)  # its self-test wants the exact weights
        for module in self._linear:
            module.weight.data = module.weight.data.to(dtype)
        self._rounded = True

    def parameters(self, name: str) -> list[torch.nn.Parameter]:
        """The adapter's parameters, always in the same order."""
        return list(self._weights(name).values())

    @property
    def names(self) -> list[str]:
        """All adapters that there are."""
        return list(self._configs)

    def named_parameters(self, name: str) -> dict[str, torch.nn.Parameter]:
        """The same under the names that a PEFT folder gives them."""
        return self._weights(name)

    def scale(self, name: str) -> float:
        """What the adapter's output is multiplied by."""
        config = self._configs[name]
        return float(config.lora_alpha / config.r)

    def lowest_layer(self, name: str) -> int:
        """The number of the first layer that the adapter changes."""
        return next(
            number for number, layer in enumerate(self._layers) if any(name in each.lora_A for each in _adapted(layer))
        )

    def save(self, name: str, folder: str | Path) -> None:
        """Writes a folder that PEFT, and whatever reads its folders, loads onto the same base."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(self._configs[name])
        config.inference_mode = True
        config.save_pretrained(str(folder))
        weights = {key: parameter.detach().contiguous() for key, parameter in self._weights(name).items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    def export(self, name: str, folder: str | Path) -> None:
        """Writes the model with the adapter merged in, as a folder of its own; in memory nothing changes.

        The tokenizer's files come along from the folder that the model was loaded from.
        """
        folder = Path(folder)
        model = self.model
        exact = load_causal(model.name_or_path, device="cpu", dtype=model.dtype) if self._rounded else model
        state = {
            key.replace(".base_layer.", "."): tensor
            for key, tensor in exact.state_dict().items()
            if ".lora_" not in key
        }
        for place, module in self.model.named_modules():
            if _is_adapted(module) and name in module.lora_A:
                weight = state[f"{place}.weight"]
                change = module.get_delta_weight(name).detach().to(weight.device)
                state[f"{place}.weight"] = (weight.to(change.dtype) + change).to(weight.dtype)
        with quiet():
            self.model.save_pretrained(folder, state_dict=state)
        for file in TOKENIZER_FILES:
            if (came_from := Path(self.model.name_or_path) / file).is_file():
                shutil.copy2(came_from, folder / file)

    def _put_in(self, name: str, config: Any) -> None:
        import torch
        from peft import inject_adapter_in_model

        assert name.isidentifier() and name not in self._configs, name
        config.base_model_name_or_path = self.model.name_or_path
        trained = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        inject_adapter_in_model(config, self.model, name)
        del self.model.peft_config  # it names the last adapter only, and PEFT warns when it finds it again
        for parameter, was in trained:
            parameter.requires_grad_(was)
        self._configs[name] = config
        for module in _adapted(self.model):
            if isinstance(module.base_layer, torch.nn.Linear):
                module.forward = partial(_compute, module)
        for parameter in self.parameters(name):
            parameter.requires_grad_(True)
            if parameter.element_size() < 4:  # an update of a weight in half precision is mostly rounded away
                parameter.data = parameter.data.float()
        self.model.train(self.model.training)  # new modules begin in training mode
        self._wear(self.worn)

    def _wear(self, name: str | None) -> None:
        for module in _adapted(self.model):
            module._active_adapter = [name] if name else []
        self.worn = name

    def _weights(self, name: str) -> dict[str, torch.nn.Parameter]:
        """The adapter's parameters under the names that a PEFT folder gives them."""
        assert name in self._configs, f"{name!r} is none of {list(self._configs)}"
        ends = (f".lora_A.{name}.weight", f".lora_B.{name}.weight")
        return {
            f"base_model.model.{key.removesuffix(f'.{name}.weight')}.weight": parameter
            for key, parameter in self.model.named_parameters()
            if key.endswith(ends)
        }

    def _about(self) -> str:
        return f"{type(self.model).__name__} of {self.model.name_or_path!r}"


def _is_linear(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))


def _is_adapted(module: Any) -> bool:
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer)


def _adapted(part: Any) -> list[Any]:
    return [module for module in part.modules() if _is_adapted(module)]


def _compute(module: Any, inputs: torch.Tensor) -> torch.Tensor:
    """What an adapted linear layer makes of its inputs, with what is worn."""
    from torch import is_autocast_enabled

    worn = [name for name in module._active_adapter if name in module.lora_A]
    if not worn:
        outputs: torch.Tensor = module.base_layer(inputs)
        return outputs
    (name,) = worn
    linear, down, up = module.base_layer, module.lora_A[name].weight, module.lora_B[name].weight
    drops = module.training and getattr(module.lora_dropout[name], "p", 0.0) > 0
    if drops or (inputs.dtype != down.dtype and not is_autocast_enabled(inputs.device.type)):
        outputs = type(module).forward(module, inputs)
        return outputs
    return adapted_linear(inputs, linear.weight, linear.bias, down, up, module.scaling[name])


def _copy(source: Any, target: dict[str, torch.nn.Parameter]) -> None:
    import torch

    with torch.no_grad():
        for key, parameter in target.items():
            parameter.copy_(source[key])


def _read_config(folder: Path) -> Any:
    """The folder's adapter_config.json, ready to be put in."""
    from peft import LoraConfig

    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise BadModel(f"{str(folder)!r} lacks {file}: an adapter is a folder that PEFT's save_pretrained writes")
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["peft_type"]
    except (ValueError, LookupError, TypeError) as error:
        raise BadModel(f"{str(folder / CONFIG)!r} is not the configuration of an adapter: {error}") from error
    config = LoraConfig.from_pretrained(str(folder)) if kind == "LORA" else None
    if config is None or config.use_dora or config.bias != "none" or config.modules_to_save:
        raise BadModel(
            f"{str(folder)!r} holds an adapter that is more than low-rank matrices ({kind}, or with DoRA, biases or "
            "whole modules): train one without them, or merge it into its model and load that"
        )
    config.inference_mode = False
    return config
