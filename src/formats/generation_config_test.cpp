#include "formats/generation_config.h"

#include <gmock/gmock.h>

#include "core/errors.h"
#include "formats/file_test_support.h"

namespace linnet::formats {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(generation_config, reads_what_is_there) {
  const ScratchFolder folder;
  const GenerationConfig absent = GenerationConfig::load(folder.path());
  EXPECT_TRUE(absent.eos_ids.empty() && !absent.bos_id && !absent.temperature && absent.ignored_keys.empty());

  folder.write(
      "generation_config.json",
      R"({"eos_token_id": [163586, 5], "bos_token_id": 1, "pad_token_id": null, "temperature": 0.6, "top_p": 1, "top_k": 50,
                   "min_p": 0.1, "repetition_penalty": 1.1, "max_new_tokens": 4096, "do_sample": true, "transformers_version": "5", "num_beams": 4})");
  const GenerationConfig config = GenerationConfig::load(folder.path());
  EXPECT_THAT(config.eos_ids, ElementsAre(163586, 5));
  EXPECT_EQ(config.bos_id, 1);
  EXPECT_EQ(config.pad_id, std::nullopt);
  EXPECT_EQ(config.temperature, 0.6);
  EXPECT_EQ(config.top_p, 1.0);
  EXPECT_EQ(config.min_p, 0.1);
  EXPECT_EQ(config.top_k, 50);
  EXPECT_EQ(config.repetition_penalty, 1.1);
  EXPECT_EQ(config.max_new_tokens, 4096);
  EXPECT_EQ(config.do_sample, true);
  EXPECT_THAT(config.ignored_keys, ElementsAre("num_beams", "transformers_version"));
}

TEST(generation_config, reads_the_form_transformers_writes) {
  const GenerationConfig config = GenerationConfig::load(LINNET_SOURCE_DIR "/tests/data/tiny-fp32");
  EXPECT_THAT(config.eos_ids, ElementsAre(2));
  EXPECT_EQ(config.bos_id, 1);
  EXPECT_EQ(config.pad_id, 0);
}

TEST(generation_config, bad_values_are_named) {
  const ScratchFolder folder;
  struct Case {
    const char* json;
    const char* message;
  };
  const Case cases[] = {
      {R"({"eos_token_id": "x"})",
       "generation_config.json: eos_token_id: expected integer in [0, 2147483647], got \"x\""},
      {R"({"eos_token_id": [1, -1]})", "eos_token_id[1]: expected integer in [0, 2147483647], got -1"},
      {R"({"bos_token_id": 1.5})", "bos_token_id: expected integer in [0, 2147483647], got 1.5"},
      {R"({"pad_token_id": 1152921504606846976})", "pad_token_id: expected integer"},
      {R"({"temperature": -1})", "temperature: expected number in [0, inf], got -1"},
      {R"({"temperature": "hot"})", "temperature: expected number in [0, inf], got \"hot\""},
      {R"({"top_p": 1.5})", "top_p: expected number in [0, 1], got 1.5"},
      {R"({"top_k": 2.5})", "top_k: expected integer"},
      {R"({"do_sample": 1})", "do_sample: expected true or false, got 1"},
      {R"([])", "generation_config.json: expected a JSON object"},
  };
  for (const Case& c : cases) {
    folder.write("generation_config.json", c.json);
    EXPECT_THAT(error_of<FormatError>([&] { GenerationConfig::load(folder.path()); }), HasSubstr(c.message)) << c.json;
  }
}

}  // namespace
}  // namespace linnet::formats
