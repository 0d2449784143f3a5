"""Linnet's KDA operators against FLA's on the same inputs in the same run: errors against the definition in double, and times.

    compare_fla.py [--accuracy] [--prefill] [--decode] [--short] [--gdn] [--only SHAPE] [--without fla|linnet] [--records FILE]

Times are medians: of single calls between events ("eager"), and of calls replayed as one graph ("graph"), over inputs that together
exceed the L2 twice. The floor is compulsory bytes over the bandwidth of a copy measured here; the first column is floor / time. Triton tunes
FLA's kernels for 32 heads, the other numbers of heads use what was chosen there.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import time

import torch

import cases
import fla_tuning

L2_BYTES = 60 << 20
SCALE = cases.HEAD_DIM**-0.5
LAYER = {"use_qk_l2norm_in_kernel": True, "use_gate_in_kernel": True, "use_beta_sigmoid_in_kernel": True}


def median_us(calls, repeats):
    """Of single calls; calls are taken in turn."""
    for call in calls:
        call()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    torch.cuda.synchronize()
    for i, (begin, end) in enumerate(events):
        begin.record()
        calls[i % len(calls)]()
        end.record()
    torch.cuda.synchronize()
    times = sorted(1e3 * begin.elapsed_time(end) for begin, end in events)
    return statistics.median(times), times[len(times) // 10], times[-1 - len(times) // 10]


def graph_us(calls, repeats):
    """Of one call when all calls replay as one graph; None where a call cannot be captured."""
    try:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for call in calls:
                call()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                for call in calls:
                    call()
        return tuple(t / len(calls) for t in median_us([graph.replay], repeats))
    except Exception as error:  # a library that synchronises inside
        print("not capturable:", str(error).splitlines()[0])
        return None


def copy_bytes_per_us():
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    return 2 * a.numel() / median_us([lambda: b.copy_(a)], 20)[0]


def error(x, reference):
    return ((x.double() - reference).square().mean().sqrt() / (reference.square().mean().sqrt() + 1e-300)).item()


def worst_length(results, reference, lengths, heads):
    """Linnet's error of o over FLA's where that is largest among the sequences."""
    worst = {}
    for op in ("chunk_kda", "fused_recurrent_kda"):
        if f"linnet {op}" in results and f"fla {op}" in results:
            ratios = []
            for i, n in enumerate(lengths):
                at = slice(sum(lengths[:i]), sum(lengths[:i]) + n)
                ours, theirs = (error(results[f"{name} {op}"][0][0, at][:, heads], reference[at][:, heads]) for name in ("linnet", "fla"))
                ratios.append((ours / theirs, n))
            worst[f"{op} worst ratio"], worst[f"{op} worst length"] = max(ratios)
    return worst


class Report:
    def __init__(self, path, meta):
        self.file, self.meta = open(path, "a") if path else None, meta

    def record(self, **row):
        if self.file:
            self.file.write(json.dumps({**row, **self.meta}) + "\n")
            self.file.flush()


def implementations(without):
    both = {}
    if without != "fla":
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
        from fla.ops.kda import chunk_kda, fused_recurrent_kda

        both["fla"] = (chunk_kda, fused_recurrent_kda, chunk_gated_delta_rule)
    if without != "linnet":
        import linnet_torch

        both["linnet"] = (linnet_torch.chunk_kda, linnet_torch.fused_recurrent_kda, linnet_torch.chunk_gated_delta_rule)
    return both


def accuracy(report, both):
    """Ragged short sequences and one of 8191 tokens, each kind of input in its own heads."""
    for lengths in ([1, 15, 16, 17, 63, 64, 65], [8191]):
        for lower_bound in (None, cases.LOWER_BOUND):
            kinds = [k for k in cases.KINDS if (k == "bounded") == (lower_bound is not None)]
            heads = (kinds * 32)[:32]
            x, state = cases.make_inputs(heads, sum(lengths)), cases.make_state(len(lengths), 32)
            start = torch.tensor([sum(lengths[:i]) for i in range(len(lengths) + 1)], device="cuda")
            o, final = cases.reference(x, lengths, state, SCALE, lower_bound)
            results = {}
            for name, functions in both.items():
                for op, function in zip(("chunk_kda", "fused_recurrent_kda"), functions):
                    if op == "fused_recurrent_kda" and max(lengths) > 1000:
                        continue
                    results[f"{name} {op}"] = function(
                        **x, **LAYER, scale=SCALE, initial_state=state.clone(), output_final_state=True, cu_seqlens=start,
                        lower_bound=lower_bound,
                    )
            for kind in kinds:
                mine = [h for h in range(32) if heads[h] == kind]
                row = {"op": "kda_error", "kind": kind, "lengths": lengths}
                for name, (result, result_state) in results.items():
                    row[f"{name} o"] = error(result[0, :, mine], o[:, mine])
                    row[f"{name} state"] = error(result_state[:, mine], final[:, mine])
                row.update(worst_length(results, o, lengths, mine))
                report.record(**row)
                text = "  ".join(f"{k} {v:.2e}" for k, v in row.items() if isinstance(v, float))
                print(f"{kind:10s} T{max(lengths):5d}  {text}", flush=True)


def time_calls(report, op, shape, bytes_moved, bandwidth, calls_of, repeats=30):
    """calls_of: implementation -> its calls over different inputs."""
    floor = bytes_moved / bandwidth
    row = {"op": op, "shape": shape, "floor_us": floor, "copy_tb_s": bandwidth * 1e-6}
    for name, calls in calls_of.items():
        eager, graph = median_us(calls, repeats), graph_us(calls, max(5, repeats // len(calls)))
        for way, times in (("eager", eager), ("graph", graph)):
            if times:
                row[f"{name}_{way}_us"], row[f"{name}_{way}_p10_us"], row[f"{name}_{way}_p90_us"] = times
    best = {n: min(row[f"{n}_{w}_us"] for w in ("eager", "graph") if f"{n}_{w}_us" in row) for n in calls_of}
    first = best.get("linnet") or best["fla"]
    row["ratio_to_floor"] = floor / first
    row["ratio_to_fla"] = best.get("fla", math.nan) / first
    report.record(**row)
    times = "  ".join(f"{k[:-3]} {v:9.1f}" for k, v in row.items() if k.endswith(("eager_us", "graph_us")))
    print(f"{op:12s} {shape:24s} ratio {row['ratio_to_floor']:5.2f}  fla {row['ratio_to_fla']:5.2f}x  floor {floor:8.1f}  {times}", flush=True)


def prefill(report, both, bandwidth, only):
    shapes = [(1, 8192, 32), (8, 1024, 32), (1, 65536, 32), (1, 8192, 64), (1, 8192, 96)]
    tuned_heads = shapes[0][2]
    for kind, (n_sequences, n_tokens, n_heads) in itertools.product(("trained", "weak", "mixed", "strong"), shapes):
        shape = f"B{n_sequences} T{n_tokens} H{n_heads} {kind}"
        if only not in shape:
            continue
        if "fla" in both and n_heads != tuned_heads:
            fla_tuning.freeze()
        rows = n_sequences * n_tokens * n_heads
        sets = max(2, -(-2 * L2_BYTES // (rows * 1282)))
        inputs = []
        for i in range(sets):
            x = cases.make_inputs([kind] * n_heads, n_sequences * n_tokens, seed=i)
            for name in ("q", "k", "v", "g", "beta"):
                x[name] = x[name].view(n_sequences, n_tokens, *x[name].shape[2:])
            inputs.append((x, cases.make_state(n_sequences, n_heads)))
        calls = {
            name: [
                lambda x=x, state=state, chunk=functions[0]: chunk(
                    **x, **LAYER, scale=SCALE, initial_state=state, output_final_state=True)
                for x, state in inputs
            ]
            for name, functions in both.items()
        }
        time_calls(report, "kda_prefill", shape, rows * 1282 + 2 * n_sequences * n_heads * 65536, bandwidth, calls)


def gated_delta_net(report, both, bandwidth):
    """One gate a head, two value heads a key head, as Gated DeltaNet's layers call it."""
    for n_sequences, n_tokens in ((1, 8192), (8, 1024)):
        inputs = []
        for i in range(2):
            x = cases.make_inputs(["trained"] * 32, n_sequences * n_tokens, seed=i)
            x = {name: x[name].view(n_sequences, n_tokens, *x[name].shape[2:]) for name in ("q", "k", "v", "g", "beta")}
            x["q"], x["k"], x["g"] = x["q"][:, :, ::2].contiguous(), x["k"][:, :, ::2].contiguous(), -x["g"][..., 0].float().abs()
            inputs.append((x, cases.make_state(n_sequences, 32)))
        options = {"use_qk_l2norm_in_kernel": True, "use_beta_sigmoid_in_kernel": True, "scale": SCALE, "output_final_state": True}
        calls = {
            name: [lambda x=x, state=state, chunk=functions[2]: chunk(**x, **options, initial_state=state) for x, state in inputs]
            for name, functions in both.items()
        }
        rows = n_sequences * n_tokens * 32
        time_calls(report, "gdn_prefill", f"B{n_sequences} T{n_tokens} H32", rows * (256 + 512 + 6) + 2 * n_sequences * 32 * 65536, bandwidth, calls)


def short(report, both, bandwidth):
    """Short sequences: Linnet's recurrence against FLA's chunks, which chunk_kda chooses between where the prefill kernel does not serve."""
    for n_tokens in (64, 128, 256):
        inputs = [(cases.make_inputs(["trained"] * 32, n_tokens, seed=i), cases.make_state(1, 32)) for i in range(32)]
        calls = {
            name: [
                lambda x=x, state=state, op=functions[0 if name == "fla" else 1]: op(
                    **x, **LAYER, scale=SCALE, initial_state=state, output_final_state=True)
                for x, state in inputs
            ]
            for name, functions in both.items()
        }
        time_calls(report, "kda_short", f"B1 T{n_tokens} H32", 32 * (n_tokens * 1282 + 2 * 65536), bandwidth, calls)


def decode_steps(batch, sets, states):
    """Linnet's decode kernel: convolution, recurrence and gated norm of one token, each call in its own part of the pools."""
    import linnet_torch  # noqa: F401

    def normal(*shape):
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16)

    x = cases.make_inputs(["trained"] * 32, batch)
    pool = torch.cat(states)
    qkv, out_gate = normal(batch, 3, 32, 128), normal(batch, 32, 128)
    windows, weight, norm = normal(sets * batch, 3, 32, 128, 3), torch.randn(3, 32, 128, 4, device="cuda"), torch.ones(128, device="cuda")
    slots = torch.arange(sets * batch, device="cuda", dtype=torch.int32).view(sets, batch)
    return [
        lambda slot=slot: torch.ops.linnet.kda_decode(
            qkv, x["g"][0], x["beta"][0], out_gate, weight, norm, windows, pool, slot, x["A_log"], x["dt_bias"], SCALE, 1e-5, None, True)
        for slot in slots
    ]


def decode(report, both, bandwidth):
    """One token: the recurrence alone from convolved projections, into new states; and Linnet's kernel of the layer's whole step, in place,
    beside FLA's recurrence, which is less work."""
    for batch in (1, 32, 256):
        sets = max(2, 512 // batch)
        x = cases.make_inputs(["trained"] * 32, batch)
        for name in ("q", "k", "v", "g", "beta"):
            x[name] = x[name].view(batch, 1, *x[name].shape[2:])
        states = [cases.make_state(batch, 32) for _ in range(sets)]
        rows = batch * 32
        for v_first in (False, True):
            calls = {
                name: [
                    lambda state=state, step=functions[1]: step(
                        **x, **LAYER, scale=SCALE, initial_state=state, output_final_state=True, state_v_first=v_first)
                    for state in states
                ]
                for name, functions in both.items()
            }
            shape = f"B{batch} H32 {'[V, K]' if v_first else '[K, V]'}"
            time_calls(report, "kda_recurrent", shape, rows * (2 * 65536 + 1282), bandwidth, calls)
        if "linnet" in both:
            calls["linnet"] = decode_steps(batch, sets, states)
            time_calls(report, "kda_decode", f"B{batch} H32", rows * (2 * 65536 + 1282 + 2 * 2304), bandwidth, calls)


def meta(arguments):
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw", "--format=csv,noheader"]
    name, driver, sm, mem, power = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()[0].split(", ")
    import triton

    return {
        "date": time.strftime("%Y-%m-%d"), "gpu": name, "driver": driver, "clock_sm": sm, "clock_mem": mem, "power": power,
        "torch": torch.__version__, "triton": triton.__version__, "fla": arguments.fla_commit, "commit": arguments.commit,
    }


def main():
    parser = argparse.ArgumentParser()
    for flag in ("--accuracy", "--prefill", "--decode", "--gdn", "--short"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--only", default="", help="prefill: only shapes that contain this text")
    parser.add_argument("--without", choices=("fla", "linnet"))
    parser.add_argument("--records")
    parser.add_argument("--commit", default="")
    parser.add_argument("--fla-commit", default="bc3b101")
    parser.add_argument("--save-tuning")
    arguments = parser.parse_args()
    both = implementations(arguments.without)
    report = Report(arguments.records, meta(arguments))
    with torch.inference_mode():
        bandwidth = copy_bytes_per_us()
        print(f"copy {bandwidth * 1e-6:.3f} TB/s", flush=True)
        if arguments.decode:
            decode(report, both, bandwidth)
        if arguments.prefill:
            prefill(report, both, bandwidth, arguments.only)
        if arguments.short:
            short(report, both, bandwidth)
        if arguments.gdn:
            gated_delta_net(report, both, bandwidth)
        if arguments.accuracy:
            accuracy(report, both)
    if arguments.save_tuning:
        fla_tuning.save(arguments.save_tuning)


if __name__ == "__main__":
    os.environ.setdefault("FLA_FLASH_KDA", "0")
    main()
