// Stop strings that arrive in pieces.
#include "runtime/stop_matcher.h"

#include <gtest/gtest.h>

#include "core/errors.h"

namespace linnet::runtime {
namespace {

// The text that comes out when `text` is pushed in pieces of n characters.
std::string through(const std::vector<std::string>& stops, const std::string& text, size_t n) {
  StopMatcher matcher(stops);
  std::string out;
  for (size_t at = 0; at < text.size(); at += n) out += matcher.push(std::string_view(text).substr(at, n));
  return matcher.stopped() ? out + "|" : out + matcher.flush();
}

TEST(stop_matcher, cuts_before_the_first_stop_string_however_it_arrives) {
  for (size_t n = 1; n <= 12; ++n) {
    EXPECT_EQ(through({"END"}, "abcENDdef", n), "abc|");
    EXPECT_EQ(through({"END"}, "abcENEND", n), "abcEN|");
    EXPECT_EQ(through({"END"}, "abcEN", n), "abcEN");
    EXPECT_EQ(through({"aab"}, "aaab", n), "a|");
    EXPECT_EQ(through({"xyz", "yq"}, "axyq", n), "ax|");
    EXPECT_EQ(through({}, "abc", n), "abc");
  }
}

TEST(stop_matcher, text_that_cannot_belong_to_a_stop_string_is_not_held_back) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.push("abc"), "abc");
  EXPECT_EQ(matcher.push("dE"), "d");
  EXPECT_EQ(matcher.push("x"), "Ex");
  EXPECT_THROW(StopMatcher({""}), InvalidArgument);
}

}  // namespace
}  // namespace linnet::runtime
