// Token shards from text: what `linnet data build` does.
#pragma once

#include <cstdint>
#include <filesystem>

#include "core/function_ref.h"
#include "core/thread_pool.h"
#include "formats/tokenizer.h"
#include "train/data_config.h"
#include "train/shard_manifest.h"

namespace linnet::train {

struct DataBuildOptions {
  int64_t max_shard_tokens = int64_t{1} << 28;  // a shard ends after the document that reaches it
  std::filesystem::path tokenizer_folder;       // whose files are copied beside the shards; empty: none
};

// Reads every document of the config, encodes it (names of special tokens in it are text), and writes it with its begin and end
// token into a shard of its source: of the held-out split when the xxHash64 of its bytes, seed 0, as a fraction of 2^64 is below
// config.held_out. So equal documents are in one split, and the split does not change when other documents come or go.
// The folder must be new or empty; the manifest is written last. Files do not depend on the thread count.
// Throws InvalidArgument (folder, special token), IoError, FormatError.
ShardManifest build_data(const std::filesystem::path& dir, const DataConfig& config,
                         const formats::Tokenizer& tokenizer, ThreadPool& pool, const DataBuildOptions& options,
                         FunctionRef<void(int64_t done_bytes, int64_t total_bytes)> progress);

}  // namespace linnet::train
