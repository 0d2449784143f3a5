"""The kernels' shared library and its C structures, by ctypes. Knows nothing of torch.

The mirrors below are those of src/core/device_abi.h and, under src/ops/, of linear_attn_sm90.h, linear_attn_sm90_recurrent.h,
short_conv_sm90.h and norm_sm90.h; tests/test_layout.py compares every offset with what a C++ compiler says.
"""

import ctypes
import functools
import os
import pathlib
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p

ABI_VERSION = 1
LIBRARY = "liblinnet_cuda.so"


class GateArgs(Structure):
    _fields_ = [("a_log", c_void_p), ("dt_bias", c_void_p), ("gate", c_uint8), ("lower_bound", c_float)]


class PrefillArgs(Structure):
    _fields_ = [
        ("q", c_void_p),
        ("k", c_void_p),
        ("v", c_void_p),
        ("z", c_void_p),
        ("beta", c_void_p),
        ("out", c_void_p),
        ("token_stride", c_int64),
        ("seq_start", c_void_p),
        ("seq_start_is_64", c_bool),
        ("n_sequences", c_int32),
        ("n_heads", c_int32),
        ("n_tokens", c_int64),
        ("state", c_void_p),
        ("state_in", c_void_p),
        ("state_out", c_void_p),
        ("scale", c_float),
        ("gate", GateArgs),
        ("beta_value", c_void_p),
        ("qk_stride", c_int64),
        ("z_stride", c_int64),
        ("out_stride", c_int64),
        ("n_qk_heads", c_int32),
        ("normalize_qk", c_bool),
        ("input", c_uint8),
        ("state_type", c_uint8),
        ("state_v_first", c_bool),
        ("checkpoints", c_void_p),
        ("whole_chains", c_bool),
        ("head_dim", c_int32),
    ]


class DecodeArgs(Structure):
    _fields_ = [
        ("qkv", c_void_p),
        ("z", c_void_p),
        ("beta", c_void_p),
        ("out_gate", c_void_p),
        ("conv_weight", c_void_p),
        ("norm_weight", c_void_p),
        ("out", c_void_p),
        ("conv_state", c_void_p),
        ("state", c_void_p),
        ("slot", c_void_p),
        ("n_sequences", c_int32),
        ("n_heads", c_int32),
        ("scale", c_float),
        ("norm_eps", c_float),
        ("gate", GateArgs),
        ("pools_settled", c_bool),
        ("state_type", c_uint8),
        ("state_v_first", c_bool),
        ("out_gate_silu", c_bool),
        ("head_dim", c_int32),
    ]


class RecurrentArgs(Structure):
    _fields_ = [
        ("q", c_void_p),
        ("k", c_void_p),
        ("v", c_void_p),
        ("g", c_void_p),
        ("beta", c_void_p),
        ("out", c_void_p),
        ("a_log", c_void_p),
        ("dt_bias", c_void_p),
        ("seq_start", c_void_p),
        ("state_in", c_void_p),
        ("state_out", c_void_p),
        ("slots", c_void_p),
        ("n_accepted", c_void_p),
        ("slots_stride", c_int64),
        ("state_stride", c_int64),
        ("n_tokens", c_int64),
        ("n_sequences", c_int32),
        ("n_qk_heads", c_int32),
        ("n_heads", c_int32),
        ("k_dim", c_int32),
        ("v_dim", c_int32),
        ("type", c_int32),
        ("g_type", c_int32),
        ("beta_type", c_int32),
        ("gate", c_int32),
        ("scale", c_float),
        ("lower_bound", c_float),
        ("normalize", c_int32),
        ("beta_logits", c_int32),
        ("beta_max", c_float),
        ("beta_per_value", c_int32),
        ("state_v_first", c_int32),
        ("seq_start_is_64", c_int32),
        ("state_type", c_int32),
    ]


class ShortConvArgs(Structure):
    _fields_ = [
        ("x", c_void_p),
        ("weight", c_void_p),
        ("y", c_void_p),
        ("seq_start", c_void_p),
        ("state", c_void_p),
        ("state_in", c_void_p),
        ("state_out", c_void_p),
        ("x_stride", c_int64),
        ("y_stride", c_int64),
        ("n_tokens", c_int64),
        ("n_sequences", c_int32),
        ("n_channels", c_int32),
        ("seq_start_is_64", c_int32),
        ("silu", c_int32),
    ]


class RmsNormArgs(Structure):
    _fields_ = [
        ("x", c_void_p),
        ("weight", c_void_p),
        ("y", c_void_p),
        ("x_stride", c_int64),
        ("y_stride", c_int64),
        ("n_rows", c_int64),
        ("width", c_int32),
        ("eps", c_float),
    ]


class GatedNormArgs(Structure):
    _fields_ = [
        ("x", c_void_p),
        ("gate", c_void_p),
        ("weight", c_void_p),
        ("y", c_void_p),
        ("x_stride", c_int64),
        ("gate_stride", c_int64),
        ("y_stride", c_int64),
        ("n_tokens", c_int64),
        ("n_heads", c_int32),
        ("eps", c_float),
        ("silu", c_int32),
    ]


class DeviceInfo(Structure):
    _fields_ = [
        ("name", ctypes.c_char * 256),
        ("bus_id", ctypes.c_char * 32),
        ("compute_major", c_int32),
        ("compute_minor", c_int32),
        ("n_multiprocessors", c_int32),
        ("usable", c_int32),
        ("memory_bytes", c_uint64),
        ("l2_bytes", c_uint64),
        ("shared_bytes", c_uint64),
    ]


class Operator(Structure):
    _fields_ = [
        ("name", c_char_p),
        ("args_bytes", c_uint64),
        ("workspace_bytes", ctypes.CFUNCTYPE(c_uint64, c_void_p)),
        ("enqueue", ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p)),
    ]


class ModuleTable(Structure):
    """The members up to error_text; the library's table goes on."""

    _fields_ = [
        ("abi_version", c_uint32),
        ("table_bytes", c_uint32),
        ("kind", c_char_p),
        ("driver_wanted", c_char_p),
        ("devices_wanted", c_char_p),
        ("runtime_version", c_int32),
        ("n_operators", c_int32),
        ("operators", POINTER(Operator)),
        ("driver_version", ctypes.CFUNCTYPE(c_int32, POINTER(c_int32))),
        ("device_count", ctypes.CFUNCTYPE(c_int32, POINTER(c_int32))),
        ("device_info", ctypes.CFUNCTYPE(c_int32, c_int32, POINTER(DeviceInfo))),
        ("set_device", ctypes.CFUNCTYPE(c_int32, c_int32)),
        ("memory_info", ctypes.CFUNCTYPE(c_int32, POINTER(c_uint64), POINTER(c_uint64))),
        ("error_text", ctypes.CFUNCTYPE(c_char_p, c_int32)),
    ]


# Operator names of the library and their arguments.
ARGUMENTS = {
    "kda_prefill_sm90": PrefillArgs,
    "kda_decode_sm90": DecodeArgs,
    "kda_recurrent_sm90": RecurrentArgs,
    "short_conv_sm90": ShortConvArgs,
    "rms_norm_sm90": RmsNormArgs,
    "gated_norm_sm90": GatedNormArgs,
}


def library_path():
    """LINNET_CUDA_MODULE if set, else the library that the package was built with."""
    return os.environ.get("LINNET_CUDA_MODULE") or str(pathlib.Path(__file__).with_name(LIBRARY))


class Module:
    def __init__(self, path):
        self._library = ctypes.CDLL(path)
        function = self._library.linnet_device_module
        function.restype, function.argtypes = POINTER(ModuleTable), []
        self.table = function().contents
        if self.table.abi_version != ABI_VERSION:
            raise ImportError(f"{path}: expected device ABI {ABI_VERSION}, got {self.table.abi_version}")
        found = {o.name.decode(): o for o in self.table.operators[: self.table.n_operators]}
        self._operators = {}
        for name, args in ARGUMENTS.items():
            if name not in found:
                raise ImportError(f"{path}: no operator {name}")
            if found[name].args_bytes != ctypes.sizeof(args):
                raise ImportError(f"{path}: {name}: expected arguments of {ctypes.sizeof(args)} bytes, got {found[name].args_bytes}")
            self._operators[name] = found[name]

    def workspace_bytes(self, name, args):
        return self._operators[name].workspace_bytes(ctypes.addressof(args))

    def enqueue(self, name, args, workspace, stream):
        status = self._operators[name].enqueue(ctypes.addressof(args), workspace, stream)
        if status:
            raise RuntimeError(f"{name}: {self.table.error_text(status).decode()}")

    @functools.cached_property
    def prefill_dims(self):
        """Widths of heads that the prefill kernel is built for: a call without sequences says so, and does nothing."""
        enqueue, calls = self._operators["kda_prefill_sm90"].enqueue, [PrefillArgs(head_dim=d) for d in (128, 64)]
        return tuple(call.head_dim for call in calls if enqueue(ctypes.addressof(call), None, None) == 0)

    def usable(self, device):
        """None, or why the device is not one."""
        info = DeviceInfo()
        status = self.table.device_info(device, info)
        if status:
            return f"device {device}: {self.table.error_text(status).decode()}"
        if not info.usable:
            wanted = self.table.devices_wanted.decode()
            return f"device {device}: expected {wanted}, got {info.name.decode()} ({info.compute_major}.{info.compute_minor})"
        return None


@functools.lru_cache(maxsize=None)
def load():
    return Module(library_path())
