"""This driver runs a fleet in virtual time: a queue of scheduled actions, in one process with its server.

A month of phones takes as long as its arithmetic. Calls are carried one after the other, each to its end, at
the instant at which it reaches the server. Local training starts when its phone starts it and is awaited when
the phone, by its own speed, is done with it, so workers are busy side by side. The same fleet, server and
seed give the same run, event by event.

The server must share the clock and must not wait for phones (``ack_wait_s`` 0), for nothing else happens
while it would. ``tick`` tells it that time has passed.
"""

import asyncio
import heapq
import itertools
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, assert_never

from keyflock_client_sim.device.effects import Effect, PatchModel, Send, StoreModel, Train, Wait
from keyflock_client_sim.device.input_events import (
    Answered,
    CallLost,
    InputEvent,
    Interrupted,
    Trained,
    TrainingFailed,
    Woke,
)
from keyflock_client_sim.drivers.fleet_stats import EventListener, FleetEvent, FleetStats
from keyflock_client_sim.drivers.keyboard_check import check_release
from keyflock_client_sim.drivers.stored_models import StoredModels
from keyflock_client_sim.drivers.trainer import Trainer, TrainingError
from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_client_sim.fleet.availability import next_idle_s
from keyflock_client_sim.fleet.failure_model import CallLoss, draw_call_loss, draw_drop_out
from keyflock_client_sim.fleet.phone import Phone
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import Exchange

#: An action at an instant: it returns the event for the phone's device, or None when that comes later.
Action = Callable[[], Awaitable[InputEvent | None]]


class InProcessServer(Exchange, Protocol):
    """A server in this process that does what is due when ``tick`` is called."""

    async def tick(self) -> None:
        """Apply the deadlines, flushes and closings that are due by now."""
        ...


@dataclass(frozen=True, slots=True, order=True)
class _ScheduledAction:
    at_s: float
    #: The order of scheduling decides between two actions at the same instant.
    order: int
    #: None: the server's tick.
    phone: Phone | None = field(compare=False)
    action: Action = field(compare=False)


class VirtualTimeFleet:
    """Runs phones against a server in the same process.

    Args:
        phones: The fleet; nothing else steps these devices.
        server: A server that answers at once, and reads ``clock``.
        trainer: Trains for them.
        clock: A clock that this driver alone moves.
        listener: Gets every event.
        tick_s: Virtual time between two ticks of the server.
        drain_s: Virtual time in which phones may settle an unsettled report after a stop.
    """

    def __init__(
        self,
        phones: Sequence[Phone],
        server: InProcessServer,
        trainer: Trainer,
        clock: VirtualClock,
        *,
        listener: EventListener | None = None,
        tick_s: float = 1.0,
        drain_s: float = 60.0,
    ) -> None:
        if not tick_s > 0:
            raise ValueError("tick_s must be above zero")
        self.stats = FleetStats(phones)
        self._server = server
        self._trainer = trainer
        self._models = StoredModels(trainer)
        self._clock = clock
        self._listener = listener
        self._tick_s = tick_s
        self._drain_s = drain_s
        self._is_stopping = False
        self._order = itertools.count()
        self._queue: list[_ScheduledAction] = []
        self._training: set[asyncio.Task[Trained]] = set()
        self._until: Callable[[FleetStats], bool] = _never
        self._schedule(clock.now_s, None, self._tick)
        for phone in phones:
            self._begin(phone, phone.device.effect)

    async def run(
        self, *, until: Callable[[FleetStats], bool] | None = None, limit_s: float = math.inf
    ) -> FleetStats:
        """Run the fleet; a second run goes on where the first stopped.

        Args:
            until: Stop as soon as that holds; it is evaluated after every event.
            limit_s: Stop after so much virtual time.
        Guarantees:
            When it returns or raises, also when it is cancelled, none of its tasks is left. On a stop, phones
            with an unsettled report get ``drain_s`` of virtual time to settle it.
        """
        self._is_stopping = False
        self._until = until or _never
        try:
            await self._run_to(self._clock.now_s + limit_s)
            await self._drain(self._clock.now_s + self._drain_s)
        finally:
            await self._abandon_training()
            self.stats.now_s = self._clock.now_s
        return self.stats

    def stop(self) -> None:
        """End the run soon; phones with an unsettled report settle it first."""
        self._is_stopping = True

    async def _run_to(self, end_s: float) -> None:
        while not self._is_stopping and self._queue[0].at_s <= end_s:
            await self._execute(heapq.heappop(self._queue))
            # Answers in this process never wait: without this, a stop or a cancellation would have no effect.
            await asyncio.sleep(0)
        if not self._is_stopping:
            self._clock.advance_to(end_s)

    async def _drain(self, end_s: float) -> None:
        deferred: list[_ScheduledAction] = []
        try:
            while self._has_unsettled_reports() and self._queue[0].at_s <= end_s:
                due = heapq.heappop(self._queue)
                if due.phone is None or due.phone.device.has_unsettled_report:
                    await self._execute(due)
                else:
                    deferred.append(due)
        finally:
            for due in deferred:
                heapq.heappush(self._queue, due)

    def _has_unsettled_reports(self) -> bool:
        return any(phone.device.has_unsettled_report for phone in self.stats.phones)

    async def _execute(self, due: _ScheduledAction) -> None:
        self._clock.advance_to(due.at_s)
        try:
            event = await due.action()
        except BaseException:
            heapq.heappush(self._queue, due)  # a run that goes on later finds it still to be done
            raise
        if due.phone is not None and event is not None:
            effect = due.phone.device.step(event, self._clock.now_s)
            self._publish_events(due.phone)
            self._begin(due.phone, effect)

    def _publish_events(self, phone: Phone) -> None:
        for event in phone.device.take_events():
            fleet_event = FleetEvent(phone.name, self._clock.now_s, event)
            self.stats.record(fleet_event)
            if self._listener:
                self._listener(fleet_event)
            if self._until(self.stats):
                self._is_stopping = True

    def _schedule(self, at_s: float, phone: Phone | None, action: Action) -> None:
        heapq.heappush(self._queue, _ScheduledAction(at_s, next(self._order), phone, action))

    def _schedule_event(self, at_s: float, phone: Phone, event: InputEvent) -> None:
        async def happen() -> InputEvent:
            return event

        self._schedule(at_s, phone, happen)

    async def _tick(self) -> None:
        await self._server.tick()
        self._schedule(self._clock.now_s + self._tick_s, None, self._tick)

    def _begin(self, phone: Phone, effect: Effect) -> None:
        now_s = self._clock.now_s
        match effect:
            case Wait(until_s, when_idle):
                wake_s = max(until_s, now_s)
                self._schedule_wake(next_idle_s(phone.traits, wake_s) if when_idle else wake_s, phone)
            case Send():
                self._begin_send(phone, effect)
            case StoreModel():
                self._schedule_event(now_s, phone, self._models.store(effect))
            case PatchModel():
                self._schedule_event(now_s, phone, self._models.patch(effect))
            case Train():
                self._begin_training(phone, effect)
            case _:
                assert_never(effect)

    def _schedule_wake(self, at_s: float, phone: Phone) -> None:
        async def wake() -> InputEvent:
            return Woke(phone.status(self._clock.now_s))

        self._schedule(at_s, phone, wake)

    def _begin_send(self, phone: Phone, effect: Send) -> None:
        now_s, traits = self._clock.now_s, phone.traits
        call_loss = draw_call_loss(traits, phone.rng)
        if call_loss is CallLoss.REQUEST:
            self._schedule_event(now_s + traits.call_timeout_s, phone, CallLost())
            return

        async def arrive() -> None:
            answered: InputEvent = CallLost()
            back_s = traits.call_timeout_s
            try:
                if phone.keyboard is not None and effect.call is calls.CHECK_IN:
                    await check_release(phone.keyboard, self._server, effect.request)
                response = await self._server.send(effect.request)
                if call_loss is None:
                    answered, back_s = Answered(response), traits.from_server_s(len(response.body))
            except ConnectionError:
                pass  # as good as lost: the phone cannot tell one from the other
            self._schedule_event(self._clock.now_s + back_s, phone, answered)

        self._schedule(now_s + traits.to_server_s(len(effect.request.body)), phone, arrive)

    def _begin_training(self, phone: Phone, effect: Train) -> None:
        now_s, train_s = self._clock.now_s, phone.train_s(effect)
        drop_out = draw_drop_out(phone.traits, phone.rng)
        if drop_out:
            self._schedule_event(
                now_s + train_s * drop_out.after_ratio + drop_out.away_s, phone, Interrupted()
            )
            return
        training: asyncio.Task[Trained] | None = None

        async def finish() -> InputEvent:
            # Planned before a loop may run, or left over from a run that was stopped: then it begins now.
            task = training if training and not training.cancelled() else self._start(phone, effect)
            try:
                trained = await task
            except TrainingError as error:
                return TrainingFailed(error.cause)
            finally:
                self._training.discard(task)
            return replace(trained, train_s=train_s)

        training = self._start(phone, effect)
        self._schedule(now_s + train_s, phone, finish)

    def _start(self, phone: Phone, effect: Train) -> asyncio.Task[Trained]:
        task = asyncio.create_task(self._train(phone.name, effect))
        self._training.add(task)
        return task

    async def _train(self, phone: str, effect: Train) -> Trained:
        return await self._trainer.train(phone, effect)

    async def _abandon_training(self) -> None:
        for task in self._training:
            task.cancel()
        await asyncio.gather(*self._training, return_exceptions=True)
        self._training.clear()


def _never(_: FleetStats) -> bool:
    return False
