"""This driver runs a fleet on the real clock, against any server, with one asyncio task a phone.

Return windows of the server are waited out in real time. A phone's simulated time (of its network, its
speed, its hours) is divided by ``time_scale``: with 60, a phone that is away for an hour is away a minute.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Sequence

from keyflock_client_sim.device.effects import Effect, PatchModel, Send, StoreModel, Train, Wait
from keyflock_client_sim.device.input_events import (
    Answered,
    CallLost,
    InputEvent,
    Interrupted,
    TrainingFailed,
    Woke,
)
from keyflock_client_sim.drivers.fleet_stats import EventListener, FleetEvent, FleetStats
from keyflock_client_sim.drivers.keyboard_check import check_release
from keyflock_client_sim.drivers.stored_models import StoredModels
from keyflock_client_sim.drivers.trainer import Trainer, TrainingError
from keyflock_client_sim.fleet.availability import next_idle_s
from keyflock_client_sim.fleet.failure_model import CallLoss, draw_call_loss, draw_drop_out
from keyflock_client_sim.fleet.phone import Phone
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import Exchange


class RealTimeFleet:
    """Runs phones until it is stopped.

    Args:
        phones: The fleet; nothing else steps these devices.
        exchange: Carries calls to the server.
        trainer: Trains for them.
        listener: Gets every event.
        time_scale: Simulated seconds that pass in a real one; infinite lets simulated delays take no time.
        max_calls: Calls under way at once; more wait for their turn.
        drain_s: After a stop, how long phones with an unsettled report may go on to settle it.
    """

    def __init__(
        self,
        phones: Sequence[Phone],
        exchange: Exchange,
        trainer: Trainer,
        *,
        listener: EventListener | None = None,
        time_scale: float = 1.0,
        max_calls: int = 64,
        drain_s: float = 10.0,
    ) -> None:
        if not time_scale > 0:
            raise ValueError("time_scale must be above zero")
        self.stats = FleetStats(phones)
        self._phones = phones
        self._exchange = exchange
        self._trainer = trainer
        self._models = StoredModels(trainer)
        self._listener = listener
        self._time_scale = time_scale
        self._call_slots = asyncio.Semaphore(max_calls)
        self._drain_s = drain_s
        self._stopping = asyncio.Event()
        self._until: Callable[[FleetStats], bool] = _never
        #: Seconds that the fleet has run before, and the loop's time at which it went on.
        self._elapsed_before_s = 0.0
        self._began_at_s = 0.0

    async def run(
        self, *, until: Callable[[FleetStats], bool] | None = None, limit_s: float = math.inf
    ) -> FleetStats:
        """Run the fleet; a second run goes on where the first stopped.

        Args:
            until: Stop as soon as that holds; it is evaluated after every event.
            limit_s: Stop after so many seconds.
        Guarantees:
            When it returns or raises, also when it is cancelled, none of its tasks is left. On a stop, phones
            with an unsettled report get ``drain_s`` to settle it, so that the counts agree with the server's.
        """
        self._stopping.clear()
        self._until = until or _never
        loop = asyncio.get_running_loop()
        self._began_at_s = loop.time()
        tasks = {
            asyncio.create_task(self._run_phone(phone), name=phone.name): phone for phone in self._phones
        }
        try:
            await self._wait_for_stop(tasks, limit_s)
            self._stopping.set()
            settled = [task for task, phone in tasks.items() if not phone.device.has_unsettled_report]
            await _cancel(settled)
            unsettled = [task for task in tasks if not task.done()]
            if unsettled:
                await asyncio.wait(unsettled, timeout=self._drain_s)
            await _cancel(unsettled)
        finally:
            await _cancel(tasks)
            self._elapsed_before_s = self.stats.now_s = self._now_s()
            self._began_at_s = loop.time()
        for task in tasks:
            if not task.cancelled() and (error := task.exception()):
                raise error
        return self.stats

    def stop(self) -> None:
        """End the run soon; phones with an unsettled report settle it first."""
        self._stopping.set()

    async def _wait_for_stop(self, tasks: dict[asyncio.Task[None], Phone], limit_s: float) -> None:
        """Wait until the fleet is stopped, its time is over, or a phone's task fails."""
        stop = asyncio.create_task(self._stopping.wait())
        timeout_s = None if math.isinf(limit_s) else limit_s
        try:
            await asyncio.wait({stop, *tasks}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel([stop])

    async def _run_phone(self, phone: Phone) -> None:
        effect = phone.device.effect
        while not self._stopping.is_set() or phone.device.has_unsettled_report:
            event = await self._carry_out(phone, effect)
            effect = phone.device.step(event, self._now_s())
            self._publish_events(phone)

    def _publish_events(self, phone: Phone) -> None:
        for event in phone.device.take_events():
            fleet_event = FleetEvent(phone.name, self._now_s(), event)
            self.stats.record(fleet_event)
            if self._listener:
                self._listener(fleet_event)
            if self._until(self.stats):
                self._stopping.set()

    async def _carry_out(self, phone: Phone, effect: Effect) -> InputEvent:
        match effect:
            case Wait():
                return await self._wait(phone, effect)
            case Send():
                return await self._send(phone, effect)
            case StoreModel():
                return self._models.store(effect)
            case PatchModel():
                return self._models.patch(effect)
            case Train():
                return await self._train(phone, effect)

    async def _wait(self, phone: Phone, effect: Wait) -> InputEvent:
        now_s = self._now_s()
        pause_s = max(effect.until_s - now_s, 0.0)
        if effect.when_idle and math.isfinite(self._time_scale):
            on_its_clock_s = (now_s + pause_s) * self._time_scale
            pause_s += (next_idle_s(phone.traits, on_its_clock_s) - on_its_clock_s) / self._time_scale
        await asyncio.sleep(pause_s)
        return Woke(phone.status(self._now_s()))

    async def _send(self, phone: Phone, effect: Send) -> InputEvent:
        call_loss = draw_call_loss(phone.traits, phone.rng)
        if call_loss is CallLoss.REQUEST:
            await self._simulate_delay(phone.traits.call_timeout_s)
            return CallLost()
        await self._simulate_delay(phone.traits.to_server_s(len(effect.request.body)))
        try:
            async with self._call_slots:
                if phone.keyboard is not None and effect.call is calls.CHECK_IN:
                    await check_release(phone.keyboard, self._exchange, effect.request)
                response = await self._exchange.send(effect.request)
        except ConnectionError:
            return CallLost()
        if call_loss is CallLoss.RESPONSE:
            await self._simulate_delay(phone.traits.call_timeout_s)
            return CallLost()
        await self._simulate_delay(phone.traits.from_server_s(len(response.body)))
        return Answered(response)

    async def _train(self, phone: Phone, effect: Train) -> InputEvent:
        drop_out, train_s = draw_drop_out(phone.traits, phone.rng), phone.train_s(effect)
        if drop_out:
            await self._simulate_delay(train_s * drop_out.after_ratio + drop_out.away_s)
            return Interrupted()
        began_at_s = self._now_s()
        try:
            trained = await self._trainer.train(phone.name, effect)
        except TrainingError as error:
            return TrainingFailed(error.cause)
        passed_s = self._now_s() - began_at_s
        await asyncio.sleep(max(train_s / self._time_scale - passed_s, 0.0))
        return trained

    async def _simulate_delay(self, simulated_s: float) -> None:
        await asyncio.sleep(simulated_s / self._time_scale)

    def _now_s(self) -> float:
        return self._elapsed_before_s + asyncio.get_running_loop().time() - self._began_at_s


async def _cancel(tasks: Collection[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _never(_: FleetStats) -> bool:
    return False
