"""chunk_kda and fused_recurrent_kda with FLA's signatures and meanings, forward only.

Two kernels stand behind them. The prefill kernel works in chunks and takes bf16 and f16 and heads of 128, with all options of norms, gates,
write strengths and grouped heads. The recurrent kernel takes every other width and f32, token after token. What neither takes
raises NotImplementedError with the reason; nothing is approximated.
"""

import warnings

import torch

from . import operators

# Longest sequences that chunk_kda gives to the recurrent kernel when FLA's own kernels are the alternative.
MAX_RECURRENT_TOKENS = 128


def _common_refusal(q, k, v, g, beta, initial_state, cu_seqlens):
    reason = operators.unusable_device(q.device)
    if reason:
        return reason
    if any(x is not None and x.device != q.device for x in (k, v, g, beta, initial_state, cu_seqlens)):
        return "tensors are on different devices"
    if q.ndim != 4 or v.ndim != 4 or q.shape != k.shape or q.shape[:2] != v.shape[:2] or v.shape[2] % max(q.shape[2], 1):
        return f"shapes of q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)} do not fit"
    if tuple(g.shape) != (*v.shape[:3], q.shape[3]) or tuple(beta.shape[:3]) != tuple(v.shape[:3]):
        return f"shapes of g {list(g.shape)}, beta {list(beta.shape)} do not fit v {list(v.shape)}"
    if not (q.dtype == k.dtype == v.dtype) or any(x.dtype not in operators.TYPES for x in (q, g, beta)):
        return f"types of q {q.dtype}, k {k.dtype}, v {v.dtype}, g {g.dtype}, beta {beta.dtype}"
    if q.shape[3] % 4 or not 0 < q.shape[3] <= 256 or v.shape[3] % 4:
        return f"head widths: expected multiples of 4, at most 256 for keys, got {q.shape[3]} and {v.shape[3]}"
    if initial_state is not None and initial_state.dtype not in operators.TYPES:
        return f"initial_state: expected float32, float16 or bfloat16, got {initial_state.dtype}"
    if cu_seqlens is not None and (q.shape[0] != 1 or (initial_state is not None and initial_state.shape[0] != len(cu_seqlens) - 1)):
        return "cu_seqlens: expected a batch of 1 and an initial state for each sequence"
    return None


def prefill_refusal(q, v, g, *, scale, use_gate_in_kernel):
    """None, or why the prefill kernel cannot take the call."""
    if q.dtype not in operators.PREFILL_TYPES:
        return f"expected bfloat16 or float16, got {q.dtype}"
    if use_gate_in_kernel and g.dtype != q.dtype:
        return f"expected the raw gate in the type of q, {q.dtype}, got {g.dtype}"
    if q.shape[3] not in operators.prefill_dims() or v.shape[3] != q.shape[3]:
        return f"expected heads of {' or '.join(map(str, operators.prefill_dims()))}, got {q.shape[3]} and {v.shape[3]}"
    if not 2.0**-10 <= scale <= 2.0**10:
        return f"scale: expected 2^-10 to 2^10, got {scale}"
    return None


def _dense(x):
    """Contiguous and aligned, as the kernels read it."""
    if x is None:
        return None
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _state(x):
    """Initial states as the kernels read them; f16 and bf16 are f32 exactly."""
    return x if x is None else _dense(x.float())


def _rows(*tensors):
    """Tensors [B, T, H, width] as the prefill kernel reads them, with one stride: where they lie, or else dense copies."""
    strides = {operators.token_stride(x) for x in tensors}
    return tensors if len(strides) == 1 and None not in strides else tuple(_dense(x) for x in tensors)


def _gate_parameters(use_gate, a_log, dt_bias, n_heads, k_dim, device, both):
    """A_log and dt_bias as flat f32; both: zeros where FLA allows None."""
    if not use_gate:
        return None, None
    a_log = a_log.reshape(-1).float() if a_log is not None else torch.zeros(n_heads, device=device) if both else None
    dt_bias = dt_bias.reshape(-1).float() if dt_bias is not None else torch.zeros(n_heads * k_dim, device=device) if both else None
    return _dense(a_log), _dense(dt_bias)


def _state_v_first(state_v_first, kwargs):
    if "transpose_state_layout" not in kwargs:
        return state_v_first
    if state_v_first:
        raise ValueError("expected one of state_v_first and transpose_state_layout (its older name), got both")
    warnings.warn("transpose_state_layout is the older name of state_v_first", DeprecationWarning, stacklevel=3)
    return kwargs.pop("transpose_state_layout")


def _recurrent(q, k, v, g, beta, a_log, dt_bias, scale, initial_state, output_final_state, normalize, use_gate, beta_sigmoid, allow_neg_eigval,
               lower_bound, state_v_first, cu_seqlens):  # fmt: skip
    n_heads, k_dim, v_dim = v.shape[2], q.shape[3], v.shape[3]
    n_sequences = q.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    a_log, dt_bias = _gate_parameters(use_gate, a_log, dt_bias, n_heads, k_dim, q.device, both=False)
    q, k, v, g, beta, initial_state = (_dense(x) for x in (q, k, v, g, beta, _state(initial_state)))
    out, final = torch.empty_like(v), None
    if output_final_state:
        shape = (v_dim, k_dim) if state_v_first else (k_dim, v_dim)
        final = torch.empty(n_sequences, n_heads, *shape, dtype=torch.float32, device=q.device)
    torch.ops.linnet.kda_recurrent(
        q, k, v, g, beta, a_log, dt_bias, initial_state, final, False, out, cu_seqlens, None, None, scale, use_gate,
        lower_bound if use_gate else None, normalize, beta_sigmoid, 2.0 if allow_neg_eigval else 1.0, state_v_first,
    )  # fmt: skip
    return out, final


def chunk_refusal(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False, use_gate_in_kernel=False,
    use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, safe_gate=False, lower_bound=None, disable_recompute=False,
    return_intermediate_states=False, state_v_first=False, cu_seqlens=None, cu_seqlens_cpu=None, cp_context=None, *,
    max_recurrent_tokens=None, **kwargs,
):  # fmt: skip
    """None, or why chunk_kda cannot take the call. max_recurrent_tokens: longer sequences only where the prefill kernel takes them."""
    a_log, dt_bias = kwargs.get("A_log"), kwargs.get("dt_bias")
    reason = _common_refusal(q, k, v, g, beta, initial_state, cu_seqlens)
    if reason:
        return reason
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, g, beta, initial_state, a_log, dt_bias)):
        return "no backward: call under torch.no_grad() or torch.inference_mode()"
    if cp_context is not None:
        return "cp_context is not supported"
    if kwargs.get("chunk_size", 64) not in (32, 64) or beta.ndim != 3:
        return "expected chunk_size 32 or 64 and beta [B, T, H]"
    if use_gate_in_kernel and a_log is None and lower_bound is None:
        return "expected A_log or lower_bound with use_gate_in_kernel"
    if use_gate_in_kernel and safe_gate and (lower_bound is None or not -5 <= lower_bound < 0):
        return f"expected lower_bound in [-5, 0) with safe_gate, got {lower_bound}"
    if allow_neg_eigval and not use_beta_sigmoid_in_kernel:
        return "expected use_beta_sigmoid_in_kernel with allow_neg_eigval"
    if return_intermediate_states and kwargs.get("chunk_size", 64) != operators.CHUNK:
        return f"return_intermediate_states: expected chunks of {operators.CHUNK} tokens"
    if return_intermediate_states and q.shape[3] != operators.DIM:
        return f"return_intermediate_states: expected heads of {operators.DIM}, got {q.shape[3]}"
    if return_intermediate_states or (max_recurrent_tokens is not None and q.shape[1] > max_recurrent_tokens):
        return prefill_refusal(q, v, g, scale=q.shape[3] ** -0.5 if scale is None else scale, use_gate_in_kernel=use_gate_in_kernel)
    return None


def _prefill(q, k, v, g, beta, a_log, dt_bias, scale, initial_state, output_final_state, normalize, use_gate, beta_sigmoid, allow_neg_eigval,
             lower_bound, state_v_first, cu_seqlens, checkpoints=False):  # fmt: skip
    """g [B, T, H, K], or [B, T, H]: one gate for all channels. With checkpoints also the states after every chunk, in the kernel's slots."""
    n_heads, width = v.shape[2], q.shape[3] if g.ndim == 4 else 1
    a_log, dt_bias = _gate_parameters(use_gate, a_log, dt_bias, n_heads, width, q.device, both=True)
    g = g if use_gate else g.float()
    beta_logits = beta_sigmoid and not allow_neg_eigval and beta.dtype == q.dtype
    if not beta_logits:
        beta = beta.float()
        beta = (2.0 if allow_neg_eigval else 1.0) * torch.sigmoid(beta) if beta_sigmoid else beta
    (q, k), (v,), (g,) = _rows(q, k), _rows(v), _rows(g) if g.ndim == 4 else (_dense(g),)
    initial_state = _state(initial_state)
    # Transposed here where the call is not the layer's: from when the kernel's own took more scratch then. It no longer does; which is faster is open.
    transposes = state_v_first and not checkpoints and not _is_layers(q, k, v, g, normalize, use_gate, beta_logits)
    if transposes and initial_state is not None:
        initial_state = initial_state.transpose(-1, -2).contiguous()
    operator = torch.ops.linnet.kda_prefill_checkpoints if checkpoints else torch.ops.linnet.kda_prefill
    out, final, *after = operator(
        q, k, v, g, _dense(beta), a_log, dt_bias, initial_state, cu_seqlens, scale, lower_bound if use_gate else None, output_final_state,
        normalize, use_gate, beta_logits, state_v_first and not transposes,
    )  # fmt: skip
    if not output_final_state:
        return out, None, *after
    return out, final.transpose(-1, -2).contiguous() if transposes else final, *after


def _is_layers(q, k, v, g, normalize, use_gate, beta_logits):
    """Whether the prefill kernel's builds without options take the call."""
    one_stride = g.ndim == 4 and len({operators.token_stride(x) for x in (q, k, v, g)}) == 1
    return one_stride and q.dtype == torch.bfloat16 and q.shape[2] == v.shape[2] and normalize and use_gate and beta_logits


def _entering(after, initial_state, shape, cu_seqlens, dtype):
    """The states that enter every chunk, [rows, chunks, H, *, *]: FLA's intermediate states. after: the states that leave them, in the
    kernel's slots: tokens 64 i to 64 i + 63 of sequence s have slot start / 64 + s + i."""
    n_rows, n_tokens = shape[:2]
    starts = [b * n_tokens for b in range(n_rows + 1)] if cu_seqlens is None else cu_seqlens.tolist()
    leaving, first, owner = [], [], []
    for s, (begin, end) in enumerate(zip(starts, starts[1:])):
        if begin < end:
            first.append(len(leaving))
            owner.append(s)
            slot = begin // operators.CHUNK + s
            leaving += [slot, *range(slot, slot + (end - begin - 1) // operators.CHUNK)]
    h = after.index_select(0, torch.tensor(leaving, device=after.device, dtype=torch.int64))
    h[first] = 0.0 if initial_state is None else initial_state[owner]
    return h.to(dtype).unflatten(0, (n_rows, -1))


def chunk_kda(
    q, k, v, g, beta, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False, use_gate_in_kernel=False,
    use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, safe_gate=False, lower_bound=None, disable_recompute=False,
    return_intermediate_states=False, state_v_first=False, cu_seqlens=None, cu_seqlens_cpu=None, cp_context=None, **kwargs,
):  # fmt: skip
    """Many tokens of each sequence: FLA's chunk_kda, forward. Calls that the prefill kernel does not take run token after token."""
    state_v_first = _state_v_first(state_v_first, kwargs)
    reason = chunk_refusal(
        q, k, v, g, beta, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, use_gate_in_kernel, use_beta_sigmoid_in_kernel,
        allow_neg_eigval, safe_gate, lower_bound, disable_recompute, return_intermediate_states, state_v_first, cu_seqlens, cu_seqlens_cpu,
        cp_context, **kwargs,
    )  # fmt: skip
    if reason:
        raise NotImplementedError(f"linnet_torch.chunk_kda: {reason}")
    a_log, dt_bias = kwargs.get("A_log"), kwargs.get("dt_bias")
    scale = q.shape[3] ** -0.5 if scale is None else float(scale)
    if prefill_refusal(q, v, g, scale=scale, use_gate_in_kernel=use_gate_in_kernel):
        return _recurrent(
            q, k, v, g, beta, a_log, dt_bias, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, use_gate_in_kernel,
            use_beta_sigmoid_in_kernel, allow_neg_eigval, lower_bound, state_v_first, cu_seqlens,
        )  # fmt: skip
    out, final, *after = _prefill(
        q, k, v, g, beta, a_log, dt_bias, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, use_gate_in_kernel,
        use_beta_sigmoid_in_kernel, allow_neg_eigval, lower_bound, state_v_first, cu_seqlens, return_intermediate_states,
    )  # fmt: skip
    if return_intermediate_states:
        return out, final, _entering(*after, initial_state, q.shape, cu_seqlens if cu_seqlens_cpu is None else cu_seqlens_cpu, q.dtype)
    return out, final


# FLA's fused_recurrent_kda has no backward either, and runs all the same where gradients are wanted.
def recurrent_refusal(q, k, v, g, beta, A_log=None, dt_bias=None, initial_state=None, cu_seqlens=None, use_gate_in_kernel=False, lower_bound=None,
                      pools=False):  # fmt: skip
    """None, or why fused_recurrent_kda cannot take the call. pools: initial_state holds any number of states."""
    reason = _common_refusal(q, k, v, g, beta, None if pools else initial_state, cu_seqlens)
    if reason:
        return reason
    if pools and initial_state is not None and initial_state.dtype != torch.float32:
        return f"initial_state: expected pools in float32, got {initial_state.dtype}"
    if beta.ndim not in (3, 4) or (beta.ndim == 4 and beta.shape != v.shape):
        return f"beta: expected [B, T, H] or [B, T, H, V], got {list(beta.shape)}"
    if use_gate_in_kernel and A_log is None and lower_bound is None:
        return "expected A_log or lower_bound with use_gate_in_kernel"
    return None


def fused_recurrent_kda(
    q, k, v, g, beta, A_log=None, dt_bias=None, scale=None, initial_state=None, output_final_state=False, use_qk_l2norm_in_kernel=False,
    use_gate_in_kernel=False, use_beta_sigmoid_in_kernel=False, allow_neg_eigval=False, lower_bound=None, state_v_first=False,
    cu_seqlens=None, **kwargs,
):  # fmt: skip
    """Few tokens of each sequence: FLA's fused_recurrent_kda, forward."""
    state_v_first = _state_v_first(state_v_first, kwargs)
    reason = recurrent_refusal(q, k, v, g, beta, A_log, dt_bias, initial_state, cu_seqlens, use_gate_in_kernel, lower_bound)
    if reason:
        raise NotImplementedError(f"linnet_torch.fused_recurrent_kda: {reason}")
    if allow_neg_eigval and not use_beta_sigmoid_in_kernel:
        raise ValueError("allow_neg_eigval: expected with use_beta_sigmoid_in_kernel")
    scale = q.shape[3] ** -0.5 if scale is None else float(scale)
    return _recurrent(
        q, k, v, g, beta, A_log, dt_bias, scale, initial_state, output_final_state, use_qk_l2norm_in_kernel, use_gate_in_kernel,
        use_beta_sigmoid_in_kernel, allow_neg_eigval, lower_bound, state_v_first, cu_seqlens,
    )  # fmt: skip
