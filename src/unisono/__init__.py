"""Unisono: federated learning for hospitals in which only sums leave a hospital.

import unisono
answer = unisono.run("study.yaml", {"padua": frame, "turin": "turin.csv", "leiden": ("leiden.csv", "leiden.mapping.yaml")})
answer["effect"].summary()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unisono.version import VERSION

if TYPE_CHECKING:
    from unisono.api import StudyResult, run
    from unisono.errors import UnisonoError

__version__ = VERSION
__all__ = ["StudyResult", "UnisonoError", "__version__", "run"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: `import unisono` is then instant, also where only a part is used.
    if name == "UnisonoError":
        from unisono.errors import UnisonoError

        return UnisonoError
    if name in ("StudyResult", "run"):
        from unisono import api

        return getattr(api, name)
    raise AttributeError(name)
