"""The C structures of linnet_torch.module against a C++ compiler's: sizes and offsets. Needs a compiler, neither torch nor a GPU.

Run alone (python3 tests/test_layout.py) or by pytest.
"""

import ctypes
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "linnet_torch"
SOURCE = PACKAGE.parents[2] / "src"


def load_module():
    """linnet_torch.module without the package, which imports torch."""
    spec = importlib.util.spec_from_file_location("linnet_module", PACKAGE / "module.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MIRRORS = {  # C++ name: (header, name of the mirror)
    "linnet::ops::KdaGateArgs": ("ops/linear_attn/linear_attn_sm90.h", "GateArgs"),
    "linnet::ops::KdaPrefillSm90": ("ops/linear_attn/linear_attn_sm90.h", "PrefillArgs"),
    "linnet::ops::KdaDecodeSm90": ("ops/linear_attn/linear_attn_sm90.h", "DecodeArgs"),
    "linnet::ops::KdaRecurrentSm90": ("ops/linear_attn/linear_attn_sm90_recurrent.h", "RecurrentArgs"),
    "linnet::ops::ShortConvSm90": ("ops/short_conv/short_conv_sm90.h", "ShortConvArgs"),
    "linnet::ops::RmsNormSm90": ("ops/norm/norm_sm90.h", "RmsNormArgs"),
    "linnet::ops::GatedNormSm90": ("ops/norm/norm_sm90.h", "GatedNormArgs"),
    "LinnetDeviceInfo": ("core/device_abi.h", "DeviceInfo"),
    "LinnetDeviceOperator": ("core/device_abi.h", "Operator"),
    "LinnetDeviceModule": ("core/device_abi.h", "ModuleTable"),
}
PREFIX_ONLY = {"LinnetDeviceModule"}  # the mirror ends before the C structure does


def members(mirror):
    return [(name, getattr(mirror, name).offset, getattr(mirror, name).size) for name, *_ in mirror._fields_]


def compiled_layout(mirrors):
    """{C++ name: (size, [(member, offset, size)])} as the compiler sees them; also fails to compile where a member is not there."""
    lines = [f'#include "{header}"' for header in sorted({h for h, _ in mirrors.values()})]
    lines += ["#include <cstddef>", "#include <cstdio>", "int main() {"]
    module = load_module()
    for name, (_, mirror) in mirrors.items():
        lines.append(f'  std::printf("= {name} %zu\\n", sizeof({name}));')
        for member, _, _ in members(getattr(module, mirror)):
            lines.append(f'  std::printf("{member} %zu %zu\\n", offsetof({name}, {member}), sizeof({name}::{member}));')
    lines.append("}")
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++-14")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "layout.cpp"
        path.write_text("\n".join(lines) + "\n")
        subprocess.run([compiler, "-std=c++20", "-I", str(SOURCE), str(path), "-o", folder + "/layout"], check=True)
        output = subprocess.run([folder + "/layout"], check=True, capture_output=True, text=True).stdout
    layout = {}
    for line in output.splitlines():
        fields = line.split()
        if fields[0] == "=":
            layout[fields[1]] = (int(fields[2]), [])
        else:
            list(layout.values())[-1][1].append((fields[0], int(fields[1]), int(fields[2])))
    return layout


def test_every_offset_and_size():
    module = load_module()
    for name, (size, found) in compiled_layout(MIRRORS).items():
        mirror = getattr(module, MIRRORS[name][1])
        assert members(mirror) == found, name
        assert (ctypes.sizeof(mirror) <= size) if name in PREFIX_ONLY else (ctypes.sizeof(mirror) == size), name


def test_every_member_in_order():
    """Offsets agree also where a member was added in the middle and another of its size removed: names must agree, too."""
    for name, (header, mirror) in MIRRORS.items():
        text = (SOURCE / header).read_text()
        body = re.sub(r"//[^\n]*", "", re.search(r"struct " + name.split("::")[-1] + r" \{(.*?)\n\}", text, re.S).group(1))
        found = []
        for declaration in body.split(";"):
            declaration = re.sub(r"\s*=\s*[^,;]+", "", declaration).strip()
            function = re.search(r"\(\*(\w+)\)\(", declaration)
            if function:
                found.append(function.group(1))
            elif declaration:
                found += [re.search(r"(\w+)\s*(\[\w+\])?$", part.strip()).group(1) for part in declaration.split(",")]
        wanted = [n for n, *_ in getattr(load_module(), mirror)._fields_]
        assert wanted == (found[: len(wanted)] if name in PREFIX_ONLY else found), name


def test_constants():
    text = (SOURCE / "core/device_abi.h").read_text()
    module = load_module()
    assert f"#define LINNET_DEVICE_ABI {module.ABI_VERSION}\n" in text
    recurrent = (SOURCE / "ops/linear_attn/linear_attn_sm90_recurrent.h").read_text()
    assert "enum class KdaType : int32_t { f32, f16, bf16 };" in recurrent
    assert "enum class KdaRecurrentGate : int32_t { log_decay, softplus, lower_bound };" in recurrent
    prefill = (SOURCE / "ops/linear_attn/linear_attn_sm90.h").read_text()
    assert "enum class KdaGate : uint8_t { softplus, lower_bound, log_decay, head_softplus, head_log_decay };" in prefill
    assert "enum class KdaInput : uint8_t { bf16, f16 };" in prefill


def test_library_where_one_is_built():
    """The library's own table, which needs no GPU to be read."""
    path = os.environ.get("LINNET_CUDA_MODULE")
    if path:
        module = load_module().Module(path)
        assert module.prefill_dims in ((128,), (128, 64))


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print("ok", name)
    sys.exit(0)
