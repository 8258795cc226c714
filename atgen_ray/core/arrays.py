"""Types of NumPy arrays. Shapes stand in the docstrings of the functions that use them."""

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

Vectors = npt.NDArray[np.float32]

Numbers = npt.NDArray[np.float64]
