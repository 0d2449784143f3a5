"""FLA's own tests through Linnet's operators, as a plugin of pytest, on a Hopper GPU with FLA installed:

    python3 -m pytest -p fla_forward FLA/tests/ops/test_kda.py -k "chunk or recurrent" --rootdir FLA     (PYTHONPATH: this folder)
    and test_gdn.py

`import linnet_torch.fla` alone serves calls without gradients. Most of FLA's cases ask for gradients, which Linnet has not: here
chunk_kda and the like in the tests are linnet_torch's under no_grad, gradients are zeros, and comparisons of gradients (names beginning with d)
are left out; o and ht are compared as FLA wrote it. Calls that linnet_torch refuses go to FLA. The summary counts who took what.
"""

import collections

import pytest
import torch

import linnet_torch
import linnet_torch.fla  # noqa: F401
from linnet_torch import module

taken = collections.Counter()
_enqueue = module.Module.enqueue


def _counted(self, name, args, workspace, stream):
    taken[name] += 1
    return _enqueue(self, name, args, workspace, stream)


module.Module.enqueue = _counted


class ForwardOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, out, state, *inputs):
        ctx.save_for_backward(*inputs)
        return out.clone(), None if state is None else state.clone()

    @staticmethod
    def backward(ctx, *_):
        return None, None, *(torch.zeros_like(x) for x in ctx.saved_tensors)


def forward_only(ours, theirs):
    def call(*args, **kwargs):
        try:
            with torch.no_grad():
                out, state, *rest = ours(*args, **kwargs)
        except NotImplementedError as refused:
            taken[f"FLA ({refused})"] += 1
            return theirs(*args, **kwargs)
        inputs = [x for x in (*args, *kwargs.values()) if torch.is_tensor(x) and x.requires_grad]
        return (*(ForwardOnly.apply(out, state, *inputs) if inputs and torch.is_grad_enabled() else (out, state)), *rest)

    return call


@pytest.fixture(autouse=True)
def through_linnet(request, monkeypatch):
    for name in ("chunk_kda", "chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"):
        if hasattr(request.module, name):
            monkeypatch.setattr(request.module, name, forward_only(getattr(linnet_torch, name), getattr(request.module, name)))
    if hasattr(request.module, "assert_close") and request.function.__name__.startswith("test_chunk"):
        compare = request.module.assert_close

        def assert_close(prefix, *args, **kwargs):
            if not prefix.startswith("d"):
                compare(prefix, *args, **kwargs)

        monkeypatch.setattr(request.module, "assert_close", assert_close)
    yield


def pytest_terminal_summary(terminalreporter):
    for name, count in sorted(taken.items()):
        terminalreporter.write_line(f"{count:5d} {name}")
