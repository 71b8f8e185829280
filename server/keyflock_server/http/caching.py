"""Values of the header Cache-Control for phones' downloads."""

from typing import Final

#: The address of a model is the same in every population, so only the phone itself may cache it.
IMMUTABLE: Final = "private, max-age=31536000, immutable"
REVALIDATED: Final = "private, no-cache"
#: For bytes that only the requesting phone can use, and only once.
NEVER: Final = "no-store"
