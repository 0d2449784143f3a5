// Any text as the manifest of token shards: refused with FormatError, or files that lie in its folder and counts that are none below 0.
#include "core/errors.h"
#include "train/shard_manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace linnet;
  try {
    const train::ShardManifest manifest =
        train::parse_manifest({reinterpret_cast<const char*>(data), size}, "manifest");
    for (const train::ManifestSource& source : manifest.sources)
      for (const train::ManifestSplit& split : source.splits) {
        if (split.documents < 0 || split.tokens < 0 || split.bytes < 0) __builtin_trap();
        for (const train::ManifestShard& shard : split.shards)
          if (shard.file.empty() || shard.file.find('/') != shard.file.npos) __builtin_trap();
      }
  } catch (const FormatError&) {}
  return 0;
}
