"""The settings of a server process: ports, paths and limits. They change neither results nor guarantees.

A misspelt variable of the environment is refused: a server that overlooked KEYFLOCK_DATABASE would begin a
database of its own. One that is like no setting has no effect: it may belong to another release, to a script
or to Kubernetes, and must not keep a server from starting (docs/decisions/0047).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Self, get_args

import msgspec
from msgspec import Meta

from keyflock_server.telemetry.log_options import LogFormat, LogLevel

ENVIRONMENT_PREFIX: Final = "KEYFLOCK_"
#: Variables that are no settings: by which operators' commands find a server, and tests their corpora.
_OTHER_VARIABLES: Final = ("ADMIN_URL", "ADMIN_TOKEN", "CA_FILE", "DATA")
#: A misspelt name is at least so like the one that was meant, and at most so much longer or shorter.
_SLIP_RATIO: Final = 0.75
_SLIP_CHARS: Final = 2
#: DATABASE_URL is DATABASE, and TICK_SECONDS is TICK_S.
_UNIT: Final = re.compile(r"_(URL|URI|DIR|DIRECTORY|PATH|FILE|FOLDER|S|SECONDS|BYTES)\Z")
#: Settings that are given together or not at all.
_PAIRS: Final = (("tls_certificate", "tls_key"), ("admin_tls_certificate", "admin_tls_key"))
#: A name that is only like one is not refused.
_LIKE_RATIO: Final = 0.6

Port = Annotated[int, Meta(ge=0, le=65_535)]
Positive = Annotated[float, Meta(gt=0.0)]
PositiveCount = Annotated[int, Meta(ge=1)]
Networks = tuple[IPv4Network | IPv6Network, ...]
Names = tuple[str, ...]


class SettingsError(ValueError):
    """Fault of the operator: a setting has a value that cannot be used; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of this process. Each field may be set as ``KEYFLOCK_<NAME>`` in the environment."""

    #: The folder of the secrets, and of the database and the blobs unless the URLs below say otherwise.
    data_dir: Path
    #: ``postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE``; None: SQLite in the data folder. It holds
    #: a password, so it is in no ``repr``.
    database: str | None = field(default=None, repr=False)
    #: ``s3://BUCKET/PREFIX?endpoint=URL`` or ``file:///PATH``; None: files in the data folder.
    blobs: str | None = field(default=None, repr=False)
    #: The address where phones connect.
    host: str = "127.0.0.1"
    port: Port = 8700
    #: The address where operators connect; keep it off the public network.
    admin_host: str = "127.0.0.1"
    admin_port: Port = 8701
    #: PEM file with the certificate of the phones' port, and PEM file of its key: with both the port speaks
    #: TLS, without them plain HTTP, for a proxy in front.
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    #: The same for the operators' port; they may be the same files.
    admin_tls_certificate: Path | None = None
    admin_tls_key: Path | None = None
    #: Names by which operators reach a port that listens on loopback, through a proxy; separated by commas.
    admin_names: Names = ()
    #: File with the keys that personal models are encrypted with; without it none is stored.
    head_keys: Path | None = None
    #: PEM file with the public keys of the app's backend: with it, only a statement that one of them signed
    #: names a user; without it, a secret that the app holds.
    user_keys: Path | None = None
    #: Whether to answer ``POST /v1/suggestions``.
    suggestions: bool = False
    #: File with further words that are never suggested, one per line.
    blocked_words: Path | None = None
    #: Whether the slurs and coarse words of the built-in list are never suggested either.
    default_blocked_words: bool = True
    #: Memory for users' profiles, for suggestions: each takes about 90 kB for 2,000 words, at most 230 kB.
    max_profile_bytes: PositiveCount = 536_870_912
    #: Maximum size of all users' stored personal models together; a phone that would exceed it is refused.
    max_stored_model_bytes: PositiveCount = 21_474_836_480
    log_format: LogFormat = "console"
    log_level: LogLevel = "INFO"
    #: Lifetime of a device token.
    device_token_ttl_s: Positive = 86_400.0
    #: How long after its expiry a device token may be refreshed.
    refresh_grace_s: Positive = 30 * 86_400.0
    #: How long a device token stays valid after it was refreshed, because the response may have been lost.
    token_grace_s: Annotated[float, Meta(ge=0.0)] = 60.0
    #: How long a report may wait for its micro-batch before the phone is told to send it again.
    ack_wait_s: Annotated[float, Meta(ge=0.0)] = 10.0
    #: With ``database``: how long a replica stays the leader without renewing its lease.
    lease_s: Positive = 10.0
    #: Pause between two passes over deadlines and flushes.
    tick_s: Positive = 0.2
    #: A body that takes longer than this to arrive is refused.
    body_timeout_s: Positive = 60.0
    #: Maximum number of phones' connections; None: what the limit of open files leaves, up to 10,000.
    max_connections: PositiveCount | None = None
    #: Maximum number of operators' connections.
    max_operator_connections: PositiveCount = 64
    #: Time for a request's head, from the connection or its first byte to its end.
    header_timeout_s: Positive = 10.0
    #: Time for a client to read a response.
    answer_timeout_s: Positive = 300.0
    #: Maximum number of requests being read or answered at once; further ones are answered ``overloaded``.
    max_bodies_in_flight: PositiveCount = 2_048
    #: Maximum number of body bytes in memory at once; further ones are answered ``overloaded``.
    max_body_bytes_in_flight: PositiveCount = 268_435_456
    #: Maximum number of enrolments per minute; each process allows as many.
    max_enrolments_per_minute: PositiveCount = 6_000
    #: Maximum number of enrolments per hour from one network, an IPv4 /24 or an IPv6 /48.
    max_enrolments_per_block_per_hour: PositiveCount = 600
    #: Networks of proxies whose ``Forwarded`` or ``X-Forwarded-For`` is trusted; separated by commas.
    trusted_proxies: Networks = ()
    #: How long a stopping server waits for each thing that it finishes: a pass, a flush, answers in flight.
    shutdown_grace_s: Positive = 5.0

    @classmethod
    def read(cls, options: Mapping[str, object], environment: Mapping[str, str] | None = None) -> Self:
        """Return settings from command-line options, then the environment, then defaults.

        Args:
            options: Values by field name; None means not given.
            environment: Environment variables; None: the process's own.
        Raises:
            SettingsError: a value cannot be used; the message names the option or variable. Or a variable is
                misspelt.
        """
        environment = os.environ if environment is None else environment
        for name, meant in misspelt_variables(environment).items():
            raise SettingsError(f"{name} is no variable of keyflock; {meant} is. Correct or remove it.")
        values: dict[str, Any] = {}
        for one in fields(cls):
            variable = ENVIRONMENT_PREFIX + one.name.upper()
            option = options.get(one.name)
            value = environment.get(variable) if option is None else option
            if value is None:
                continue
            source = variable if option is None else _option(one.name)
            values[one.name] = _converted(value, one.type, source)
        if "data_dir" not in values:
            raise SettingsError("No data folder: give --data-dir or KEYFLOCK_DATA_DIR.")
        for pair in _PAIRS:
            given, missing = sorted(pair, key=lambda name: name not in values)
            if given in values and missing not in values:
                raise SettingsError(
                    f"{_option(given)} is given without {_option(missing)}: TLS needs a certificate and its "
                    "key, each a PEM file, which may be the same file."
                )
        return cls(**values)


def _option(field_name: str) -> str:
    return "--" + field_name.replace("_", "-")


def misspelt_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are a slip away from one that keyflock reads, and the one that was meant."""
    found = {name: _meant(name) for name in _unread_variables(environment)}
    return {name: meant for name, meant in found.items() if meant}


def variables_without_effect(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that begin like keyflock's and are not read, and the likest that is; else ""."""
    names = (name for name in _unread_variables(environment) if not _meant(name))
    return {name: _likest(name, _known_names(), _LIKE_RATIO) for name in names}


def _known_names() -> list[str]:
    return [*(one.name.upper() for one in fields(Settings)), *_OTHER_VARIABLES]


def _unread_variables(environment: Mapping[str, str]) -> list[str]:
    read = {ENVIRONMENT_PREFIX + name for name in _known_names()}
    begin = ENVIRONMENT_PREFIX.rstrip("_")
    return sorted(name for name in environment if name.upper().startswith(begin) and name not in read)


def _meant(variable: str) -> str:
    """Return the variable that a misspelt one was meant to be, or "" where it is like none."""
    name, known = _bare(variable), _known_names()
    same = [one for one in known if _UNIT.sub("", one) == _UNIT.sub("", name)]
    if same:
        return ENVIRONMENT_PREFIX + same[0]
    return _likest(variable, [one for one in known if abs(len(one) - len(name)) <= _SLIP_CHARS], _SLIP_RATIO)


def _likest(variable: str, known: list[str], ratio: float) -> str:
    found = get_close_matches(_bare(variable), known, 1, ratio)
    return ENVIRONMENT_PREFIX + found[0] if found else ""


def _bare(variable: str) -> str:
    return variable.upper().removeprefix(ENVIRONMENT_PREFIX.rstrip("_")).strip("_-")


def _converted(value: object, kind: Any, source: str) -> Any:  # noqa: ANN401 - a field's type and its value
    if kind in (Path, Path | None):
        return Path(str(value)).expanduser()
    if kind == Networks:
        return _networks(str(value), source)
    if kind == Names:
        return tuple(one.strip().lower() for one in str(value).split(",") if one.strip())
    choices = get_args(kind) if kind in (LogFormat, LogLevel) else ()
    if choices and value not in choices:
        raise SettingsError(f"{source}: one of {', '.join(choices)} was expected.")
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        allowed = "; one of true, false, 1, 0 was expected" if kind is bool else ""
        raise SettingsError(f"{source}: {error}{allowed}.") from None


def _networks(text: str, source: str) -> Networks:
    try:
        return tuple(ip_network(one.strip(), strict=False) for one in text.split(",") if one.strip())
    except ValueError as error:
        raise SettingsError(f"{source}: {error}; give networks such as 10.0.0.0/8,fd00::/8.") from None
