"""One copy of a language model's weights that plays every part of RLHF.

Policy, critic and reward model are LoRA adapters (Hu 2021, 2106.09685) on the same frozen base;
the reference is the base with all adapters off. Scalar heads (critic, reward) read the trunk's last
hidden state. Which parameters train is pinned when an adapter is added: peft's own `set_adapter`
switches gradients of the inactive adapters off, and is not used here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLora
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from align.adapters import add_lora, save_adapter
from align.config import LoraConfig
from align.errors import UserError
from align.quiet import quiet_peft


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions that do not depend on padding: the exclusive cumulative sum of the mask.

    Args:
        attention_mask: (B, S), 1 on real tokens.

    Returns:
        (B, S) int64; 0 on padding before the first real token.
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)


class SharedBase(nn.Module):
    """A frozen causal LM with named LoRA adapters and scalar heads.

    Args:
        model: The merged model all parts start from. Its parameters are frozen here.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        model.requires_grad_(False)
        model.eval()
        self.config = model.config
        self.heads = nn.ModuleDict()
        self._model: PreTrainedModel | PeftModel = model
        self._causal = model
        self._adapters: list[str] = []
        self._active: str | None = None
        self._layers: list[BaseTunerLayer] = []
        self._trainable: dict[str, list[nn.Parameter]] = {}
        _check_plain_head(model)

    @property
    def causal(self) -> PreTrainedModel:
        """The causal LM, with whatever adapter is active."""
        return self._causal

    @property
    def device(self) -> torch.device:
        """Device of the base."""
        return torch.device(self._causal.device)

    @property
    def active_adapter(self) -> str | None:
        """Name of the adapter in force; None is the bare base (the reference)."""
        return self._active

    def add_adapter(
        self,
        name: str,
        lora: LoraConfig | None = None,
        *,
        folder: Path | None = None,
        trainable: bool = False,
        seed: int = 0,
    ) -> None:
        """Add a LoRA adapter, fresh (B = 0, so it changes nothing) or from a peft folder.

        Args:
            name: Its name here.
            lora: Shape of a fresh adapter; ignored where `folder` is given.
            folder: Folder with `adapter_config.json` and `adapter_model.safetensors`.
            trainable: Whether an optimizer will change it.
            seed: Seed of a fresh adapter's A matrices.

        Raises:
            UserError: The folder holds no LoRA adapter that fits this model.
        """
        settings = _peft_settings(lora, folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if not self._adapters:
                self._model = add_lora(self._causal, settings, name)
            else:
                assert isinstance(self._model, PeftModel)
                with quiet_peft():
                    self._model.add_adapter(name, settings)
        self._adapters.append(name)
        self._layers = [m for m in self._causal.modules() if isinstance(m, BaseTunerLayer)]
        if folder is not None:
            self._load_weights(name, folder)
        if trainable:
            self._trainable[name] = self.adapter_parameters(name)
        self._pin_gradients()
        self.activate(name)

    def add_head(
        self, name: str, *, weight: Tensor | None = None, trainable: bool = False
    ) -> nn.Linear:
        """Add a scalar head on the trunk (H -> 1, float32, bias 0).

        Args:
            name: Its name; the adapter of the same name feeds it.
            weight: (1, H) starting weight; zeros where missing, so that it starts as a constant 0.
            trainable: Whether an optimizer will change it.
        """
        head = nn.Linear(self.config.hidden_size, 1, device=self.device, dtype=torch.float32)
        with torch.no_grad():
            head.weight.zero_() if weight is None else head.weight.copy_(weight.reshape(1, -1))
            head.bias.zero_()
        head.requires_grad_(trainable)
        self.heads[name] = head
        if trainable:
            self._trainable[f"{name}.head"] = list(head.parameters())
        return head

    def activate(self, name: str | None) -> None:
        """Put one adapter in force (None: the bare base); which parameters train stays as it is.

        peft's own switches walk every module and parameter and change what trains: 30 ms for 30
        blocks, twice a micro-batch. What they set is set here directly.
        """
        if name is not None and name not in self._adapters:
            raise KeyError(f"no adapter {name!r}; there are {self._adapters}")
        for layer in self._layers:
            layer._disable_adapters = name is None
            if name is not None:
                layer._active_adapter = [name]
        self._active = name

    def _pin_gradients(self) -> None:
        """Undo what peft made trainable when an adapter was added."""
        pinned = {id(p) for parameters in self._trainable.values() for p in parameters}
        for parameter in self._causal.parameters():
            parameter.requires_grad_(id(parameter) in pinned)

    @contextmanager
    def active(self, name: str | None) -> Iterator[None]:
        """Put an adapter in force for a block; the one before returns whatever happens."""
        before = self._active
        self.activate(name)
        try:
            yield
        finally:
            self.activate(before)

    def train(self, mode: bool = True) -> SharedBase:
        """Stay in evaluation mode: dropout is off in every part, whatever a trainer asks for."""
        return super().train(False)

    @property
    def generation_config(self) -> Any:
        """Generation settings of the base, which transformers' trainer keeps in step."""
        return self._causal.generation_config

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states of the trunk under the adapter in force.

        Args:
            input_ids: (B, S), padded on either side.
            attention_mask: (B, S), 1 on real tokens.

        Returns:
            (B, S, H) in the model's dtype.
        """
        output = self._causal.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids(attention_mask),
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits (..., V) of hidden states (..., H), in the model's dtype."""
        logits: Tensor = self._causal.get_output_embeddings()(hidden)
        return logits

    def adapter_parameters(self, name: str) -> list[nn.Parameter]:
        """LoRA parameters of one adapter, in module order."""
        return [p for key, p in self._causal.named_parameters() if f".{name}." in key]

    def trainable_parameters(self, name: str) -> list[nn.Parameter]:
        """Parameters that train under `name`: its adapter, then its head."""
        return [*self._trainable.get(name, []), *self._trainable.get(f"{name}.head", [])]

    def adapter_state(self, name: str) -> dict[str, Tensor]:
        """LoRA weights of one adapter under peft's key names (without the adapter's name)."""
        state = get_peft_model_state_dict(
            self._model, adapter_name=name, save_embedding_layers=False
        )
        return {key: value.detach().cpu().contiguous() for key, value in sorted(state.items())}

    def load_adapter_state(self, name: str, state: dict[str, Tensor]) -> None:
        """Put weights as `adapter_state` gives them back into an adapter of the same shape."""
        result = set_peft_model_state_dict(self._model, state, adapter_name=name)
        missing = [key for key in result.missing_keys if f".{name}." in key]
        if missing or result.unexpected_keys:
            raise UserError(
                f"adapter {name!r} does not fit: {len(missing)} weights missing, "
                f"{len(result.unexpected_keys)} unexpected",
                remedy="use the adapter with the base model it was trained on",
            )

    def save_adapter(self, name: str, folder: Path, *, head: bool = False) -> None:
        """Write an adapter as a peft folder, and its scalar head beside it if wanted."""
        folder.mkdir(parents=True, exist_ok=True)
        save_adapter(self._model, name, folder)
        if head:
            state = {
                key: value.contiguous() for key, value in self.heads[name].state_dict().items()
            }
            save_file(state, folder / "head.safetensors")

    def restore_adapter(self, name: str, folder: Path, *, head: bool = False) -> None:
        """Put back what `save_adapter` wrote into an adapter that exists here."""
        self._load_weights(name, folder)
        if head:
            self.heads[name].load_state_dict(load_file(folder / "head.safetensors"))

    def _load_weights(self, name: str, folder: Path) -> None:
        """Load a saved adapter; heads saved beside it are left to their owners."""
        path = folder / "adapter_model.safetensors"
        if not path.is_file():
            raise UserError("no adapter_model.safetensors", where=str(folder))
        state = {key: value for key, value in load_file(path).items() if "lora_" in key}
        try:
            self.load_adapter_state(name, state)
        except RuntimeError as error:
            raise UserError(
                f"the adapter's weights have other shapes than the model ({str(error)[:200]})",
                where=str(folder),
                remedy="use it with the base model it was trained on",
            ) from error


def initial_head(hidden_size: int, seed: int) -> Tensor:
    """Starting weight (1, H) of a reward head: N(0, 1 / sqrt(H + 1)) (Stiennon 2020)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, hidden_size, generator=generator) / math.sqrt(hidden_size + 1)


def _peft_settings(lora: LoraConfig | None, folder: Path | None) -> PeftLora:
    """Configuration of a fresh adapter, or the one saved in a folder (dropout off)."""
    if folder is not None:
        if not (folder / "adapter_config.json").is_file():
            raise UserError("no adapter_config.json", where=str(folder))
        settings = PeftLora.from_pretrained(str(folder))
        if not isinstance(settings, PeftLora):
            raise UserError("the adapter is not a LoRA", where=str(folder), allowed="peft LoRA")
    else:
        shape = lora or LoraConfig()
        targets: Any = shape.target_modules
        settings = PeftLora(
            r=shape.r,
            lora_alpha=shape.alpha,
            target_modules=targets if isinstance(targets, str) else list(targets),
        )
    settings.task_type, settings.modules_to_save, settings.lora_dropout = "CAUSAL_LM", None, 0.0
    settings.inference_mode = False
    return settings


@torch.no_grad()
def _check_plain_head(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are not its head applied to the trunk's last hidden state."""
    probe = torch.arange(4, device=model.device)[None] % model.config.vocab_size
    expected = model(input_ids=probe, use_cache=False).logits
    hidden = model.base_model(input_ids=probe, use_cache=False).last_hidden_state
    if not torch.allclose(model.get_output_embeddings()(hidden), expected, atol=1e-3):
        raise UserError(
            f"{type(model).__name__} scales or caps its logits after the head",
            allowed="models whose logits are head(hidden), such as Llama, Qwen, Mistral, GPT-2",
        )
