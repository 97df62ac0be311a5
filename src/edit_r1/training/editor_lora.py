"""LoRA of an editor's transformer with its optimiser and the running mean (EMA) of its weights."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from edit_r1.editors.base import Editor
from edit_r1.files import disk_errors
from edit_r1.runs.checkpoint import Json, flatten_state, unflatten_state

_ADAPTER = "default"


class EditorLora:
    """The trained part of an editor: low-rank updates of `editor.lora_targets`, wrapped in place by peft.

    At first the editor is its base: B of every layer's update B A is 0.

    Args:
        editor: its transformer is frozen, and adapted in place.
        rank: of the updates.
        alpha: they are scaled by alpha / rank.
        learning_rate: of AdamW, without weight decay.
        ema_decay: of the running mean, after a warm-up: the n-th update uses min(decay, n / (9 + n)), so that the mean
            forgets the start.
        seed: of the random A.
    """

    def __init__(
        self, editor: Editor, *, rank: int, alpha: int, learning_rate: float, ema_decay: float, seed: int
    ) -> None:
        self._alpha, self._rank = alpha, rank
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(editor.lora_targets))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model: PeftModel = get_peft_model(editor.transformer, config)
        # A pipeline's transformer must count as one that samples: no dropout, neither in rollouts nor in updates.
        self.model.eval()
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad
        }
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=learning_rate, weight_decay=0.0)
        self.ema = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.updates = 0
        self._ema_decay = ema_decay

    @contextmanager
    def reference(self) -> Generator[None]:
        """Within the block the editor is the frozen base: LoRA is off, and there are no gradients."""
        with torch.no_grad(), self.model.disable_adapter():
            yield

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Within the block the editor has the mean weights; afterwards bitwise the trained ones again."""
        trained = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._assign(self.ema)
        try:
            yield
        finally:
            self._assign(trained)

    def gradient_norm(self, limit: float) -> float:
        """Scale the gradients down to the norm `limit` where it is exceeded; returns the norm from before."""
        return float(nn.utils.clip_grad_norm_(self.parameters.values(), limit))

    def step(self) -> None:
        """One step of the optimiser and of the running mean; the gradients are zeroed."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        decay = min(self._ema_decay, self.updates / (9 + self.updates))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.ema[name].lerp_(parameter, 1 - decay)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Json]]:
        """Tensors and JSON for a checkpoint: weights, running mean, optimiser."""
        tensors: dict[str, Tensor] = {f"lora.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.items()}
        moments, skeleton = flatten_state(self.optimizer.state_dict(), "optimizer")
        return tensors | moments, {"optimizer": skeleton, "updates": self.updates}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Json]) -> None:
        """Go on from what `state` returned; both mappings may hold more."""
        self._assign({name: tensors[f"lora.{name}"] for name in self.parameters})
        for name, tensor in self.ema.items():
            tensor.copy_(tensors[f"ema.{name}"])
        self.optimizer.load_state_dict(unflatten_state(tensors, state["optimizer"]))
        self.updates = int(state["updates"])

    def save(self, pipeline: Any, folder: Path) -> None:
        """Write the mean weights as diffusers' `load_lora_weights` reads them, for a pipeline of the editor's kind.

        The scale alpha / rank is put into B, so that the file means the same to loaders that know nothing of alpha.
        """
        scale = self._alpha / self._rank
        with self.averaged():  # peft gives the parameters themselves: copy them before they change back
            layers: dict[str, Tensor] = get_peft_model_state_dict(self.model, adapter_name=_ADAPTER)
            plain = {
                name.removeprefix("base_model.model."): tensor * (scale if ".lora_B." in name else 1.0)
                for name, tensor in layers.items()
            }
        with disk_errors(folder):
            pipeline.save_lora_weights(folder, transformer_lora_layers=plain)

    def merge(self) -> None:
        """Add the mean weights' updates to the editor's own weights and take LoRA off: the end of training."""
        self._assign(self.ema)
        self.model.merge_and_unload()  # pyright: ignore[reportCallIssue]  (peft forwards it to the tuner)

    def _assign(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
