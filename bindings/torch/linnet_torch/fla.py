"""`import linnet_torch.fla`: from then on FLA's chunk_kda, fused_recurrent_kda and chunk_gated_delta_rule run on Linnet's kernels wherever
these take the call (forward, no gradients wanted, on Hopper) and on FLA's own everywhere else. LINNET_FLA=0 in the environment turns it off.
"""

import torch
from fla.ops.backends import BackendRegistry, BaseBackend

from . import gdn, kda, operators


class LinnetBackend(BaseBackend):
    backend_type = "linnet"
    package_name = "linnet_torch"
    env_var = "LINNET_FLA"
    priority = 1

    def chunk_kda_verifier(self, *args, **kwargs):
        reason = kda.chunk_refusal(*args, **kwargs, max_recurrent_tokens=kda.MAX_RECURRENT_TOKENS)
        return reason is None, reason

    def chunk_kda(self, *args, **kwargs):
        return kda.chunk_kda(*args, **kwargs)

    # What FLA's fused_recurrent_kda, and servers with pools of states, call.
    def fused_recurrent_kda_fwd_verifier(
        self, q, k, v, g, beta, A_log=None, dt_bias=None, initial_state=None, scale=None, output_final_state=False, inplace_final_state=True,
        state_v_first=False, cu_seqlens=None, ssm_state_indices=None, num_accepted_tokens=None, use_gate_in_kernel=False, lower_bound=None,
        out=None, **kwargs,
    ):  # fmt: skip
        pools = ssm_state_indices is not None
        reason = kda.recurrent_refusal(q, k, v, g, beta, A_log, dt_bias, initial_state, cu_seqlens, use_gate_in_kernel, lower_bound, pools)
        if reason is None and pools and not inplace_final_state:
            reason = "ssm_state_indices: expected with inplace_final_state"
        if reason is None and inplace_final_state and (
            initial_state is None or initial_state.dtype != torch.float32 or not initial_state[:1].is_contiguous()
        ):
            reason = "initial_state: expected contiguous states in float32 with inplace_final_state"
        if reason is None and inplace_final_state and not pools and not initial_state.is_contiguous():
            reason = "initial_state: expected contiguous memory with inplace_final_state"
        if reason is None and out is not None and not (out.dtype == v.dtype and out.is_contiguous() and out.data_ptr() % 16 == 0):
            reason = f"out: expected contiguous {v.dtype}"
        return reason is None, reason

    def fused_recurrent_kda_fwd(
        self, q, k, v, g, beta, A_log=None, dt_bias=None, initial_state=None, scale=None, output_final_state=False, inplace_final_state=True,
        state_v_first=False, cu_seqlens=None, ssm_state_indices=None, num_accepted_tokens=None, use_qk_l2norm_in_kernel=False,
        use_gate_in_kernel=False, use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, lower_bound=None, out=None, **kwargs,
    ):  # fmt: skip
        n_heads, k_dim, v_dim = v.shape[2], q.shape[3], v.shape[3]
        a_log, dt_bias = kda._gate_parameters(use_gate_in_kernel, A_log, dt_bias, n_heads, k_dim, q.device, both=False)
        q, k, v, g, beta = (kda._dense(x) for x in (q, k, v, g, beta))
        out = torch.zeros_like(v) if out is None else out
        final = initial_state if inplace_final_state else None
        if output_final_state and not inplace_final_state:
            n_sequences = q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
            shape = (v_dim, k_dim) if state_v_first else (k_dim, v_dim)
            final = torch.empty(n_sequences, n_heads, *shape, dtype=torch.float32, device=q.device)
        first = None if inplace_final_state else kda._state(initial_state)
        slots = None if ssm_state_indices is None else ssm_state_indices.to(torch.int32)
        accepted = None if num_accepted_tokens is None else num_accepted_tokens.to(torch.int32).contiguous()
        torch.ops.linnet.kda_recurrent(
            q, k, v, g, beta, a_log, dt_bias, first, final, inplace_final_state, out, cu_seqlens, slots, accepted,
            k_dim**-0.5 if scale is None else float(scale), use_gate_in_kernel, lower_bound if use_gate_in_kernel else None,
            use_qk_l2norm_in_kernel, use_beta_sigmoid_in_kernel, 2.0 if allow_neg_eigval else 1.0, state_v_first,
        )  # fmt: skip
        return out, final


class LinnetGdnBackend(BaseBackend):
    backend_type, package_name, env_var, priority = "linnet", "linnet_torch", "LINNET_FLA", 1

    def chunk_gated_delta_rule_verifier(self, *args, **kwargs):
        reason = gdn.chunk_refusal(*args, **kwargs, max_recurrent_tokens=kda.MAX_RECURRENT_TOKENS)
        return reason is None, reason

    def chunk_gated_delta_rule(self, *args, **kwargs):
        return gdn.chunk_gated_delta_rule(*args, **kwargs)


def register(operation="kda", backend=LinnetBackend):
    """Idempotent. Returns the backend."""
    BackendRegistry.ensure_initialized(operation)
    registry = BackendRegistry._registries.get(operation) or BackendRegistry(operation)
    if backend.backend_type not in registry._backends:
        registry.register(backend())
    return registry._backends[backend.backend_type]


assert operators  # the operators must be known before a call is dispatched
register()
register("gated_delta_rule", LinnetGdnBackend)
