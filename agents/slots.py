"""Slots of the decoding engine: conversations whose keys and values are held between requests.

A prompt that extends a slot's tokens goes on from there; one that shares a prefix with a slot copies it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agents.kv import KVStore
from agents.requests import Row

WORTH_WAITING = 16  # tokens of prefix being encoded right now for which a request waits instead of encoding them too


@dataclass(eq=False)
class Slot:
    """A row of the store: the tokens it holds or will hold, and how many of them have keys and values."""

    index: int
    ids: list[int] = field(default_factory=list)
    computed: int = 0
    row: Row | None = None
    used: int = 0

    def idle(self) -> None:
        """Free the slot for others; what it has keys and values for stays usable."""
        self.row = None
        del self.ids[self.computed :]

    def released(self) -> Row | None:
        """Return the row when it has finished, and idle the slot."""
        row = self.row
        if row is None or row.finish_reason is None:
            return None
        self.idle()
        return row


class SlotTable:
    """The slots of a store: which conversation is where, and what of a prompt is held already."""

    def __init__(self, count: int, store: KVStore) -> None:
        """Make `count` empty slots over a store."""
        self.store = store
        self._slots = [Slot(i) for i in range(count)]

    def __iter__(self) -> Iterator[Slot]:
        """Iterate over all slots, in order."""
        return iter(self._slots)

    def rows(self) -> list[Row]:
        """Return the live rows."""
        return [slot.row for slot in self._slots if slot.row is not None]

    def clear(self) -> None:
        """Forget all tokens, keys and values."""
        self.store.clear()
        self._slots = [Slot(i) for i in range(len(self._slots))]

    def drop_abandoned(self) -> None:
        """Idle the slots of rows that nobody waits for."""
        for slot in self._slots:
            if slot.row is not None and slot.row.abandoned:
                slot.idle()

    def place(self, row: Row, clock: int) -> bool:
        """Find a slot for a row, and take over what the slots hold of its prompt; False: it has to wait.

        `row.cached` says how many tokens were taken over; `clock` orders the slots by their last use.
        """
        idle = [slot for slot in self._slots if slot.row is None]
        if not idle:
            return False
        prompt = row.request.prompt
        usable = len(prompt) - 1  # the last token is fed in any case: its logits are wanted
        shared = [(min(common_prefix(slot.ids, prompt), usable), slot) for slot in self._slots if slot.ids]
        best, source = max(((min(n, s.computed), s) for n, s in shared), key=lambda x: x[0], default=(0, None))
        coming = max((n for n, s in shared if s.row is not None), default=0)
        if coming - best >= WORTH_WAITING:
            return False
        extended = [s for n, s in shared if s.row is None and n == best == len(s.ids)]
        target = extended[0] if extended else min(idle, key=lambda s: (bool(s.ids), s.used, s.index))
        if source is not None and best and target is not source and not extended:
            self.store.reserve(target.index + 1, best)
            self.store.copy(source.index, target.index, best)
        target.ids, target.computed, target.row, target.used = list(prompt), best, row, clock
        row.cached = best
        return True

    def feed(self, budget: int) -> list[tuple[Slot, int]]:
        """Return how many tokens each slot feeds: prompts oldest first, within the budget; single tokens come first."""
        fed = []
        for slot in sorted((s for s in self._slots if s.row is not None), key=lambda s: (s.used, s.index)):
            count = left = len(slot.ids) - slot.computed
            if left > 1:
                count = min(left, budget)
                budget -= count
            if count:
                fed.append((slot, count))
        return sorted(fed, key=lambda x: (x[1] > 1, x[0].index))


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many leading tokens two sequences share (by halving: slices compare at C speed)."""
    low, high = 0, min(len(a), len(b))
    a, b = list(a[:high]), list(b[:high])
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
