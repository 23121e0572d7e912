"""One copy of a language model's weights that plays every part of RLHF.

Policy, critic and reward model are LoRA adapters (Hu 2021, 2106.09685) on the same frozen base;
the reference is the base with all adapters off. A part may also have weights of its own: a fully
trained policy, a separate critic, a given reference. Scalar heads (critic, reward) read the trunk's
last hidden state. Which parameters train is pinned when a part is added: peft's own `set_adapter`
switches gradients of the inactive adapters off, and is not used here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import LoraConfig as PeftLora
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from align import trunk
from align.adapters import adapter_settings, add_lora
from align.config import LoraConfig
from align.errors import UserError
from align.lora import quicken
from align.part_files import restore_adapter
from align.quiet import quiet_peft
from align.trunk import Place

T = TypeVar("T")


class SharedBase(nn.Module):
    """A frozen causal LM with named parts: LoRA adapters, models of their own, scalar heads.

    Args:
        model: The merged model all parts start from. Its parameters are frozen here.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.config = model.config
        self.heads = nn.ModuleDict()
        self.models = nn.ModuleDict()
        self._model: PreTrainedModel | PeftModel = model
        self._base = model
        self._adapters: list[str] = []
        self._active: str | None = None
        self._layers: list[BaseTunerLayer] = []
        self._trainable: dict[str, list[Place]] = {}
        trunk.make_base(model)

    @property
    def base(self) -> PreTrainedModel:
        """The model that all adapters change."""
        return self._base

    @property
    def causal(self) -> PreTrainedModel:
        """The causal LM of the part in force."""
        return self._base if self._active is None else self.model_of(self._active)

    def model_of(self, name: str) -> PreTrainedModel:
        """The model that part `name` runs on: its own, or the base that its adapter changes."""
        if name in self.models:
            own: PreTrainedModel = self.models[name]
            return own
        return self._base

    @property
    def peft_model(self) -> PreTrainedModel | PeftModel:
        """The base as peft knows it, with all adapters."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Device of the base."""
        return torch.device(self._base.device)

    @property
    def active_adapter(self) -> str | None:
        """Name of the part in force; None is the bare base."""
        return self._active

    @property
    def reference(self) -> str | None:
        """The part that is the reference: a model of its own, or the bare base."""
        return "reference" if "reference" in self.models else None

    def has_part(self, name: str) -> bool:
        """Whether `name` is an adapter or a model of its own."""
        return name in self._adapters or name in self.models

    @property
    def adapters(self) -> list[str]:
        """Names of the parts that are adapters."""
        return list(self._adapters)

    def forward(self, work: Callable[[], T]) -> T:
        """Call `work`, which may use any part.

        Wrappers that gather sharded weights hook into `forward` (torch's `fully_shard`), so
        whatever touches weights goes through here.
        """
        return work()

    def add_adapter(
        self,
        name: str,
        lora: LoraConfig | PeftLora | None = None,
        *,
        folder: Path | None = None,
        trainable: bool = False,
        seed: int = 0,
    ) -> None:
        """Add a LoRA adapter, fresh (B = 0, so it changes nothing) or from a peft folder.

        Args:
            name: Its name here.
            lora: Shape of a fresh adapter (ours or peft's); ignored where `folder` is given.
            folder: Folder with `adapter_config.json` and `adapter_model.safetensors`.
            trainable: Whether an optimizer will change it.
            seed: Seed of a fresh adapter's A matrices.

        Raises:
            UserError: The folder holds no LoRA adapter that fits this model.
        """
        settings = adapter_settings(lora, folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if not self._adapters:
                self._model = add_lora(self._base, settings, name)
            else:
                assert isinstance(self._model, PeftModel)
                with quiet_peft():
                    self._model.add_adapter(name, settings)
        self._adapters.append(name)
        self._layers = [m for m in self._base.modules() if isinstance(m, BaseTunerLayer)]
        for layer in self._layers:
            quicken(layer)
        if folder is not None:
            restore_adapter(self, name, folder)
        if trainable:
            self._trainable[name] = trunk.places_of(self, self.adapter_parameters(name))
        self._pin_gradients()
        self.activate(name)

    def add_model(self, name: str, model: PreTrainedModel, *, trainable: bool = False) -> None:
        """Add a part with weights of its own; the base itself may become a part and train.

        Raises:
            UserError: The base would train under adapters that were made for it.
        """
        if model is self._base and self._adapters and trainable:
            raise UserError(
                f"the base cannot train: it carries the adapters {self._adapters}",
                remedy="load the reward model on a base of its own, or train with LoRA",
            )
        if model is not self._base:
            trunk.make_base(model)
        self.models[name] = model
        if trainable:
            self._trainable[name] = trunk.places_of(self, list(model.parameters()))
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
            self._trainable[f"{name}.head"] = trunk.places_of(self, list(head.parameters()))
        return head

    def activate(self, name: str | None) -> None:
        """Put one part in force (None: the bare base); which parameters train stays as it is.

        peft's own switches walk every module and parameter and change what trains: 30 ms for 30
        blocks, twice a micro-batch. What they set is set here directly.
        """
        if name is not None and not self.has_part(name):
            raise KeyError(f"no part {name!r}; there are {[*self._adapters, *self.models]}")
        for layer in self._layers:
            layer._disable_adapters = name not in self._adapters
            if name in self._adapters:
                layer._active_adapter = [name]
        self._active = name

    def _pin_gradients(self) -> None:
        """Undo what peft made trainable when an adapter was added."""
        pinned = {id(getattr(*place)) for places in self._trainable.values() for place in places}
        for model in (self._base, *self.models.values()):
            for parameter in model.parameters():
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

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        gradient_checkpointing_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Prepare every model to recompute its blocks' activations; see `recomputing`."""
        kwargs = activation_checkpointing_kwargs or gradient_checkpointing_kwargs or {}
        for model in (self._base, *self.models.values()):
            trunk.enable_checkpointing(model, kwargs, options)

    gradient_checkpointing_enable = activation_checkpointing_enable  # before transformers 5.23

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Blocks in here keep no activations, once checkpointing is enabled; not for sampling."""
        with trunk.recomputing(self):
            yield

    @property
    def generation_config(self) -> Any:
        """Generation settings of the base, which transformers' trainer keeps in step."""
        return self._base.generation_config

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states of the trunk under the adapter in force.

        Args:
            input_ids: (B, S), padded on either side.
            attention_mask: (B, S), 1 on real tokens.

        Returns:
            (B, S, H) in the model's dtype.
        """
        return trunk.last_hidden(self.causal, input_ids, attention_mask)

    @property
    def vocabulary_head(self) -> nn.Module:
        """What turns hidden states (..., H) into logits (..., V) for the part in force."""
        head: nn.Module = self.causal.get_output_embeddings()
        return head

    def adapter_parameters(self, name: str) -> list[nn.Parameter]:
        """LoRA parameters of one adapter, in module order."""
        return [p for key, p in self._base.named_parameters() if f".{name}." in key]

    def trainable_parameters(self, name: str) -> list[nn.Parameter]:
        """Parameters that train under `name`: its adapter, then its head."""
        places = [*self._trainable.get(name, []), *self._trainable.get(f"{name}.head", [])]
        return [getattr(*place) for place in places]

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


def initial_head(hidden_size: int, seed: int) -> Tensor:
    """Starting weight (1, H) of a reward head: N(0, 1 / sqrt(H + 1)) (Stiennon 2020)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, hidden_size, generator=generator) / math.sqrt(hidden_size + 1)
