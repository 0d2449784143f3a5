#!/usr/bin/env python3
"""Writes tests/data/tiny-fp32-gradients: what backpropagation in Hugging Face transformers makes of tests/data/tiny-fp32.

    python3 tests/tools/gradient_golden.py        needs torch and transformers (made with 2.15.0 and 5.17.0)

The loss is next-token cross-entropy over a few documents, each a sequence of its own:
    loss = sum over tokens with a target of -log softmax(logits)[target] / number of such tokens
The last token of a document has no target (-1). Everything is computed in double: the model's own casts to float32 are
widened, so that the stored numbers are the gradient rounded once to float32. The same in float32 is computed beside it, and
how far it lies off is printed and stored: that is what an implementation in float32 may be expected to lose.

golden.safetensors holds, under the published tensor names:
    input_ids [N] i32, targets [N] i32, seq_start [B + 1] i32, loss [1] f32
    NAME                       the whole gradient of parameter NAME, f32, or, for what PROJECTED matches,
    NAME/projections [5] f32   its norm, then four sums  sum_i sign_j(i) gradient[i]  over the flat index i
with sign_j(i) = +1 or -1 as the top bit of core/rng.h's Rng(PROJECTION_SEED, j).bits(i) is 0 or 1, and
    NAME/float32_error [1] f32  |float32 gradient - gradient| / |gradient|, norms
    NAME/bf16_projections [5] f32, bf16_loss [1] f32
        the same of the model whose matrices, but for the convolutions' taps, are first rounded to bf16 (and then computed with in
        double, as everything here)
"""

import contextlib
import functools
import hashlib
import json
import re
import types
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.kimi_linear import modeling_kimi_linear as modeling

DATA = Path(__file__).parent.parent / "data"
MODEL = DATA / "tiny-fp32"
OUT = DATA / "tiny-fp32-gradients"

LENGTHS = [70, 1, 64, 129, 17]  # below, at and above the chunk of 64; one token alone has no target
PROJECTED = re.compile(r"layers\.[23]\..*experts\.\d+\.")  # half of the experts: the file stays small
PROJECTION_SEED = 20260101
MASK = (1 << 64) - 1


def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@functools.lru_cache(maxsize=None)
def signs(stream, n):
    key = mix64(PROJECTION_SEED ^ mix64(stream))
    return torch.tensor([-1.0 if mix64(key ^ mix64(i)) >> 63 else 1.0 for i in range(n)], dtype=torch.float64)


def documents():
    """The tokens of the checkpoint's own golden logits, cut into documents."""
    ids = load_file(MODEL / "expected.safetensors")["input_ids"].flatten().long()
    start = torch.tensor([0] + LENGTHS).cumsum(0)
    ids = ids[: int(start[-1])]
    targets = torch.full_like(ids, -1)
    for begin, end in zip(start[:-1], start[1:]):
        targets[begin : end - 1] = ids[begin + 1 : end]
    return ids, targets, start


class WideTorch(types.ModuleType):
    """torch, but float32 is double: for the modeling file's explicit casts."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def widened():
    """Inside, the modeling file's casts to float32 are casts to double."""
    narrow = torch.Tensor.float
    modeling.torch, torch.Tensor.float = WideTorch("torch"), torch.Tensor.double
    try:
        yield
    finally:
        modeling.torch, torch.Tensor.float = torch, narrow


def load(dtype):
    model = transformers.KimiLinearForCausalLM.from_pretrained(
        MODEL, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    model.model.embed_tokens.padding_idx = None  # else the pad token's row gets no gradient
    return model.to(dtype)


def loss_of(model):
    ids, targets, start = documents()
    total = 0
    for begin, end in zip(start[:-1], start[1:]):
        if end - begin > 1:
            logits = model(ids[None, begin:end]).logits[0]
            assert logits.dtype == model.dtype, logits.dtype
            total += torch.nn.functional.cross_entropy(logits, targets[begin:end], ignore_index=-1, reduction="sum")
    return total / (targets >= 0).sum()


@torch.no_grad()
def slope_error(model):
    """How far the length of the gradient is from a central difference of the loss along it, relative."""
    params = list(model.parameters())
    length = sum(p.grad.square().sum() for p in params).sqrt()

    def at(step):
        for p in params:
            p += step * p.grad / length
        value = loss_of(model)
        for p in params:
            p -= step * p.grad / length
        return value

    step = 1e-5
    return abs((at(step) - at(-step)) / (2 * step) / length - 1).item()


def gradients(model):
    loss = loss_of(model)
    loss.backward()
    return loss, published(model)


@torch.no_grad()
def round_matrices(model):
    for name, p in model.named_parameters():
        if p.dim() > 1 and not re.search("conv1d|A_log", name):
            p.copy_(p.bfloat16())


def projections(g):
    flat = g.flatten()
    return torch.stack([flat.norm()] + [(signs(j, len(flat)) * flat).sum() for j in range(4)]).float()


def published(model):
    """The gradients of the model's fused parameters, split and named as in the published checkpoint."""
    named = {}
    for name, p in model.named_parameters():
        g = p.grad.detach().double()
        name = name.replace(".forget_gate.", ".")
        if ".conv1d." in name:
            for which, part in zip("qkv", g.chunk(3)):
                named[name.replace("conv1d", which + "_conv1d")] = part
        elif name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj"):
            stem = name.rsplit(".", 1)[0].replace(".mlp.", ".block_sparse_moe.")
            for e, expert in enumerate(g):
                parts = zip(("w1", "w3"), expert.chunk(2)) if "gate_up" in name else [("w2", expert)]
                for which, part in parts:
                    named[f"{stem}.{e}.{which}.weight"] = part
        elif re.search(r"\.mlp\.(gate|shared_experts)\.", name):
            named[name.replace(".mlp.", ".block_sparse_moe.")] = g
        else:
            named[name] = g
    return named


def check_names(grads):
    """Every parameter of the checkpoint has a gradient of its shape; the router's bias is not trained by the loss."""
    shapes = {}
    for name, t in load_file(MODEL / "model.safetensors").items():
        if not name.endswith("e_score_correction_bias"):
            shapes[re.sub(r"(layers\.0)\.block_sparse_moe\.", r"\1.mlp.", name)] = t.shape
    assert shapes == {name: g.shape for name, g in grads.items()}


def main():
    model = load(torch.float64)
    with widened():
        loss = loss_of(model)
        loss.backward()
        slope = slope_error(model)
    assert slope < 1e-7, slope
    exact = published(model)
    loss_f32, rough = gradients(load(torch.float32))
    model = load(torch.float64)
    round_matrices(model)
    with widened():
        loss_bf16, rounded = gradients(model)
    check_names(exact)
    ids, targets, start = documents()
    tensors = {
        "input_ids": ids.int(),
        "targets": targets.int(),
        "seq_start": start.int(),
        "loss": loss.detach().float().reshape(1),
        "bf16_loss": loss_bf16.detach().float().reshape(1),
    }
    worst = (0, "")
    for name, g in sorted(exact.items()):
        if PROJECTED.search(name):
            tensors[name + "/projections"] = projections(g)
        else:
            tensors[name] = g.float().contiguous()
        error = ((rough[name] - g).norm() / g.norm()).item() if g.norm() > 0 else 0.0
        tensors[name + "/float32_error"] = torch.tensor([error])
        tensors[name + "/bf16_projections"] = projections(rounded[name])
        worst = max(worst, (error, name))
    OUT.mkdir(exist_ok=True)
    file = OUT / "golden.safetensors"
    save_file(tensors, file)
    file.chmod(0o644)
    manifest = {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "of": "tiny-fp32/model.safetensors",
        "of_sha256": hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "loss": loss.item(),
        "loss_float32": loss_f32.item(),
        "loss_of_bf16_matrices": loss_bf16.item(),
        "slope_error": slope,
        "worst_float32_error": {"tensor": worst[1], "relative": worst[0]},
    }
    (OUT / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(json.dumps(manifest, indent=2), file.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
