"""The trained part of an editor, LoRA or all weights: its optimiser, running mean (EMA) and frozen reference.

On several processes every one holds all of it and gradients are summed, or each holds a part of every tensor (FSDP2).
What goes to disk is always whole, so that a run may go on with another number of processes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from edit_r1.editors.base import Editor
from edit_r1.files import disk_errors
from edit_r1.runs.checkpoint import Json, flatten_state, unflatten_state
from edit_r1.training.processes import collected, distribute_like, shard, sum_gradients, whole

_ADAPTER = "default"


class EditorPolicy:
    """The weights that are trained, in place: low-rank updates of `editor.lora_targets` (by peft), or the transformer.

    At first the editor is its base: B of every layer's update B A is 0.

    Args:
        editor: its transformer is adapted in place, and frozen but for what is trained.
        rank: of the updates; 0 trains all weights.
        alpha: updates are scaled by alpha / rank.
        learning_rate: of AdamW, without weight decay.
        ema_decay: of the running mean, after a warm-up: the n-th update uses min(decay, n / (9 + n)), so that the mean
            forgets the start.
        seed: of the random A.
        sharded: whether every process holds only a part of the transformer.
    """

    def __init__(
        self,
        editor: Editor,
        *,
        rank: int,
        alpha: int,
        learning_rate: float,
        ema_decay: float,
        seed: int,
        sharded: bool = False,
    ) -> None:
        self._alpha, self._rank = alpha, rank
        transformer: Any = editor.transformer
        if rank:
            config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(editor.lora_targets))
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self.model: Any = get_peft_model(transformer, config)
        else:
            self.model = transformer.requires_grad_(True)
        # A pipeline's transformer must count as one that samples: no dropout, neither in rollouts nor in updates.
        self.model.eval()
        if sharded:
            shard(transformer)
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad
        }
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=learning_rate, weight_decay=0.0)
        self.ema = self._copy()
        self._base = None if rank else self._copy()
        self.updates = 0
        self._ema_decay = ema_decay

    @contextmanager
    def reference(self) -> Generator[None]:
        """Within the block the editor is the frozen base, and there are no gradients."""
        with torch.no_grad():
            if self._base is None:
                with self.model.disable_adapter():
                    yield
            else:
                with self._with(self._base):
                    yield

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Within the block the editor has the mean weights; afterwards bitwise the trained ones again."""
        with self._with(self.ema):
            yield

    def gradient_norm(self, limit: float) -> float:
        """Add up the processes' gradients and scale them down to the norm `limit` where it is exceeded.

        Returns:
            The norm from before.
        """
        sum_gradients(self.parameters.values())
        return float(whole(nn.utils.clip_grad_norm_(self.parameters.values(), limit)))

    def step(self) -> None:
        """One step of the optimiser and of the running mean; the gradients are zeroed."""
        self.optimizer.step()
        self.discard()
        self.updates += 1
        decay = min(self._ema_decay, self.updates / (9 + self.updates))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.ema[name].lerp_(parameter, 1 - decay)

    def discard(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Json]]:
        """Whole tensors (in the first process) and JSON for a checkpoint: weights, running mean, optimiser.

        Asked of every process at once.
        """
        tensors: dict[str, Tensor] = {f"policy.{name}": parameter for name, parameter in self.parameters.items()}
        tensors |= {f"ema.{name}": tensor for name, tensor in self.ema.items()}
        moments, skeleton = flatten_state(self.optimizer.state_dict(), "optimizer")
        return collected(tensors | moments), {"optimizer": skeleton, "updates": self.updates}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Json]) -> None:
        """Go on from what `state` returned; both mappings may hold more."""
        self._assign({name: tensors[f"policy.{name}"] for name in self.parameters})
        for name, tensor in self.ema.items():
            tensor.copy_(distribute_like(tensors[f"ema.{name}"], tensor))
        optimizer = unflatten_state(tensors, state["optimizer"])
        for index, parameter in enumerate(self.parameters.values()):  # cut before they go to a GPU
            moments = optimizer["state"].get(index, {})
            moments.update({k: distribute_like(v, parameter) for k, v in moments.items() if v.shape == parameter.shape})
        self.optimizer.load_state_dict(optimizer)
        self.updates = int(state["updates"])

    def average(self) -> dict[str, Tensor]:
        """The mean weights, whole, on the CPU of the first process. Asked of every process at once."""
        return collected(self.ema)

    def save_lora(self, pipeline: Any, folder: Path) -> None:
        """Write the trained weights as diffusers' `load_lora_weights` reads them, for a pipeline of the editor's kind.

        The scale alpha / rank is put into B, so that the file means the same to loaders that know nothing of alpha.
        """
        scale = self._alpha / self._rank
        layers: dict[str, Tensor] = get_peft_model_state_dict(self.model, adapter_name=_ADAPTER)
        plain = {
            name.removeprefix("base_model.model."): tensor * (scale if ".lora_B." in name else 1.0)
            for name, tensor in layers.items()
        }
        with disk_errors(folder):
            pipeline.save_lora_weights(folder, transformer_lora_layers=plain)

    def assign(self, weights: Mapping[str, Tensor]) -> None:
        """Train on from these weights, whole ones of `average`; the running mean begins anew with them."""
        self._assign(weights)
        self.ema = self._copy()

    def merge(self) -> None:
        """Add LoRA to the editor's own weights and take it off: the end of training."""
        if self._rank:
            self.model.merge_and_unload()

    def _copy(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @contextmanager
    def _with(self, weights: Mapping[str, Tensor]) -> Generator[None]:
        trained = self._copy()
        self._assign(weights)
        try:
            yield
        finally:
            self._assign(trained)

    def _assign(self, weights: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(distribute_like(weights[name], parameter))
