// What a device module, a shared library opened at run time, offers: one exported function that gives a table of plain C functions.
// This header is C and Python (ctypes) can follow it: pointers, sizes and 32-bit integers in the order written here, no padding
// beyond natural alignment. Core's classes over it: device.h. How to add a device or an operator: docs/adding-a-device.md.
//
// Functions that return int return 0, or a status whose text error_text gives. Functions that take a stream enqueue and return; a
// null stream is the device's default one. Memory, streams and events belong to the device that is current on the calling thread
// (set_device), also when they are used. Memory and streams of another library on the same device, as torch's, may be passed.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LINNET_DEVICE_ABI 1

typedef struct LinnetDeviceInfo {
  char name[256];
  char bus_id[32];  // "0000:1b:00.0"
  int32_t compute_major, compute_minor;
  int32_t n_multiprocessors;
  int32_t usable;  // 1: the module holds code for this device
  uint64_t memory_bytes;
  uint64_t l2_bytes;
  uint64_t shared_bytes;  // that one block may have
} LinnetDeviceInfo;

// An operator: its struct of arguments (the operator's header under src/ops/ has it) goes in by pointer, read before enqueue returns.
typedef struct LinnetDeviceOperator {
  const char* name;                               // "kda_decode_sm90"
  uint64_t args_bytes;                            // sizeof the struct: what the caller's must equal
  uint64_t (*workspace_bytes)(const void* args);  // of 256-byte aligned device memory; 0: workspace may be null
  int32_t (*enqueue)(const void* args, void* workspace, void* stream);
} LinnetDeviceOperator;

typedef struct LinnetDeviceModule {
  uint32_t abi_version;        // LINNET_DEVICE_ABI; the first member in every version
  uint32_t table_bytes;        // sizeof(LinnetDeviceModule)
  const char* kind;            // "cuda"
  const char* driver_wanted;   // "NVIDIA's driver (libcuda.so.1) for CUDA 13 or newer"
  const char* devices_wanted;  // what the module holds code for: "compute capability 9.0 (Hopper)"
  int32_t runtime_version;     // 13000: built with CUDA 13.0
  int32_t n_operators;
  const LinnetDeviceOperator* operators;

  int32_t (*driver_version)(int32_t* version);  // 13000: the driver knows CUDA 13.0; 0: there is no driver
  int32_t (*device_count)(int32_t* count);
  int32_t (*device_info)(int32_t device, LinnetDeviceInfo* info);
  int32_t (*set_device)(int32_t device);
  int32_t (*memory_info)(uint64_t* free_bytes, uint64_t* total_bytes);
  const char* (*error_text)(int32_t status);    // "cudaErrorMemoryAllocation: out of memory"; static
  int32_t (*is_out_of_memory)(int32_t status);  // 1 or 0

  int32_t (*allocate)(void** memory, uint64_t bytes);  // at least 256-byte aligned, contents undefined
  int32_t (*release)(void* memory);
  int32_t (*allocate_host)(void** memory, uint64_t bytes);  // page-locked: copies from and to it do not block
  int32_t (*release_host)(void* memory);
  int32_t (*copy)(void* to, const void* from, uint64_t bytes, void* stream);  // any direction
  int32_t (*fill)(void* to, int32_t byte, uint64_t bytes, void* stream);

  int32_t (*stream_create)(void** stream);  // does not wait for the default stream
  int32_t (*stream_destroy)(void* stream);
  int32_t (*stream_synchronize)(void* stream);
  int32_t (*stream_wait)(void* stream, void* event);

  int32_t (*event_create)(void** event);
  int32_t (*event_destroy)(void* event);
  int32_t (*event_record)(void* event, void* stream);
  int32_t (*event_synchronize)(void* event);
  int32_t (*event_done)(void* event, int32_t* done);  // 1 or 0
  int32_t (*event_elapsed)(float* milliseconds, void* begin, void* end);
} LinnetDeviceModule;

// The one exported symbol. Never null; touches no device.
typedef const LinnetDeviceModule* (*LinnetDeviceModuleFunction)(void);
#define LINNET_DEVICE_MODULE_SYMBOL "linnet_device_module"

#ifdef __cplusplus
}
#endif
