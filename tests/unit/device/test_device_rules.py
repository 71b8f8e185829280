"""Rules that only the phone can check: it checks before the download, and gives back without saying which."""

import random

import msgspec
import pytest

from keyflock_client_sim.device.input_events import Answered, Woke
from keyflock_client_sim.device.installation import DeviceStatus, Installation, LocalFacts
from keyflock_client_sim.device.local_rules import meets_rules
from keyflock_client_sim.device.machine import Device
from keyflock_client_sim.device.states import DeviceState
from keyflock_server.protocol import wire
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
)
from keyflock_server.protocol.messages import Assignment, Enrolment, Failure, FailureCause, ReturnWindow
from keyflock_server.protocol.plans import DeviceRules, TrainingPlan

FACTS = LocalFacts(words_typed=1_000, days_of_text=3, free_storage_bytes=10**9, is_opted_in=True)
WINDOW = ReturnWindow(min_s=1.0, max_s=1.0)


@pytest.mark.parametrize(
    ("rules", "fits"),
    [
        (DeviceRules(), True),
        (DeviceRules(min_words_since_training=600), True),
        (DeviceRules(min_words_since_training=601), False),
        (DeviceRules(min_days_of_text=3), True),
        (DeviceRules(min_days_of_text=4), False),
        (DeviceRules(min_free_storage_bytes=10**9), True),
        (DeviceRules(min_free_storage_bytes=10**9 + 1), False),
        (DeviceRules(require_opt_in=True), True),
    ],
)
def test_each_rule_is_met_up_to_its_bound(rules: DeviceRules, fits: bool) -> None:
    assert meets_rules(rules, FACTS, words_at_last_training=400) is fits


def test_nothing_but_a_rule_asks_for_consent_and_only_consent_meets_it() -> None:
    unasked = msgspec.structs.replace(DeviceRules(), require_opt_in=True)

    assert not meets_rules(unasked, LocalFacts(), 0)
    assert meets_rules(DeviceRules(), LocalFacts(), 0)


def in_work(rules: DeviceRules | None, codec: dict[str, object] | None = None) -> Device:
    """A device that has just been given an assignment with these rules, and this codec."""
    installation = Installation(population=PopulationName("en"), app_build=1, locale="en")
    device = Device(installation, random.Random(1))
    device.step(Woke(DeviceStatus(facts=FACTS)), 0.0)
    enrolment = Enrolment(device=DeviceId("d"), token="t", expires_in_s=86_400.0, return_window=WINDOW)
    device.step(Answered(Response(200, {}, wire.encode(enrolment))), 1.0)
    device.step(Woke(DeviceStatus(facts=FACTS)), 3.0)
    assignment = Assignment(
        id=AssignmentId("a"),
        token="a",
        task=TaskName("t"),
        round=RoundId("t-1"),
        model_version=ModelVersion(0),
        model_digest=bytes(32),
        layout=b"layout",
        plan=TrainingPlan(learning_rate=0.1),
        codec=codec or {"codec": "float32"},
        seed=1,
        expires_in_s=600.0,
        device_rules=rules,
    )
    device.step(Answered(Response(200, {}, wire.encode(assignment))), 4.0)
    return device


def test_a_phone_that_keeps_the_rules_goes_on_to_the_download() -> None:
    assert in_work(DeviceRules(min_words_since_training=1_000)).state is DeviceState.DOWNLOADING
    assert in_work(None).state is DeviceState.DOWNLOADING


@pytest.mark.fault("F15")
@pytest.mark.parametrize(
    "codec",
    [
        {"codec": "sketch"},
        {"codec": "deadzone", "value_bits": 8, "target_nmse": 0.125},
        {"codec": "dense", "bits": 3},
        {"codec": "deadzone"},
    ],
)
def test_a_phone_that_does_not_know_the_codec_or_a_setting_gives_the_assignment_back(
    codec: dict[str, object],
) -> None:
    device = in_work(None, codec)

    request = device.effect.request  # type: ignore[union-attr]  # it wants to send
    assert device.state is DeviceState.RETURNING
    assert wire.decode(request.body, Failure).cause is FailureCause.NOT_ELIGIBLE


def test_a_phone_that_does_not_gives_the_assignment_back_and_says_no_more() -> None:
    device = in_work(DeviceRules(min_days_of_text=30, require_opt_in=True))

    request = device.effect.request  # type: ignore[union-attr]  # it wants to send
    assert device.state is DeviceState.RETURNING
    failure = wire.decode(request.body, Failure)
    assert failure == Failure(cause=FailureCause.NOT_ELIGIBLE, session_shape="-*")
