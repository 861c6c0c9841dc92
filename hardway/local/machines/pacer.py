"""The pace of a machine: as it is, slow, or at a standstill."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

RUN_SECONDS = 0.02
"""How long a slowed machine runs between two stops: short enough to look slow, not jerky."""


class Pacer:
    """Has a machine hang, or run slowly, by calls of `freeze` and `unfreeze`."""

    def __init__(self, freeze: Callable[[], None], unfreeze: Callable[[], None]) -> None:
        self._freeze = freeze
        self._unfreeze = unfreeze
        self._loop = asyncio.get_running_loop()
        self._is_hung = False
        self._pace: asyncio.Task[None] | None = None

    def hang(self) -> None:
        """Stop the machine."""
        self._is_hung = True
        self._freeze()

    def thaw(self) -> None:
        """Undo `hang`."""
        self._is_hung = False
        self._unfreeze()

    def slow(self, factor: float) -> None:
        """Let the machine run 1/factor of the time; 1 undoes it."""
        if self._pace:
            self._pace.cancel()
        self._pace = self._loop.create_task(self._run_slowly(factor)) if factor > 1 else None

    def forget(self) -> None:
        """Leave a machine alone that is switched off."""
        self._is_hung = False
        self.slow(1)

    async def _run_slowly(self, factor: float) -> None:
        try:
            while True:
                begun = self._loop.time()
                await asyncio.sleep(RUN_SECONDS)
                self._freeze()
                # by the time that it really ran: a busy daemon may wake up late
                await asyncio.sleep((self._loop.time() - begun) * (factor - 1))
                if not self._is_hung:
                    self._unfreeze()
        finally:
            if not self._is_hung:
                self._unfreeze()
