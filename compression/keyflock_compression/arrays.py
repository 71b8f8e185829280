"""This module names the array types of the package."""

import numpy as np
from numpy.typing import NDArray

#: A flat vector of parameters, or of their changes.
Float32 = NDArray[np.float32]
