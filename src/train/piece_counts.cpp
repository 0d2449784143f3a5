#include "train/piece_counts.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>

#include "core/errors.h"
#include "core/text.h"
#include "formats/utf8.h"

namespace linnet::train {
namespace {

constexpr size_t kFirstSlots = 1 << 12;
constexpr size_t kLeastLimit = size_t{1} << 20;

uint64_t hash_of(std::string_view piece) { return XXH3_64bits(piece.data(), piece.size()); }

}  // namespace

PieceCounts::PieceCounts(size_t limit_bytes) : limit_bytes_(limit_bytes), slots_(kFirstSlots, 0) {
  if (limit_bytes < kLeastLimit)
    throw InvalidArgument(
        cat("piece counts: memory: expected at least ", bytes_text(kLeastLimit), ", got ", bytes_text(limit_bytes)));
}

size_t PieceCounts::slot_of(std::string_view text, uint64_t hash) const noexcept {
  const size_t mask = slots_.size() - 1;
  const auto tag = static_cast<uint32_t>(hash >> 32);
  size_t at = hash & mask;
  while (slots_[at] != 0 && !(entries_[slots_[at] - 1].tag == tag && piece(slots_[at] - 1) == text))
    at = (at + 1) & mask;
  return at;
}

void PieceCounts::rebuild(size_t n_slots) {
  slots_.assign(n_slots, 0);
  for (uint32_t i = 0; i < entries_.size(); ++i) slots_[slot_of(piece(i), hash_of(piece(i)))] = i + 1;
}

void PieceCounts::add(std::string_view text, int64_t count) {
  if (text.empty()) return;
  const uint64_t hash = hash_of(text);
  size_t slot = slot_of(text, hash);
  if (slots_[slot] != 0) {
    entries_[slots_[slot] - 1].count += count;
    return;
  }
  if (cost_ + cost_bytes(text.size()) > limit_bytes_) prune(), slot = slot_of(text, hash);
  if (2 * (entries_.size() + 1) > slots_.size()) rebuild(slots_.size() * 2), slot = slot_of(text, hash);
  entries_.push_back({arena_.size(), count, static_cast<uint32_t>(text.size()), static_cast<uint32_t>(hash >> 32)});
  arena_ += text;
  slots_[slot] = static_cast<uint32_t>(entries_.size());
  cost_ += cost_bytes(text.size());
}

void PieceCounts::add_text(const formats::PreTokenizer& pre_tokenizer, std::string_view text, int64_t count) {
  formats::for_each_slice(text, [&](std::string_view slice) {
    while (!slice.empty()) {
      const size_t n = formats::utf8_valid_prefix(slice);
      pre_tokenizer.for_each_piece(slice.substr(0, n), [&](std::string_view piece) { add(piece, count); });
      slice.remove_prefix(std::min(n + 1, slice.size()));
    }
  });
}

// Forgets by rising count until half the limit is free.
void PieceCounts::prune() {
  ++n_prunings_;
  for (int64_t least = 1; cost_ > limit_bytes_ / 2; least *= 2) {
    keep_above(least);
    forgotten_below_ = std::max(forgotten_below_, least);
  }
  rebuild(std::max(kFirstSlots, std::bit_ceil(entries_.size() * 2 + 2)));
}

void PieceCounts::keep_above(int64_t count) {
  size_t n_kept = 0, arena_end = 0;
  cost_ = 0;
  for (Entry entry : entries_) {
    if (entry.count <= count) continue;
    std::copy_n(arena_.data() + entry.begin, entry.size, arena_.data() + arena_end);
    entry.begin = arena_end;
    arena_end += entry.size;
    cost_ += cost_bytes(entry.size);
    entries_[n_kept++] = entry;
  }
  entries_.resize(n_kept);
  arena_.resize(arena_end);
}

}  // namespace linnet::train
