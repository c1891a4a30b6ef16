"""A TCP relay of the test, with the faults of real networks: each connection goes to whomever `pick` names, and may be cut at a
random moment (`cut`: seconds that a connection lives on average) or slowed (`slow`: seconds of delay before each piece)."""

import asyncio
import contextlib
import random
import threading

PIECE = 16 * 1024
TRIES = 20


class Relay:
    """Listens on a free port of loopback, in a thread of its own."""

    def __init__(self, pick, cut=None, slow=None):
        self.pick, self.cut, self.slow = pick, cut, slow
        self.cuts = self.connections = 0
        self.open = set()
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self._serve, args=(ready,), daemon=True).start()
        ready.wait(10)

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def _serve(self, ready):
        async def listen():
            self.server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=512)
            self.port = self.server.sockets[0].getsockname()[1]
            ready.set()

        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(listen())
        self.loop.run_forever()

    async def _connection(self, reader, writer):
        self.connections += 1
        upstream = await self._reach()
        if upstream is None:
            writer.close()
            return
        both = asyncio.gather(self._pump(reader, upstream[1]), self._pump(upstream[0], writer))
        self.open.add(both)
        timer = self.loop.call_later(random.expovariate(1 / self.cut), self._sever, both) if self.cut else None
        # Whether one side broke off or was cut: the other must hear of it.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await both
        self.open.discard(both)
        if timer:
            timer.cancel()
        for end in (writer, upstream[1]):
            # An abort is what a network does: no farewell, and what was on its way is gone.
            if self.cut:
                end.transport.abort()
            else:
                end.close()

    async def _reach(self):
        """A connection to the next one that is there."""
        for _ in range(TRIES):
            if target := self.pick():
                host, port = target.rsplit(":", 1)
                with contextlib.suppress(OSError):
                    return await asyncio.open_connection(host, int(port))
            await asyncio.sleep(0.05)
        return None

    async def _pump(self, reader, writer):
        while piece := await reader.read(PIECE):
            if self.slow:
                await asyncio.sleep(random.uniform(0, 2 * self.slow))
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

    def _sever(self, both):
        self.cuts += 1
        both.cancel()

    def close(self):
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)

    async def _end(self):
        self.server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
