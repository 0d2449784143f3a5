// Fuzzer of the schema compiler: whatever it takes, the shortest way through the constraint ends where it says, as JSON.
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "runtime/constraint/automaton.h"
#include "runtime/constraint/json_schema.h"

namespace {

using namespace linnet;
using namespace linnet::runtime;

constexpr uint32_t kMostSteps = 64;  // longer texts cost time and show nothing new

const std::shared_ptr<const TokenTrie>& bytes() {
  static const auto trie = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    formats::RankTable ranks = formats::RankTable::parse(formats::ranks_file_text(tokens), "fuzz");
    const auto first = ranks.size();
    const formats::Tokenizer tokenizer(std::move(ranks), formats::SpecialTokens::kimi(first));
    return std::make_shared<const TokenTrie>(tokenizer, first);
  }();
  return trie;
}

void walk(Grammar grammar) {
  Automaton automaton(std::move(grammar), bytes());
  auto state = automaton.intern(automaton.start());
  if (automaton.shortest(state) > kMostSteps) return;
  std::string text;
  while (automaton.shortest(state) > 0) {
    auto best = Automaton::kDead;
    for (int byte = 0; byte < 256; ++byte) {
      const auto next = automaton.step(state, static_cast<uint8_t>(byte));
      if (next == Automaton::kDead || automaton.shortest(next) >= automaton.shortest(state)) continue;
      best = next;
      text += static_cast<char>(byte);
      break;
    }
    if (best == Automaton::kDead) abort();
    state = best;
  }
  if (!automaton.complete(state) || !nlohmann::json::accept(text)) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    walk(json_schema_grammar({reinterpret_cast<const char*>(data), size}, "fuzz"));
  } catch (const FormatError&) {
  } catch (const Unsupported&) {}
  return 0;
}
