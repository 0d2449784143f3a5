#include "formats/tokenizer_split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/errors.h"
#include "core/text.h"
#include "formats/utf8.h"

namespace linnet::formats {

namespace {

constexpr size_t kMaxSlice = 400'000;
constexpr size_t kMaxRun = 25'000;

// The published pattern (tests/data/tokenizer/pattern.txt) in PCRE2's language, class by class:
//   \p{Han}  means Script=Han there; PCRE2 >= 10.40 reads it as Script_Extensions, so: \p{sc:Han}.
//   \s       means White_Space; under PCRE2_UCP it also takes U+180E, so the set is written out: \p{Z}, U+0009..000D, U+0085.
//   [A&&[^\p{Han}]], a union A of general categories, is the complement of (Han or any category that is not in A).
#define WHITE "\\p{Z}\\x09-\\x0d\\x{85}"
#define UPPER "[^\\p{sc:Han}\\p{Ll}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}]"        /* Lu Lt Lm Lo M, not Han */
#define LOWER "[^\\p{sc:Han}\\p{Lu}\\p{Lt}\\p{N}\\p{P}\\p{S}\\p{Z}\\p{C}]" /* Ll Lm Lo M, not Han */
#define SUFFIX "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
constexpr char kPattern[] =
    "[\\p{sc:Han}]+"
    "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER "*" SUFFIX
    "|\\p{N}{1,3}"
    "| ?[^" WHITE
    "\\p{L}\\p{N}]+[\\r\\n]*"
    "|[" WHITE
    "]*[\\r\\n]+"
    "|[" WHITE "]+(?![^" WHITE
    "])"
    "|[" WHITE "]+";
#undef WHITE
#undef UPPER
#undef LOWER
#undef SUFFIX

std::string pcre2_message(int error) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

void for_each_slice(std::string_view text, FunctionRef<void(std::string_view)> slice) {
  size_t begin = 0;             // of the current slice, in bytes
  size_t n_chars = 0, run = 0;  // characters since the last cut at kMaxSlice, and of the current run
  bool run_is_space = false;
  for (size_t at = 0; at < text.size();) {
    const size_t left = text.size() - at;  // a character has at least one byte: is a limit still in reach?
    if (run + left <= kMaxRun && n_chars + left <= kMaxSlice) break;
    const Utf8Step step = utf8_step(text.substr(at));
    const bool valid = step.kind == Utf8Kind::valid;
    const bool space = valid && is_python_space(step.code);
    if (n_chars == kMaxSlice) {
      slice(text.substr(begin, at - begin));
      begin = at, n_chars = 0, run = 0, run_is_space = space;
    }
    if (space != run_is_space) run = 0, run_is_space = space;
    if (run == kMaxRun) {
      slice(text.substr(begin, at - begin));
      begin = at, run = 0;
    }
    ++n_chars, ++run;
    at += valid ? step.length : 1;
  }
  if (begin < text.size()) slice(text.substr(begin));
}

PreTokenizer::PreTokenizer() {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern), sizeof kPattern - 1,
                    PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (!code) throw InternalError(cat("pre-tokeniser pattern: at ", offset, ": ", pcre2_message(error)));
  code_ = std::shared_ptr<const void>(
      code, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); });
  // Where the system forbids executable memory this fails and the pattern is interpreted: the same pieces, slower.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

void PreTokenizer::for_each_piece(std::string_view text, FunctionRef<void(std::string_view)> piece) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(pcre2_match_data_create(1, nullptr),
                                                                                  &pcre2_match_data_free);
  if (!match) throw std::bad_alloc();
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match.get());
  for (size_t at = 0; at < text.size(); at = ends[1]) {
    // NO_UTF_CHECK: the caller has checked. The alternatives cover every character, so a match never fails nor is empty.
    const int n = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, PCRE2_NO_UTF_CHECK,
                              match.get(), nullptr);
    if (n < 0 || ends[1] <= at) throw InternalError(cat("pre-tokeniser pattern: at byte ", at, ": ", pcre2_message(n)));
    piece(text.substr(at, ends[1] - at));
  }
}

}  // namespace linnet::formats
