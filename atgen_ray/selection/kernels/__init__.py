"""Plain-array kernels under the strategies: no ids, no tables, no Ray."""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
