"""Golden bytes of every message: the contract for SDKs in other languages.

Each vector is a ``.bin`` beside a ``.toml`` that says what it means. A vector is never changed once it is
published; a new field gets a new vector. Run this file as a program to write the vectors that are missing.
"""

import hashlib
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgpack
import pytest
from msgspec import to_builtins

from keyflock_compression import SpecError, parse_spec
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.protocol import messages, wire
from keyflock_server.protocol.calls import CALLS
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
)
from keyflock_server.protocol.messages import (
    Assignment,
    Blend,
    Capabilities,
    CheckIn,
    Conditions,
    Enrolment,
    EnrolRequest,
    Failure,
    FailureAck,
    FailureCause,
    Forgotten,
    HeadErased,
    HeadStored,
    Offer,
    OfferAction,
    OfferAnswer,
    Personalisation,
    Receipt,
    Refusal,
    RefusalReason,
    Release,
    Report,
    ReturnWindow,
    Suggestion,
    SuggestionRequest,
    Suggestions,
    TaskKind,
)
from keyflock_server.protocol.plans import (
    DeviceRules,
    EvaluatingPlan,
    HeadPlan,
    ModelWeights,
    PersonalisingPlan,
    PopulationPrior,
    TrainingPlan,
)
from keyflock_server.protocol.problems import ApiError, Problem, ProblemCode
from keyflock_server.protocol.stored_data import (
    ModelOwner,
    StoredActivity,
    StoredAssignment,
    StoredData,
    StoredDecision,
    StoredDevice,
    StoredEnrolment,
    StoredLimits,
    StoredModel,
    StoredQuarantine,
    StoredRevocation,
    StoredStanding,
    StoredViolation,
)

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "protocol"
WINDOW = ReturnWindow(min_s=600.0, max_s=1800.0)

PRIOR = PopulationPrior(
    blend=((0.75, 0.0, 0.125, 0.125),) * 3 + ((0.5, 0.0625, 0.375, 0.0625),) * 4,
    strength=90.0,
    gain_mean=0.0625,
    gain_deviation=0.03125,
)

#: The layout of a network with 12 words, an embedding 2 wide and 3 units.
TENSORS = (
    '[["embedding","output_bias","input_kernel","recurrent_kernel","gate_bias","projection"],'
    "[[12,2],[12],[2,9],[2,9],[9],[3,2]]]"
)

#: What each vector means. The name of the message's type is in the name of the file.
MEANINGS: dict[str, tuple[str, Message]] = {
    "enrol_request_minimal": (
        "A new phone, everything left out that has a default.",
        EnrolRequest(protocol=1, population="en-US", app_build=412, locale="en-US"),
    ),
    "enrol_request_full": (
        "A new phone that says everything it can.",
        EnrolRequest(
            protocol=1,
            population="en-US",
            app_build=412,
            locale="en-US",
            capabilities=Capabilities(codecs=("dense",), max_download_bytes=2_000_000),
            attestation=bytes(range(16)),
            user="u-5f2c",
        ),
    ),
    "enrol_request_user_secret": (
        "A phone that names its user by a secret that the app holds: 128 random bits in base64url.",
        EnrolRequest(
            protocol=1, population="en-US", app_build=4300, locale="en-US", user="vT0hJ3qkX2m9sY8bQw5Zrg"
        ),
    ),
    "enrol_request_user_statement": (
        "A phone that names its user by a signed statement of the app's backend.",
        EnrolRequest(
            protocol=1,
            population="en-US",
            app_build=4300,
            locale="en-US",
            # The header and claims are real; the signature is left short, for no reader of bytes checks it.
            user="eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9."
            "eyJzdWIiOiJhbm4iLCJhdWQiOiJrZXlmbG9jazp1c2VyIiwiZXhwIjoxNzcyMzY2NzAwfQ.c2lnbmF0dXJl",
        ),
    ),
    "enrol_request_attributes": (
        "A new phone that says what it is like, for cohort expressions.",
        EnrolRequest(
            protocol=1,
            population="en-US",
            app_build=4200,
            locale="en-GB",
            tier=2,
            tags=("beta", "keyboard-v2"),
        ),
    ),
    "check_in_device_rules": (
        "A phone that checks two of the rules that only it can check.",
        CheckIn(
            protocol=1,
            app_build=4200,
            locale="en-GB",
            examples=64,
            capabilities=Capabilities(device_rules=("min_words_since_training", "require_opt_in")),
        ),
    ),
    "enrolment": (
        "The server's answer: the phone's identity and its bearer token.",
        Enrolment(
            device=DeviceId("d-0123456789abcdef"),
            token="header.payload.signature",
            expires_in_s=86400.0,
            return_window=WINDOW,
        ),
    ),
    "check_in_minimal": (
        "An idle, charging phone on Wi-Fi with nothing typed yet.",
        CheckIn(protocol=1, app_build=412, locale="en-US"),
    ),
    "check_in_full": (
        "A phone in use on mobile data.",
        CheckIn(
            protocol=1,
            app_build=412,
            locale="en-US",
            conditions=Conditions(
                is_idle=False, is_charging=False, is_unmetered=False, battery_ratio=0.25, thermal_status=2
            ),
            examples=117,
            capabilities=Capabilities(codecs=("deadzone",), max_download_bytes=8_388_608),
        ),
    ),
    "check_in_personalize": (
        "A phone that can personalise for a task, too.",
        CheckIn(
            protocol=1,
            app_build=412,
            locale="en-US",
            examples=117,
            capabilities=Capabilities(tasks=("train", "personalize")),
        ),
    ),
    "check_in_evaluate": (
        "A phone that does every kind of task, and so holds a fifth of its text out of training.",
        CheckIn(
            protocol=1,
            app_build=412,
            locale="en-US",
            examples=117,
            capabilities=Capabilities(tasks=("train", "personalize", "evaluate")),
        ),
    ),
    "assignment": (
        "Work: train version 7 on at most 256 sequences and encode the delta with the deadzone codec.",
        Assignment(
            id=AssignmentId("a-00ff"),
            token="header.payload.signature",
            task=TaskName("next-word"),
            round=RoundId("next-word-8"),
            model_version=ModelVersion(7),
            model_digest=bytes(range(32)),
            layout=bytes(range(16)),
            plan=TrainingPlan(learning_rate=0.3125),
            codec={"codec": "deadzone", "value_bits": 8, "target_nmse": 0.125},
            seed=2**40 + 1,
            expires_in_s=900.0,
        ),
    ),
    "assignment_device_rules": (
        "Work, if 500 words were typed since the last time, on three days, and there is room, and consent.",
        Assignment(
            id=AssignmentId("a-00ff"),
            token="header.payload.signature",
            task=TaskName("next-word"),
            round=RoundId("next-word-8"),
            model_version=ModelVersion(7),
            model_digest=bytes(range(32)),
            layout=bytes(range(16)),
            plan=TrainingPlan(learning_rate=0.3125),
            codec={"codec": "deadzone"},
            seed=0,
            expires_in_s=60.0,
            device_rules=DeviceRules(
                min_words_since_training=500,
                min_days_of_text=3,
                min_free_storage_bytes=67_108_864,
                require_opt_in=True,
            ),
        ),
    ),
    "assignment_full_plan": (
        "Work with every field of the training plan away from its default.",
        Assignment(
            id=AssignmentId("a-00ff"),
            token="header.payload.signature",
            task=TaskName("next-word"),
            round=RoundId("next-word-8"),
            model_version=ModelVersion(7),
            model_digest=bytes(range(32)),
            layout=bytes(range(16)),
            plan=TrainingPlan(
                learning_rate=0.5,
                epochs=2,
                batch_size=8,
                sequence_length=16,
                max_examples=64,
                gradient_clip_norm=1.5,
                candidates=512,
            ),
            codec={"codec": "dense"},
            seed=0,
            expires_in_s=60.0,
        ),
    ),
    "assignment_personalize": (
        "Work: personalise with these head settings and report the evidence. The plan means nothing here.",
        Assignment(
            id=AssignmentId("a-00ff"),
            token="header.payload.signature",
            task=TaskName("personal"),
            round=RoundId("personal-3"),
            model_version=ModelVersion(7),
            model_digest=bytes(range(32)),
            layout=bytes(range(16)),
            plan=TrainingPlan(learning_rate=0.3125),
            codec={"codec": "float32", "rounding": "nearest", "entropy": "none", "zstd_level": 3},
            seed=3,
            expires_in_s=900.0,
            task_kind=TaskKind.PERSONALIZE,
            personalising=PersonalisingPlan(
                head=HeadPlan(rank=4, biases=64, learning_rate=0.5, epochs=6, l2=0.25, held_out_ratio=0.125),
                prior=PRIOR,
                words_needed=200,
            ),
        ),
    ),
    "assignment_personalize_released": (
        "Work: personalise on the weights that keyboards serve, which are the average of the versions.",
        Assignment(
            id=AssignmentId("a-00ff"),
            token="header.payload.signature",
            task=TaskName("personal"),
            round=RoundId("personal-3"),
            model_version=ModelVersion(7),
            model_digest=bytes(range(32)),
            layout=bytes(range(16)),
            plan=TrainingPlan(learning_rate=0.3125),
            codec={"codec": "float32", "rounding": "nearest", "entropy": "none", "zstd_level": 3},
            seed=3,
            expires_in_s=900.0,
            task_kind=TaskKind.PERSONALIZE,
            personalising=PersonalisingPlan(
                head=HeadPlan(rank=4), prior=PRIOR, words_needed=200, weights=ModelWeights.RELEASED
            ),
        ),
    ),
    "assignment_evaluate": (
        "Work: score versions 8 and 7 on text that was never trained on. The plan means nothing here.",
        Assignment(
            id=AssignmentId("a-00ff"),
            token="header.payload.signature",
            task=TaskName("quality"),
            round=RoundId("quality-3"),
            model_version=ModelVersion(8),
            model_digest=bytes(range(32)),
            layout=bytes(range(16)),
            plan=TrainingPlan(learning_rate=0.3125),
            codec={"codec": "float32", "rounding": "nearest", "entropy": "none", "zstd_level": 3},
            seed=3,
            expires_in_s=900.0,
            task_kind=TaskKind.EVALUATE,
            content_digest=bytes(range(32, 64)),
            evaluating=EvaluatingPlan(
                baseline_version=ModelVersion(7),
                baseline_digest=bytes(range(64, 96)),
                baseline_content_digest=bytes(range(96, 128)),
                baseline_weights=ModelWeights.RELEASED,
                metrics=("recall_at_1", "recall_at_3", "nll"),
                words_needed=50,
            ),
        ),
    ),
    "assignment_delta": (
        "Work for a phone that may have an earlier version: the content digest is what a delta must lead to.",
        Assignment(
            id=AssignmentId("a-00ff"),
            token="header.payload.signature",
            task=TaskName("next-word"),
            round=RoundId("next-word-8"),
            model_version=ModelVersion(7),
            model_digest=bytes(range(32)),
            layout=bytes(range(16)),
            plan=TrainingPlan(learning_rate=0.3125),
            codec={"codec": "deadzone"},
            seed=0,
            expires_in_s=60.0,
            content_digest=bytes(range(32, 64)),
        ),
    ),
    "assignment_every_field": (
        "Work with all sixteen fields, one more than msgpack's shortest head of a map can say.",
        Assignment(
            id=AssignmentId("a-00ff"),
            token="header.payload.signature",
            task=TaskName("personal"),
            round=RoundId("personal-3"),
            model_version=ModelVersion(7),
            model_digest=bytes(range(32)),
            layout=bytes(range(16)),
            plan=TrainingPlan(learning_rate=0.3125),
            codec={"codec": "float32"},
            seed=3,
            expires_in_s=900.0,
            task_kind=TaskKind.PERSONALIZE,
            personalising=PersonalisingPlan(head=HeadPlan(rank=4), prior=PRIOR, words_needed=200),
            device_rules=DeviceRules(require_opt_in=True),
            content_digest=bytes(range(32, 64)),
        ),
    ),
    **{
        f"refusal_{reason}": (
            f"No work now: {reason}.",
            Refusal(reason=reason, return_window=WINDOW, detail="Why, in one sentence."),
        )
        for reason in RefusalReason
    },
    "offer": ("The phone would upload 23 kB.", Offer(size_bytes=23_456, model_version=ModelVersion(7))),
    **{
        f"offer_answer_{action}": (
            f"What to do with the delta: {action}.",
            OfferAnswer(action=action, return_window=WINDOW),
        )
        for action in OfferAction
    },
    "report_minimal": (
        "A delta and the number of sequences behind it. The delta's bytes are not a real container.",
        Report(delta=b"\x00\x01\xfe\xff", examples=117),
    ),
    "report_full": (
        "A delta with all that the phone measured.",
        Report(
            delta=bytes(range(256)),
            examples=256,
            loss_before=5.75,
            loss_after=5.5,
            train_s=12.5,
            session_shape="-v[]+^",
        ),
    ),
    "receipt_counted": ("The report is in the aggregate.", Receipt(counted=True, return_window=WINDOW)),
    "receipt_duplicate": (
        "The same bytes were counted before.",
        Receipt(counted=True, duplicate=True, return_window=WINDOW),
    ),
    **{
        f"failure_{cause}": (
            f"No delta will come: {cause}.",
            Failure(cause=cause, session_shape="-v[!"),
        )
        for cause in FailureCause
    },
    "noted": ("The server has taken note.", FailureAck(return_window=WINDOW)),
    "release": (
        "What keyboards should serve.",
        Release(
            population=PopulationName("en-US"),
            model_version=ModelVersion(7),
            model_digest=bytes(range(32)),
            size_bytes=1_350_000,
            vocabulary="9f86d081884c7d65",
            layout=bytes(range(16)),
        ),
    ),
    "release_personalised": (
        "What keyboards should serve, and what new users' personal models begin with.",
        Release(
            population=PopulationName("en-US"),
            model_version=ModelVersion(7),
            model_digest=bytes(range(32)),
            size_bytes=1_350_000,
            vocabulary="9f86d081884c7d65",
            layout=bytes(range(16)),
            personalisation=Personalisation(
                prior=PRIOR, head=HeadPlan(rank=4), round=RoundId("personal-3"), phones=64
            ),
        ),
    ),
    "release_average": (
        "Keyboards should serve the average of the versions up to 7: its bytes have an address of their own.",
        Release(
            population=PopulationName("en-US"),
            model_version=ModelVersion(7),
            model_digest=bytes(range(32)),
            size_bytes=1_350_000,
            vocabulary="9f86d081884c7d65",
            layout=bytes(range(16)),
            weights=ModelWeights.RELEASED,
        ),
    ),
    "release_content": (
        "What keyboards should serve, and what a delta to it must lead to.",
        Release(
            population=PopulationName("en-US"),
            model_version=ModelVersion(7),
            model_digest=bytes(range(32)),
            size_bytes=1_350_000,
            vocabulary="9f86d081884c7d65",
            layout=bytes(range(16)),
            content_digest=bytes(range(32, 64)),
        ),
    ),
    "release_tensors": (
        "What keyboards should serve, with the names and shapes of a small model's tensors.",
        Release(
            population=PopulationName("en-US"),
            model_version=ModelVersion(7),
            model_digest=bytes(range(32)),
            size_bytes=1_350_000,
            vocabulary="9f86d081884c7d65",
            layout=hashlib.sha256(TENSORS.encode()).digest()[:16],
            tensors=TENSORS,
        ),
    ),
    "assignment_every_setting": (
        "Work whose codec names every setting, as a server sends it whatever its task leaves out.",
        Assignment(
            id=AssignmentId("a-00ff"),
            token="header.payload.signature",
            task=TaskName("next-word"),
            round=RoundId("next-word-8"),
            model_version=ModelVersion(7),
            model_digest=bytes(range(32)),
            layout=bytes(range(16)),
            plan=TrainingPlan(learning_rate=0.3125),
            codec={
                "codec": "deadzone_rows",
                "rounding": "nearest",
                "target_nmse": 0.125,
                "entropy": "zstd",
                "zstd_level": 1,
            },
            seed=2**32 - 1,
            expires_in_s=900.0,
        ),
    ),
    "forgotten_with_heads": (
        "Two devices are gone, and the head of their user; its bytes are still being overwritten.",
        Forgotten(devices=2, heads=1, is_scrubbed=False),
    ),
    "head_stored": (
        "The head is kept; its tag is the inside of the ETag.",
        HeadStored(tag=bytes(range(16)), size_bytes=5_120),
    ),
    "head_erased": ("The head is gone, from the files too.", HeadErased(heads=1)),
    "head_erased_again": ("There was none.", HeadErased(heads=0)),
    "suggestion_request_minimal": (
        "Three words after these, blended.",
        SuggestionRequest(context="how are"),
    ),
    "suggestion_request_full": (
        "Five words of the user's own that begin with these letters.",
        SuggestionRequest(context="how are", prefix="yo", k=5, blend=Blend.PERSONAL),
    ),
    "suggestions": (
        "Two words; the user's head had a say.",
        Suggestions(
            suggestions=(
                Suggestion(word="you", probability=0.5),
                Suggestion(word="your", probability=0.125),
            ),
            model_version=ModelVersion(7),
            blend=Blend.BLENDED,
        ),
    ),
    "suggestions_none": (
        "No word begins so.",
        Suggestions(suggestions=(), model_version=ModelVersion(7), blend=Blend.GLOBAL),
    ),
    "forgotten": ("The device and its user's other one are gone.", Forgotten(devices=2)),
    "forgotten_one": ("The device alone is gone.", Forgotten(devices=1)),
    "problem_user_not_proven": (
        "The user was named by what is no secret; the document repeats nothing of it.",
        ApiError(
            ProblemCode.USER_NOT_PROVEN, "A user is named by a secret that nobody can guess."
        ).document(),
    ),
    "problem_token_void": (
        "A token that was good once: its device was forgotten.",
        ApiError(ProblemCode.TOKEN_INVALID, "This token is void.").document(),
    ),
    "problem_token_expired": (
        "A problem document without a retry window.",
        ApiError(ProblemCode.TOKEN_EXPIRED, "The device token expired at 2026-03-01T12:00:00Z.").document(),
    ),
    "problem_enrolment_expired": (
        "A token that is too old to be refreshed: the phone enrols anew, without it.",
        ApiError(
            ProblemCode.ENROLMENT_EXPIRED, "The device token expired at 2026-03-01T12:00:00Z."
        ).document(),
    ),
    "stored_data": (
        "A device that enrolled and did nothing since.",
        StoredData(
            devices=(
                StoredDevice(
                    device=DeviceId("9d0f1a2b3c4d5e6f708192a3b4c5d6e7"),
                    population=PopulationName("en-US"),
                    enrolment=StoredEnrolment(
                        app_build=412,
                        locale="en-US",
                        enrolled_at="2026-03-01T12:00:00Z",
                        last_seen_at="2026-03-01T12:00:00Z",
                    ),
                ),
            ),
        ),
    ),
    "stored_data_every_field": (
        "All that can be stored of a device and its user.",
        StoredData(
            devices=(
                StoredDevice(
                    device=DeviceId("9d0f1a2b3c4d5e6f708192a3b4c5d6e7"),
                    population=PopulationName("en-US"),
                    enrolment=StoredEnrolment(
                        app_build=412,
                        locale="en-US",
                        tier=2,
                        tags=("beta", "tablet"),
                        enrolled_at="2026-03-01T12:00:00Z",
                        last_seen_at="2026-03-04T06:30:00.250000Z",
                        has_user=True,
                        is_attested=True,
                        has_stored_model=True,
                        token_generation=3,
                    ),
                    activity=StoredActivity(
                        last_contributed_at="2026-03-03T02:00:00Z",
                        last_silent_at="2026-03-04T03:00:00Z",
                        silences=1,
                        changed_at="2026-03-04T03:00:00Z",
                        participations={TaskName("next-word"): 2},
                        past_participations={TaskName("next-word"): 5},
                    ),
                    standing=StoredStanding(
                        quarantined_until="2026-03-02T12:00:00Z",
                        quarantine=StoredQuarantine(
                            since="2026-03-01T18:00:00Z",
                            until="2026-03-02T12:00:00Z",
                            reason="too many rejected reports",
                            by="policy",
                            count=1,
                        ),
                        violations=(
                            StoredViolation(
                                at="2026-03-03T02:00:00Z",
                                round=RoundId("next-word-7"),
                                verdict="non_finite_delta",
                            ),
                        ),
                    ),
                    assignments=(
                        StoredAssignment(
                            assignment=AssignmentId("00112233445566778899aabbccddeeff"),
                            task=TaskName("next-word"),
                            round=RoundId("next-word-7"),
                            state="counted",
                            assigned_at="2026-03-03T01:50:00Z",
                            expires_at="2026-03-03T02:50:00Z",
                            counted_at="2026-03-03T02:00:00Z",
                            counted_in=RoundId("next-word-7"),
                            weight=12.5,
                            session_shape="-v[]+",
                            report_digest=bytes(range(32)),
                        ),
                    ),
                    further_assignments=1,
                    revocation=StoredRevocation(
                        generation=2,
                        effective_at="2026-03-03T00:00:00Z",
                        written_at="2026-03-02T23:59:00Z",
                        until="2026-03-04T00:00:00Z",
                    ),
                    limits=(
                        StoredLimits(
                            until="2026-03-09T00:00:00Z",
                            quarantined_until="2026-03-08T00:00:00Z",
                            last_contributed_at="2026-02-27T00:00:00Z",
                            participations={TaskName("next-word"): 1},
                        ),
                    ),
                    decisions=(
                        StoredDecision(
                            at="2026-03-02T12:00:00Z", action="device.release", reason="a mended app"
                        ),
                    ),
                ),
            ),
            personal_models=(
                StoredModel(
                    population=PopulationName("en-US"),
                    owner=ModelOwner.USER,
                    size_bytes=21_384,
                    updated_at="2026-03-03T22:15:00Z",
                ),
            ),
        ),
    ),
    "problem_assignment_token_missing": (
        "The device's token is good, and the assignment's is missing.",
        ApiError(
            ProblemCode.ASSIGNMENT_TOKEN_MISSING, "This call needs the header Keyflock-Assignment."
        ).document(),
    ),
    "problem_assignment_token_invalid": (
        "The device's token is good, and what came for the assignment's is none.",
        ApiError(
            ProblemCode.ASSIGNMENT_TOKEN_INVALID,
            "The assignment token is not one that this server signed.",
        ).document(),
    ),
    "problem_head_map_unknown": (
        "A version without one before it: there is no map that a head could follow.",
        ApiError(
            ProblemCode.HEAD_MAP_UNKNOWN,
            "The version before 0 is not served, or there is none; fit the head anew.",
        ).document(),
    ),
    "problem_report_pending": (
        "A problem document with a retry window.",
        ApiError(
            ProblemCode.REPORT_PENDING, "Three more reports are needed.", ReturnWindow(min_s=5.0, max_s=15.0)
        ).document(),
    ),
}


@pytest.mark.parametrize("name", sorted(MEANINGS))
def test_a_message_is_written_as_its_vector_says(name: str) -> None:
    _, message = MEANINGS[name]

    assert wire.encode(message) == (VECTORS / f"{name}.bin").read_bytes()


@pytest.mark.parametrize("name", sorted(MEANINGS))
def test_a_vector_is_read_as_its_message(name: str) -> None:
    _, message = MEANINGS[name]

    assert wire.decode((VECTORS / f"{name}.bin").read_bytes(), type(message)) == message


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.bin")), ids=lambda path: path.stem)
def test_any_msgpack_library_reads_a_vector_as_its_page_says(path: Path) -> None:
    page = tomllib.loads(path.with_suffix(".toml").read_text())

    read = msgpack.unpackb(path.read_bytes())

    assert _plain(read) == page["fields"]


def test_every_vector_has_a_page_and_a_meaning() -> None:
    stems = {path.stem for path in VECTORS.iterdir()}

    assert stems == set(MEANINGS)
    assert all((VECTORS / f"{name}.toml").is_file() for name in stems)


def test_every_message_of_every_call_has_a_vector() -> None:
    told = {type(message) for _, message in MEANINGS.values()}
    spoken = {call.request for call in CALLS} | {
        call.answer for call in CALLS if isinstance(call.answer, type)
    }

    assert spoken - told - {None} == set()
    assert {Assignment, Refusal, Problem} <= told
    assert messages.PROTOCOL == 1


@pytest.mark.fault("F15")
def test_the_codec_maps_of_vectors_that_no_server_would_send_are_the_ones_that_the_page_names() -> None:
    """``value_bits`` is a setting that no codec has; a vector that is out cannot be changed."""
    maps = {name: message.codec for name, (_, message) in MEANINGS.items() if isinstance(message, Assignment)}
    unknown = {name for name, codec in maps.items() if "value_bits" in codec}

    assert unknown == {"assignment"}
    with pytest.raises(SpecError, match="value_bits"):
        parse_spec(maps["assignment"])
    assert maps["assignment_every_setting"] == parse_spec(maps["assignment_every_setting"]).to_wire()


@pytest.mark.fault("F15")
def test_the_shapes_in_a_vector_are_those_of_the_network() -> None:
    layout = ParamLayout.for_config(ModelConfig(vocabulary_size=12, embedding_size=2, hidden_size=3))

    assert (layout.text, layout.digest) == (TENSORS, MEANINGS["release_tensors"][1].layout)  # type: ignore[attr-defined]  # it is a Release


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a msgpack body holds
    """The value as a page shows it: bytes in hexadecimal."""
    match value:
        case bytes():
            return value.hex()
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return value


def _toml(fields: dict[str, Any], table: str = "fields") -> str:
    scalars = [
        f"{name} = {_toml_value(value)}" for name, value in fields.items() if not isinstance(value, dict)
    ]
    tables = [_toml(value, f"{table}.{name}") for name, value in fields.items() if isinstance(value, dict)]
    return "\n".join([f"[{table}]", *scalars, "", *tables])


def _toml_value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value)
        case list():
            return "[" + ", ".join(_toml_value(item) for item in value) + "]"
        case dict():
            return "{ " + ", ".join(f"{name} = {_toml_value(item)}" for name, item in value.items()) + " }"
        case _:
            return repr(value)


def _write_missing() -> None:
    VECTORS.mkdir(parents=True, exist_ok=True)
    for name, (meaning, message) in MEANINGS.items():
        path = VECTORS / f"{name}.bin"
        if path.exists():
            continue
        path.write_bytes(wire.encode(message))
        fields = _plain(to_builtins(message, builtin_types=(bytes,)))
        page = f'message = "{type(message).__name__}"\nmeaning = "{meaning}"\n'
        page += "# Bytes are written in hexadecimal.\n\n"
        path.with_suffix(".toml").write_text(page + _toml(fields).rstrip() + "\n")
        sys.stdout.write(f"wrote {path.name}\n")


if __name__ == "__main__":
    _write_missing()
