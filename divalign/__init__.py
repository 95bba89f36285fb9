"""divalign: safety alignment as divergence estimation.

The names a user needs are here; each is imported on first use, so `import divalign` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from divalign.core.divergences import DIVERGENCES
    from divalign.core.estimate import estimate_divergence
    from divalign.core.losses import METHODS, LogRatios
    from divalign.core.separation import separation
    from divalign.train.arguments import DivergenceConfig
    from divalign.train.monitor import SafetyMonitor
    from divalign.train.trainer import DivergenceTrainer

__version__ = "0.1.0"
__all__ = [
    "DIVERGENCES",
    "METHODS",
    "DivergenceConfig",
    "DivergenceTrainer",
    "LogRatios",
    "SafetyMonitor",
    "estimate_divergence",
    "separation",
]

_HOME = {
    "DIVERGENCES": "divalign.core.divergences",
    "METHODS": "divalign.core.losses",
    "LogRatios": "divalign.core.losses",
    "estimate_divergence": "divalign.core.estimate",
    "separation": "divalign.core.separation",
    "DivergenceConfig": "divalign.train.arguments",
    "DivergenceTrainer": "divalign.train.trainer",
    "SafetyMonitor": "divalign.train.monitor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'divalign' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)
