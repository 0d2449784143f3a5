"""The operators on a Hopper GPU against the definition in double and against each other. Skipped elsewhere."""

import pathlib
import sys

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
import cases  # noqa: E402

import linnet_torch  # noqa: E402
from linnet_torch import operators  # noqa: E402

if operators.unusable_device(torch.device("cuda", 0)):
    pytest.skip(operators.unusable_device(torch.device("cuda", 0)), allow_module_level=True)

LAYER = {"use_qk_l2norm_in_kernel": True, "use_gate_in_kernel": True, "use_beta_sigmoid_in_kernel": True}
LENGTHS = [1, 0, 17, 64, 65, 130]
OPS = torch.ops.linnet


def starts(lengths, dtype=torch.int64):
    return torch.tensor([sum(lengths[:i]) for i in range(len(lengths) + 1)], device="cuda", dtype=dtype)


def close(x, wanted, tolerance):
    assert x.shape == wanted.shape
    error = cases_error(x, wanted)
    assert error <= tolerance, error


def cases_error(x, wanted):
    return ((x.double() - wanted).norm() / wanted.double().norm()).item()


@pytest.fixture(scope="module", params=[None, cases.LOWER_BOUND])
def ragged(request):
    bound = request.param
    kinds = ["bounded"] * 4 if bound else ["trained", "weak", "strong", "mixed"]
    x, state = cases.make_inputs(kinds, sum(LENGTHS)), cases.make_state(len(LENGTHS), 4)
    return x, state, bound, cases.reference(x, LENGTHS, state, 128**-0.5, bound)


# bf16 rounding of o alone is 1.7e-3; FLA's own tests allow 5e-3.
@pytest.mark.parametrize("v_first", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_chunk(ragged, v_first, dtype):
    x, state, bound, (out, final) = ragged
    initial = state.mT.contiguous() if v_first else state
    kept = initial.clone()
    o, s = linnet_torch.chunk_kda(**x, **LAYER, initial_state=initial, output_final_state=True, lower_bound=bound,
                                  state_v_first=v_first, cu_seqlens=starts(LENGTHS, dtype))  # fmt: skip
    close(o[0], out, 3e-3)
    close(s.mT if v_first else s, final, 1e-3)
    assert torch.equal(initial, kept)


def test_recurrent(ragged):
    x, state, bound, (out, final) = ragged
    o, s = linnet_torch.fused_recurrent_kda(**x, **LAYER, initial_state=state, output_final_state=True, lower_bound=bound, cu_seqlens=starts(LENGTHS))
    close(o[0], out, 3e-3)
    close(s, final, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("qk_heads", [1, 4])
@pytest.mark.parametrize("raw_gate", [False, True])
@pytest.mark.parametrize("normalize,sigmoid,negative", [(True, False, False), (False, True, True)])
def test_chunk_options(dtype, qk_heads, raw_gate, normalize, sigmoid, negative):
    """What the prefill kernel takes beside the layer's call, against the recurrent kernel in f32, all as slices of one matrix."""
    x, state = cases.make_inputs(["trained", "weak", "strong", "mixed"], sum(LENGTHS)), cases.make_state(len(LENGTHS), 4)
    q, k, v, g, beta = (x[n].float() for n in ("q", "k", "v", "g", "beta"))
    q, k = q[:, :, :qk_heads], k[:, :, :qk_heads]
    if not normalize:
        q, k = (factor * torch.nn.functional.normalize(t, dim=-1) for factor, t in ((3.0, q), (0.8, k)))
    beta = beta if sigmoid else torch.sigmoid(beta)
    gate = {"A_log": x["A_log"], "dt_bias": x["dt_bias"]} if raw_gate else {}
    if not raw_gate:
        g = cases.log_decay(g, x["A_log"], x["dt_bias"], None).float()
        g[0, 70, 1], g[0, 90, 2, ::3] = 0, -1000
    widths = [t.shape[2] * 128 for t in (q, k, v)]
    q, k, v = torch.cat([t.flatten(2) for t in (q, k, v)], -1).to(dtype).split(widths, -1)
    q, k, v = (t.unflatten(-1, (-1, 128)) for t in (q, k, v))
    g = g.to(dtype) if raw_gate else g
    options = {
        "initial_state": state, "output_final_state": True, "use_qk_l2norm_in_kernel": normalize, "use_gate_in_kernel": raw_gate,
        "use_beta_sigmoid_in_kernel": sigmoid, "allow_neg_eigval": negative, "cu_seqlens": starts(LENGTHS), **gate,
    }  # fmt: skip
    o, s = linnet_torch.chunk_kda(q, k, v, g, beta, **options)
    out, final = linnet_torch.fused_recurrent_kda(q.float(), k.float(), v.float(), g.float(), beta, **options)
    assert o.dtype == dtype
    close(o, out.double(), 3e-3)
    close(s, final.double(), 1e-3)


@pytest.mark.parametrize("raw_gate", [False, True])
def test_gates_of_heads(raw_gate):
    """One gate for all channels is that gate in every channel."""
    x = cases.make_inputs(["trained"] * 4, 300)
    g = x["g"][..., 0].contiguous() if raw_gate else -torch.rand(1, 300, 4, device="cuda")
    gate = (x["A_log"], x["dt_bias"].view(4, 128)[:, 0].contiguous()) if raw_gate else (None, None)
    wide = (x["A_log"], gate[1].repeat_interleave(128)) if raw_gate else (None, None)

    def call(g, gate):
        return OPS.kda_prefill(x["q"], x["k"], x["v"], g, x["beta"], *gate, None, None, 128**-0.5, None, True, True, raw_gate)

    for a, b in zip(call(g, gate), call(g.unsqueeze(-1).expand(-1, -1, -1, 128).contiguous(), wide)):
        close(a, b.double(), 1e-3 if a.dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("raw_gate,v_first", [(False, False), (True, True)])
def test_gated_delta_rule(dtype, raw_gate, v_first):
    """In chunks against token after token in f32, whose gates are spread over all channels by torch."""
    x, state = cases.make_inputs(["trained"] * 4, sum(LENGTHS)), cases.make_state(len(LENGTHS), 4)
    q, k, v, beta = x["q"][:, :, :2].to(dtype), x["k"][:, :, :2].to(dtype), x["v"].to(dtype), x["beta"].to(dtype)
    g = x["g"][..., 0].to(dtype) if raw_gate else -torch.rand(1, sum(LENGTHS), 4, device="cuda")
    gate = {"use_gate_in_kernel": True, "A_log": x["A_log"], "dt_bias": x["dt_bias"].view(4, 128)[:, 0]} if raw_gate else {}
    options = {"initial_state": state, "output_final_state": True, "use_qk_l2norm_in_kernel": True, "use_beta_sigmoid_in_kernel": True,
               "state_v_first": v_first, "cu_seqlens": starts(LENGTHS), **gate}  # fmt: skip
    o, s = linnet_torch.chunk_gated_delta_rule(q, k, v, g, beta, **options)
    out, final = linnet_torch.fused_recurrent_gated_delta_rule(q.float(), k.float(), v.float(), g.float(), beta=beta.float(), **options)
    assert o.dtype == dtype
    close(o, out.double(), 3e-3)
    close(s, final.double(), 1e-3)


@pytest.mark.parametrize("lengths", [[70, 0, 64, 1, 129], [200, 200]])
@pytest.mark.parametrize("v_first", [False, True])
def test_intermediate_states(lengths, v_first):
    """The state that enters a chunk is the final state of what is before it, in bits; the type that FLA gives it rounds."""
    x, state = cases.make_inputs(["trained", "mixed"], sum(lengths)), cases.make_state(len(lengths), 2)
    options = {**LAYER, "output_final_state": True, "state_v_first": v_first}
    out, final, h = linnet_torch.chunk_kda(**x, **options, initial_state=state, cu_seqlens=starts(lengths), return_intermediate_states=True)
    whole = linnet_torch.chunk_kda(**x, **options, initial_state=state, cu_seqlens=starts(lengths))
    assert torch.equal(out, whole[0]) and torch.equal(final, whole[1])
    chunks = [(s, at) for s, n in enumerate(lengths) for at in range(0, n, 64)]
    assert h.shape == (1, len(chunks), 2, 128, 128) and h.dtype == torch.bfloat16
    for entering, (s, at) in zip(h[0], chunks):
        begin = sum(lengths[:s])
        part = {n: y[:, begin : begin + at].contiguous() if y.ndim > 2 else y for n, y in x.items()}
        wanted = linnet_torch.chunk_kda(**part, **options, initial_state=state[s : s + 1])[1] if at else state[s : s + 1]
        assert torch.equal(entering, wanted[0].bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("v_first", [False, True])
def test_prefill_with_a_pool(dtype, v_first):
    x, pool = cases.make_inputs(["trained", "weak"], sum(LENGTHS)), cases.make_state(9, 2).to(dtype)
    slots_in, slots_out = (torch.tensor(s, device="cuda", dtype=torch.int32) for s in ([4, -1, 1, 0, 7, 8], [4, 2, -1, 5, 3, 8]))
    before, args = pool.clone(), [x[n] for n in ("q", "k", "v", "g", "beta", "A_log", "dt_bias")]
    first = torch.where((slots_in >= 0).view(-1, 1, 1, 1), before[slots_in.clamp(min=0).long()].float(), 0.0)
    rest = (128**-0.5, None)
    out = OPS.kda_prefill_pool(*args, pool, slots_in, slots_out, starts(LENGTHS), *rest, True, True, True, v_first)
    wanted, final = OPS.kda_prefill(*args, first, starts(LENGTHS), *rest, True, True, True, True, v_first)
    assert torch.equal(out, wanted)
    for b, slot in enumerate(slots_out.tolist()):
        assert slot < 0 or torch.equal(pool[slot], final[b].to(dtype))
    assert torch.equal(pool[[0, 1, 6, 7]], before[[0, 1, 6, 7]])


@pytest.mark.parametrize("lengths", [[8192], [1024] * 8, [3000, 5, 0, 5187]])
def test_graphs_at_full_size(lengths):
    """Each way to schedule a prefill, captured and replayed with other inputs and other lengths."""
    heads, n = 32, sum(lengths)
    x, y = (cases.make_inputs(["trained"] * heads, n, seed=seed) for seed in (1, 2))
    state, start = cases.make_state(len(lengths), heads), starts(lengths)

    def call():
        return linnet_torch.chunk_kda(**x, **LAYER, initial_state=state, output_final_state=True, cu_seqlens=start)

    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for other in (x, y):
        for name, tensor in other.items():
            x[name].copy_(tensor)
        graph.replay()
        for a, b in zip(captured, call()):
            assert torch.equal(a, b)
        start.copy_(starts(lengths[::-1]))


def test_batch_equals_packed():
    x = cases.make_inputs(["trained"] * 2, 3 * 100)
    batched = {n: t.view(3, 100, *t.shape[2:]) if t.ndim > 1 else t for n, t in x.items()}
    packed = linnet_torch.chunk_kda(**x, **LAYER, output_final_state=True, cu_seqlens=starts([100] * 3))
    for a, b in zip(packed, linnet_torch.chunk_kda(**batched, **LAYER, output_final_state=True)):
        assert torch.equal(a.flatten(), b.flatten())


def test_compilation_and_graphs():
    x, state = cases.make_inputs(["trained"] * 2, 100), cases.make_state(1, 2)
    args = [x[n] for n in ("q", "k", "v", "g", "beta", "A_log", "dt_bias")]

    def call(*tensors):
        out, final = OPS.kda_prefill(*tensors, state, None, 128**-0.5, None, True)
        return out * 2, final

    wanted = call(*args)
    for a, b in zip(torch.compile(call, fullgraph=True, backend="aot_eager")(*args), wanted):
        assert torch.equal(a, b)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call(*args)
    graph.replay()
    for a, b in zip(results, wanted):
        assert torch.equal(a, b)


def window_before(pool, slots):
    """[B, 3, C] of a pool [slots, C, 3]; zeros for negative slots."""
    return torch.stack([pool[i].T if i >= 0 else torch.zeros_like(pool[0].T) for i in slots.tolist()])


@pytest.mark.parametrize("silu", [False, True])
def test_short_conv(silu):
    x = torch.randn(1, sum(LENGTHS), 96, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(96, 4, device="cuda")
    pool = torch.randn(8, 96, 3, device="cuda", dtype=torch.bfloat16)
    slots = torch.tensor([5, 4, -1, 3, 1, 0], device="cuda", dtype=torch.int32)
    before, after = window_before(pool, slots), pool.clone()
    y = OPS.short_conv(x, weight, after, slots, slots, starts(LENGTHS), silu)
    at = 0
    for b, length in enumerate(LENGTHS):
        inputs = torch.cat([before[b], x[0, at : at + length]]).double()
        wanted = sum(weight[:, j].double() * inputs[j : j + length] for j in range(4))
        wanted = torch.nn.functional.silu(wanted) if silu else wanted
        assert length == 0 or cases_error(y[0, at : at + length], wanted) < 3e-3
        if slots[b] >= 0:
            assert torch.equal(after[slots[b]].double(), inputs[-3:].T)
        at += length
    assert torch.equal(after[[2, 6, 7]], pool[[2, 6, 7]])


def test_norms():
    x, gate = (torch.randn(5, 7, 4, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    weight = torch.randn(128, device="cuda")
    normed = x.double() * (x.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double()
    close(OPS.rms_norm(x, weight, 1e-5), normed, 3e-3)
    close(OPS.gated_norm(x, gate, weight, 1e-5, False), normed * torch.sigmoid(gate.double()), 3e-3)
    close(OPS.gated_norm(x, gate, weight, 1e-5, True), normed * torch.nn.functional.silu(gate.double()), 3e-3)
    wide = torch.randn(6, 512, device="cuda", dtype=torch.bfloat16)
    assert torch.equal(OPS.rms_norm(wide[:, :128], weight, 1e-5), OPS.rms_norm(wide[:, :128].contiguous(), weight, 1e-5))


def test_decode_is_its_parts():
    batch, heads = 5, 4
    x = cases.make_inputs(["trained"] * heads, batch)
    normal = lambda *s: torch.randn(*s, device="cuda", dtype=torch.bfloat16)  # noqa: E731
    qkv, out_gate = normal(batch, 3, heads, 128), normal(batch, heads, 128)
    conv_weight, norm_weight = torch.randn(3, heads, 128, 4, device="cuda"), torch.randn(128, device="cuda")
    conv_state, state = normal(8, 3, heads, 128, 3), cases.make_state(8, heads)
    slot = torch.tensor([7, 6, 1, 0, 3, 2], device="cuda", dtype=torch.int32)[1:]  # aligned to 4 bytes
    conv_after, after = conv_state.clone(), state.clone()
    out = OPS.kda_decode(qkv, x["g"][0], x["beta"][0], out_gate, conv_weight, norm_weight, conv_after, after, slot,
                         x["A_log"], x["dt_bias"], 128**-0.5, 1e-5, None)  # fmt: skip
    width = 3 * heads * 128
    parts_conv = conv_state.view(8, width, 3).clone()
    y = OPS.short_conv(qkv.view(batch, 1, width), conv_weight.view(width, 4), parts_conv, slot, slot, None, True).view(batch, 1, 3, heads, 128)
    one = {n: x[n][0].unsqueeze(1) for n in ("g", "beta")}
    o, s = linnet_torch.fused_recurrent_kda(*(t.contiguous() for t in y.unbind(2)), **one, A_log=x["A_log"], dt_bias=x["dt_bias"], **LAYER,
                                            initial_state=state[slot.long()], output_final_state=True)  # fmt: skip
    assert torch.equal(conv_after.view(8, width, 3), parts_conv)
    close(after[slot.long()], s, 1e-4)
    close(out, OPS.gated_norm(o[:, 0], out_gate, norm_weight, 1e-5, False), 8e-3)
    assert torch.equal(after[[4, 5, 7]], state[[4, 5, 7]])


def test_fla_dispatch():
    pytest.importorskip("fla")
    import fla.ops.kda

    import linnet_torch.fla

    x = cases.make_inputs(["trained"] * 2, 200)
    with torch.inference_mode():
        theirs = fla.ops.kda.chunk_kda(**x, **LAYER, output_final_state=True)
    for a, b in zip(theirs, linnet_torch.chunk_kda(**x, **LAYER, output_final_state=True)):
        assert torch.equal(a, b)
    import fla.ops.gated_delta_rule

    gates = (x["g"][..., 0].contiguous(), x["beta"])
    gdn = {**LAYER, "A_log": x["A_log"], "dt_bias": x["dt_bias"].view(2, 128)[:, 0].contiguous(), "output_final_state": True}
    with torch.inference_mode():
        theirs = fla.ops.gated_delta_rule.chunk_gated_delta_rule(x["q"], x["k"], x["v"], *gates, **gdn)
    for a, b in zip(theirs, linnet_torch.chunk_gated_delta_rule(x["q"], x["k"], x["v"], *gates, **gdn)):
        assert torch.equal(a, b)
    backend = linnet_torch.fla.register()
    x["q"].requires_grad_()
    assert backend.chunk_kda_verifier(**x, **LAYER) == (False, "no backward: call under torch.no_grad() or torch.inference_mode()")


@pytest.mark.parametrize("v_first", [False, True])
def test_slots_of_tentative_tokens(v_first):
    """Two sequences of three tokens that begin at accepted slots of the round before and leave a state after each token."""
    x, pool = cases.make_inputs(["trained"] * 2, 6), cases.make_state(9, 2)
    slots = torch.tensor([[1, 2, 3], [6, 5, -1]], device="cuda", dtype=torch.int32)
    accepted = torch.tensor([2, 1], device="cuda", dtype=torch.int32)
    after, out = pool.clone(), torch.empty_like(x["v"])
    OPS.kda_recurrent(x["q"], x["k"], x["v"], x["g"], x["beta"], x["A_log"], x["dt_bias"], None, after, True, out, starts([3, 3]), slots,
                      accepted, 0.1, True, None, True, True, 1.0, v_first)  # fmt: skip
    for b in range(2):
        first = pool[slots[b, accepted[b] - 1].item()].unsqueeze(0)
        for t in range(3):
            part = {n: y[:, 3 * b : 3 * b + t + 1].contiguous() if y.ndim > 2 else y for n, y in x.items()}
            o, s = linnet_torch.fused_recurrent_kda(**part, **LAYER, scale=0.1, initial_state=first, output_final_state=True, state_v_first=v_first)
            assert torch.equal(out[0, 3 * b + t], o[0, t])
            if slots[b, t] >= 0:
                assert torch.equal(after[slots[b, t].item()], s[0])
    assert torch.equal(after[[0, 4, 7, 8]], pool[[0, 4, 7, 8]])
