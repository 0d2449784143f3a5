"""The Python side without a GPU: operators get CPU tensors, and a stand-in for the library reads what the pointers of its arguments point
to and computes the recurrence in numpy. Needs torch and numpy.
"""

import ctypes
import itertools

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

import linnet_torch  # noqa: E402
from linnet_torch import kda, module, operators  # noqa: E402

CTYPES = {0: (ctypes.c_float, torch.float32), 1: (ctypes.c_int16, torch.float16), 2: (ctypes.c_int16, torch.bfloat16)}


def memory(pointer, count, type_=0):
    """A tensor over memory that something else owns."""
    c_type, dtype = CTYPES[type_]
    return torch.frombuffer((c_type * count).from_address(pointer), dtype=dtype)


def starts_of(pointer, count, is_64):
    return list(((ctypes.c_int64 if is_64 else ctypes.c_int32) * count).from_address(pointer))


def recur(q, k, v, decay, beta, s, scale, normalize):
    """One sequence of one head in f64; s [K, V] is updated. Yields the output of each token, and the state after it is in s."""
    for t in range(len(q)):
        qt, kt = q[t], k[t]
        if normalize:
            qt, kt = qt / torch.sqrt((qt * qt).sum() + 1e-6), kt / torch.sqrt((kt * kt).sum() + 1e-6)
        s *= decay[t][:, None]
        s += torch.outer(kt, beta[t] * (v[t] - kt @ s))
        yield scale * (qt @ s)


def decay_of(g, gate, rate, bias, bound):
    if gate == operators.LOG_DECAY:
        return torch.exp(g)
    if gate == operators.SOFTPLUS:
        return torch.exp(-rate * torch.nn.functional.softplus(g + bias))
    return torch.exp(bound * torch.sigmoid(rate * (g + bias)))


def recurrent_stand_in(a):
    n_sequences, heads = a.n_sequences, a.n_heads
    starts = starts_of(a.seq_start, n_sequences + 1, a.seq_start_is_64) if a.seq_start else [b * a.n_tokens for b in range(n_sequences + 1)]
    n, one = starts[-1], a.k_dim * a.v_dim
    q, k = (memory(p, n * a.n_qk_heads * a.k_dim, a.type).view(n, a.n_qk_heads, a.k_dim).double() for p in (a.q, a.k))
    v, out = (memory(p, n * heads * a.v_dim, a.type).view(n, heads, a.v_dim) for p in (a.v, a.out))
    g = memory(a.g, n * heads * a.k_dim, a.g_type).view(n, heads, a.k_dim).double()
    beta = memory(a.beta, n * heads * (a.v_dim if a.beta_per_value else 1), a.beta_type).view(n, heads, -1).double()
    beta = a.beta_max * torch.sigmoid(beta) if a.beta_logits else beta
    a_log = memory(a.a_log, heads).double() if a.a_log else torch.zeros(heads)
    bias = memory(a.dt_bias, heads * a.k_dim).view(heads, a.k_dim).double() if a.dt_bias else torch.zeros(heads, a.k_dim)
    slot_of = lambda b, t: ctypes.c_int32.from_address(a.slots + 4 * (b * a.slots_stride + t)).value  # noqa: E731

    def state(base, b, t, h):
        at = slot_of(b, t) * a.state_stride + h * one if a.slots else (b * heads + h) * one
        x = memory(base + 4 * at, one)
        return x.view(a.v_dim, a.k_dim).T if a.state_v_first else x.view(a.k_dim, a.v_dim)

    for b, h in itertools.product(range(n_sequences), range(heads)):
        rows, hk = slice(starts[b], starts[b + 1]), h // (heads // a.n_qk_heads)
        first = ctypes.c_int32.from_address(a.n_accepted + 4 * b).value - 1 if a.n_accepted else 0
        s = state(a.state_in, b, first, h).double().clone() if a.state_in else torch.zeros(a.k_dim, a.v_dim, dtype=torch.float64)
        decay = decay_of(g[rows, h], a.gate, torch.exp(a_log[h]), bias[h], a.lower_bound)
        for t, o in enumerate(recur(q[rows, hk], k[rows, hk], v[rows, h].double(), decay, beta[rows, h], s, a.scale, a.normalize)):
            out[starts[b] + t, h] = o.to(out.dtype)
            if a.slots and a.state_out and slot_of(b, t) >= 0:
                state(a.state_out, b, t, h).copy_(s)
        if not a.slots and a.state_out:
            state(a.state_out, b, 0, h).copy_(s)


def put_checkpoints(r, pool, n_tokens):
    """The states after every 64 tokens of each sequence and after its last one; unused slots are NaN."""
    one, starts = r.n_heads * r.k_dim * r.v_dim, starts_of(r.seq_start, r.n_sequences + 1, r.seq_start_is_64)
    memory(pool, (n_tokens // 64 + r.n_sequences) * one).fill_(float("nan"))
    sizes = {0: 4, 1: 2, 2: 2}
    widths = {"q": r.n_qk_heads * r.k_dim, "k": r.n_qk_heads * r.k_dim, "v": r.n_heads * r.v_dim, "g": r.n_heads * r.k_dim,
              "beta": r.n_heads, "out": r.n_heads * r.v_dim}  # fmt: skip
    for s, (begin, end) in enumerate(zip(starts, starts[1:])):
        for i, at in enumerate(range(begin, end, 64)):  # each from the sequence's start: a state on the way is not rounded
            part = module.RecurrentArgs.from_buffer_copy(r)
            for name, width in widths.items():
                type_ = {"g": r.g_type, "beta": r.beta_type}.get(name, r.type)
                setattr(part, name, getattr(r, name) + begin * width * sizes[type_])
            part.seq_start, part.n_sequences, part.n_tokens = None, 1, min(at + 64, end) - begin
            part.state_in, part.state_out = r.state_in + 4 * s * one, pool + 4 * (begin // 64 + s + i) * one
            recurrent_stand_in(part)


def prefill_stand_in(a):
    heads, qk_heads, dim, n = a.n_heads, a.n_qk_heads, a.head_dim, a.n_tokens
    type_ = {0: 2, 1: 1}[a.input]
    gate = ("softplus", "lower_bound", "log_decay", "head_softplus", "head_log_decay")[a.gate.gate]  # of linnet::ops::KdaGate
    g_type = 0 if gate.endswith("log_decay") else type_
    assert a.out_stride == heads * dim and a.qk_stride >= qk_heads * dim

    def dense(pointer, n_heads, stride, type_):
        return memory(pointer, (n - 1) * stride + n_heads * dim, type_).as_strided((n, n_heads, dim), (stride, dim, 1)).clone()

    q, k = dense(a.q, qk_heads, a.qk_stride, type_), dense(a.k, qk_heads, a.qk_stride, type_)
    v = dense(a.v, heads, a.token_stride, type_)
    bias = memory(a.gate.dt_bias, heads * (1 if gate.startswith("head") else dim)) if a.gate.dt_bias else None
    if gate.startswith("head"):
        g = memory(a.z, n * heads, g_type).view(n, heads, 1).expand(n, heads, dim).contiguous()
        bias = bias if bias is None else bias.view(heads, 1).expand(heads, dim).contiguous()
    else:
        g = dense(a.z, heads, a.z_stride, g_type)
    r = module.RecurrentArgs(
        q=q.data_ptr(), k=k.data_ptr(), v=v.data_ptr(), g=g.data_ptr(), beta=a.beta_value or a.beta, out=a.out, a_log=a.gate.a_log,
        dt_bias=operators.pointer(bias), seq_start=a.seq_start, n_sequences=a.n_sequences, n_qk_heads=qk_heads, n_heads=heads, k_dim=dim, v_dim=dim,
        type=type_, g_type=g_type, beta_type=0 if a.beta_value else type_,
        gate={"softplus": 1, "lower_bound": 2, "log_decay": 0}[gate.removeprefix("head_")], scale=a.scale, lower_bound=a.gate.lower_bound,
        normalize=a.normalize_qk, beta_logits=not a.beta_value, beta_max=1.0, seq_start_is_64=a.seq_start_is_64,
        state_v_first=a.state_v_first,
    )  # fmt: skip
    prefill_stand_in.v_first.append(a.state_v_first)
    assert starts_of(a.seq_start, a.n_sequences + 1, a.seq_start_is_64)[-1] == a.n_tokens
    # The recurrence's states are dense: out of the pool and back.
    slots_in, slots_out = (starts_of(x, a.n_sequences, False) if x else [-1] * a.n_sequences for x in (a.state_in, a.state_out))
    one, type_ = heads * dim * dim, 2 if a.state_type else 0
    n_slots = max(slots_in + slots_out) + 1
    pool = memory(a.state, n_slots * one, type_).view(n_slots, one) if n_slots else None
    states = torch.stack([pool[i].float() if i >= 0 else torch.zeros(one) for i in slots_in]) if a.n_sequences else torch.zeros(0)
    r.state_in = r.state_out = states.data_ptr()
    if a.checkpoints:
        put_checkpoints(r, a.checkpoints, a.n_tokens)
    recurrent_stand_in(r)
    for b, slot in enumerate(slots_out):
        if slot >= 0:
            pool[slot] = states[b].to(pool.dtype)


@pytest.fixture(autouse=True)
def enqueued(monkeypatch):
    """Operators on the CPU. The value: names of what was enqueued."""
    names, prefill_stand_in.v_first = [], []
    stand_ins = {"kda_prefill_sm90": prefill_stand_in, "kda_recurrent_sm90": recurrent_stand_in}

    def enqueue(name, args, device):
        names.append(name)
        stand_ins[name](args)

    monkeypatch.setattr(operators, "enqueue", enqueue)
    monkeypatch.setattr(operators, "unusable_device", lambda device: None)
    monkeypatch.setattr(operators, "prefill_dims", lambda: (128,))
    library = torch.library.Library("linnet", "IMPL")
    library.impl("kda_prefill", operators.kda_prefill, "CPU")
    library.impl("kda_prefill_checkpoints", operators.kda_prefill_checkpoints, "CPU")
    library.impl("kda_prefill_pool", operators.kda_prefill_pool, "CPU")
    library.impl("kda_recurrent", operators.kda_recurrent, "CPU")
    yield names
    library._destroy()


def definition(q, k, v, g, beta, scale, state, lengths):
    """Whole sequences with q, k normalised, g the log decay and beta the write strength; [N, H, *] in f64, state [B, H, K, V]."""
    out, final, at = torch.zeros_like(v), state.double().clone(), 0
    for b, length in enumerate(lengths):
        for h in range(v.shape[1]):
            hk = h // (v.shape[1] // q.shape[1])
            s, rows = final[b, h], slice(at, at + length)
            for t, o in enumerate(recur(q[rows, hk], k[rows, hk], v[rows, h], torch.exp(g[rows, h]), beta[rows, h], s, scale, False)):
                out[at + t, h] = o
        at += length
    return out, final


def draw(n, qk_heads, heads, k_dim, v_dim, dtype, rows=1):
    generator = torch.Generator().manual_seed(5)
    normal = lambda *s: torch.randn(rows, n, *s, generator=generator).to(dtype)  # noqa: E731
    return normal(qk_heads, k_dim), normal(qk_heads, k_dim), normal(heads, v_dim), normal(heads, k_dim), normal(heads)


def unit(x):
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def close(x, wanted, tolerance):
    assert x.shape == wanted.shape
    assert torch.linalg.vector_norm(x.double() - wanted) <= tolerance * torch.linalg.vector_norm(wanted)


@pytest.mark.parametrize("v_first", [False, True])
@pytest.mark.parametrize("bound", [None, -5.0])
@pytest.mark.parametrize("batched", [False, True])
def test_chunk_takes_the_layers_call(enqueued, v_first, bound, batched):
    heads, lengths = 2, [4, 4] if batched else [3, 0, 5]
    q, k, v, g, beta = draw(4 if batched else 8, heads, heads, 128, 128, torch.bfloat16, rows=2 if batched else 1)
    a_log, dt_bias = torch.randn(1, 1, heads, 1), torch.randn(heads * 128)
    state = torch.randn(len(lengths), heads, 128, 128)
    out, final = linnet_torch.chunk_kda(
        q, k, v, g, beta, A_log=a_log, dt_bias=dt_bias, use_qk_l2norm_in_kernel=True, use_gate_in_kernel=True, lower_bound=bound,
        use_beta_sigmoid_in_kernel=True, initial_state=state.mT.contiguous() if v_first else state, output_final_state=True, state_v_first=v_first,
        cu_seqlens=None if batched else torch.tensor([0, 3, 3, 8]),
    )  # fmt: skip
    assert enqueued == ["kda_prefill_sm90"] and out.shape == v.shape and prefill_stand_in.v_first == [v_first]
    flat = [x.flatten(0, 1).double() for x in (q, k, v, g, beta)]
    gate = operators.SOFTPLUS if bound is None else operators.LOWER_BOUND
    log = torch.log(decay_of(flat[3], gate, torch.exp(a_log.double().view(heads, 1)), dt_bias.double().view(heads, 128), bound))
    wanted, wanted_final = definition(unit(flat[0]), unit(flat[1]), flat[2], log, torch.sigmoid(flat[4]), 128**-0.5, state, lengths)
    close(out.flatten(0, 1), wanted, 4e-3)  # bf16
    close(final.mT if v_first else final, wanted_final, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k_dim,v_dim,qk_heads", [(60, 60, 2), (128, 64, 1), (64, 128, 2)])
@pytest.mark.parametrize("sigmoid,negative", [(False, False), (True, False), (True, True)])
def test_recurrent_options(enqueued, dtype, k_dim, v_dim, qk_heads, sigmoid, negative):
    q, k, v, g, beta = draw(5, qk_heads, 2, k_dim, v_dim, dtype)
    g = -torch.nn.functional.softplus(g.float())
    beta = beta if sigmoid else torch.sigmoid(beta)
    state = torch.randn(2, 2, k_dim, v_dim).to(dtype)  # FLA's tests give it in the type of q
    out, final = linnet_torch.fused_recurrent_kda(
        q, k, v, g, beta, scale=0.3, initial_state=state, output_final_state=True, use_qk_l2norm_in_kernel=True,
        use_beta_sigmoid_in_kernel=sigmoid, allow_neg_eigval=negative, cu_seqlens=torch.tensor([0, 2, 5], dtype=torch.int32),
    )  # fmt: skip
    assert enqueued == ["kda_recurrent_sm90"]
    q, k, v, g, beta = (x[0].double() for x in (q, k, v, g, beta))
    beta = (2 if negative else 1) * torch.sigmoid(beta) if sigmoid else beta
    wanted, wanted_final = definition(unit(q), unit(k), v, g, beta, 0.3, state, [2, 3])
    close(out[0], wanted, {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype])
    close(final, wanted_final, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("qk_heads", [1, 2])
@pytest.mark.parametrize("raw_gate,bound", [(True, None), (True, -5.0), (False, None)])
@pytest.mark.parametrize("normalize,sigmoid,negative", [(True, False, False), (False, True, False), (False, True, True)])
@pytest.mark.parametrize("fused", [False, True])
def test_chunk_options_in_the_prefill_kernel(enqueued, dtype, qk_heads, raw_gate, bound, normalize, sigmoid, negative, fused):
    q, k, v, g, beta = draw(6, qk_heads, 2, 128, 128, dtype)
    if not normalize:
        q, k = 3 * unit(q.float()).to(dtype), 0.8 * unit(k.float()).to(dtype)
    if not raw_gate:
        g = -torch.nn.functional.softplus(g.float())
        g[0, 2, 1, 5], g[0, 3, 0] = -1000, 0
        g = g.to(dtype) if fused else g
    beta = beta if sigmoid else torch.sigmoid(beta)
    a_log, dt_bias, state = torch.randn(2), torch.randn(256), torch.randn(2, 2, 128, 128).to(dtype if fused else torch.float32)
    if fused:  # as slices of one projection
        q, k, v = torch.cat([x.flatten(2) for x in (q, k, v)], -1).split([qk_heads * 128, qk_heads * 128, 256], -1)
        q, k, v = q.unflatten(-1, (qk_heads, 128)), k.unflatten(-1, (qk_heads, 128)), v.unflatten(-1, (2, 128))
    out, final = linnet_torch.chunk_kda(
        q, k, v, g, beta, A_log=a_log if raw_gate else None, dt_bias=dt_bias if raw_gate else None, scale=0.3, initial_state=state,
        output_final_state=True, use_qk_l2norm_in_kernel=normalize, use_gate_in_kernel=raw_gate, lower_bound=bound,
        use_beta_sigmoid_in_kernel=sigmoid, allow_neg_eigval=negative, cu_seqlens=torch.tensor([0, 2, 6], dtype=torch.int32),
    )  # fmt: skip
    assert enqueued == ["kda_prefill_sm90"] and out.is_contiguous() and out.dtype == dtype
    q, k, v, g, beta = (x[0].double() for x in (q, k, v, g, beta))
    if raw_gate:
        gate = operators.SOFTPLUS if bound is None else operators.LOWER_BOUND
        g = torch.log(decay_of(g, gate, torch.exp(a_log.double().view(2, 1)), dt_bias.double().view(2, 128), bound))
    beta = (2 if negative else 1) * torch.sigmoid(beta) if sigmoid else beta
    q, k = (unit(q), unit(k)) if normalize else (q, k)
    wanted, wanted_final = definition(q, k, v, g, beta, 0.3, state, [2, 4])
    close(out[0], wanted, {torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype])
    close(final, wanted_final, 1e-6)


@pytest.mark.parametrize("raw_gate", [True, False])
def test_prefill_with_gates_of_heads(enqueued, raw_gate):
    q, k, v, _, beta = draw(6, 1, 2, 128, 128, torch.bfloat16)
    g = torch.randn(1, 6, 2).bfloat16() if raw_gate else -torch.rand(1, 6, 2)
    a_log, dt_bias, state = torch.randn(2), torch.randn(2), torch.randn(1, 2, 128, 128)
    gate = (a_log, dt_bias) if raw_gate else (None, None)
    out, final = torch.ops.linnet.kda_prefill(q, k, v, g, beta, *gate, state, None, 0.3, None, True, True, raw_gate)
    q, k, v, g, beta = (x[0].double() for x in (q, k, v, g, beta))
    log = -torch.exp(a_log.double()) * torch.nn.functional.softplus(g + dt_bias) if raw_gate else g
    wanted, wanted_final = definition(unit(q), unit(k), v, log.unsqueeze(-1).expand(-1, -1, 128), torch.sigmoid(beta), 0.3, state, [6])
    close(out[0], wanted, 8e-3)
    close(final, wanted_final, 1e-6)


@pytest.mark.parametrize("head_gate", [False, True])
def test_chunk_of_heads_of_64(enqueued, monkeypatch, head_gate):
    """Where the library has them in the prefill kernel."""
    q, k, v, g, beta = draw(6, 1, 2, 64, 64, torch.bfloat16)
    g = -torch.rand(1, 6, 2) if head_gate else -torch.abs(g.float())
    function = linnet_torch.chunk_gated_delta_rule if head_gate else linnet_torch.chunk_kda
    state = torch.randn(1, 2, 64, 64)
    answers = []
    for dims in ((128,), (128, 64)):
        monkeypatch.setattr(operators, "prefill_dims", lambda dims=dims: dims)
        answers.append(function(q, k, v, g, torch.sigmoid(beta), initial_state=state, output_final_state=True, use_qk_l2norm_in_kernel=True))
    assert enqueued == ["kda_recurrent_sm90", "kda_prefill_sm90"]
    close(answers[1][0], answers[0][0].double(), 8e-3)
    close(answers[1][1], answers[0][1].double(), 1e-3)


@pytest.mark.parametrize("v_first", [False, True])
@pytest.mark.parametrize("lengths", [[70, 0, 64, 1, 129], [100, 100]])
@pytest.mark.parametrize("with_state", [False, True])
def test_intermediate_states(enqueued, v_first, lengths, with_state):
    """The state that enters a chunk is the final state of what is before it."""
    batched = len(set(lengths)) == 1
    q, k, v, g, beta = draw(lengths[0] if batched else sum(lengths), 1, 2, 128, 128, torch.float16, rows=len(lengths) if batched else 1)
    g, beta, state = -torch.nn.functional.softplus(g.float()), torch.sigmoid(beta), torch.randn(len(lengths), 2, 128, 128)
    starts = None if batched else torch.tensor([sum(lengths[:i]) for i in range(len(lengths) + 1)])
    options = {"use_qk_l2norm_in_kernel": True, "output_final_state": True, "state_v_first": v_first}
    initial = state if with_state else None
    whole = linnet_torch.chunk_kda(q, k, v, g, beta, initial_state=initial, cu_seqlens=starts, **options)
    out, final, h = linnet_torch.chunk_kda(
        q, k, v, g, beta, initial_state=initial, cu_seqlens=starts, return_intermediate_states=True, **options)
    assert torch.equal(out, whole[0]) and torch.equal(final, whole[1])
    chunks = [(s, at) for s, n in enumerate(lengths) for at in range(0, n, 64)]
    assert h.shape == ((2, 2) if batched else (1, len(chunks))) + (2, 128, 128) and h.dtype == torch.float16
    for entering, (s, at) in zip(h.flatten(0, 1), chunks):
        begin = sum(lengths[:s])
        part = [x.flatten(0, 1)[begin : begin + at].unsqueeze(0) for x in (q, k, v, g, beta)]
        one = state[s : s + 1] if with_state else torch.zeros(1, 2, 128, 128)
        wanted = linnet_torch.chunk_kda(*part, initial_state=one, **options)[1] if at else one
        assert torch.equal(entering, wanted[0].half())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("v_first", [False, True])
def test_prefill_with_a_pool(enqueued, dtype, v_first):
    q, k, v, g, beta = draw(9, 2, 2, 128, 128, torch.bfloat16)
    a_log, dt_bias, pool = torch.randn(2), torch.randn(256), torch.randn(6, 2, 128, 128).to(dtype)
    slots_in, slots_out = torch.tensor([4, -1, 1, 0], dtype=torch.int32), torch.tensor([4, 2, -1, 5], dtype=torch.int32)
    lengths, before = [3, 2, 4, 0], pool.clone()
    states = torch.stack([before[i] if i >= 0 else torch.zeros_like(before[0]) for i in slots_in.tolist()]).float()
    starts = torch.tensor([0, 3, 5, 9, 9])
    out = torch.ops.linnet.kda_prefill_pool(
        q, k, v, g, beta, a_log, dt_bias, pool, slots_in, slots_out, starts, 0.1, None, True, True, True, v_first)
    wanted, final = torch.ops.linnet.kda_prefill(
        q, k, v, g, beta, a_log, dt_bias, states, starts, 0.1, None, True, True, True, True, v_first)
    assert torch.equal(out, wanted)
    for b, slot in enumerate(slots_out.tolist()):
        assert slot < 0 or torch.equal(pool[slot], final[b].to(dtype))
    assert torch.equal(pool[[0, 1, 3]], before[[0, 1, 3]])
    with pytest.raises(ValueError, match="slots_in"):
        torch.ops.linnet.kda_prefill_pool(q, k, v, g, beta, a_log, dt_bias, pool, slots_in.long(), None, starts, 0.1, None)
    with pytest.raises(ValueError, match="pool"):
        torch.ops.linnet.kda_prefill_pool(q, k, v, g, beta, a_log, dt_bias, pool.half(), slots_in, None, starts, 0.1, None)


@pytest.mark.parametrize("dtype,width", [(torch.bfloat16, 128), (torch.float32, 64)])
@pytest.mark.parametrize("qk_heads", [1, 2])
@pytest.mark.parametrize("raw_gate,gate_dtype", [(False, torch.float32), (False, torch.bfloat16), (True, torch.bfloat16), (True, torch.float32)])
@pytest.mark.parametrize("v_first", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
def test_gated_delta_rule(enqueued, dtype, width, qk_heads, raw_gate, gate_dtype, v_first, recurrent):
    q, k, v, _, beta = draw(6, qk_heads, 2, width, width, dtype)
    g = (torch.randn(1, 6, 2) if raw_gate else -torch.rand(1, 6, 2)).to(gate_dtype)
    a_log, dt_bias, state = torch.randn(2), torch.randn(2), torch.randn(2, 2, width, width)
    gate = {"use_gate_in_kernel": True, "A_log": a_log, "dt_bias": dt_bias} if raw_gate else {}
    function = linnet_torch.fused_recurrent_gated_delta_rule if recurrent else linnet_torch.chunk_gated_delta_rule
    out, final = function(
        q, k, v, g, beta=beta, scale=0.3, initial_state=state, output_final_state=True, use_qk_l2norm_in_kernel=True,
        use_beta_sigmoid_in_kernel=True, allow_neg_eigval=True, state_v_first=v_first, cu_seqlens=torch.tensor([0, 2, 6]), **gate,
    )  # fmt: skip
    assert enqueued == ["kda_recurrent_sm90" if recurrent or width == 64 else "kda_prefill_sm90"]
    assert not any(prefill_stand_in.v_first)  # the layer's call alone has such states in the kernel
    q, k, v, g, beta = (x[0].double() for x in (q, k, v, g, beta))
    log = -torch.exp(a_log.double()) * torch.nn.functional.softplus(g + dt_bias) if raw_gate else g
    log, beta = log.unsqueeze(-1).expand(-1, -1, width), 2 * torch.sigmoid(beta)
    wanted, wanted_final = definition(unit(q), unit(k), v, log, beta, 0.3, state.mT if v_first else state, [2, 4])
    close(out[0], wanted, 8e-3 if dtype == torch.bfloat16 else 1e-6)
    close(final.mT if v_first else final, wanted_final, 1e-6)


def test_gated_delta_rule_defaults(enqueued):
    """Without a gate nothing decays; gates of channels add to those of heads; strengths are 1."""
    q, k, v, gk, _ = draw(5, 2, 2, 64, 64, torch.float32)
    g, gk = -torch.rand(1, 5, 2), -torch.abs(gk)
    for gates in ({}, {"g": g}, {"gk": gk}, {"g": g, "gk": gk}):
        out, final = linnet_torch.fused_recurrent_gated_delta_rule(q, k, v, **gates, output_final_state=True, use_qk_l2norm_in_kernel=True)
        log = gates.get("g", torch.zeros(1)).unsqueeze(-1) + gates.get("gk", torch.zeros(1, 5, 2, 64))
        wanted, wanted_final = definition(
            unit(q[0].double()), unit(k[0].double()), v[0].double(), log[0].double().expand(5, 2, 64), torch.ones(5, 2), 0.125,
            torch.zeros(1, 2, 64, 64), [5])  # fmt: skip
        close(out[0], wanted, 1e-6)
        close(final, wanted_final, 1e-6)


@pytest.mark.parametrize("dtype,width", [(torch.float32, 128), (torch.float16, 64)])
def test_chunk_of_other_widths_and_types_recurs(enqueued, dtype, width):
    q, k, v, g, beta = draw(6, 2, 2, width, 128, dtype)
    out, final = linnet_torch.chunk_kda(q, k, v, -torch.abs(g.float()), torch.sigmoid(beta))
    assert enqueued == ["kda_recurrent_sm90"] and final is None and out.dtype == dtype


def test_gradients_are_refused(enqueued):
    x = [t.requires_grad_() for t in draw(6, 2, 2, 128, 128, torch.bfloat16)]
    with pytest.raises(NotImplementedError, match="no backward"):
        linnet_torch.chunk_kda(*x)
    assert not enqueued


@pytest.mark.parametrize(
    "change,message",
    [
        ({"return_intermediate_states": True}, "expected heads of 128"),
        ({"return_intermediate_states": True, "chunk_size": 32}, "chunks of 64"),
        ({"cp_context": object()}, "cp_context"),
        ({"chunk_size": 16}, "chunk_size"),
        ({"use_gate_in_kernel": True}, "A_log"),
        ({"use_gate_in_kernel": True, "safe_gate": True, "lower_bound": -6.0}, "lower_bound"),
        ({"allow_neg_eigval": True}, "allow_neg_eigval"),
        ({"initial_state": torch.zeros(1, 2, 64, 128, dtype=torch.float64)}, "float32"),
        ({"max_recurrent_tokens": 5}, "expected heads of 128"),
    ],
)
def test_refusals(change, message):
    x = draw(6, 2, 2, 64, 128, torch.bfloat16)
    assert message in kda.chunk_refusal(*x, **change)
    assert kda.chunk_refusal(*x) is None


def test_operator_checks():
    q, k, v, g, beta = draw(6, 2, 2, 128, 128, torch.bfloat16)
    a_log, dt_bias = torch.zeros(2), torch.zeros(256)
    with pytest.raises(ValueError, match="contiguous"):
        torch.ops.linnet.kda_prefill(q.transpose(1, 2).contiguous().transpose(1, 2), k, v, g, beta, a_log, dt_bias, None, None, 1.0, None, False)
    with pytest.raises(ValueError, match="dt_bias"):
        torch.ops.linnet.kda_prefill(q, k, v, g, beta, a_log, a_log, None, None, 1.0, None, False)
    with pytest.raises(ValueError, match="scale"):
        torch.ops.linnet.kda_prefill(q, k, v, g, beta, a_log, dt_bias, None, None, 2000.0, None, False)
    with pytest.raises(ValueError, match="a_log, dt_bias"):
        torch.ops.linnet.kda_prefill(q, k, v, g, beta, None, None, None, None, 1.0, None, False)
    with pytest.raises(ValueError, match="g: expected torch.float32"):
        torch.ops.linnet.kda_prefill(q, k, v, g, beta, None, None, None, None, 1.0, None, False, True, False)
    with pytest.raises(ValueError, match="beta: expected torch.float32"):
        torch.ops.linnet.kda_prefill(q, k, v, g, beta, a_log, dt_bias, None, None, 1.0, None, False, True, True, False)
    with pytest.raises(ValueError, match="multiple of 2"):
        torch.ops.linnet.kda_prefill(q, k, v[:, :, :1], g, beta, a_log, dt_bias, None, None, 1.0, None, False)
    with pytest.raises(ValueError, match="gate of a head"):
        torch.ops.linnet.kda_prefill(q, k, v, beta, beta, a_log, dt_bias, None, None, 1.0, -5.0, False)


def test_shapes_under_compilation():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        q, beta = torch.empty(2, 64, 2, 128, dtype=torch.bfloat16, device="cuda"), torch.empty(2, 64, 2, dtype=torch.bfloat16, device="cuda")
        parameters = torch.empty(2, device="cuda"), torch.empty(256, device="cuda")
        out, state = torch.ops.linnet.kda_prefill(q, q, q, q, beta, *parameters, None, None, 0.1, None, True)
        assert out.shape == q.shape and out.dtype == q.dtype and state.shape == (2, 2, 128, 128) and state.dtype == torch.float32


@pytest.mark.parametrize("v_first", [False, True])
def test_slots_of_tentative_tokens(v_first):
    """Two sequences of three tokens that begin at accepted slots of the round before and leave a state after each token."""
    q, k, v, g, beta = draw(6, 2, 2, 64, 64, torch.float32)
    pool = torch.randn(9, 2, 64, 64)
    slots, accepted = torch.tensor([[1, 2, 3], [6, 5, -1]], dtype=torch.int32), torch.tensor([2, 1], dtype=torch.int32)
    after, out = pool.clone(), torch.empty_like(v)
    gate = (torch.zeros(2), torch.zeros(128))
    torch.ops.linnet.kda_recurrent(q, k, v, g, beta, *gate, None, after, True, out, torch.tensor([0, 3, 6]), slots, accepted, 0.1, True, None,
                                   True, True, 1.0, v_first)  # fmt: skip
    for b, t in itertools.product(range(2), range(3)):
        part = [x[:, 3 * b : 3 * b + t + 1].contiguous() for x in (q, k, v, g, beta)]
        o, s = linnet_torch.fused_recurrent_kda(
            *part, A_log=gate[0], dt_bias=gate[1], scale=0.1, initial_state=pool[slots[b, accepted[b] - 1].item()].unsqueeze(0),
            output_final_state=True, use_qk_l2norm_in_kernel=True, use_gate_in_kernel=True, use_beta_sigmoid_in_kernel=True, state_v_first=v_first,
        )  # fmt: skip
        assert torch.equal(out[0, 3 * b + t], o[0, t])
        if slots[b, t] >= 0:
            assert torch.equal(after[slots[b, t].item()], s[0])
    assert torch.equal(after[[0, 4, 7, 8]], pool[[0, 4, 7, 8]])
