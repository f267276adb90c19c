"""Keys and values of many conversations, held between turns: the memory of the decoding engine.

A `KVStore` is a transformers `Cache` whose rows ("slots") are conversations of different lengths. The tokens of a
forward come packed, one after the other; each goes to the slot and position that `place` announced. `update` returns
the whole store, and the packed attention (`agents/packed.py`) reads from it what each token may see. Storage grows with
use, in both directions, and is given back by `clear`.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

LENGTH_BLOCK = 128  # tokens by which all slots grow
FIRST_SLOTS = 8


class KVStore(Cache):
    """Slots of keys and values, per layer `[slots, kv_heads, length, head_dim]` in the model's own dtype.

    Memory in bytes: slots x length x layers x kv_heads x head_dim x 2 x itemsize, where slots and length are the most
    seen since the last `clear` (slots rounded up to a power of two, length to `LENGTH_BLOCK`).
    """

    def __init__(self) -> None:
        """Make an empty store: shapes, dtype and device come from the first update of each layer."""
        super().__init__(layers=[])
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._slots = 0
        self._length = 0
        self._slot_N: Tensor = torch.empty(0, dtype=torch.long)
        self._position_N: Tensor = self._slot_N

    def reserve(self, slots: int, length: int) -> None:
        """Make room for `slots` slots of `length` tokens; what is held stays."""
        wanted_slots, wanted_length = max(self._slots, FIRST_SLOTS), -(-length // LENGTH_BLOCK) * LENGTH_BLOCK
        while wanted_slots < slots:
            wanted_slots *= 2
        wanted_length = max(wanted_length, self._length)
        if (wanted_slots, wanted_length) == (self._slots, self._length):
            return
        self._slots, self._length = wanted_slots, wanted_length
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                tensors[layer] = self._grown(old)

    def place(self, slot_N: Tensor, position_N: Tensor) -> None:
        """Announce the slot and the position of each of the N packed tokens of the next forward."""
        self._slot_N, self._position_N = slot_N, position_N

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]

    def clear(self) -> None:
        """Forget everything and free the memory."""
        self.keys.clear()
        self.values.clear()
        self._slots = self._length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the packed keys and values `[1, kv_heads, N, head_dim]` of a layer; return the layer's whole store."""
        while layer_idx >= len(self.keys):
            self.keys.append(self._zeros(key_states))
            self.values.append(self._zeros(value_states))
        where = (self._slot_N, slice(None), self._position_N)
        self.keys[layer_idx][where] = key_states[0].transpose(0, 1)
        self.values[layer_idx][where] = value_states[0].transpose(0, 1)
        return self.keys[layer_idx], self.values[layer_idx]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions are given with every forward, slots have lengths of their own."""
        return 0

    def _zeros(self, like: Tensor) -> Tensor:
        # zeros, not empty: what is masked is still read, and 0 x NaN is NaN
        return like.new_zeros(self._slots, like.shape[1], self._length, like.shape[3])

    def _grown(self, old: Tensor) -> Tensor:
        new = self._zeros(old)
        new[: old.shape[0], :, : old.shape[2]] = old
        return new
