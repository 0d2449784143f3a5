// Export and import of a state slot.
#include "core/errors.h"
#include "core/text.h"
#include "formats/state_file.h"
#include "runtime/state_slot.h"

namespace linnet::runtime {

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

int64_t read_n_tokens(const formats::StateFile& file, const std::string& place) {
  const auto found = file.header().metadata.find(kTokensKey);
  if (found == file.header().metadata.end())
    throw FormatError(cat(place, ": header: expected ", kTokensKey, ", got no such key"));
  const std::string& text = found->second;
  const bool digits = !text.empty() && text.size() <= 15 && text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits)
    throw FormatError(cat(place, ": header: ", kTokensKey, ": expected a number, got ", printable(text, 40)));
  return std::stoll(text);
}

}  // namespace

void StateSlot::export_to(const std::filesystem::path& file, const std::map<std::string, std::string>& notes) const {
  if (n_tentative() > 0)
    throw InvalidArgument(
        cat(file.string(), ": the state holds ", n_tentative(), " tentative tokens; commit or roll back first"));
  formats::StateHeader header{.model = identity_, .metadata = {notes.begin(), notes.end()}};
  header.metadata[kTokensKey] = std::to_string(n_tokens_);
  std::vector<formats::StateSection> sections;
  for_each([&](size_t layer, size_t, const StateSpec& spec, size_t flat) {
    static constexpr std::byte kNothing{};
    const std::byte* data = tensors_[flat].data() ? tensors_[flat].data() : &kNothing;
    sections.push_back({section_name(layer, spec), formats::view_of(data, spec.dtype, section_shape(spec, n_tokens_))});
  });
  formats::write_state_file(file, header, sections);
}

std::map<std::string, std::string> StateSlot::import_from(const std::filesystem::path& path) {
  const formats::StateFile file = formats::StateFile::read(path);
  const std::string place = path.string();
  if (file.header().model != identity_)
    throw FormatError(
        cat(place, ": a state of another model: expected ", identity_, ", got ", printable(file.header().model, 40)));
  const int64_t n_tokens = read_n_tokens(file, place);
  size_t expected = 0;
  for_each([&](size_t layer, size_t, const StateSpec& spec, size_t) {
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

  reserve_rows(n_tokens);  // the last thing that can fail; everything before it has only read
  for_each([&](size_t layer, size_t, const StateSpec& spec, size_t flat) {
    const ConstTensor from = *file.find(section_name(layer, spec));
    if (from.bytes() > 0) std::memcpy(tensors_[flat].data(), from.data, static_cast<size_t>(from.bytes()));
  });
  snapshot_.clear(), tentative_.clear();
  n_tokens_ = n_committed_ = n_tokens;
  std::map<std::string, std::string> notes(file.header().metadata.begin(), file.header().metadata.end());
  notes.erase(kTokensKey);
  return notes;
}

}  // namespace linnet::runtime
