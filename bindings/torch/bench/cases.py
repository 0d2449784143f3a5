"""Inputs of Kimi Delta Attention as the layer produces them, and the definition in double precision, on the GPU."""

import math

import torch

HEAD_DIM = 128
# How gates (and, for the last three, keys and write strengths) are drawn; the numbers are mean log decays a token.
KINDS = ("trained", "weak", "strong", "mixed", "zero", "cliffs", "bounded", "collinear", "beta_zero", "beta_one")
LOWER_BOUND = -5.0


def inverse_softplus(y):
    return torch.where(y > 20, y, torch.log(torch.expm1(y)))


def gate_parameters(kind, generator, device):
    """a_log (a number) and dt_bias [HEAD_DIM] of one head."""
    uniform = torch.rand(HEAD_DIM, generator=generator, device=device, dtype=torch.float64)
    rate = 1 + 15 * torch.rand(1, generator=generator, device=device, dtype=torch.float64).item()
    if kind not in ("trained", "collinear", "beta_zero", "beta_one"):
        rate = 1.0
    target = torch.exp(math.log(1e-3) + uniform * math.log(100.0))  # the published layer's initialisation
    if kind == "weak":
        target = torch.full_like(target, 0.01)
    if kind == "strong":
        target = torch.full_like(target, 5.0)
    if kind == "mixed":
        target = torch.tensor([1e-5, 0.01, 1.0, 30.0], device=device, dtype=torch.float64).repeat(HEAD_DIM // 4)
    if kind == "collinear":
        target = torch.full_like(target, 1e-4)
    bias = inverse_softplus(target)
    if kind == "zero":
        bias = torch.full_like(bias, -200.0)
    if kind == "bounded":
        bias = torch.zeros_like(bias)
    return math.log(rate), bias


def make_inputs(kinds, n_tokens, seed=1, device="cuda"):
    """Inputs with one head for each entry of kinds, packed: q, k, v, g [1, N, H, 128] bf16, beta [1, N, H] bf16 logits, A_log, dt_bias."""
    generator = torch.Generator(device=device).manual_seed(seed)
    n_heads = len(kinds)
    shape = (1, n_tokens, n_heads, HEAD_DIM)

    def normal(*size):
        return torch.randn(size, generator=generator, device=device, dtype=torch.bfloat16)

    x = {"q": normal(*shape), "k": normal(*shape), "v": normal(*shape), "g": normal(*shape).mul_(0.5), "beta": normal(*shape[:3]) * 1.5}
    a_log, dt_bias = torch.empty(n_heads, device=device), torch.empty(n_heads, HEAD_DIM, device=device)
    parameters = {}
    for h, kind in enumerate(kinds):
        if kind not in parameters or n_heads <= 32:
            parameters[kind] = gate_parameters(kind, generator, device)
        a_log[h], dt_bias[h] = parameters[kind]
        if kind in ("strong", "bounded"):
            x["g"][:, :, h] *= 2
        if kind == "cliffs":
            jump = torch.rand(x["g"][:, :, h].shape, generator=generator, device=device) < 0.1
            x["g"][:, :, h] = torch.where(jump, 200.0, -3.0)
        if kind == "collinear":
            x["k"][:, 1:, h] = x["k"][:, :1, h] + 0.02 * x["k"][:, 1:, h]
            x["beta"][:, :, h] = 6.0
        if kind in ("beta_zero", "beta_one"):
            x["beta"][:, :, h] = 1e4 if kind == "beta_one" else -1e4
    return {**x, "A_log": a_log, "dt_bias": dt_bias.flatten()}


def make_state(n_sequences, n_heads, seed=2, device="cuda"):
    generator = torch.Generator(device=device).manual_seed(seed)
    return 0.3 * torch.randn(n_sequences, n_heads, HEAD_DIM, HEAD_DIM, generator=generator, device=device)


def log_decay(g, a_log, dt_bias, lower_bound):
    x = g.double() + dt_bias.double().view(-1, HEAD_DIM)
    rate = a_log.double().exp().view(-1, 1)
    if lower_bound is not None:
        return lower_bound * torch.sigmoid(rate * x)
    return -rate * torch.nn.functional.softplus(x, threshold=700)


def reference(x, lengths, state, scale, lower_bound=None):
    """The definition, token after token in double: all sequences at once, shorter ones idle at the end. Returns o [N, H, 128], state."""
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    q, k = (x[n][0].double() for n in ("q", "k"))
    q = q / (q.square().sum(-1, keepdim=True) + 1e-6).sqrt() * scale
    k = k / (k.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    v, beta = x["v"][0].double(), torch.sigmoid(x["beta"][0].double())
    decay = log_decay(x["g"][0], x["A_log"], x["dt_bias"], lower_bound).exp()
    s, out = state.double().clone(), torch.empty_like(v)
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    s = s[order]
    start = torch.tensor([starts[i] for i in order], device=v.device)
    for t in range(max(lengths)):
        n = sum(length > t for length in lengths)  # sequences that still have a token: the first n in this order
        at = start[:n] + t
        live = s[:n]
        live *= decay[at].unsqueeze(-1)
        u = beta[at].unsqueeze(-1) * (v[at] - torch.einsum("bhk,bhkv->bhv", k[at], live))
        live += k[at].unsqueeze(-1) * u.unsqueeze(-2)
        out[at] = torch.einsum("bhk,bhkv->bhv", q[at], live)
    final = torch.empty_like(s)
    final[order] = s
    return out, final
