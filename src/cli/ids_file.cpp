#include "cli/ids_file.h"

#include "core/errors.h"
#include "core/text.h"
#include "formats/checkpoint.h"

namespace linnet::cli {

IdsFile read_ids_file(const std::filesystem::path& file, int64_t vocab_size) {
  const formats::Checkpoint checkpoint = formats::Checkpoint::open(file);
  const std::string place = checkpoint.place("input_ids");
  const std::optional<ConstTensor> t = checkpoint.find("input_ids");
  if (!t || t->rank != 2 || (t->dtype != DType::i32 && t->dtype != DType::i64))
    throw FormatError(cat(place, ": expected [B, T] i32 or i64, got ", t ? text_of(*t) : "no such tensor"));
  IdsFile out{.n_rows = (*t)[0], .n_tokens = (*t)[1]};
  out.ids.reserve(static_cast<size_t>(t->elements()));
  for (int64_t i = 0; i < t->elements(); ++i) {
    const int64_t id = t->dtype == DType::i32 ? t->as<int32_t>()[i] : t->as<int64_t>()[i];
    if (id < 0 || id >= vocab_size)
      throw FormatError(cat(place, ": [", i / out.n_tokens, ", ", i % out.n_tokens, "]: expected an id in [0, ",
                            vocab_size, "), got ", id));
    out.ids.push_back(static_cast<int32_t>(id));
  }
  return out;
}

}  // namespace linnet::cli
