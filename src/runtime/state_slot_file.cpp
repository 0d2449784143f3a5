// Export and import of a state slot.
#include <algorithm>
#include <cstring>

#include "core/errors.h"
#include "core/text.h"
#include "formats/state_file.h"
#include "runtime/state_slot.h"

namespace linnet::runtime {

using model::kStateBlock;
using model::Lifetime;
using model::StateSpec;

namespace {

constexpr const char* kTokensKey = "linnet.n_tokens";  // notes of callers may not use it

std::string section_name(size_t layer, const StateSpec& spec) { return cat("layers.", layer, ".", spec.name); }

// The spec's shape, after the number of rows when there is one for each token.
std::vector<int64_t> section_shape(const StateSpec& spec, int64_t n_tokens) {
  std::vector<int64_t> shape = spec.shape;
  if (spec.lifetime == Lifetime::per_token) shape.insert(shape.begin(), n_tokens);
  return shape;
}

}  // namespace

int64_t n_tokens_of(const formats::StateHeader& header, const std::string& place) {
  const auto found = header.metadata.find(kTokensKey);
  if (found == header.metadata.end())
    throw FormatError(cat(place, ": header: expected ", kTokensKey, ", got no such key"));
  const std::string& text = found->second;
  const bool digits = !text.empty() && text.size() <= 15 && text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits)
    throw FormatError(cat(place, ": header: ", kTokensKey, ": expected a number, got ", printable(text, 40)));
  return std::stoll(text);
}

void StateSlot::export_to(const std::filesystem::path& file, const std::map<std::string, std::string>& notes) const {
  if (n_tentative() > 0)
    throw InvalidArgument(
        cat(file.string(), ": the state holds ", n_tentative(), " tentative tokens; commit or roll back first"));
  formats::StateHeader header{.model = pool_->identity(), .metadata = {notes.begin(), notes.end()}};
  header.metadata[kTokensKey] = std::to_string(n_tokens_);
  std::vector<formats::StateSection> sections;
  const Buffer zeros(sequence_ ? 0 : pool_->sequence_bytes());  // what an empty state is
  for_each_state(pool_->specs(), [&](size_t layer, size_t i, const StateSpec& spec) {
    static constexpr std::byte kNothing{};
    const size_t at = pool_->offset(layer, i);
    formats::StateSection& section = sections.emplace_back();
    section.name = section_name(layer, spec);
    const std::byte* data = &kNothing;
    if (spec.lifetime == Lifetime::per_sequence) data = (sequence_ ? sequence_.data() : zeros.data()) + at;
    section.data = formats::view_of(data, spec.dtype, section_shape(spec, n_tokens_));
    if (spec.lifetime == Lifetime::per_sequence) return;
    for (int64_t row = 0; row < n_tokens_; row += kStateBlock) {
      const int64_t rows = std::min(kStateBlock, n_tokens_ - row);
      section.parts.emplace_back(blocks_[static_cast<size_t>(row / kStateBlock)].data() + at,
                                 static_cast<size_t>(rows * spec.bytes()));
    }
  });
  formats::write_state_file(file, header, sections);
}

std::map<std::string, std::string> StateSlot::import_from(const std::filesystem::path& path) {
  return import_from(formats::StateFile::read(path));
}

std::map<std::string, std::string> StateSlot::import_from(const formats::StateFile& file) {
  const std::string place = file.place();
  if (file.header().model != pool_->identity())
    throw FormatError(cat(place, ": a state of another model: expected ", pool_->identity(), ", got ",
                          printable(file.header().model, 40)));
  const int64_t n_tokens = n_tokens_of(file.header(), place);
  size_t expected = 0;
  for_each_state(pool_->specs(), [&](size_t layer, size_t, const StateSpec& spec) {
    ++expected;
    const std::string name = section_name(layer, spec);
    const std::vector<int64_t> shape = section_shape(spec, n_tokens);
    const std::optional<ConstTensor> t = file.find(name);
    const bool fits =
        t && t->dtype == spec.dtype && std::equal(t->dims().begin(), t->dims().end(), shape.begin(), shape.end());
    if (!fits)
      throw FormatError(cat(file.place(name), ": expected ", shape_text(shape), " ", name_of(spec.dtype), ", got ",
                            t ? text_of(*t) : "no such section"));
  });
  if (file.sections().size() != expected)
    throw FormatError(cat(place, ": expected ", expected, " sections, got ", file.sections().size()));

  // The last that can fail is memory; everything before has only read.
  StateSlot fresh(*pool_);
  fresh.sequence_ = pool_->take_sequence();
  if (pool_->block_bytes() > 0)
    for (int64_t row = 0; row < n_tokens; row += kStateBlock) fresh.blocks_.push_back(pool_->take_block());
  for_each_state(pool_->specs(), [&](size_t layer, size_t i, const StateSpec& spec) {
    const ConstTensor from = *file.find(section_name(layer, spec));
    const size_t at = pool_->offset(layer, i);
    if (spec.lifetime == Lifetime::per_sequence) {
      if (from.bytes() > 0) std::memcpy(fresh.sequence_.data() + at, from.data, static_cast<size_t>(from.bytes()));
      return;
    }
    for (int64_t row = 0; row < n_tokens; row += kStateBlock)
      std::memcpy(fresh.blocks_[static_cast<size_t>(row / kStateBlock)].data() + at, from.data + row * spec.bytes(),
                  static_cast<size_t>(std::min(kStateBlock, n_tokens - row) * spec.bytes()));
  });
  replace(n_tokens, std::move(fresh.blocks_), std::move(fresh.sequence_));
  std::map<std::string, std::string> notes(file.header().metadata.begin(), file.header().metadata.end());
  notes.erase(kTokensKey);
  return notes;
}

}  // namespace linnet::runtime
