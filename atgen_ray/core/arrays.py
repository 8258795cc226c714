"""The types of NumPy arrays; shapes stand in the docstrings of those that take and return them."""

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

Vectors = npt.NDArray[np.float32]

Numbers = npt.NDArray[np.float64]
