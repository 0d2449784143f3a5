"""Triton's tuning of FLA's kernels without paying for it twice.

    fla_tuning.py part I N HEADS      compile every N-th candidate configuration from the I-th on, filling Triton's cache (run N at once)
    freeze()                          what was chosen in this process is used from now on, also for other numbers of heads
    save(directory)                   the choices of this process, for FLA_CONFIG_DIR with FLA_CACHE_MODE=strict
"""

import gc
import json
import pathlib
import sys

import torch


def tuners():
    from triton.runtime.autotuner import Autotuner

    return [o for o in gc.get_objects() if isinstance(o, Autotuner)]


def freeze():
    for tuner in tuners():
        if tuner.cache:
            tuner.configs = [list(tuner.cache.values())[-1]]


def save(directory):
    from fla.ops.utils.cache import AutotuneKey

    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for tuner in tuners():
        if not tuner.cache:
            continue
        entries = {}
        for key, config in tuner.cache.items():
            entries[AutotuneKey.key_hash(key)] = {
                "autotune_key": AutotuneKey.normalize_autotune_key(key),
                "config": {
                    "kwargs": config.kwargs,
                    "num_warps": config.num_warps,
                    "num_stages": config.num_stages,
                    "num_ctas": config.num_ctas,
                },
            }
        name = getattr(tuner, "kernel_name", tuner.fn.__name__)
        (directory / f"{name}.json").write_text(json.dumps({"kernel_name": name, "autotune_entries": entries}))


def compile_part(part, n_parts, heads):
    import cases
    from fla.ops.kda import chunk_kda

    for tuner in tuners():
        if len(tuner.configs) > 1:
            tuner.configs = tuner.configs[part % len(tuner.configs) :: n_parts] or tuner.configs[:1]
    x = cases.make_inputs(["trained"] * heads, 256)
    with torch.inference_mode():
        chunk_kda(
            **x, initial_state=cases.make_state(1, heads), output_final_state=True, use_qk_l2norm_in_kernel=True,
            use_gate_in_kernel=True, use_beta_sigmoid_in_kernel=True,
        )
    torch.cuda.synchronize()


if __name__ == "__main__":
    compile_part(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
