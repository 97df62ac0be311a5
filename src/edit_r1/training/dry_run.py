"""Passes through a model without numbers, on torch's meta device, to see how many bytes a GPU would hold."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

_LOW = (F.linear, torch.matmul, torch.bmm, F.conv2d, F.conv3d)
_HIGH = (F.layer_norm, F.rms_norm, F.group_norm)


class Live(TorchDispatchMode):
    """Counts bytes within it: of the storages that operations made and something still holds.

    Args:
        held: tensors that were there before, and are not counted.

    Attributes:
        now: bytes that are held.
        peak: the most that were held at a time.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {_key(tensor.untyped_storage()) for tensor in held}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation and look at what it returns."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = _key(storage), storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _key(storage: torch.UntypedStorage) -> int:
    return storage._cdata  # pyright: ignore[reportPrivateUsage]  # on the meta device all have address 0


class Gpu(TorchFunctionMode):
    """Within it a GPU's ways that the meta device has not: autocast, and attention without a table of tokens by tokens.

    Of autocast's lists (torch's AMP operator reference for CUDA) it knows those operations that editors have.

    Args:
        bf16: whether there is autocast to bfloat16.
    """

    def __init__(self, bf16: bool) -> None:
        super().__init__()
        self._bf16 = bf16
        self._copies: dict[Tensor, Tensor] = {}

    def checkpoint(self, block: Callable[..., Any], *args: Any) -> Any:
        """Gradient checkpointing as diffusers does it; the second time, too, the block runs within this."""
        return checkpoint(block, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), self))

    def __exit__(self, *error: Any) -> None:
        """Autocast's copies of trained weights are gone when it ends."""
        self._copies.clear()
        super().__exit__(*error)

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation as a GPU would."""
        given: tuple[tuple[Any, ...], dict[str, Any]] = (tuple(args), dict(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            return self._attention(*given)
        if self._bf16 and func in _LOW:
            given = tree_map(self._low, given)
        elif self._bf16 and func in _HIGH:
            given = tree_map(_high, given)
        return func(*given[0], **given[1])

    def _attention(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
        q, k, v = (self._low(named[name]) if self._bf16 else named[name] for name in ("query", "key", "value"))
        # The CPU's kernel keeps what a GPU's do: inputs, result, and a scale for every token and head.
        attention: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return attention(q, k, v, 0.0, False, attn_mask=named.get("attn_mask"))[0]

    def _low(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(torch.bfloat16)
        if value not in self._copies:
            self._copies[value] = value.to(torch.bfloat16)
        return self._copies[value]


def _high(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
