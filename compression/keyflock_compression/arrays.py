"""This module names the array types of the package."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A flat vector of parameters, or of their changes.
Float32 = NDArray[np.float32]

#: Indices into a flat vector, in a signed type that holds its size.
Indices = NDArray[np.signedinteger[Any]]
