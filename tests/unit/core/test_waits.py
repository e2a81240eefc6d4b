"""Waiting: a bell wakes those who wait at that moment, a closing room sends everybody home."""

from __future__ import annotations

import asyncio

from server.waits import Bell, WaitRoom

FOREVER_S = 3600.0


def test_a_ring_wakes_everybody_who_waits() -> None:
    async def main() -> None:
        bell = Bell(WaitRoom())
        waiters = [asyncio.create_task(bell.wait(FOREVER_S)) for _ in range(3)]
        await asyncio.sleep(0)
        bell.ring()
        await asyncio.wait_for(asyncio.gather(*waiters), 30)

    asyncio.run(main())


def test_a_ring_is_not_kept_for_those_who_come_later() -> None:
    async def main() -> bool:
        bell = Bell(WaitRoom())
        bell.ring()
        late = asyncio.create_task(bell.wait(FOREVER_S))
        for _ in range(5):
            await asyncio.sleep(0)
        waiting = not late.done()
        bell.ring()
        await asyncio.wait_for(late, 30)
        return waiting

    assert asyncio.run(main())


def test_closing_the_room_ends_every_wait_and_those_to_come() -> None:
    async def main() -> None:
        room = WaitRoom()
        waiters = [asyncio.create_task(Bell(room).wait(FOREVER_S)) for _ in range(3)]
        await asyncio.sleep(0)
        room.close()
        await asyncio.wait_for(asyncio.gather(*waiters), 30)
        await asyncio.wait_for(Bell(room).wait(FOREVER_S), 30)

    asyncio.run(main())


def test_a_wait_ends_by_itself() -> None:
    asyncio.run(asyncio.wait_for(_wait_briefly(), 30))


async def _wait_briefly() -> None:
    await Bell(WaitRoom()).wait(0.001)


def test_who_waits_for_something_goes_on_when_it_holds_and_not_at_any_ring() -> None:
    async def main() -> None:
        bell, happened = Bell(WaitRoom()), False
        waiting = asyncio.create_task(bell.until(lambda: happened, FOREVER_S))
        for _ in range(3):
            await asyncio.sleep(0)
            bell.ring()
        assert not waiting.done()
        happened = True
        bell.ring()
        await asyncio.wait_for(waiting, 30)
        await asyncio.wait_for(bell.until(lambda: True, FOREVER_S), 30)
        await asyncio.wait_for(bell.until(lambda: False, 0.001), 30)

    asyncio.run(main())


def test_a_wait_that_was_given_up_disturbs_neither_the_bell_nor_the_room() -> None:
    """A client hung up in the middle of its long-poll."""

    async def main() -> None:
        room = WaitRoom()
        bell = Bell(room)
        given_up, patient = (asyncio.create_task(bell.wait(FOREVER_S)) for _ in range(2))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        bell.ring()
        await asyncio.wait_for(patient, 30)
        room.close()
        assert given_up.cancelled()

    asyncio.run(main())
