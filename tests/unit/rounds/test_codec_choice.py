"""Each phone gets the codec for its network that it can encode, within its budget, or no work."""

from dataclasses import dataclass
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from keyflock_compression import DeadzoneSpec, container_length, encode, parse_spec
from keyflock_compression.spec import CodecName
from keyflock_server.protocol.messages import Capabilities, CheckIn, Conditions, RefusalReason
from keyflock_server.rounds.codec_choice import CodecChoice, Network, codec_for, codec_table_of
from keyflock_server.rounds.eligibility import Ineligible
from keyflock_server.rounds.task import CodecByNetwork, TaskSpec
from keyflock_server.rounds.task_validation import TaskError, parse_task

HEAD = '[task]\nname = "t"\npopulation = "p"\n[round]\ngoal = 8\n'
CODECS = """
[codec]
codec = "deadzone_rows"
target_nmse = 0.16
[codec_by_network.metered]
codec = "deadzone_rows"
target_nmse = 0.4
[codec_by_network.slow]
codec = "topk"
keep_ratio = 0.01
"""
RARE = '[codec]\ncodec = "randmask"\nkeep_ratio = 0.1\n'


@dataclass(frozen=True)
class Wide:
    names: tuple[str, ...] = ("embedding", "kernel")
    shapes: tuple[tuple[int, ...], ...] = ((1_000, 100), (3, 40))
    offsets: tuple[int, ...] = (0, 100_000)
    size: int = 100_120
    digest: bytes = b"w" * 16


LAYOUT = Wide()
METERED, SLOW = Conditions(is_unmetered=False), Conditions(is_slow=True)


def task(codecs: str = CODECS) -> TaskSpec:
    return parse_task(HEAD + codecs)


def check_in(conditions: Conditions = Conditions(), **says: Any) -> CheckIn:  # noqa: ANN401, B008 - fields of a message
    return CheckIn(protocol=1, app_build=1, locale="en", examples=5, conditions=conditions, **says)


def chosen(spec: TaskSpec, message: CheckIn) -> CodecChoice:
    choice = codec_for(spec, message, LAYOUT)
    assert isinstance(choice, CodecChoice), choice
    return choice


def refused(spec: TaskSpec, message: CheckIn) -> Ineligible:
    ineligible = codec_for(spec, message, LAYOUT)
    assert isinstance(ineligible, Ineligible), ineligible
    return ineligible


def test_a_phone_gets_what_the_task_says_for_its_network() -> None:
    spec = task()

    assert chosen(spec, check_in()) == CodecChoice(spec.codec_spec.to_wire(), Network.UNMETERED)
    assert chosen(spec, check_in(METERED)).codec["target_nmse"] == 0.4
    assert chosen(spec, check_in(SLOW)).codec["codec"] == "topk"
    slow_and_metered = Conditions(is_unmetered=False, is_slow=True)
    assert chosen(spec, check_in(slow_and_metered)).network is Network.SLOW


def test_without_other_codecs_all_networks_get_the_tasks_own() -> None:
    spec = task("")

    assert {str(chosen(spec, check_in(one)).codec) for one in (Conditions(), METERED, SLOW)} == {
        str(spec.codec_spec.to_wire())
    }


def test_a_phone_that_cannot_encode_its_networks_codec_gets_the_tasks_own() -> None:
    spec = task()
    old = Capabilities(codecs=("deadzone_rows",))

    assert chosen(spec, check_in(SLOW, capabilities=old)) == CodecChoice(
        spec.codec_spec.to_wire(), Network.SLOW
    )


@pytest.mark.parametrize(
    "later",
    [
        {"codec": "randmask", "keep_ratio": 0.1},
        {"codec": "rowset", "bits": 8, "step": 0.001, "row_start": 0, "row_count": 5},
        {"codec": "rotated", "bits": 2},
    ],
    ids=lambda codec: codec["codec"],
)
def test_a_phone_that_says_nothing_of_its_codecs_gets_none_that_came_later(later: dict[str, Any]) -> None:
    spec = msgspec.structs.replace(task(), codec=later, codec_by_network=CodecByNetwork())
    new = Capabilities(codecs=(later["codec"],))

    assert refused(spec, check_in()).detail == f"This build of the SDK has no codec {later['codec']}."
    assert chosen(spec, check_in(capabilities=new)).codec == parse_spec(later).to_wire()


def test_a_phone_that_can_encode_neither_is_not_eligible() -> None:
    ineligible = refused(task(), check_in(capabilities=Capabilities(codecs=("sketch",))))

    assert ineligible.reason is RefusalReason.NOT_ELIGIBLE
    assert ineligible.detail == "This build of the SDK has no codec deadzone_rows."


def test_a_budget_caps_the_codec_that_has_a_step() -> None:
    spec = task()

    capped = chosen(spec, check_in(METERED, upload_budget_bytes=9_000)).codec

    assert (capped["target_nmse"], capped["budget_bytes"]) == (0.4, 9_000)
    assert "budget_bytes" not in spec.codec


def test_of_two_budgets_the_smaller_one_counts() -> None:
    spec = task('[codec]\ncodec = "deadzone_rows"\nbudget_bytes = 8_000\n')

    assert chosen(spec, check_in(upload_budget_bytes=9_000)).codec["budget_bytes"] == 8_000
    assert chosen(spec, check_in(upload_budget_bytes=7_000)).codec["budget_bytes"] == 7_000


def test_a_phone_with_a_budget_gets_no_codec_that_keeps_to_none() -> None:
    budget: dict[str, Any] = {"upload_budget_bytes": 9_000}

    assert chosen(task(), check_in(SLOW, **budget)).codec["codec"] == "deadzone_rows"
    ineligible = refused(task('[codec]\ncodec = "dense"\n'), check_in(**budget))
    assert ineligible.detail == "The task's codec dense keeps to no budget of bytes."


def foretold(spec: TaskSpec, budget_bytes: int) -> CodecChoice | Ineligible:
    able = Capabilities(codecs=get_args(CodecName))
    message = check_in(SLOW, upload_budget_bytes=budget_bytes, capabilities=able)
    return codec_for(spec, message, LAYOUT)


@pytest.mark.parametrize(
    "codec",
    [
        'codec = "randmask"\nkeep_ratio = 0.01\n',
        'codec = "randmask"\nkeep_ratio = 0.01\nentropy = "none"\n',
        'codec = "rotated"\nbits = 1\n',
        'codec = "rowset"\nbits = 4\nstep = 0.01\nrow_start = 0\nrow_count = 10\n',
    ],
)
def test_a_codec_whose_longest_container_is_within_the_budget_is_as_good_as_one_with_a_step(
    codec: str,
) -> None:
    spec = task(f"[codec_by_network.slow]\n{codec}")
    wanted = parse_spec(spec.codec_by_network.slow or {})
    limit = container_length(wanted, LAYOUT).max_bytes
    assert limit is not None

    within, beyond = foretold(spec, limit), foretold(spec, limit - 1)

    assert within == CodecChoice(wanted.to_wire(), Network.SLOW)
    assert isinstance(beyond, CodecChoice)
    assert (beyond.codec["codec"], beyond.codec["budget_bytes"]) == ("deadzone_rows", limit - 1)
    # What the phone then sends of a delta that nothing makes shorter.
    noise = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
    assert len(encode(noise, LAYOUT, wanted, seed=2**63)) <= limit


def test_a_codec_whose_length_the_delta_decides_keeps_to_no_budget() -> None:
    ineligible = foretold(task('[codec]\ncodec = "topk"\nkeep_ratio = 0.001\n'), 2**31 - 1)

    assert isinstance(ineligible, Ineligible)


def test_a_step_that_no_coarseness_makes_fit_is_not_given() -> None:
    spec = task('[codec]\ncodec = "deadzone"\nentropy = "none"\ntarget_nmse = 0.1\n')
    zeros = len(encode(np.zeros(LAYOUT.size, np.float32), LAYOUT, parse_spec(spec.codec), seed=0))

    assert isinstance(foretold(spec, zeros - 1), Ineligible)
    assert isinstance(foretold(spec, zeros + 100), CodecChoice)


def test_what_personalize_phones_send_needs_no_budget() -> None:
    spec = parse_task(HEAD.replace('"p"\n', '"p"\nkind = "personalize"\n'))

    assert chosen(spec, check_in(upload_budget_bytes=600)).codec["codec"] == "float32"


@pytest.mark.parametrize(
    ("codecs", "says"),
    [
        ('[codec_by_network.metered]\ncodec = "zip"\n', "codec_by_network.metered: codec is 'zip'"),
        ('[codec_by_network.slow]\ncodec = "topk"\n', "codec_by_network.slow: topk needs keep_ratio"),
        (
            '[codec_by_network.wifi]\ncodec = "dense"\n',
            "codec_by_network: unknown field `wifi`",
        ),
        ('[codec]\ncodec = "dense"\nbudget_bytes = 9000\n', "codec: target_nmse, step_rms and budget_bytes"),
        (
            '[codec]\ncodec = "deadzone"\ntarget_nmse = 0.1\nstep_rms = 1.0\n',
            "codec: deadzone needs its step",
        ),
    ],
)
def test_a_codec_that_cannot_be_used_is_refused_with_its_place(codecs: str, says: str) -> None:
    with pytest.raises(TaskError) as error:
        task(codecs)

    assert says in str(error.value)


def test_randmask_may_be_rarer_on_one_network_for_each_table_has_a_scale_of_its_own() -> None:
    spec = task(RARE + RARE.replace("codec]", "codec_by_network.slow]").replace("0.1", "0.01"))

    assert [codec["keep_ratio"] for codec in spec.codecs.values()] == [0.1, 0.01]


def test_an_assignments_codec_is_found_in_the_table_that_it_comes_from() -> None:
    spec = task(
        '[codec]\ncodec = "deadzone"\ntarget_nmse = 0.1\n'
        '[codec_by_network.metered]\ncodec = "deadzone"\ntarget_nmse = 0.5\n'
        '[codec_by_network.slow]\ncodec = "dense"\nbits = 1\n'
    )

    tables = [codec_table_of(spec, parse_spec(codec)) for codec in spec.codecs.values()]
    capped = codec_table_of(spec, DeadzoneSpec(target_nmse=0.5, budget_bytes=9_000))

    assert tables == ["codec", "codec_by_network.metered", "codec_by_network.slow"]
    assert capped == "codec_by_network.metered"


@pytest.mark.fault("F15")
@pytest.mark.parametrize("upload_budget_bytes", [None, 2**31 - 1])
@pytest.mark.parametrize(
    ("written", "given"),
    [
        (
            "step_rms = 2\n",
            {"codec": "deadzone", "rounding": "nearest", "step_rms": 2, "entropy": "zstd", "zstd_level": 3},
        ),
        (
            'codec = "rotated"\nbits = 1\n',
            {"codec": "rotated", "rounding": "nearest", "entropy": "zstd", "zstd_level": 3, "bits": 1},
        ),
        (
            'zstd_level = 7\nkeep_ratio = 0.5\ncodec = "randmask"\nrounding = "stochastic"\n',
            {
                "codec": "randmask",
                "rounding": "stochastic",
                "keep_ratio": 0.5,
                "entropy": "zstd",
                "zstd_level": 7,
            },
        ),
    ],
)
def test_a_phone_gets_every_setting_in_the_order_of_the_document_whatever_its_task_leaves_out(
    written: str, given: dict[str, Any], upload_budget_bytes: int | None
) -> None:
    able = Capabilities(codecs=get_args(CodecName))
    message = check_in(capabilities=able, upload_budget_bytes=upload_budget_bytes)

    codec = chosen(task(f"[codec]\n{written}"), message).codec

    without_budget = {name: value for name, value in codec.items() if name != "budget_bytes"}
    assert list(without_budget.items()) == list(given.items())
    assert [type(value) for value in without_budget.values()] == [type(value) for value in given.values()]
