"""A device taken through its life by hand: one effect at a time, on a clock that the test moves."""

import random
from collections.abc import Callable

import pytest

from keyflock_client_sim.device.backoff import RetryPolicy
from keyflock_client_sim.device.effects import Effect, PatchModel, Send, StoreModel, Train, Wait
from keyflock_client_sim.device.input_events import Answered, CallLost, InputEvent, ModelStored, Trained, Woke
from keyflock_client_sim.device.installation import DeviceStatus, Installation
from keyflock_client_sim.device.machine import Device
from keyflock_client_sim.device.states import DeviceState
from keyflock_client_sim.testing.scripted_server import ScriptedServer
from keyflock_server.protocol.identifiers import PopulationName

TRAINED = Trained(delta=b"delta", examples=12, loss_before=5.0, loss_after=4.5, train_s=3.0)


class Walk:
    """A device, a server, and the time between them."""

    def __init__(self, server: ScriptedServer, retry_policy: RetryPolicy | None = None) -> None:
        self.server = server
        self.now_s = 0.0
        self.device = Device(
            Installation(population=PopulationName("en-US"), app_build=100, locale="en-US"),
            random.Random(1),
            retry_policy=retry_policy,
        )
        self.sent: list[Send] = []

    def tell(self, event: InputEvent) -> Effect:
        """An event now."""
        return self.device.step(event, self.now_s)

    async def one(self) -> Effect:
        """Carries out what the device wants, whatever it is, and everything goes as it should."""
        match self.device.effect:
            case Wait(until_s):
                self.now_s = max(self.now_s, until_s)
                return self.tell(Woke(DeviceStatus(examples=12)))
            case Send() as send:
                self.sent.append(send)
                try:
                    return self.tell(Answered(await self.server.send(send.request)))
                except ConnectionError:
                    return self.tell(CallLost())
            case StoreModel() | PatchModel():
                return self.tell(ModelStored())
            case Train():
                return self.tell(TRAINED)

    async def until(self, state: DeviceState, wants: type[Effect] | None = None) -> Effect:
        """On, until the device is in this state and wants such a thing."""
        for _ in range(60):
            effect = await self.one()
            if self.device.state is state and (wants is None or isinstance(effect, wants)):
                return effect
        raise AssertionError(f"never came to {state}; it is {self.device.state}")


@pytest.fixture
def walk() -> Callable[..., Walk]:
    """Makes a device and its server."""

    def make(retry_policy: RetryPolicy | None = None, **server: float) -> Walk:
        return Walk(ScriptedServer(**server), retry_policy)  # type: ignore[arg-type]  # each by its own name

    return make
