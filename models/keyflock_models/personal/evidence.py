"""What one phone says of its personalisation, as a small vector of numbers; and what many phones' mean says.

A `personalize` round asks phones how much they gain, and under which settings. Nobody but the phone needs its
answer: all that is wanted is a mean. So the answer is a float32 vector of named places, which is summed as
any report is, and of which only sums of several phones are ever written down. No word, no count of a word and
no parameter of a head is in it.

Every place has bounds: a phone clips what it says to them, and what is beyond them is refused whole, so that
no phone moves a mean further than any other could.

Source: the mean over phones gives moments, and moments give the priors (Casella and Berger 2002, 7.2.1).
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from keyflock_models.arrays import F32, F64
from keyflock_models.layout import ParamLayout
from keyflock_models.personal.blend import EXPERTS, TRUNK, BlendPrior
from keyflock_models.personal.gate import Z_90, GainPrior
from keyflock_models.personal.history import MATCHES
from keyflock_models.personal.personal_model import PersonalModel

#: Losing more than so many hits in the first three, a word, is harm.
HARM: Final = 0.002
#: Words with one match that a phone's mixture may weigh: who types more says no more.
ROW_WORDS: Final = 1_000.0
#: What the trunk keeps in the population's mixtures, whatever phones say.
TRUNK_FLOOR: Final = 0.1
#: What every expert keeps: one at zero would never be tried again, for EM cannot leave zero.
EXPERT_FLOOR: Final = 0.01
#: However alike the phones of a round are, users differ by as much: hits in the first three, a word.
LEAST_DEVIATION: Final = 0.01

RESPONSIBILITIES: Final = "responsibilities"
#: The numbers, in their order, and between which bounds each lies.
BOUNDS: Final = MappingProxyType(
    {
        # One phone is one; the mean of it is one.
        "phones": (1.0, 1.0),
        # Words judged.
        "words": (0.0, 100_000.0),
        # Hits in the first three that the blend has above the trunk's, a word; its square is for the spread.
        "gain": (-1.0, 1.0),
        "gain_squared": (0.0, 1.0),
        # Variance of that gain by chance.
        "noise_variance": (0.0, 1.0),
        # The gain after the head was fitted: what tells one setting of heads from another.
        "late_gain": (-1.0, 1.0),
        # 0 or 1, of what was shown: the gain's lower 90 % bound is above zero; its upper is below, with harm.
        "helped": (0.0, 1.0),
        "hurt": (0.0, 1.0),
        # 0 or 1.
        "gate_open": (0.0, 1.0),
        "has_head": (0.0, 1.0),
        # Of the personal model as it is stored.
        "stored_bytes": (0.0, 131_072.0),
        # Of learning and fitting.
        "seconds": (0.0, 86_400.0),
    }
)
#: What travels: the numbers above, then by match and expert the responsibilities in units of `ROW_WORDS`.
#: A row's sum is how many words had that match.
EVIDENCE_LAYOUT: Final = ParamLayout(
    names=(*BOUNDS, RESPONSIBILITIES), shapes=(*((1,) for _ in BOUNDS), (MATCHES, len(EXPERTS)))
)
_AT: Final = MappingProxyType({name: index for index, name in enumerate(BOUNDS)})
_LEAST: Final = np.array([least for least, _ in BOUNDS.values()], np.float32)
_MOST: Final = np.array([most for _, most in BOUNDS.values()], np.float32)
#: Beyond float32's rounding.
_SLACK: Final = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured while a personal model learned, beside what the model knows itself."""

    #: Words judged before they were learned.
    words: int
    #: Mean over them of hits in the first three, blend minus trunk; and the variance of that mean.
    gain: float
    noise_variance: float
    #: The same mean over the words after the head was fitted; 0 if there were none.
    late_gain: float
    #: As `gain` and its variance, of what the user was shown: the blend while the gate was open.
    shown_gain: float
    shown_noise_variance: float
    stored_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class PopulationEvidence:
    """What a round's mean says of all its phones."""

    blend: BlendPrior
    gain: GainPrior
    #: The mean of the gain after the head was fitted: how good the round's head settings are.
    late_gain: float
    #: To be read: means and shares over the phones.
    figures: dict[str, float]


def evidence_of(model: PersonalModel, measured: Measured) -> F32:
    """One phone's vector, laid out as `EVIDENCE_LAYOUT`.

    Guarantees:
        `refusal_of` finds nothing to refuse in it, whatever was measured, if that is finite.
    """
    shown, deviation = measured.shown_gain, measured.shown_noise_variance**0.5
    gain = min(max(measured.gain, -1.0), 1.0)
    said = {
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
    numbers = np.clip(np.array([said[name] for name in BOUNDS], np.float32), _LEAST, _MOST)
    counts = np.maximum(model.weights.responsibilities, 0.0)
    per_match = counts.sum(axis=1, keepdims=True)
    rows = counts / np.maximum(per_match, ROW_WORDS)
    return np.concatenate([numbers, rows.reshape(-1).astype(np.float32)])


def refusal_of(vector: F32) -> str:
    """Why no honest phone has sent this vector; empty if one may have.

    Args:
        vector: Shape (EVIDENCE_LAYOUT.size,), finite.
    """
    numbers = vector[: len(BOUNDS)]
    beyond = np.flatnonzero(~((numbers >= _LEAST) & (numbers <= _MOST)))
    if beyond.size:
        name = tuple(BOUNDS)[int(beyond[0])]
        return f"the evidence's {name} is not between {BOUNDS[name][0]:g} and {BOUNDS[name][1]:g}"
    if not abs(float(numbers[_AT["gain"]]) ** 2 - float(numbers[_AT["gain_squared"]])) <= _SLACK:
        return "the evidence's gain_squared is not the square of its gain"
    rows = EVIDENCE_LAYOUT.unflatten(vector)[RESPONSIBILITIES]
    if not ((rows >= 0.0).all() and (rows.sum(axis=1) <= 1.0 + _SLACK).all()):
        return f"the evidence's {RESPONSIBILITIES} are not shares"
    return ""


def population_of(mean: F32, phones: int, before: BlendPrior) -> PopulationEvidence:
    """The priors that the next phones begin with.

    Args:
        mean: The mean over phones, shape (EVIDENCE_LAYOUT.size,).
        phones: How many.
        before: What was believed until now: where few words were seen, it still is.
    Guarantees:
        In every mixture the trunk has at least `TRUNK_FLOOR` and every expert at least `EXPERT_FLOOR`; the
        gain's deviation is at least `LEAST_DEVIATION`.
    """
    numbers = {name: float(mean[at]) for name, at in _AT.items()}
    words = EVIDENCE_LAYOUT.unflatten(mean)[RESPONSIBILITIES].astype(np.float64) * (ROW_WORDS * phones)
    total = words.sum(axis=1, keepdims=True)
    mixtures = (words + before.strength * before.weights) / (total + before.strength)
    spread = numbers["gain_squared"] - numbers["gain"] ** 2 - numbers["noise_variance"]
    gain = GainPrior(numbers["gain"], max(spread, LEAST_DEVIATION**2) ** 0.5)
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
    blend = BlendPrior(with_floors(mixtures), before.strength)
    return PopulationEvidence(blend, gain, numbers["late_gain"], figures)


def with_floors(mixtures: F64) -> F64:
    """The mixtures, every expert at its floor at least; what that takes, all give in proportion.

    Args:
        mixtures: Shape (MATCHES, experts); each row adds up to 1.
    """
    floors = np.full(mixtures.shape[1], EXPERT_FLOOR)
    floors[TRUNK] = TRUNK_FLOOR
    above = np.maximum(mixtures - floors, 0.0)
    room = 1.0 - floors.sum()
    total = above.sum(axis=1, keepdims=True)
    return np.asarray(floors + above * (room / np.maximum(total, 1e-12)))
