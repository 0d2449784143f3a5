// linnet.json: what a model folder says of its model.
#include "formats/model_card.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/errors.h"
#include "formats/file_test_support.h"

namespace linnet::formats {
namespace {

TEST(model_card, description_and_examples) {
  const ScratchFolder folder;
  EXPECT_EQ(ModelCard::load(folder.path()).description, "");
  folder.write("linnet.json", R"({"description": "A small model.",
                                  "examples": [{"prompt": "《春曉》孟浩然"}, {"title": "Prose", "prompt": "It was a\nday"}]})");
  const ModelCard card = ModelCard::load(folder.path());
  EXPECT_EQ(card.description, "A small model.");
  ASSERT_EQ(card.examples.size(), 2u);
  EXPECT_EQ(card.examples[0].title, "");
  EXPECT_EQ(card.examples[0].prompt, "《春曉》孟浩然");
  EXPECT_EQ(card.examples[1].title, "Prose");
  EXPECT_EQ(card.examples[1].prompt, "It was a\nday");
  folder.write("linnet.json", R"({"description": "None to try."})");
  EXPECT_TRUE(ModelCard::load(folder.path()).examples.empty());
}

TEST(model_card, refuses_what_it_does_not_know) {
  const std::pair<const char*, const char*> cases[] = {
      {"{", "linnet.json"},
      {"{}", "description"},
      {R"({"description": 1})", "description"},
      {R"({"description": "a", "sample": 1})", "sample: unknown key"},
      {R"({"description": "a", "examples": ["b"]})", "examples"},
      {R"({"description": "a", "examples": [{}]})", "prompt"},
      {R"({"description": "a", "examples": [{"prompt": ""}]})", "prompt: expected a text"},
      {R"({"description": "a", "examples": [{"prompt": "b", "x": 1}]})", "x: unknown key"},
  };
  for (const auto& [text, said] : cases) {
    const ScratchFolder folder;
    folder.write("linnet.json", text);
    try {
      ModelCard::load(folder.path());
      ADD_FAILURE() << text;
    } catch (const FormatError& e) { EXPECT_THAT(e.what(), testing::HasSubstr(said)) << text; }
  }
}

}  // namespace
}  // namespace linnet::formats
