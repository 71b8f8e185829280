"""The text format of server-sent events.

Source: WHATWG HTML, section 9.2, "Server-sent events".
"""

from typing import Final

import msgspec

from keyflock_server.protocol.operator.events import LiveEvent

#: Sent where nothing happens, so that both ends notice a broken connection.
HEARTBEAT: Final = b": still here\n\n"
#: How long a reader should wait before it connects again.
_RETRY_MS: Final = 2_000
#: Begins every stream.
GREETING: Final = f": connected\nretry: {_RETRY_MS}\n\n".encode()


def event_block(event: LiveEvent, id_: str) -> bytes:
    """Return one event as a block of the stream; its data is one line of JSON."""
    return f"id: {id_}\nevent: {event.kind}\ndata: ".encode() + msgspec.json.encode(event) + b"\n\n"
