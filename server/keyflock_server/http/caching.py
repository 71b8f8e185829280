"""The header Cache-Control of what phones download."""

from typing import Final

#: The address of a model is the same in every population, so only the phone itself may keep it.
IMMUTABLE: Final = "private, max-age=31536000, immutable"
REVALIDATED: Final = "private, no-cache"
#: What only the phone that asked can use, and that once.
NEVER: Final = "no-store"
