"""Linnet's Hopper kernels of Kimi Delta Attention and Gated DeltaNet as operators of torch. `import linnet_torch.fla` gives them to FLA.
README.md has the rest."""

from . import layer, operators
from .gdn import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule
from .kda import chunk_kda, fused_recurrent_kda

__all__ = ["chunk_gated_delta_rule", "chunk_kda", "fused_recurrent_gated_delta_rule", "fused_recurrent_kda", "layer", "operators"]
