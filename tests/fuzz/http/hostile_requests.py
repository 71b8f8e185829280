"""Requests with a secret: each kind that aiohttp, TLS and HTTP/2 tell apart, and good ones gone wrong.

A request is a function of its number and the run's seed. Where it is not HTTP, or its secret is in a place
that ends the connection, it says so: then nothing else is sent over that connection.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgpack

#: Cut a connection after so much of a request.
_CUTS: Final = (0.3, 0.6, 0.95)


@dataclass(frozen=True, slots=True)
class FuzzCredentials:
    """The credentials that a request needs to pass the first checks."""

    device_token: str
    assignment: str
    assignment_token: str
    admin_token: str


@dataclass(frozen=True, slots=True)
class HostileRequest:
    """One request as bytes."""

    kind: str
    data: bytes
    is_for_operators: bool = False
    #: The server ends the connection after it, or waits for more that never comes.
    is_last: bool = False
    #: The client ends it in the middle.
    is_cut: bool = False


Draw = Callable[[FuzzCredentials, str, random.Random], HostileRequest]


def head(method: str, target: str, headers: dict[str, str] | None = None, version: str = "HTTP/1.1") -> bytes:
    """A request's head, as latin-1."""
    lines = "".join(
        f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **(headers or {})}.items()
    )
    return f"{method} {target} {version}\r\n{lines}\r\n".encode("latin-1")


def with_body(method: str, target: str, headers: dict[str, str], body: bytes) -> bytes:
    """A request with a body of a stated length."""
    return head(method, target, {**headers, "Content-Length": str(len(body))}) + body


def phone(site: FuzzCredentials, **headers: str) -> dict[str, str]:
    """A phone's headers."""
    return {
        "Authorization": f"Bearer {site.device_token}",
        "Content-Type": "application/msgpack",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }


def operator(site: FuzzCredentials, media_type: str = "application/json") -> dict[str, str]:
    """An operator's headers."""
    return {"Authorization": f"Bearer {site.admin_token}", "Content-Type": media_type}


def _not_http(_site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    planted = secret.encode()
    data = rng.choice(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + planted,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + planted + b"\r\n\r\n",
            b"\x16\x03\x03\x00\x80" + planted,
            b"\x80\x2e\x01\x00\x02" + planted + b"\r\n",
            planted + b"\r\n\r\n",
            b"GET /" + planted + b"\r\n\r\n",
            b"GET  /" + planted + b"  HTTP/1.1\r\n\r\n",
            b"GET /" + planted + b" HTTP/3.0\r\nHost: localhost\r\n\r\n",
            b"GET /" + planted + b" HTTP/0.9\r\nHost: localhost\r\n\r\n",
            b"GET /" + planted + b" HTTP/1.1 " + planted + b"\r\nHost: localhost\r\n\r\n",
            planted + b" / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\r\n\r\n" + planted + b"\r\n\r\n",
            b"\x00\x01\x02" + planted + b"\xff\xfe\r\n\r\n",
            rng.randbytes(24) + planted + rng.randbytes(24) + b"\r\n\r\n",
        )
    )
    return HostileRequest("not HTTP", data, rng.random() < 0.5, is_last=True)


def _bad_target(_site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    target = rng.choice(
        (
            f"http://[::{secret}/",
            f"http://{secret}:99999999/v1",
            f"//{secret}",
            f"/\x01{secret}",
            f"/\xff\xfe{secret}",
            f"*{secret}",
            "/" + secret * 250,
            f"http://{secret}@x/",
            f"/{secret}#{secret}",
            f"{secret}",
        )
    )
    return HostileRequest("target", head("GET", target), rng.random() < 0.5, is_last=True)


def _bad_headers(_site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    lines = rng.choice(
        (
            f"Authorization:Bearer\t{secret}\x01",
            f"Authorization: Token {secret}\x00",
            f"{secret} : x",
            f": {secret}",
            f"{secret}",
            f" {secret}: folded",
            f"X: {secret}\r\n folded {secret}",
            f"Host: {secret}",
            f"Content-Length: {secret}",
            f"Content-Length: 1\r\nContent-Length: 2\r\nX: {secret}",
            f"Content-Length: 3\r\nTransfer-Encoding: chunked\r\nX: {secret}",
            f"Transfer-Encoding: {secret}",
            f"Transfer-Encoding: chunked, {secret}",
            f"X: {secret * 250}",
            "\r\n".join(f"X-{number}: {secret}" for number in range(150)),
            f"X\x7f{secret}: x",
            f"X: {secret}\rY: x",
            f"X: {secret}\nY: x",
            f"Cookie: {secret}\x0b=x",
        )
    )
    data = f"GET /v1/models/0 HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n".encode("latin-1")
    return HostileRequest("headers", data, rng.random() < 0.5, is_last=True)


def _bad_framing(site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    planted = secret.encode()
    framed = rng.choice(
        (
            b"\x81\xa7context\xd9\x2c" + planted,
            b"\x81\xa7context\xd9\x2c" + planted + b"\r\n",
            b"3\r\n" + planted + b"\r\n0\r\n\r\n",
            b"0x10;" + planted + b"\r\n" + planted + b"\r\n",
            b"-1\r\n" + planted + b"\r\n",
            b"ffffffffffffffffff\r\n" + planted + b"\r\n",
            b"3;" + planted * 300 + b"\r\nabc\r\n0\r\n\r\n",
            b"3\r\nabc\r\n0\r\nTrailer " + planted + b"\x01\r\n\r\n",
            b"3\r\nabc\r\n0\r\n" + planted + b": " + planted + b"\r\n\r\n",
            b"3\r\nabc\r\n0\r\nX: " + planted * 300 + b"\r\n\r\n",
            b"3\r\nabc" + planted,
            b"3\nabc\n" + planted,
        )
    )
    method, target, headers = rng.choice(
        (
            ("POST", "/v1/suggestions", phone(site)),
            (
                "PUT",
                f"/v1/assignments/{site.assignment}/report",
                phone(site, Keyflock_Assignment=site.assignment_token),
            ),
            ("PUT", "/v1/heads/en-US", {**phone(site), "Content-Type": "application/vnd.keyflock.head"}),
            ("POST", "/admin/v1/tasks", operator(site, "application/toml")),
        )
    )
    data = head(method, target, {**headers, "Transfer-Encoding": "chunked"}) + framed
    return HostileRequest("framing", data, target.startswith("/admin/"), is_last=True)


def _wrong_credentials(site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    headers = rng.choice(
        (
            {"Authorization": f"Bearer {secret}"},
            {"Authorization": f"Token {secret}"},
            {"Authorization": f"Bearer\t{secret}"},
            {"Authorization": f"Basic {secret}"},
            {"Authorization": f"Bearer eyJhbGciOiJIUzI1NiJ9.{secret}.{secret}"},
            {"Authorization": f"Bearer {site.device_token}{secret}"},
            {"Authorization": f"Bearer {secret}\xff"},
            {"Cookie": f"token={secret}"},
            {},
        )
    )
    target = rng.choice(("/v1/models/0", "/v1/check-ins", f"/v1/{secret}", "/v1/devices/me"))
    method = "POST" if target == "/v1/check-ins" else rng.choice(("GET", "DELETE", "PATCH", "HEAD"))
    return HostileRequest("credentials", head(method, target, headers), is_last=method == "HEAD")


def _guessed_admin_token(_site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    headers = {"Authorization": rng.choice((f"Bearer {secret}", f"Token {secret}", f"Bearer {secret}\xff"))}
    return HostileRequest("admin token", head("GET", "/admin/v1/tasks", headers), is_for_operators=True)


def _wrong_address(site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    escaped = "".join(f"%{byte:02X}" for byte in secret.encode())
    name = rng.choice((secret, escaped, f"{secret}%00", f"%ff{secret}", f"{secret}%0a", f"..%2f{secret}"))
    if rng.random() < 0.5:
        method, path = rng.choice(
            (
                ("GET", f"/admin/v1/devices/{name}"),
                ("POST", f"/admin/v1/devices/{name}/release"),
                ("POST", f"/admin/v1/devices/{name}/revoke"),
                ("GET", f"/admin/v1/tasks/{name}"),
                ("POST", f"/admin/v1/tasks/{name}/pause"),
                ("GET", f"/admin/v1/rounds/{name}"),
                ("GET", f"/admin/v1/populations/{name}/devices"),
                ("GET", f"/admin/v1/{name}"),
                ("PATCH", f"/admin/v1/devices/{name}"),
            )
        )
        return HostileRequest("admin address", head(method, path, operator(site)), is_for_operators=True)
    method, path = rng.choice(
        (
            ("GET", f"/v1/models/{name}"),
            ("GET", f"/v1/populations/{name}/release"),
            ("GET", f"/v1/populations/{name}/vocabulary"),
            ("GET", f"/v1/heads/{name}"),
            ("DELETE", f"/v1/heads/{name}"),
            ("GET", f"/v1/{name}?{name}={name}"),
            ("GET", f"/healthz?{name}"),
            ("DELETE", f"/v1/devices/{name}"),
            ("PATCH", f"/v1/models/0?{name}"),
            ("OPTIONS", f"/{name}"),
        )
    )
    return HostileRequest("address", head(method, path, {"Authorization": f"Bearer {site.device_token}"}))


def _odd_headers(site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    headers = {"Authorization": f"Bearer {site.device_token}"} | rng.choice(
        (
            {"If-None-Match": f'"{secret}"'},
            {"If-None-Match": f'W/"{secret}", *, {secret}'},
            {"A-IM": f"keyflock-delta, {secret}", "If-None-Match": f'"{secret}"'},
            {"If-Match": f'"{secret}"'},
            {"Cookie": f"session={secret}; {secret}"},
            {
                "User-Agent": secret,
                "Referer": secret,
                "X-Forwarded-For": secret,
                "Forwarded": f"for={secret}",
            },
            {"Accept": f"text/html, {secret}", "Accept-Language": secret, "Accept-Encoding": secret},
            {"Expect": secret},
            {secret: secret},
            {"Upgrade": secret},
            {"Range": f"bytes={secret}"},
            {"Origin": f"https://{secret}"},
        )
    )
    target = rng.choice(("/v1/models/0", "/healthz", "/v1/populations/en-US/release", "/v1/heads/en-US"))
    return HostileRequest("odd headers", head("GET", target, headers))


def _upgrade(_site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    planted = secret.encode()
    data = rng.choice(
        (
            head("GET", f"/{secret}", {"Connection": "upgrade", "Upgrade": "websocket"})
            + planted
            + b" x\r\n\r\n",
            head(
                "GET",
                "/healthz",
                {"Connection": "upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": secret},
            ),
            head("CONNECT", f"{secret}:443") + planted + b"\r\n\r\n",
            head("OPTIONS", "*", {"X": secret}),
        )
    )
    return HostileRequest("upgrade", data, rng.random() < 0.5, is_last=True)


def _pipelined(site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    good = head("GET", "/healthz")
    rest = rng.choice((_not_http, _bad_headers, _bad_target))(site, secret, rng).data
    return HostileRequest("pipelined", good * rng.randrange(1, 4) + rest, rng.random() < 0.5, is_last=True)


def _mutated(rng: random.Random, packed: bytes) -> bytes:
    """The bytes as they are, or with a change that the message does not survive."""
    change, at = rng.randrange(4), rng.randrange(len(packed))
    if change == 0:
        return packed
    if change == 1:
        return packed[:at]
    if change == 2:
        return packed + rng.randbytes(3)
    return packed[:at] + rng.randbytes(1) + packed[at + 1 :]


def _phones_body(site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    assigned = phone(site, Keyflock_Assignment=site.assignment_token)
    at = f"/v1/assignments/{site.assignment}"
    enrolment: dict[str, Any] = {
        "protocol": 1,
        "population": rng.choice(("en-US", secret)),
        "app_build": 1,
        "locale": rng.choice(("en-US", secret)),
        "attestation": secret.encode(),
    }
    check_in = {"protocol": 1, "app_build": 1, "locale": rng.choice(("en-US", secret)), secret: secret}
    kind, method, target, headers, message = rng.choice(
        (
            ("suggestions", "POST", "/v1/suggestions", phone(site), {"context": f"{secret} my {secret}"}),
            ("suggestions", "POST", "/v1/suggestions", phone(site), {"context": [secret]}),
            ("check-in", "POST", "/v1/check-ins", phone(site), check_in),
            (
                "check-in",
                "POST",
                "/v1/check-ins",
                phone(site),
                {**check_in, "conditions": {"network": secret}},
            ),
            ("check-in", "POST", "/v1/check-ins", phone(site), {**check_in, "protocol": secret}),
            ("enrolment", "POST", "/v1/devices", phone(site), enrolment),
            (
                "enrolment",
                "POST",
                "/v1/devices",
                {"Content-Type": "application/msgpack"},
                {**enrolment, "user": secret},
            ),
            ("enrolment", "POST", "/v1/devices", {"Content-Type": secret}, enrolment),
            ("offer", "POST", f"{at}/offer", assigned, {"size_bytes": secret, "model_version": 0}),
            ("failure", "POST", f"{at}/failure", assigned, {"cause": secret}),
            ("report", "PUT", f"{at}/report", assigned, {"delta": secret.encode(), "examples": 3}),
            (
                "report",
                "PUT",
                f"{at}/report",
                assigned,
                {"delta": b"x", "examples": 3, "session_shape": secret},
            ),
            ("report", "PUT", f"{at}/report", assigned, {"delta": _container(secret), "examples": 3}),
            (
                "assignment",
                "PUT",
                f"/v1/assignments/{secret}/report",
                phone(site, Keyflock_Assignment=secret),
                {"delta": secret.encode(), "examples": 3},
            ),
            (
                "assignment",
                "POST",
                f"/v1/assignments/{secret}/offer",
                assigned,
                {"size_bytes": 1, "model_version": 0},
            ),
        )
    )
    return HostileRequest(kind, with_body(method, target, headers, _mutated(rng, msgpack.packb(message))))


def _container(secret: str) -> bytes:
    """What looks like an encoded delta."""
    fields = {
        "v": 1,
        "spec": {"codec": secret[:60], "rounding": "nearest"},
        "layout": secret.encode()[:16],
        "scales": secret.encode(),
        "streams": [secret.encode()],
        "digest": b"12345678",
    }
    return bytes(msgpack.packb(fields))


def _head_body(site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    headers = {**phone(site), "Content-Type": "application/vnd.keyflock.head"}
    if rng.random() < 0.3:
        headers["If-Match"] = f'"{secret}"'
    body = _mutated(rng, rng.choice((secret.encode(), _container(secret), msgpack.packb({secret: secret}))))
    return HostileRequest("head", with_body("PUT", "/v1/heads/en-US", headers, body))


def _operators_body(site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    safetensors = len(secret).to_bytes(8, "little") + secret.encode()
    shapes = json.dumps({secret: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    method, target, media_type, body = rng.choice(
        (
            ("POST", "/admin/v1/tasks", "application/toml", f'[task]\nname = "{secret}\n'.encode()),
            ("POST", "/admin/v1/tasks", "application/toml", f'[task]\nname = "x"\n{secret} = 1\n'.encode()),
            ("POST", "/admin/v1/tasks", "application/toml", f'[{secret}]\na = "{secret}"\n'.encode()),
            (
                "POST",
                "/admin/v1/tasks",
                "application/toml",
                f'[task]\nname = "a"\npopulation = "{secret}"\n'.encode(),
            ),
            ("POST", "/admin/v1/tasks", "application/toml", secret.encode() + b"\xff\xfe"),
            (
                "POST",
                "/admin/v1/tasks",
                "application/toml",
                f'[task]\nname = "a"\npopulation = "en-US"\n[optimizer]\nname = "{secret}"\n'.encode(),
            ),
            (
                "POST",
                "/admin/v1/tasks",
                "application/toml",
                f'[task]\nname = "a"\npopulation = "en-US"\n[eligibility]\ncohort = "{secret}"\n'.encode(),
            ),
            ("POST", "/admin/v1/tasks", secret, b"x"),
            ("PUT", "/admin/v1/populations/xx-YY", "application/octet-stream", safetensors),
            (
                "PUT",
                "/admin/v1/populations/xx-YY",
                "application/octet-stream",
                len(shapes).to_bytes(8, "little") + shapes + bytes(4),
            ),
            (
                "POST",
                "/admin/v1/populations/en-US/cohort-preview",
                "application/json",
                json.dumps({"cohort": f"tier == '{secret}'"}).encode(),
            ),
            (
                "POST",
                "/admin/v1/populations/en-US/cohort-preview",
                "application/json",
                json.dumps({"cohort": [secret]}).encode(),
            ),
            (
                "POST",
                f"/admin/v1/devices/{secret}/quarantine",
                "application/json",
                b'{"reason": "x", "days": 1}',
            ),
            (
                "POST",
                f"/admin/v1/devices/{secret}/quarantine",
                "application/json",
                json.dumps({"reason": secret, secret: secret}).encode(),
            ),
            ("POST", f"/admin/v1/rounds/{secret}/accept", "application/json", b'{"reason": "x"}'),
            ("POST", f"/admin/v1/rounds/{secret}/discard", "application/json", b'{"reason": "x"}'),
            (
                "POST",
                f"/admin/v1/populations/{secret}/rollback",
                "application/json",
                b'{"to": 0, "reason": "x"}',
            ),
            (
                "POST",
                "/admin/v1/populations/en-US/rollback",
                "application/json",
                json.dumps({"to": secret, "reason": secret, secret: 1}).encode(),
            ),
        )
    )
    data = with_body(method, target, operator(site, media_type), body)
    return HostileRequest("operator's body", data, is_for_operators=True)


def _cut(site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    whole = rng.choice((_phones_body, _head_body, _operators_body, _odd_headers, _wrong_address))(
        site, secret, rng
    )
    length = int(len(whole.data) * rng.choice(_CUTS))
    return HostileRequest("cut", whole.data[:length], whole.is_for_operators, is_cut=True)


#: Guesses of the admin token are answered late, so a few of them show as much as many.
_DRAWS: Final[tuple[tuple[Draw, float], ...]] = (
    (_not_http, 8.0),
    (_bad_target, 5.0),
    (_bad_headers, 10.0),
    (_bad_framing, 8.0),
    (_wrong_credentials, 12.0),
    (_guessed_admin_token, 0.05),
    (_wrong_address, 14.0),
    (_odd_headers, 12.0),
    (_upgrade, 3.0),
    (_pipelined, 4.0),
    (_phones_body, 14.0),
    (_head_body, 4.0),
    (_operators_body, 6.0),
    (_cut, 6.0),
)


def drawn(site: FuzzCredentials, secret: str, rng: random.Random) -> HostileRequest:
    """One request with the secret in it."""
    (draw,) = rng.choices([one for one, _ in _DRAWS], [weight for _, weight in _DRAWS])
    return draw(site, secret, rng)
