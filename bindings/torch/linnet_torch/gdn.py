"""chunk_gated_delta_rule and fused_recurrent_gated_delta_rule with FLA's signatures and meanings, forward only: Gated DeltaNet is Kimi Delta
Attention whose decay is one number for all channels of a head, and runs in the same kernels.
"""

import torch

from . import kda


def _wide(g, width):
    """A gate of each head as one of each channel; no copy."""
    return g.unsqueeze(-1).expand(*g.shape, width)


def _log_decay(g, a_log, dt_bias):
    """From the raw gate, in f32."""
    g = g.float() if dt_bias is None else g.float() + dt_bias.reshape(-1).float()
    return -torch.exp(a_log.reshape(-1).float()) * torch.nn.functional.softplus(g)


def chunk_refusal(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False,
    use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, state_v_first=False, cu_seqlens=None, cu_seqlens_cpu=None, chunk_indices=None,
    cp_context=None, *, max_recurrent_tokens=None, **kwargs,
):  # fmt: skip
    """None, or why chunk_gated_delta_rule cannot take the call. max_recurrent_tokens: as in kda.chunk_refusal."""
    a_log, dt_bias = kwargs.get("A_log"), kwargs.get("dt_bias")
    if g.ndim != 3:
        return f"g: expected [B, T, H], got {list(g.shape)}"
    if kwargs.get("use_gate_in_kernel") and a_log is None:
        return "expected A_log with use_gate_in_kernel"
    return kda.chunk_refusal(
        q, k, v, _wide(g, q.shape[3]), beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, False,
        use_beta_sigmoid_in_kernel, allow_neg_eigval, cu_seqlens=cu_seqlens, cp_context=cp_context, A_log=a_log, dt_bias=dt_bias,
        max_recurrent_tokens=max_recurrent_tokens,
    )  # fmt: skip


def chunk_gated_delta_rule(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False,
    use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, state_v_first=False, cu_seqlens=None, cu_seqlens_cpu=None, chunk_indices=None,
    cp_context=None, **kwargs,
):  # fmt: skip
    """Many tokens of each sequence: FLA's chunk_gated_delta_rule, forward. Calls that the prefill kernel does not take run token after token."""
    state_v_first = kda._state_v_first(state_v_first, kwargs)
    reason = chunk_refusal(
        q, k, v, g, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, use_beta_sigmoid_in_kernel, allow_neg_eigval,
        state_v_first, cu_seqlens, cp_context=cp_context, **kwargs,
    )  # fmt: skip
    if reason:
        raise NotImplementedError(f"linnet_torch.chunk_gated_delta_rule: {reason}")
    use_gate, a_log, dt_bias = (kwargs.get(name) for name in ("use_gate_in_kernel", "A_log", "dt_bias"))
    scale = q.shape[3] ** -0.5 if scale is None else float(scale)
    recurs = kda.prefill_refusal(q, v, g, scale=scale, use_gate_in_kernel=False)
    if use_gate and (recurs or g.dtype != q.dtype):
        g, use_gate = _log_decay(g, a_log, dt_bias), False
    run, g = (kda._recurrent, _wide(g, q.shape[3])) if recurs else (kda._prefill, g)
    return run(
        q, k, v, g, beta, a_log, dt_bias, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, bool(use_gate),
        use_beta_sigmoid_in_kernel, allow_neg_eigval, None, state_v_first, cu_seqlens,
    )  # fmt: skip


def fused_recurrent_gated_delta_rule(
    q, k, v, g=None, gk=None, gv=None, beta=None, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False,
    use_gate_in_kernel=False, A_log=None, dt_bias=None, use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, state_v_first=False,
    cu_seqlens=None, **kwargs,
):  # fmt: skip
    """Few tokens of each sequence: FLA's fused_recurrent_gated_delta_rule, forward. gk: log decays of channels, beside those of heads."""
    if gv is not None:
        raise NotImplementedError("linnet_torch.fused_recurrent_gated_delta_rule: gv is not supported")
    if use_gate_in_kernel and (g is None or A_log is None):
        raise ValueError("g, A_log: expected with use_gate_in_kernel")
    decay = torch.zeros_like(v[..., 0], dtype=torch.float32) if g is None else _log_decay(g, A_log, dt_bias) if use_gate_in_kernel else g
    decay = _wide(decay, q.shape[3])
    return kda.fused_recurrent_kda(
        q, k, v, decay if gk is None else decay.float() + gk.float(), torch.ones_like(v[..., 0]) if beta is None else beta, scale=scale,
        initial_state=initial_state, output_final_state=output_final_state, use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
        use_beta_sigmoid_in_kernel=use_beta_sigmoid_in_kernel, allow_neg_eigval=allow_neg_eigval, state_v_first=state_v_first,
        cu_seqlens=cu_seqlens, **kwargs,
    )  # fmt: skip
