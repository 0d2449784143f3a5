#include "formats/state_file.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "core/arena.h"
#include "core/errors.h"
#include "core/text.h"
#include "formats/atomic_file.h"
#include "formats/json_fields.h"
#include "formats/mapped_file.h"

namespace linnet::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is written as the numbers lie in memory");

struct Prefix {
  std::array<char, 8> magic;
  uint32_t version;
  uint32_t header_bytes;
  uint64_t file_bytes;
  uint64_t checksum;
};
static_assert(sizeof(Prefix) == 32 && offsetof(Prefix, checksum) == 24);

constexpr std::array<char, 8> kMagic = {'L', 'I', 'N', 'N', 'E', 'T', 'S', 'T'};

// The checksum, piece by piece in file order.
class Checksum {
 public:
  Checksum() { XXH64_reset(&state_, 0); }
  void add(const void* data, size_t bytes) { XXH64_update(&state_, data, bytes); }
  uint64_t value() const { return XXH64_digest(&state_); }

 private:
  XXH64_state_t state_;
};

std::string defect_of_parts(const StateSection& section) {
  size_t bytes = 0;
  for (const auto& part : section.parts) {
    if (bytes % kAlignment != 0) return cat("expected parts of a multiple of ", kAlignment, " bytes");
    bytes += part.size();
  }
  const auto expected = static_cast<size_t>(section.data.bytes());
  return bytes == expected ? "" : cat("expected parts of ", expected, " bytes, got ", bytes);
}

std::string header_json(const std::filesystem::path& path, const StateHeader& header,
                        std::span<const StateSection> sections) {
  nlohmann::ordered_json json = {
      {"model", header.model}, {"metadata", header.metadata}, {"sections", nlohmann::ordered_json::array()}};
  std::set<std::string_view> names;
  for (const StateSection& section : sections) {
    const TensorSpec spec{section.name, section.data.dtype, {section.data.dims().begin(), section.data.dims().end()}};
    std::string defect = names.insert(section.name).second ? defect_of(spec) : "expected one such section, got two";
    if (defect.empty() && !section.data) defect = "expected a tensor, got none";
    if (defect.empty() && !section.data.dense()) defect = "expected a dense tensor, got a strided one";
    if (defect.empty() && !section.parts.empty()) defect = defect_of_parts(section);
    if (!defect.empty()) throw InvalidArgument(cat(path.string(), ": ", printable(section.name, 120), ": ", defect));
    json["sections"].push_back({{"name", spec.name}, {"dtype", file_name_of(spec.dtype)}, {"shape", spec.shape}});
  }
  try {
    return json.dump();
  } catch (const nlohmann::json::exception&) {
    throw InvalidArgument(cat(path.string(), ": expected names and metadata in UTF-8"));
  }
}

enum class Check { all, header };

// Magic, version, length, checksum: in this order, so that the message names the first thing that is not a state file's.
Prefix check_prefix(std::span<const std::byte> file, std::string_view place, Check check) {
  Prefix prefix{};
  if (file.size() < sizeof prefix)
    throw FormatError(cat(place, ": expected a state file of at least ", sizeof prefix, " bytes, got ", file.size()));
  std::memcpy(&prefix, file.data(), sizeof prefix);
  const std::string_view magic(prefix.magic.data(), prefix.magic.size());
  if (prefix.magic != kMagic)
    throw FormatError(
        cat(place, ": byte 0: expected \"LINNETST\", got \"", printable(magic, 8), "\": not a state file"));
  if (prefix.version != kStateFileVersion)
    throw FormatError(cat(place, ": byte 8: expected version ", kStateFileVersion, ", got ", prefix.version));
  if (prefix.file_bytes != file.size())
    throw FormatError(cat(place, ": byte 16: expected the file's length ", file.size(), ", got ", prefix.file_bytes));
  if (check == Check::all)
    if (const uint64_t sum = state_file_checksum(file); prefix.checksum != sum)
      throw FormatError(cat(place, ": byte 24: expected checksum ", sum, " of the content, got ", prefix.checksum));
  if (prefix.header_bytes > file.size() - sizeof prefix)
    throw FormatError(cat(place, ": byte 12: expected a header of at most ", file.size() - sizeof prefix,
                          " bytes, got ", prefix.header_bytes));
  return prefix;
}

std::string_view header_text(std::span<const std::byte> file, const Prefix& prefix) {
  return {reinterpret_cast<const char*>(file.data()) + sizeof prefix, prefix.header_bytes};
}

StateHeader read_header(const JsonFields& fields) {
  StateHeader header{.model = fields.string("model"), .metadata = {}};
  const JsonFields metadata = fields.object("metadata");
  for (const std::string& key : metadata.keys()) header.metadata[key] = metadata.string(key);
  return header;
}

StateSection read_section(const JsonFields& fields, std::span<const std::byte> file, size_t& at) {
  StateSection section{fields.string("name"), {}};
  const std::optional<DType> dtype = dtype_of_file_name(fields.string("dtype"));
  if (!dtype) throw fields.error("dtype", "F32, BF16, F16, I32, I64 or U8");
  const TensorSpec spec{section.name, *dtype, fields.integers("shape", 0, INT64_MAX)};
  if (const std::string defect = defect_of(spec); !defect.empty())
    throw FormatError(cat(fields.place("name"), ": ", printable(spec.name, 120), ": ", defect));
  if (spec.shape.empty()) throw fields.error("shape", "at least one extent");
  const auto bytes = static_cast<size_t>(*bytes_of(spec.dtype, spec.shape));
  if (at > file.size() || bytes > file.size() - at)
    throw FormatError(cat(fields.place("shape"), ": ", printable(spec.name, 120), ": expected at most ",
                          file.size() - std::min(at, file.size()), " bytes, got ", bytes));
  section.data = view_of(file.data() + at, spec.dtype, spec.shape);
  at = aligned_size(at + bytes);
  return section;
}

}  // namespace

uint64_t state_file_checksum(std::span<const std::byte> file) {
  Checksum sum;
  sum.add(file.data(), offsetof(Prefix, checksum));
  sum.add(file.data() + sizeof(Prefix), file.size() - sizeof(Prefix));
  return sum.value();
}

void write_state_file(const std::filesystem::path& path, const StateHeader& header,
                      std::span<const StateSection> sections) {
  static constexpr std::byte kZeros[kAlignment] = {};
  const std::string json = header_json(path, header, sections);
  // All pieces of the file after the prefix, in order; each is followed by zeros up to a multiple of kAlignment.
  std::vector<std::span<const std::byte>> pieces = {std::as_bytes(std::span(json))};
  for (const StateSection& section : sections) {
    if (section.parts.empty()) pieces.emplace_back(section.data.data, static_cast<size_t>(section.data.bytes()));
    else pieces.insert(pieces.end(), section.parts.begin(), section.parts.end());
  }
  uint64_t file_bytes = sizeof(Prefix);
  for (const auto& piece : pieces) file_bytes = aligned_size(file_bytes + piece.size());
  Prefix prefix{kMagic, kStateFileVersion, static_cast<uint32_t>(json.size()), file_bytes, 0};

  AtomicFile file(path);
  file.reserve(file_bytes);
  Checksum sum;
  sum.add(&prefix, offsetof(Prefix, checksum));
  uint64_t at = sizeof(Prefix);
  for (const auto& piece : pieces) {
    const std::span<const std::byte> padding(kZeros, aligned_size(at + piece.size()) - at - piece.size());
    for (const auto& part : {piece, padding}) {
      sum.add(part.data(), part.size());
      file.write_at(at, part);
      at += part.size();
    }
  }
  prefix.checksum = sum.value();
  file.write_at(0, std::as_bytes(std::span(&prefix, 1)));
  file.commit();
}

struct StateFile::State {
  MappedFile file;  // none when the bytes are someone else's
  std::string place;
  StateHeader header;
  std::vector<StateSection> sections;

  void parse(std::span<const std::byte> bytes) {
    const Prefix prefix = check_prefix(bytes, place, Check::all);
    const JsonFields fields = JsonFields::parse(header_text(bytes, prefix), place);
    header = read_header(fields);
    size_t at = aligned_size(sizeof prefix + prefix.header_bytes);
    std::set<std::string> names;
    for (const JsonFields& section : fields.objects("sections")) {
      sections.push_back(read_section(section, bytes, at));
      if (!names.insert(sections.back().name).second) throw section.error("name", "another name for each section");
    }
    fields.refuse_unread_keys();
    if (at != bytes.size())
      throw FormatError(cat(place, ": expected ", at, " bytes as the header says, got ", bytes.size()));
  }
};

StateFile StateFile::read(const std::filesystem::path& path) {
  auto state = std::make_shared<State>();
  state->file = MappedFile(path);
  state->place = path.string();
  state->parse(state->file.bytes());
  return StateFile(std::move(state));
}

StateFile StateFile::from_memory(std::span<const std::byte> file, std::string place) {
  auto state = std::make_shared<State>();
  state->place = std::move(place);
  state->parse(file);
  return StateFile(std::move(state));
}

StateHeader read_state_header(const std::filesystem::path& path) {
  const MappedFile file(path);
  const Prefix prefix = check_prefix(file.bytes(), path.string(), Check::header);
  return read_header(JsonFields::parse(header_text(file.bytes(), prefix), path.string()));
}

const StateHeader& StateFile::header() const { return state_->header; }
const std::vector<StateSection>& StateFile::sections() const { return state_->sections; }

const std::string& StateFile::place() const { return state_->place; }

std::optional<ConstTensor> StateFile::find(std::string_view name) const {
  for (const StateSection& section : state_->sections)
    if (section.name == name) return section.data;
  return std::nullopt;
}

std::string StateFile::place(std::string_view section) const {
  return cat(state_->place, ": ", printable(section, 120));
}

}  // namespace linnet::formats
