"""A TCP proxy on loopback that delays what passes, cuts connections, and is slow: a long, unreliable, narrow link."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from types import TracebackType

from tests.patience import patience


class Proxy:
    """Forwards connections to its ports to `target_port` of the same addresses; `delay` in seconds, each way.

    With `targets`, to those addresses, and it listens on `target_port` itself. `rate` is how many bytes a second pass
    towards the targets, on all connections together; 0 for any number.
    """

    def __init__(
        self,
        addresses: list[str],
        target_port: int,
        delay: float = 0.0,
        *,
        targets: list[str] | None = None,
        rate: float = 0.0,
    ) -> None:
        self.addresses = addresses
        self.target_port = target_port
        self.delay = delay
        self.rate = rate
        self.port = target_port if targets else 0
        self._targets = dict(zip(addresses, targets or addresses, strict=True))
        self._free_at = 0.0
        self.refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Proxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(patience(10))
        self._loop.close()

    def cut(self, refuse: bool = False) -> None:
        """End every connection at once; with `refuse`, new ones as well until called without it."""
        self.refusing = refuse
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    async def _listen(self) -> None:
        self._servers = []
        for address in self.addresses:
            server = await asyncio.start_server(self._serve, address, self.port)
            self.port = server.sockets[0].getsockname()[1]
            self._servers.append(server)

    async def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        await self._cut()
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        address = writer.get_extra_info("sockname")[0]
        try:
            other_reader, other_writer = await asyncio.open_connection(self._targets[address], self.target_port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, other_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._pump(reader, other_writer, self.rate), self._pump(other_reader, writer))
        finally:
            self._writers -= both
            for one in both:
                one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float = 0.0) -> None:
        """Copy, each piece `delay` after it came, however many are on their way."""
        loop = asyncio.get_running_loop()
        line: deque[tuple[float, bytes]] = deque()
        arrived = asyncio.Event()

        async def send() -> None:
            while True:
                while not line:
                    arrived.clear()
                    await arrived.wait()
                at, data = line.popleft()
                if (wait := at - loop.time()) > 0:
                    await asyncio.sleep(wait)
                if not data:
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                    return
                writer.write(data)

        sender = asyncio.create_task(send())
        try:
            data = b"x"
            while data:
                try:
                    data = await reader.read(1 << 16)
                except OSError:
                    data = b""
                if rate:
                    self._free_at = max(self._free_at, loop.time()) + len(data) / rate
                    await asyncio.sleep(self._free_at - loop.time())
                line.append((loop.time() + self.delay, data))
                arrived.set()
            await sender
        finally:
            sender.cancel()
