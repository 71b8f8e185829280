"""The evidence that a phone reports of its personalisation, and the priors that many phones' mean gives.

A `personalize` round asks phones how much they gain, and under which settings. Only the mean is needed, never
one phone's answer. So the answer is a float32 vector of named entries, which is summed as any report is, and
of which only sums of several phones are ever stored. It holds no word, no count of a word and no parameter of
a head.

Every entry has bounds: a phone clips its values to them, and a vector with an entry beyond them is refused,
so that no phone moves a mean further than any other could.

Source: the mean over phones gives moments, and moments give the priors (Casella and Berger 2002, 7.2.1).
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from keyflock_models.arrays import F32, F64
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.blend import EXPERTS, TRUNK, BlendPrior
from keyflock_models.personal.gate import Z_90, GainPrior
from keyflock_models.personal.history import MATCH_BUCKETS
from keyflock_models.personal.personal_model import PersonalModel

#: A loss of more hits in the first three per word than this is harm.
HARM: Final = 0.002
#: Maximum weight of a phone's mixture for one match, in words; more words do not add to it.
ROW_WORDS: Final = 1_000.0
#: Minimum weight of the trunk in the population's mixtures.
TRUNK_FLOOR: Final = 0.1
#: Minimum weight of every expert: EM cannot leave zero, so one at zero would never be tried again.
EXPERT_FLOOR: Final = 0.01
#: Minimum standard deviation between users, in hits in the first three per word.
MIN_DEVIATION: Final = 0.01

RESPONSIBILITIES: Final = "responsibilities"
#: The numbers in their order, and the bounds of each.
BOUNDS: Final = MappingProxyType(
    {
        # It is 1 for one phone, and so for the mean of many.
        "phones": (1.0, 1.0),
        # The number of words judged.
        "words": (0.0, 100_000.0),
        # Hits in the first three per word, blend minus trunk; the square is for the spread.
        "gain": (-1.0, 1.0),
        "gain_squared": (0.0, 1.0),
        # The gain's variance by chance.
        "noise_variance": (0.0, 1.0),
        # The gain after the head was fitted, which tells one setting of heads from another.
        "late_gain": (-1.0, 1.0),
        # 0 or 1, of what was shown: the gain's lower 90 % bound is above zero; its upper is below, with harm.
        "helped": (0.0, 1.0),
        "hurt": (0.0, 1.0),
        # 0 or 1.
        "gate_open": (0.0, 1.0),
        "has_head": (0.0, 1.0),
        # The size of the stored personal model.
        "stored_bytes": (0.0, 131_072.0),
        # The time that learning and fitting took.
        "seconds": (0.0, 86_400.0),
    }
)
#: The layout of the vector: the numbers above, then by match and expert the responsibilities in units of
#: `ROW_WORDS`. A row's sum is the number of words with that match.
EVIDENCE_LAYOUT: Final = ParamLayout(
    names=(*BOUNDS, RESPONSIBILITIES), shapes=(*((1,) for _ in BOUNDS), (MATCH_BUCKETS, len(EXPERTS)))
)
_INDEX: Final = MappingProxyType({name: index for index, name in enumerate(BOUNDS)})
_MIN: Final = np.array([low for low, _ in BOUNDS.values()], np.float32)
_MAX: Final = np.array([high for _, high in BOUNDS.values()], np.float32)
#: Tolerance for float32's rounding.
_SLACK: Final = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalMeasurements:
    """Measurements made while a personal model learned, beside what the model knows itself."""

    #: Number of words judged before they were learned.
    words: int
    #: Mean over them of hits in the first three, blend minus trunk; and the variance of that mean.
    gain: float
    noise_variance: float
    #: The same mean over the words after the head was fitted; 0 if there were none.
    late_gain: float
    #: The gain and its variance for what the user was shown, which is the blend while the gate was open.
    shown_gain: float
    shown_noise_variance: float
    stored_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class PopulationEvidence:
    """The priors and figures that a round's mean gives."""

    blend: BlendPrior
    gain: GainPrior
    #: The mean gain after the head was fitted, which tells how good the round's head settings are.
    late_gain: float
    #: Means and shares over the phones, for people to read.
    figures: dict[str, float]


def encode_evidence(model: PersonalModel, measured: PersonalMeasurements) -> F32:
    """Encode one phone's evidence as a vector, laid out as `EVIDENCE_LAYOUT`.

    Guarantees:
        `evidence_problem` accepts it, whatever was measured, if that is finite.
    """
    shown, deviation = measured.shown_gain, measured.shown_noise_variance**0.5
    gain = min(max(measured.gain, -1.0), 1.0)
    values = {
        "phones": 1.0,
        "words": float(measured.words),
        "gain": gain,
        "gain_squared": gain * gain,
        "noise_variance": measured.noise_variance,
        "late_gain": measured.late_gain,
        "helped": float(shown - Z_90 * deviation > 0.0),
        "hurt": float(shown < -HARM and shown + Z_90 * deviation < 0.0),
        "gate_open": float(model.gate.is_open),
        "has_head": float(model.head is not None),
        "stored_bytes": float(measured.stored_bytes),
        "seconds": measured.seconds,
    }
    numbers = np.clip(np.array([values[name] for name in BOUNDS], np.float32), _MIN, _MAX)
    counts = np.maximum(model.weights.responsibilities, 0.0)
    per_match = counts.sum(axis=1, keepdims=True)
    rows = counts / np.maximum(per_match, ROW_WORDS)
    return np.concatenate([numbers, rows.reshape(-1).astype(np.float32)])


def evidence_problem(vector: F32) -> str:
    """Return why this vector cannot come from an honest phone; empty if it can.

    Args:
        vector: The vector, finite. Shape (EVIDENCE_LAYOUT.size,).
    """
    numbers = vector[: len(BOUNDS)]
    beyond = np.flatnonzero(~((numbers >= _MIN) & (numbers <= _MAX)))
    if beyond.size:
        name = tuple(BOUNDS)[int(beyond[0])]
        return f"the evidence's {name} is not between {BOUNDS[name][0]:g} and {BOUNDS[name][1]:g}"
    if not abs(float(numbers[_INDEX["gain"]]) ** 2 - float(numbers[_INDEX["gain_squared"]])) <= _SLACK:
        return "the evidence's gain_squared is not the square of its gain"
    rows = EVIDENCE_LAYOUT.unflatten(vector)[RESPONSIBILITIES]
    if not ((rows >= 0.0).all() and (rows.sum(axis=1) <= 1.0 + _SLACK).all()):
        return f"the evidence's {RESPONSIBILITIES} are not shares"
    return ""


def population_priors(mean: F32, phones: int, before: BlendPrior) -> PopulationEvidence:
    """Return the priors that the next phones begin with.

    Args:
        mean: The mean over phones. Shape (EVIDENCE_LAYOUT.size,).
        phones: The number of phones.
        before: The prior until now, which still dominates where there were few words.
    Guarantees:
        In every mixture the trunk has at least `TRUNK_FLOOR` and every expert at least `EXPERT_FLOOR`; the
        gain's deviation is at least `MIN_DEVIATION`.
    """
    numbers = {name: float(mean[at]) for name, at in _INDEX.items()}
    words = EVIDENCE_LAYOUT.unflatten(mean)[RESPONSIBILITIES].astype(np.float64) * (ROW_WORDS * phones)
    total = words.sum(axis=1, keepdims=True)
    mixtures = (words + before.strength * before.weights) / (total + before.strength)
    spread = numbers["gain_squared"] - numbers["gain"] ** 2 - numbers["noise_variance"]
    gain = GainPrior(numbers["gain"], max(spread, MIN_DEVIATION**2) ** 0.5)
    figures = {
        "phones": float(phones),
        "words": numbers["words"],
        "gain": numbers["gain"],
        "gain_deviation": gain.deviation,
        "late_gain": numbers["late_gain"],
        "share_helped": numbers["helped"],
        "share_hurt": numbers["hurt"],
        "share_open": numbers["gate_open"],
        "share_with_head": numbers["has_head"],
        "stored_bytes": numbers["stored_bytes"],
        "seconds": numbers["seconds"],
    }
    blend = BlendPrior(apply_floors(mixtures), before.strength)
    return PopulationEvidence(blend, gain, numbers["late_gain"], figures)


def apply_floors(mixtures: F64) -> F64:
    """Raise every expert to its floor at least, at the expense of all others in proportion.

    Args:
        mixtures: The mixtures; each row adds up to 1. Shape (MATCH_BUCKETS, experts).
    """
    floors = np.full(mixtures.shape[1], EXPERT_FLOOR)
    floors[TRUNK] = TRUNK_FLOOR
    above = np.maximum(mixtures - floors, 0.0)
    room = 1.0 - floors.sum()
    total = above.sum(axis=1, keepdims=True)
    return np.asarray(floors + above * (room / np.maximum(total, 1e-12)))
