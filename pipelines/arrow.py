"""pyarrow, which has no types: named here once as what it is, so that nothing else has to say so."""

from typing import Any

import pyarrow  # pyright: ignore[reportMissingTypeStubs] - it ships none, and pyarrow-stubs trails its releases

arrow: Any = pyarrow
Table = Any
Schema = Any
