"""The kernels as operators of torch: torch.ops.linnet.*. They check shapes and types, allocate results and scratch with torch, and
enqueue on the current stream; no synchronisation, capturable in CUDA graphs. Forward only. Meanings: the contracts under src/ops/.
"""

import functools

import torch

from . import module

DIM = 128
CHUNK = 64  # tokens
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
LOG_DECAY, SOFTPLUS, LOWER_BOUND = 0, 1, 2

library = torch.library.Library("linnet", "DEF")


def define(schema):
    """Registers the decorated function as the CUDA implementation of schema."""
    name = schema.split("(")[0]

    def register(function):
        library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(name, function, "CUDA")
        return function

    return register


def expect(condition, message, *got):
    if not condition:
        raise ValueError(message + ", got " + ", ".join(str(g) for g in got) if got else message)


def check(name, x, shape, *dtypes, alignment=16):
    """A dense tensor of this shape: contiguous, aligned to so many bytes."""
    if x.shape == shape and x.dtype in dtypes and x.is_contiguous() and x.data_ptr() % alignment == 0:
        return
    expect(x.shape == shape, f"{name}: expected {list(shape)}", list(x.shape))
    expect(x.dtype in dtypes, f"{name}: expected {' or '.join(map(str, dtypes))}", x.dtype)
    raise ValueError(f"{name}: expected contiguous memory, aligned to {alignment} bytes, got strides {x.stride()}")


def pointer(x):
    return None if x is None else x.data_ptr()


@functools.lru_cache(maxsize=None)
def unusable_device(device):
    """None, or why the kernels cannot run there."""
    return module.load().usable(device.index) if device.type == "cuda" else f"expected CUDA tensors, got {device}"


def prefill_dims():
    return module.load().prefill_dims


def enqueue(name, args, device):
    reason = unusable_device(device)
    if reason:
        raise RuntimeError(f"{name}: {reason}")
    kernels = module.load()
    with torch.cuda.device(device):
        n_bytes = kernels.workspace_bytes(name, args)
        scratch = torch.empty(n_bytes, dtype=torch.uint8, device=device) if n_bytes else None
        kernels.enqueue(name, args, pointer(scratch), torch.cuda.current_stream(device).cuda_stream)


_indices = {}


def _range(start, end, step, device):
    """torch.arange in int32, kept: the same few come again with every call."""
    key = (start, end, step, device)
    if key in _indices:
        return _indices[key]
    x = torch.arange(start, end, step, dtype=torch.int32, device=device)
    if device.type != "cuda" or not torch.cuda.is_current_stream_capturing():  # what is made under capture belongs to the graph
        if len(_indices) > 256:
            _indices.clear()
        _indices[key] = x
    return x


# ---- prefill

PREFILL_TYPES = {torch.bfloat16: 0, torch.float16: 1}
PREFILL_GATES = {"softplus": 0, "lower_bound": 1, "log_decay": 2, "head_softplus": 3, "head_log_decay": 4}


def token_stride(x):
    """Elements between tokens of x [B, T, H, width] if the kernels can read it where it lies: heads dense, tokens at one stride, aligned to
    16 bytes. Else None."""
    n_rows, n_tokens, n_heads, width = x.shape
    if (width > 1 and x.stride(3) != 1) or (n_heads > 1 and x.stride(2) != width) or x.data_ptr() % 16:
        return None
    stride = x.stride(1) if n_tokens > 1 else x.stride(0) if n_rows > 1 else n_heads * width
    if n_rows > 1 and x.stride(0) != n_tokens * stride:
        return None
    return stride if stride >= n_heads * width and stride * x.element_size() % 16 == 0 else None


def _stride_of(name, x, shape, dtype):
    expect(x.shape == shape, f"{name}: expected {list(shape)}", list(x.shape))
    expect(x.dtype == dtype, f"{name}: expected {dtype}", x.dtype)
    stride = token_stride(x)
    expect(stride is not None, f"{name}: expected contiguous heads at one stride, aligned to 16 bytes", x.stride())
    return stride


_PREFILL = (
    "Tensor q, Tensor k, Tensor v, Tensor g, Tensor beta, Tensor? a_log, Tensor? dt_bias, Tensor? state, Tensor? cu_seqlens, float scale, "
    "float? lower_bound, bool output_state, bool normalize=True, bool raw_gate=True, bool beta_logits=True, bool state_v_first=False"
)


@define(f"kda_prefill({_PREFILL}) -> (Tensor, Tensor)")
def kda_prefill(
    q, k, v, g, beta, a_log, dt_bias, state, cu_seqlens, scale, lower_bound, output_state, normalize=True, raw_gate=True, beta_logits=True,
    state_v_first=False,
):  # fmt: skip
    """Heads of 128, or another width of prefill_dims(). q, k [B, T, Hk, 128], v [B, T, H, 128] bf16 or f16; g [B, T, H, 128], or [B, T, H] for all channels of a head, raw in their type or log
    decays in f32; beta [B, T, H], logits in their type or values in f32; a_log [H], dt_bias [H * 128] or [H] with a raw gate; state
    [B, H, 128, 128] f32, keys first, or values. q, k, v and g may lie in wider matrices. Returns the output and the final state (without
    output_state: no elements)."""
    return _prefill(q, k, v, g, beta, a_log, dt_bias, state, cu_seqlens, scale, lower_bound, output_state, normalize, raw_gate, beta_logits,
                    state_v_first, None)  # fmt: skip


@define(f"kda_prefill_checkpoints({_PREFILL}) -> (Tensor, Tensor, Tensor)")
def kda_prefill_checkpoints(
    q, k, v, g, beta, a_log, dt_bias, state, cu_seqlens, scale, lower_bound, output_state, normalize=True, raw_gate=True, beta_logits=True,
    state_v_first=False,
):  # fmt: skip
    """kda_prefill, and the state after every 64 tokens of a sequence and after its last one, [N / 64 + B, H, 128, 128] f32: those after tokens
    64 i to 64 i + 63 of sequence s in slot start / 64 + s + i. Slots that no tokens have are undefined."""
    n_slots = q.shape[0] * q.shape[1] // CHUNK + _n_sequences(q, cu_seqlens)
    after = q.new_empty((n_slots, v.shape[2], q.shape[3], v.shape[3]), dtype=torch.float32)
    out, final = _prefill(q, k, v, g, beta, a_log, dt_bias, state, cu_seqlens, scale, lower_bound, output_state, normalize, raw_gate,
                          beta_logits, state_v_first, after)  # fmt: skip
    return out, final, after


def _n_sequences(q, cu_seqlens):
    return q.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def _prefill(
    q, k, v, g, beta, a_log, dt_bias, state, cu_seqlens, scale, lower_bound, output_state, normalize, raw_gate, beta_logits, state_v_first,
    checkpoints,
):  # fmt: skip
    n_sequences = _n_sequences(q, cu_seqlens)
    states = (n_sequences, v.shape[2], q.shape[3], v.shape[3])
    if state is not None:
        check("state", state, states, torch.float32)
    final = state
    if output_state:
        final = q.new_empty(states, dtype=torch.float32) if state is None else state.clone()
    slots = _range(0, n_sequences, 1, q.device)
    out = _enqueue_prefill(
        q, k, v, g, beta, a_log, dt_bias, final, slots if state is not None else None, slots if output_state else None, cu_seqlens, scale,
        lower_bound, normalize, raw_gate, beta_logits, state_v_first, checkpoints,
    )  # fmt: skip
    return out, final if output_state else q.new_empty(0, dtype=torch.float32)


@define(
    "kda_prefill_pool(Tensor q, Tensor k, Tensor v, Tensor g, Tensor beta, Tensor? a_log, Tensor? dt_bias, Tensor(a!) pool, Tensor? slots_in, "
    "Tensor? slots_out, Tensor? cu_seqlens, float scale, float? lower_bound, bool normalize=True, bool raw_gate=True, bool beta_logits=True, "
    "bool state_v_first=False) -> Tensor"
)
def kda_prefill_pool(
    q, k, v, g, beta, a_log, dt_bias, pool, slots_in, slots_out, cu_seqlens, scale, lower_bound, normalize=True, raw_gate=True,
    beta_logits=True, state_v_first=False,
):  # fmt: skip
    """kda_prefill with states in a pool [slots, H, 128, 128], f32 or bf16: sequence b begins with that of slots_in[b] and leaves its state in
    slots_out[b], int32; negative or none: zeros, and nothing is left."""
    check("pool", pool, (pool.shape[0], v.shape[2], q.shape[3], v.shape[3]), torch.float32, torch.bfloat16)
    for name, x in (("slots_in", slots_in), ("slots_out", slots_out)):
        if x is not None:
            check(name, x, (_n_sequences(q, cu_seqlens),), torch.int32, alignment=4)
    return _enqueue_prefill(q, k, v, g, beta, a_log, dt_bias, pool, slots_in, slots_out, cu_seqlens, scale, lower_bound, normalize, raw_gate,
                            beta_logits, state_v_first, None)  # fmt: skip


def _enqueue_prefill(
    q, k, v, g, beta, a_log, dt_bias, pool, slots_in, slots_out, cu_seqlens, scale, lower_bound, normalize, raw_gate, beta_logits,
    state_v_first, checkpoints,
):  # fmt: skip
    n_rows, n_tokens, n_qk_heads, dim = q.shape
    n_heads, head_gate = v.shape[2], g.ndim == 3
    expect(dim in prefill_dims(), f"heads: expected a width of {prefill_dims()}", dim)
    expect(q.dtype in PREFILL_TYPES, "q: expected bfloat16 or float16", q.dtype)
    expect(n_qk_heads > 0 and n_heads % n_qk_heads == 0, f"value heads: expected a multiple of {n_qk_heads}", n_heads)
    qk_stride = _stride_of("q", q, q.shape, q.dtype)
    expect(_stride_of("k", k, q.shape, q.dtype) == qk_stride, "k: expected the strides of q", k.stride())
    stride = _stride_of("v", v, (n_rows, n_tokens, n_heads, dim), q.dtype)
    g_dtype, z_stride = q.dtype if raw_gate else torch.float32, 0
    if head_gate:
        check("g", g, (n_rows, n_tokens, n_heads), g_dtype)
        expect(lower_bound is None, "lower_bound: expected none with a gate of a head", lower_bound)
    else:
        z_stride = _stride_of("g", g, v.shape, g_dtype)
    check("beta", beta, (n_rows, n_tokens, n_heads), q.dtype if beta_logits else torch.float32)
    expect(not raw_gate or (a_log is not None and dt_bias is not None), "a_log, dt_bias: expected with a raw gate")
    if raw_gate:
        check("a_log", a_log, (n_heads,), torch.float32)
        check("dt_bias", dt_bias, (n_heads if head_gate else n_heads * dim,), torch.float32)
    expect(2.0**-10 <= scale <= 2.0**10, "scale: expected 2^-10 to 2^10", scale)
    starts = starts_of(q, cu_seqlens)
    n_sequences = starts.numel() - 1
    out = v.new_empty(v.shape)
    gate = "lower_bound" if raw_gate and lower_bound is not None else ("head_" if head_gate else "") + ("softplus" if raw_gate else "log_decay")
    args = module.PrefillArgs(
        q=q.data_ptr(), k=k.data_ptr(), v=v.data_ptr(), z=g.data_ptr(), beta=beta.data_ptr() if beta_logits else None, out=out.data_ptr(),
        token_stride=stride, seq_start=starts.data_ptr(), seq_start_is_64=starts.dtype == torch.int64,
        n_sequences=n_sequences, n_heads=n_heads, n_tokens=n_rows * n_tokens,
        state=pointer(pool), state_in=pointer(slots_in), state_out=pointer(slots_out), scale=scale,
        gate=module.GateArgs(pointer(a_log), pointer(dt_bias), PREFILL_GATES[gate], lower_bound or 0.0),
        beta_value=None if beta_logits else beta.data_ptr(), qk_stride=qk_stride, z_stride=z_stride, out_stride=n_heads * dim,
        n_qk_heads=n_qk_heads, normalize_qk=normalize, input=PREFILL_TYPES[q.dtype], state_v_first=state_v_first,
        state_type=int(pool is not None and pool.dtype == torch.bfloat16), checkpoints=pointer(checkpoints), head_dim=dim,
    )  # fmt: skip
    if out.numel() or n_sequences:
        enqueue("kda_prefill_sm90", args, q.device)
    return out


def starts_of(q, cu_seqlens):
    n_rows, n_tokens = q.shape[:2]
    if cu_seqlens is None:
        return _range(0, n_rows * n_tokens + 1, n_tokens, q.device) if n_tokens else q.new_zeros(n_rows + 1, dtype=torch.int32)
    expect(n_rows == 1, "cu_seqlens: expected packed sequences, a batch of 1", n_rows)
    expect(cu_seqlens.dtype in (torch.int32, torch.int64), "cu_seqlens: expected int32 or int64", cu_seqlens.dtype)
    expect(cu_seqlens.ndim == 1 and cu_seqlens.is_contiguous() and cu_seqlens.device == q.device, "cu_seqlens: expected one row on the device")
    return cu_seqlens


@torch.library.register_fake("linnet::kda_prefill", lib=library)
def _fake_prefill(q, k, v, g, beta, a_log, dt_bias, state, cu_seqlens, scale, lower_bound, output_state, *options):
    shape = (_n_sequences(q, cu_seqlens), v.shape[2], q.shape[3], v.shape[3]) if output_state else (0,)
    return v.new_empty(v.shape), q.new_empty(shape, dtype=torch.float32)


@torch.library.register_fake("linnet::kda_prefill_checkpoints", lib=library)
def _(q, k, v, *rest):
    n_slots = q.shape[0] * q.shape[1] // CHUNK + _n_sequences(q, rest[5])
    return *_fake_prefill(q, k, v, *rest), q.new_empty((n_slots, v.shape[2], q.shape[3], v.shape[3]), dtype=torch.float32)


@torch.library.register_fake("linnet::kda_prefill_pool", lib=library)
def _(q, k, v, *rest):
    return v.new_empty(v.shape)


# ---- the plain recurrence


@define(
    "kda_recurrent(Tensor q, Tensor k, Tensor v, Tensor g, Tensor beta, Tensor? a_log, Tensor? dt_bias, Tensor? state_in, "
    "Tensor(a!)? state_out, bool in_place, Tensor(b!) out, Tensor? cu_seqlens, Tensor? slots, Tensor? n_accepted, float scale, bool raw_gate, "
    "float? lower_bound, bool normalize, bool beta_logits, float beta_max, bool state_v_first) -> ()"
)
def kda_recurrent(
    q, k, v, g, beta, a_log, dt_bias, state_in, state_out, in_place, out, cu_seqlens, slots, n_accepted, scale, raw_gate, lower_bound,
    normalize, beta_logits, beta_max, state_v_first,
):  # fmt: skip
    """q, k [B, T, Hk, K], v, out [B, T, H, V] of one type, g [B, T, H, K], beta [B, T, H] or [B, T, H, V]; states f32. in_place: state_out is
    the state before, too."""
    n_rows, n_tokens, n_qk_heads, k_dim = q.shape
    n_heads, v_dim = v.shape[2:]
    expect(k_dim % 4 == 0 and 0 < k_dim <= 256 and v_dim % 4 == 0, "head widths: expected multiples of 4, at most 256 for keys", k_dim, v_dim)
    expect(n_heads % n_qk_heads == 0, f"value heads: expected a multiple of {n_qk_heads}", n_heads)
    check("q", q, q.shape, *TYPES)
    check("k", k, q.shape, q.dtype)
    for name, x in (("v", v), ("out", out)):
        check(name, x, (n_rows, n_tokens, n_heads, v_dim), q.dtype)
    check("g", g, (n_rows, n_tokens, n_heads, k_dim), *TYPES)
    check("beta", beta, (n_rows, n_tokens, n_heads, v_dim)[: beta.ndim], *TYPES)
    expect(beta.ndim >= 3, "beta: expected 3 or 4 dimensions", beta.ndim)
    if a_log is not None:
        check("a_log", a_log, (n_heads,), torch.float32)
    if dt_bias is not None:
        check("dt_bias", dt_bias, (n_heads * k_dim,), torch.float32)
    expect(not (raw_gate and lower_bound is None and a_log is None), "a_log: expected with a softplus gate")
    starts = None if cu_seqlens is None else starts_of(q, cu_seqlens)
    n_sequences = n_rows if starts is None else starts.numel() - 1
    state_in = state_out if in_place else state_in
    one = (n_heads, v_dim, k_dim) if state_v_first else (n_heads, k_dim, v_dim)
    stride = _state_stride((state_in, state_out), one, None if slots is not None else n_sequences)
    if slots is not None:
        dense = slots.ndim == 1 or (slots.ndim == 2 and slots.stride(1) == 1)
        expect(slots.dtype == torch.int32 and slots.shape[0] >= n_sequences and dense, "slots: expected int32 [B] or [B, T]")
    if n_accepted is not None:
        expect(n_accepted.dtype == torch.int32 and slots is not None and n_accepted.is_contiguous(), "n_accepted: expected int32 [B], with slots")
    gate = LOG_DECAY if not raw_gate else SOFTPLUS if lower_bound is None else LOWER_BOUND
    args = module.RecurrentArgs(
        q=q.data_ptr(), k=k.data_ptr(), v=v.data_ptr(), g=g.data_ptr(), beta=beta.data_ptr(), out=out.data_ptr(),
        a_log=pointer(a_log), dt_bias=pointer(dt_bias), seq_start=pointer(starts), state_in=pointer(state_in),
        state_out=pointer(state_out), slots=pointer(slots), n_accepted=pointer(n_accepted),
        slots_stride=slots.stride(0) if slots is not None else 0, state_stride=stride, n_tokens=n_tokens, n_sequences=n_sequences,
        n_qk_heads=n_qk_heads, n_heads=n_heads, k_dim=k_dim, v_dim=v_dim, type=TYPES[q.dtype], g_type=TYPES[g.dtype],
        beta_type=TYPES[beta.dtype], gate=gate, scale=scale, lower_bound=lower_bound or 0.0, normalize=normalize,
        beta_logits=beta_logits, beta_max=beta_max, beta_per_value=beta.ndim == 4, state_v_first=state_v_first,
        seq_start_is_64=starts is not None and starts.dtype == torch.int64,
    )  # fmt: skip
    enqueue("kda_recurrent_sm90", args, q.device)


def _state_stride(states, one, n_sequences):
    """Elements between states, which both pools must agree on. n_sequences: how many there must be, None for pools."""
    strides = set()
    for x in states:
        if x is None:
            continue
        if x.dtype != torch.float32 or x.shape[1:] != one or x.data_ptr() % 16 or not x[:1].is_contiguous():
            raise ValueError(f"state: expected float32 {list(one)} each, contiguous and aligned to 16 bytes, got {x.dtype} {list(x.shape)}")
        if n_sequences is not None and (x.shape[0] != n_sequences or not x.is_contiguous()):
            raise ValueError(f"state: expected {n_sequences} states, contiguous, got {x.shape[0]}, strides {x.stride()}")
        strides.add(x.stride(0))
    if len(strides) > 1 or any(stride % 4 for stride in strides):
        raise ValueError(f"states: expected one stride, a multiple of 4, got {strides}")
    return strides.pop() if strides else 0


@torch.library.register_fake("linnet::kda_recurrent", lib=library)
def _(*args):
    return None
