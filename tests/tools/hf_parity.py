#!/usr/bin/env python3
"""Compares the logits of a checkpoint in Hugging Face transformers with those of `linnet logits`.

    python3 tests/tools/hf_parity.py MODEL [--linnet PROGRAM] [--sequences 2] [--tokens 150] [--tolerance X]

MODEL is a folder that Linnet wrote (`linnet synth`, a training checkpoint) or a published one. transformers must take every
tensor in it and miss none. It computes in float32 on the CPU with eager attention; Linnet with the types it chooses for the
checkpoint and latent-eps=1e-6, which transformers has fixed. Prints one line; the exit status is 0 when the largest difference
is within the tolerance times the logits' root mean square, 1 when not, 77 when torch or transformers is not installed.

The default tolerance is for random weights: 1e-4 for a checkpoint in f32; 0.5 for bf16 or f16, where Linnet rounds the inputs
of products on CPUs that multiply bf16 and a token may take another expert. A wrong tensor gives 1 to 5. Tried with
transformers 5.17.0 and torch 2.15.0.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
except ImportError as e:
    print(f"hf_parity: skipped: {e}")
    sys.exit(77)


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model", type=Path)
    p.add_argument("--linnet", type=Path, default=Path(__file__).resolve().parents[2] / "linnet")
    p.add_argument("--sequences", type=int, default=2)
    p.add_argument("--tokens", type=int, default=150, help="of each sequence")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--tolerance", type=float, help="of the largest difference, in root mean squares of the logits")
    return p.parse_args()


def transformers_logits(folder, ids):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    left = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if left:
        sys.exit(f"hf_parity: {folder}: transformers does not load it whole: {left}")
    with torch.no_grad():
        return model(ids).logits


def linnet_logits(program, folder, ids):
    with tempfile.TemporaryDirectory() as at:
        at = Path(at)
        save_file({"input_ids": ids.int()}, at / "ids.safetensors")
        command = [program, "logits", "--model", folder, "--parity", "latent-eps=1e-6"]
        command += ["--ids", at / "ids.safetensors", "--out", at / "logits.safetensors"]
        if subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL).returncode:
            sys.exit(f"hf_parity: {program} logits failed")
        return load_file(at / "logits.safetensors")["logits"]


def main():
    args = arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(args.model)
    tolerance = args.tolerance or (1e-4 if config.dtype == torch.float32 else 0.5)
    torch.manual_seed(args.seed)
    ids = torch.randint(0, config.vocab_size, (args.sequences, args.tokens))
    want = transformers_logits(args.model, ids)
    got = linnet_logits(args.linnet, args.model, ids)
    scale = want.square().mean().sqrt().item()
    largest = (got - want).abs().max().item() / scale
    same = (got.argmax(-1) == want.argmax(-1)).float().mean().item()
    good = largest <= tolerance  # false for NaN
    print(
        f"hf_parity: {args.model}: {args.sequences} x {args.tokens} tokens, largest difference {largest:.2e} of the logits' "
        f"root mean square {scale:.3g}, allowed {tolerance:.0e}; same best token {same:.1%}: {'ok' if good else 'DIFFERENT'}"
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
