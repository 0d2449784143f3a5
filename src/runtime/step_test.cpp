// What a kind of pass promises bit for bit: a prompt's logits and state depend on its tokens alone, and so does what decoding
// adds to them; not on where the prompt was cut (at multiples of 64), what else was in its passes, or how many threads ran.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "core/rng.h"
#include "formats/file_test_support.h"
#include "model/synth.h"
#include "runtime/engine.h"

namespace linnet::runtime {
namespace {

using model::Step;
using Tokens = std::vector<int32_t>;
using Rows = std::map<int64_t, std::vector<float>>;  // logits by position in the sequence

// Every kind of layer, and widths that are no multiple of any vector.
model::ModelConfig some_config(DType dtype) {
  model::ModelConfig c;
  c.vocab_size = 300, c.hidden = 72, c.context = 2000, c.dense_width = 100, c.dtype = dtype;
  c.mixers = {"kda", "gdn", "mla", "kda"};
  c.ffns = {model::FfnKind::dense, model::FfnKind::moe, model::FfnKind::moe, model::FfnKind::moe};
  c.kda = {.heads = 3, .head_dim = 20};
  c.mla = {.heads = 3, .latent_rank = 36, .key_dim = 12, .shared_key_dim = 4, .value_dim = 20};
  c.moe = {.experts = 6, .experts_per_token = 2, .shared_experts = 1, .width = 44};
  c.initializer_range = 0.15f;
  return c;
}

Tokens sequence(uint64_t seed, int64_t length) {
  Tokens out(static_cast<size_t>(length));
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<int32_t>(Rng(seed).bits(i) % 250);
  return out;
}

// A sequence that is being read: its slot, and what came out so far.
struct Reader {
  explicit Reader(Engine& engine, Tokens all) : slot(engine.new_slot()), tokens(std::move(all)) {}
  StateSlot slot;
  Tokens tokens;
  Rows rows;

  int64_t left() const { return static_cast<int64_t>(tokens.size()) - slot.n_tokens(); }
  Append next(int64_t count, Step step) {
    const auto from = static_cast<size_t>(slot.n_tokens());
    return {.slot = &slot,
            .tokens = std::span(tokens).subspan(from, static_cast<size_t>(count)),
            .want = Want::all,
            .step = step};
  }
};

void append(Engine& engine, std::vector<Reader*> readers, std::vector<int64_t> counts, Step step) {
  std::vector<Append> requests;
  std::vector<int64_t> starts;
  for (size_t i = 0; i < readers.size(); ++i) {
    starts.push_back(readers[i]->slot.n_tokens());
    requests.push_back(readers[i]->next(counts[i], step));
  }
  engine.append(requests, [&](size_t request, int64_t first, Tensor l) {
    for (int64_t i = 0; i < l[0]; ++i)
      readers[request]->rows[starts[request] + first + i].assign(l.row<float>(i), l.row<float>(i) + l[1]);
  });
}

void append(Engine& engine, Reader& reader, int64_t count, Step step) { append(engine, {&reader}, {count}, step); }

// The whole state as bytes.
std::string state_of(const StateSlot& slot) {
  const formats::ScratchFolder folder;
  slot.export_to(folder / "state", {});
  std::stringstream bytes;
  bytes << std::ifstream(folder / "state", std::ios::binary).rdbuf();
  return bytes.str();
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void expect_same(const Reader& got, const Reader& want, const std::string& what) {
  ASSERT_EQ(got.rows.size(), want.rows.size()) << what;
  for (const auto& [position, row] : want.rows)
    ASSERT_TRUE(same(got.rows.at(position), row)) << what << ": logits at " << position << " of " << want.tokens.size();
  EXPECT_EQ(state_of(got.slot), state_of(want.slot)) << what << ": state";
}

class Steps : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    ThreadPool pool(1);
    model::write_synthetic_checkpoint(folder / "model", some_config(GetParam()), {.seed = 5}, pool,
                                      [](int64_t, int64_t) {});
  }
  std::unique_ptr<Engine> engine(int threads = 2, int64_t tokens_per_pass = 512) {
    return std::make_unique<Engine>(folder / "model",
                                    EngineOptions{.threads = threads, .tokens_per_pass = tokens_per_pass});
  }
  formats::ScratchFolder folder;
};

TEST_P(Steps, a_prompt_may_be_cut_at_any_multiples_of_64) {
  const auto one = engine(), passes_of_64 = engine(3, 64), passes_of_200 = engine(1, 200);
  for (int64_t length : {1, 9, 64, 65, 127, 333}) {
    Reader whole(*one, sequence(1, length));
    append(*one, whole, length, Step::prefill);
    for (const std::vector<int64_t>& cuts :
         {std::vector<int64_t>{64}, {64, 128}, {128, 192}, {64, 320}, {192, 256, 320}}) {
      Reader pieces(*one, whole.tokens);
      for (int64_t cut : cuts)
        if (cut < length) append(*one, pieces, cut - pieces.slot.n_tokens(), Step::prefill);
      append(*one, pieces, pieces.left(), Step::prefill);
      expect_same(pieces, whole, "cut at " + std::to_string(cuts[0]));
    }
    for (Engine* other : {passes_of_64.get(), passes_of_200.get()}) {
      Reader again(*other, whole.tokens);
      append(*other, again, length, Step::prefill);
      expect_same(again, whole, "passes of " + std::to_string(other->tokens_per_pass()));
    }
  }
}

// A later turn starts anywhere.
TEST_P(Steps, a_continued_prompt_may_be_cut_at_the_same_multiples) {
  const auto one = engine();
  Reader whole(*one, sequence(2, 300));
  append(*one, whole, 75, Step::prefill);
  Reader pieces(*one, whole.tokens);
  append(*one, pieces, 75, Step::prefill);
  append(*one, whole, 225, Step::prefill);
  for (int64_t count : {53, 64, 108}) append(*one, pieces, count, Step::prefill);
  expect_same(pieces, whole, "from 75 on");
}

TEST_P(Steps, prompts_do_not_see_each_other) {
  const auto one = engine(), small_passes = engine(3, 192);
  for (int64_t mine : {5, 150}) {
    Reader alone(*one, sequence(3, mine));
    append(*one, alone, mine, Step::prefill);
    for (int64_t others : {1, 7, 63})
      for (Engine* e : {one.get(), small_passes.get()}) {
        std::vector<std::unique_ptr<Reader>> readers;
        std::vector<Reader*> list;
        std::vector<int64_t> counts;
        const int64_t place = others / 2;
        for (int64_t i = 0; i <= others; ++i) {
          const int64_t length = static_cast<int64_t>(Rng(9).bits(static_cast<uint64_t>(i)) % 70) + 1;
          counts.push_back(i == place ? mine : length);
          readers.push_back(std::make_unique<Reader>(
              *e, i == place ? alone.tokens : sequence(static_cast<uint64_t>(100 + i), length)));
          list.push_back(readers.back().get());
        }
        append(*e, list, counts, Step::prefill);
        expect_same(*readers[static_cast<size_t>(place)], alone, "among " + std::to_string(others));
      }
  }
}

TEST_P(Steps, decoding_streams_do_not_see_each_other) {
  constexpr int64_t kSteps = 4;
  const auto one = engine(1), three = engine(3);
  const Tokens tokens = sequence(4, 90 + kSteps);
  const auto prompt = [&](Engine& e, const Tokens& t) {
    auto reader = std::make_unique<Reader>(e, t);
    append(e, *reader, reader->left() - kSteps, Step::prefill);
    return reader;
  };
  const auto alone = prompt(*one, tokens);
  for (int64_t i = 0; i < kSteps; ++i) append(*one, *alone, 1, Step::decode);
  const auto at_once = prompt(*three, tokens);
  append(*three, *at_once, kSteps, Step::decode);
  expect_same(*at_once, *alone, "several tokens of one stream in a pass");
  for (int64_t others : {1, 8, 63}) {
    std::vector<std::unique_ptr<Reader>> readers;
    std::vector<Reader*> list;
    const int64_t place = others / 2;
    for (int64_t i = 0; i <= others; ++i) {
      const int64_t length = 1 + 5 * (i % 15) + kSteps;
      readers.push_back(prompt(*three, i == place ? tokens : sequence(static_cast<uint64_t>(200 + i), length)));
      list.push_back(readers.back().get());
    }
    for (int64_t i = 0; i < kSteps; ++i) append(*three, list, std::vector<int64_t>(list.size(), 1), Step::decode);
    expect_same(*readers[static_cast<size_t>(place)], *alone, "among " + std::to_string(others));
  }
}

// One call with requests of both kinds: they do not meet in a pass.
TEST_P(Steps, kinds_do_not_mix_in_a_pass) {
  const auto e = engine();
  Reader prompt(*e, sequence(5, 5)), stream(*e, sequence(6, 41)), both_prompt(*e, prompt.tokens),
      both_stream(*e, stream.tokens);
  for (Reader* r : {&stream, &both_stream}) append(*e, *r, 40, Step::prefill);
  append(*e, prompt, 5, Step::prefill), append(*e, stream, 1, Step::decode);
  const Append requests[] = {both_prompt.next(5, Step::prefill), both_stream.next(1, Step::decode)};
  int passes = 0;
  e->append(
      requests,
      [&](size_t request, int64_t first, Tensor l) {
        Reader& r = request == 0 ? both_prompt : both_stream;
        const int64_t start = request == 0 ? 0 : 40;
        for (int64_t i = 0; i < l[0]; ++i) r.rows[start + first + i].assign(l.row<float>(i), l.row<float>(i) + l[1]);
      },
      [&](int64_t, int64_t) { return ++passes > 0; });
  EXPECT_EQ(passes, 2);
  expect_same(both_prompt, prompt, "prompt");
  expect_same(both_stream, stream, "stream");
}

INSTANTIATE_TEST_SUITE_P(weights, Steps, testing::Values(DType::bf16, DType::f32),
                         [](const auto& dtype) { return std::string(name_of(dtype.param)); });

}  // namespace
}  // namespace linnet::runtime
