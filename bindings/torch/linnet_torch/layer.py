"""What stands around the recurrence in a layer, as operators of torch: torch.ops.linnet.short_conv, rms_norm, gated_norm, kda_decode."""

import torch

from . import module
from .operators import DIM, check, define, enqueue, expect, library, pointer, starts_of

TAPS = 4


def _rows(name, x, width):
    """Elements between rows of x [..., width], whose rows are at one stride; they may lie in a wider matrix."""
    expect(x.dtype == torch.bfloat16, f"{name}: expected bfloat16", x.dtype)
    expect(x.shape[-1] == width and (width == 1 or x.stride(-1) == 1), f"{name}: expected contiguous rows of {width}", list(x.shape))
    stride = x.stride(-2) if x.ndim > 1 else width
    for i in range(x.ndim - 2):
        expect(x.shape[i] == 1 or x.stride(i) == x.shape[i + 1] * x.stride(i + 1), f"{name}: expected rows at one stride", x.stride())
    expect(stride % 8 == 0 and x.data_ptr() % 16 == 0, f"{name}: expected rows aligned to 16 bytes, stride", stride)
    return stride


def _slots(name, x, n_sequences):
    if x is not None:
        check(name, x, (n_sequences,), torch.int32, alignment=4)
    return pointer(x)


@define(
    "short_conv(Tensor x, Tensor weight, Tensor(a!)? state, Tensor? state_in, Tensor? state_out, Tensor? cu_seqlens, bool silu) -> Tensor"
)
def short_conv(x, weight, state, state_in, state_out, cu_seqlens, silu):
    """x [B, T, C] bf16, weight [C, 4] f32; state: a pool [slots, C, 3] bf16 of last inputs, oldest first, and per sequence the slot to read
    before (negative or none: zeros) and to write after it (negative or none: not)."""
    n_rows, n_tokens, n_channels = x.shape
    expect(n_channels % 8 == 0, "channels: expected a multiple of 8", n_channels)
    stride = _rows("x", x, n_channels)
    check("weight", weight, (n_channels, TAPS), torch.float32)
    starts = starts_of(x, cu_seqlens)
    n_sequences = starts.numel() - 1
    if state is not None:
        check("state", state, (state.shape[0], n_channels, TAPS - 1), torch.bfloat16)
    expect(state is not None or (state_in is None and state_out is None), "state: expected with state_in or state_out")
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    args = module.ShortConvArgs(
        x=x.data_ptr(), weight=weight.data_ptr(), y=y.data_ptr(), seq_start=starts.data_ptr(), state=pointer(state),
        state_in=_slots("state_in", state_in, n_sequences), state_out=_slots("state_out", state_out, n_sequences), x_stride=stride,
        y_stride=n_channels, n_tokens=n_rows * n_tokens, n_sequences=n_sequences, n_channels=n_channels,
        seq_start_is_64=starts.dtype == torch.int64, silu=silu,
    )  # fmt: skip
    enqueue("short_conv_sm90", args, x.device)
    return y


@define("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor")
def rms_norm(x, weight, eps):
    """x [..., C] bf16, weight [C] f32."""
    width = x.shape[-1]
    expect(width % 8 == 0 and 0 < width <= 24576, "width: expected a multiple of 8, at most 24576", width)
    check("weight", weight, (width,), torch.float32)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    args = module.RmsNormArgs(
        x=x.data_ptr(), weight=weight.data_ptr(), y=y.data_ptr(), x_stride=_rows("x", x, width), y_stride=width,
        n_rows=x.numel() // width, width=width, eps=eps,
    )  # fmt: skip
    enqueue("rms_norm_sm90", args, x.device)
    return y


@define("gated_norm(Tensor x, Tensor gate, Tensor weight, float eps, bool silu) -> Tensor")
def gated_norm(x, gate, weight, eps, silu):
    """x, gate [..., H, 128] bf16, weight [128] f32; the norm is over each head; gate by sigmoid or silu."""
    n_heads = x.shape[-2]
    expect(x.shape[-1] == DIM and gate.shape == x.shape, f"x, gate: expected heads of {DIM} in both", list(x.shape), list(gate.shape))
    check("weight", weight, (DIM,), torch.float32)
    for name, t in (("x", x), ("gate", gate)):
        expect(t.dtype == torch.bfloat16, f"{name}: expected bfloat16", t.dtype)
    x, gate = x.contiguous(), gate.contiguous()
    y = torch.empty_like(x)
    args = module.GatedNormArgs(
        x=x.data_ptr(), gate=gate.data_ptr(), weight=weight.data_ptr(), y=y.data_ptr(), x_stride=n_heads * DIM, gate_stride=n_heads * DIM,
        y_stride=n_heads * DIM, n_tokens=x.numel() // (n_heads * DIM), n_heads=n_heads, eps=eps, silu=silu,
    )  # fmt: skip
    enqueue("gated_norm_sm90", args, x.device)
    return y


@define(
    "kda_decode(Tensor qkv, Tensor g, Tensor beta, Tensor out_gate, Tensor conv_weight, Tensor norm_weight, Tensor(a!) conv_state, "
    "Tensor(b!) state, Tensor slot, Tensor a_log, Tensor dt_bias, float scale, float norm_eps, float? lower_bound, "
    "bool pools_settled=False) -> Tensor"
)
def kda_decode(qkv, g, beta, out_gate, conv_weight, norm_weight, conv_state, state, slot, a_log, dt_bias, scale, norm_eps, lower_bound,
               pools_settled=False):  # fmt: skip
    """One token of B sequences, from the projections' outputs to the gated norm's output. qkv [B, 3, H, 128] before the convolution, g and
    out_gate [B, H, 128], beta [B, H], bf16; conv_weight [3, H, 128, 4], norm_weight [128], f32; conv_state, a pool [slots, 3, H, 128, 3]
    bf16, and state, a pool [slots, H, 128, 128] f32, are updated at slot [B] (negative: padding, its output is undefined).
    It may start while the kernel before it ends: that one must not write slot; with pools_settled it must write nothing that is read here
    but qkv, g, beta and out_gate."""
    n_sequences, n_heads = beta.shape
    heads = (n_sequences, n_heads, DIM)
    check("qkv", qkv, (n_sequences, 3, n_heads, DIM), torch.bfloat16)
    for name, x in (("g", g), ("out_gate", out_gate)):
        check(name, x, heads, torch.bfloat16)
    check("beta", beta, heads[:2], torch.bfloat16)
    check("conv_weight", conv_weight, (3, n_heads, DIM, TAPS), torch.float32)
    check("norm_weight", norm_weight, (DIM,), torch.float32)
    check("conv_state", conv_state, (state.shape[0], 3, n_heads, DIM, TAPS - 1), torch.bfloat16)
    check("state", state, (state.shape[0], n_heads, DIM, DIM), torch.float32)
    check("slot", slot, (n_sequences,), torch.int32, alignment=4)
    check("a_log", a_log, (n_heads,), torch.float32)
    check("dt_bias", dt_bias, (n_heads * DIM,), torch.float32)
    out = torch.empty_like(g)
    args = module.DecodeArgs(
        qkv=qkv.data_ptr(), z=g.data_ptr(), beta=beta.data_ptr(), out_gate=out_gate.data_ptr(), conv_weight=conv_weight.data_ptr(),
        norm_weight=norm_weight.data_ptr(), out=out.data_ptr(), conv_state=conv_state.data_ptr(), state=state.data_ptr(),
        slot=slot.data_ptr(), n_sequences=n_sequences, n_heads=n_heads, scale=scale, norm_eps=norm_eps,
        gate=module.GateArgs(a_log.data_ptr(), dt_bias.data_ptr(), int(lower_bound is not None), lower_bound or 0.0),
        pools_settled=pools_settled,
    )  # fmt: skip
    enqueue("kda_decode_sm90", args, qkv.device)
    return out


@torch.library.register_fake("linnet::short_conv", lib=library)
def _(x, weight, state, state_in, state_out, cu_seqlens, silu):
    return x.new_empty(x.shape)


@torch.library.register_fake("linnet::rms_norm", lib=library)
def _(x, weight, eps):
    return x.new_empty(x.shape)


@torch.library.register_fake("linnet::gated_norm", lib=library)
def _(x, gate, weight, eps, silu):
    return x.new_empty(x.shape)


@torch.library.register_fake("linnet::kda_decode", lib=library)
def _(qkv, g, *rest):
    return g.new_empty(g.shape)
