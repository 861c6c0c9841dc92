"""Calls at the same time that change nothing: an interrupt need not wait for a network that hangs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from hardway.system.workers import Workers

Answer = TypeVar("Answer")

_MOST_AT_ONCE = 50
_LOOK_SECONDS = 0.2
_MOMENT_SECONDS = 2.0  # most calls end within this time


class Call(Future[Answer]):
    """The result of a call, or its error, to come.

    CPython sees a signal that comes just before a wait only after it. Without a limit the wait would end with the
    network's own timeouts, and Ctrl-C seem lost.
    """

    def result(self, timeout: float | None = None) -> Answer:
        """See `Future.result`."""
        while timeout is None and not self.done():
            wait([self], _LOOK_SECONDS)
        return super().result(timeout)


class LookUps:
    """Threads for calls that change nothing. A context manager.

    The end of the block waits for all calls; after an error no further call begins. Ctrl-C, or a signal that ends us,
    waits for a moment only: calls that hang are abandoned.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._workers = Workers()
        self._calls: list[Future[Any]] = []

    def __enter__(self) -> LookUps:
        self._workers.start(self._at_once)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if kind:
            self._workers.over.set()
        try:
            if kind is None or issubclass(kind, Exception):
                while wait(self._calls, _LOOK_SECONDS).not_done:
                    pass  # in short waits, see `Call`
        finally:
            self._workers.end(_MOMENT_SECONDS)

    def submit(self, call: Callable[..., Answer], *args: Any) -> Call[Answer]:
        """Have one of the threads make the call; return its result, or its error, to come."""
        future: Call[Answer] = Call()

        def work() -> None:
            if self._workers.over.is_set():
                future.cancel()
                future.set_running_or_notify_cancel()
                return
            _settle(future, partial(call, *args))

        self._calls.append(future)
        self._workers.do(work)
        return future


def within(seconds: float, calls: Mapping[str, Callable[[], Answer]]) -> dict[str, Future[Answer]]:
    """Make calls at the same time, up to fifty; return their results, or errors, after `seconds` at the most.

    A call that has not ended by then is abandoned, and its future is not done.
    """
    workers = Workers()
    futures: dict[str, Future[Answer]] = {name: Future() for name in calls}
    workers.start(min(len(calls), _MOST_AT_ONCE))
    try:
        for name, call in calls.items():
            workers.do(partial(_settle, futures[name], call))
        late = wait(futures.values(), max(0.0, seconds)).not_done
        workers.end(0 if late else _MOMENT_SECONDS)
    except BaseException:
        workers.end(0)
        raise
    return {name: future if future.done() else Future() for name, future in futures.items()}


def _settle(future: Future[Answer], call: Callable[[], Answer]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)
