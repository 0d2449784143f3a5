// manifest.json of a folder of token shards: what was read, and which files hold it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "train/data_config.h"
#include "train/documents.h"
#include "train/token_shard_file.h"
#include "train/token_shards.h"

namespace linnet::train {

constexpr const char* kManifestFile = "manifest.json";

struct ManifestShard {
  std::string file;  // in the folder of the manifest
  uint64_t checksum = 0;
};

struct ManifestSplit {
  int64_t documents = 0, tokens = 0, bytes = 0;  // bytes: of the documents' text
  std::vector<ManifestShard> shards;             // in order
};

struct ManifestSource {
  SourceConfig config;
  DocumentCounts counts;
  uint64_t hash = 0;  // xxHash64 of each document with the hash of those before as the seed, 0 for the first
  ManifestSplit splits[kSplits];
};

struct ShardManifest {
  TokenIds ids;
  double held_out = 0;
  std::string begin_token, end_token;  // empty: none
  std::vector<ManifestSource> sources;
};

std::string manifest_json(const ShardManifest& manifest);
// What a reader needs: counts, hash and configuration of a source are left out but for name and licence. Throws IoError, FormatError.
ShardManifest read_manifest(const std::filesystem::path& file);
ShardManifest parse_manifest(std::string_view text, const std::string& place);

}  // namespace linnet::train
