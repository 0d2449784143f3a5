"""Linnet's Hopper kernels of Kimi Delta Attention as operators of torch. `import linnet_torch.fla` gives them to FLA. README.md has the rest."""

from . import layer, operators
from .kda import chunk_kda, fused_recurrent_kda

__all__ = ["chunk_kda", "fused_recurrent_kda", "layer", "operators"]
