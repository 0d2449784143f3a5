#include "train/tokenizer_files.h"

#include "formats/atomic_file.h"
#include "formats/mapped_file.h"

namespace linnet::train {
namespace {

// What a tokenizer's folder may have beside the first, which it must have.
constexpr const char* kTokenizerFiles[] = {"tiktoken.model", "tokenizer_config.json", "special_tokens_map.json",
                                           "chat_template.jinja"};

}  // namespace

void copy_tokenizer_files(const std::filesystem::path& from, const std::filesystem::path& to) {
  for (const char* name : kTokenizerFiles) {
    if (name != kTokenizerFiles[0] && !std::filesystem::exists(from / name)) continue;
    formats::AtomicFile file(to / name);
    file.append(formats::MappedFile(from / name).bytes());
    file.commit();
  }
}

}  // namespace linnet::train
