"""The array types of this package."""

import numpy as np
from numpy.typing import NDArray

#: A flat vector of parameters, or of their changes.
Float32 = NDArray[np.float32]
