// The safetensors header: what a header may say, and each lie it may tell.
#include "formats/safetensors_header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/errors.h"
#include "core/text.h"
#include "formats/file_test_support.h"

namespace linnet::formats {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string file_of(std::string_view json, size_t data_bytes, uint64_t length) {
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file.append(json).append(data_bytes, 'd');
}
std::string file_of(std::string_view json, size_t data_bytes) { return file_of(json, data_bytes, json.size()); }

SafetensorsHeader parsed(const std::string& file) {
  return parse_safetensors_header(bytes_of_text(file), "m.safetensors");
}

std::string refusal(const std::string& file) {
  const std::string message = error_of<FormatError>([&] { parsed(file); });
  EXPECT_THAT(message, StartsWith("m.safetensors: "));
  EXPECT_EQ(message.find('\n'), message.npos);
  return message.substr(std::min(message.size(), std::strlen("m.safetensors: ")));
}

// {"t": {dtype, shape, offsets}} over data_bytes of data.
std::string one(std::string_view dtype, std::string_view shape, std::string_view offsets, size_t data_bytes) {
  return file_of(cat(R"({"t":{"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":)", offsets, "}}"),
                 data_bytes);
}

TEST(safetensors_header, reads_entries_in_any_order) {
  const std::string json =
      R"({"b":{"data_offsets":[4,12],"shape":[2],"dtype":"F32"},"__metadata__":{"format":"pt","k":"v"},
    "a":{"dtype":"U8","shape":[4,1],"data_offsets":[0,4]},"c":{"dtype":"F32","shape":[0,7],"data_offsets":[12,12]},
    "d":{"dtype":"F16","shape":[],"data_offsets":[12,14]}}   )";
  const SafetensorsHeader h = parsed(file_of(json, 14));
  ASSERT_EQ(h.tensors.size(), 4u);
  EXPECT_EQ(h.tensors[0].spec.name, "a");
  EXPECT_EQ(h.tensors[0].begin, 8 + json.size());
  EXPECT_EQ(h.tensors[1].spec.name, "b");
  EXPECT_EQ(h.tensors[1].spec.dtype, DType::f32);
  EXPECT_EQ(h.tensors[1].spec.shape, std::vector<int64_t>({2}));
  EXPECT_EQ(h.tensors[1].end, 8 + json.size() + 12);
  EXPECT_TRUE(h.tensors[3].spec.shape.empty());
  EXPECT_EQ(h.metadata, (Metadata{{"format", "pt"}, {"k", "v"}}));
  EXPECT_TRUE(parsed(file_of("{}", 0)).tensors.empty());
}

TEST(safetensors_header, every_dtype_that_linnet_has) {
  for (const auto& [name, dtype, bytes] : {std::tuple("F32", DType::f32, 4),
                                           {"BF16", DType::bf16, 2},
                                           {"F16", DType::f16, 2},
                                           {"I32", DType::i32, 4},
                                           {"I64", DType::i64, 8},
                                           {"U8", DType::u8, 1}})
    EXPECT_EQ(
        parsed(one(name, "[3]", cat("[0,", 3 * bytes, "]"), static_cast<size_t>(3 * bytes))).tensors[0].spec.dtype,
        dtype);
}

TEST(safetensors_header, lengths_that_lie) {
  EXPECT_EQ(refusal(""), "byte 0: expected a header length of 8 bytes, got a file of 0 bytes");
  EXPECT_EQ(refusal(std::string(7, '\0')), "byte 0: expected a header length of 8 bytes, got a file of 7 bytes");
  EXPECT_EQ(refusal(file_of("{}", 3, 6)),
            "byte 0: expected a header of at most 5 bytes, which the file has left, got 6");
  EXPECT_EQ(refusal(file_of("{}", 0, 100'000'001)),
            "byte 0: expected a header of at most 100000000 bytes, got 100000001");
  EXPECT_EQ(refusal(file_of("{}", 0, UINT64_MAX)),
            "byte 0: expected a header of at most 100000000 bytes, got 18446744073709551615");
  EXPECT_THAT(refusal(file_of("{}", 0, 1)), StartsWith("header: byte 9: expected JSON, got "));
  EXPECT_EQ(refusal(file_of("{}", 5)), "expected 0 bytes of data as the header says, got 5");
}

TEST(safetensors_header, text_that_is_no_header) {
  EXPECT_EQ(refusal(file_of("", 0)), "byte 8: expected '{', got \"\"");
  EXPECT_EQ(refusal(file_of("[]", 0)), "byte 8: expected '{', got \"[\"");
  EXPECT_EQ(refusal(file_of(" {}", 0)), "byte 8: expected '{', got \" \"");
  EXPECT_EQ(refusal(file_of(std::string("{}\0 ", 4), 0)), "header: byte 10: expected JSON, got a NUL byte");
  EXPECT_THAT(refusal(file_of("{\"a\":\x01}", 0)), StartsWith("header: byte 13: expected JSON, got syntax error"));
  EXPECT_THAT(refusal(file_of("{\"\xff\":{}}", 0)), StartsWith("header: byte 10: expected JSON, got "));
  EXPECT_THAT(refusal(file_of("{} {}", 0)), StartsWith("header: byte 11: expected JSON, got "));
}

TEST(safetensors_header, values_of_the_wrong_kind) {
  for (const char* value : {"1", "-1", "1.5", "null", "true", "\"x\"", "[1]"}) {
    EXPECT_THAT(refusal(file_of(cat("{\"t\":", value, "}"), 0)), StartsWith("t: expected an object, got ")) << value;
    EXPECT_THAT(refusal(file_of(cat("{\"__metadata__\":", value, "}"), 0)),
                StartsWith("__metadata__: expected an object, got "));
  }
  for (const char* value : {"1", "null", "[]", "{}", "false"})
    EXPECT_THAT(refusal(file_of(cat(R"({"t":{"dtype":)", value, "}}"), 0)),
                StartsWith("t: dtype: expected a string, got "));
  for (const char* key : {"shape", "data_offsets"}) {
    for (const char* value : {"1", "null", "\"x\"", "{}"})
      EXPECT_THAT(refusal(file_of(cat(R"({"t":{")", key, "\":", value, "}}"), 0)),
                  StartsWith(cat("t: ", key, ": expected an array, got ")));
    for (const char* value : {"-1", "1.5", "1e3", "null", "\"x\"", "[1]", "{}", "true"})
      EXPECT_THAT(refusal(file_of(cat(R"({"t":{")", key, "\":[", value, "]}}"), 0)),
                  StartsWith(cat("t: ", key, ": expected integers in [0, 9223372036854775807], got ")));
  }
  EXPECT_EQ(refusal(file_of(R"({"__metadata__":{"k":1}})", 0)), "__metadata__: k: expected a string, got 1");
  EXPECT_EQ(refusal(file_of(R"({"__metadata__":{"k":{}}})", 0)), "__metadata__: k: expected a string, got an object");
  EXPECT_EQ(refusal(file_of(R"({"t":{"shape":[18446744073709551615]}})", 0)),
            "t: shape: expected integers in [0, 9223372036854775807], got 18446744073709551615");
  EXPECT_EQ(refusal(file_of("{\"t\":" + std::string(100000, '['), 0)), "t: expected an object, got an array");
}

TEST(safetensors_header, fields_missing_doubled_or_unknown) {
  EXPECT_EQ(refusal(file_of(R"({"t":{}})", 0)), "t: expected dtype, shape and data_offsets, got no dtype");
  EXPECT_EQ(refusal(file_of(R"({"t":{"dtype":"F32","data_offsets":[0,0]}})", 0)),
            "t: expected dtype, shape and data_offsets, got no shape");
  EXPECT_EQ(refusal(file_of(R"({"t":{"dtype":"F32","shape":[0]}})", 0)),
            "t: expected dtype, shape and data_offsets, got no data_offsets");
  EXPECT_EQ(refusal(file_of(R"({"t":{"dtype":"F32","dtype":"F32"}})", 0)), "t: expected one dtype, got two");
  EXPECT_EQ(refusal(file_of(R"({"t":{"strides":[1]}})", 0)),
            "t: expected dtype, shape and data_offsets, got \"strides\"");
  EXPECT_EQ(refusal(file_of(R"({"__metadata__":{},"__metadata__":{}})", 0)),
            "__metadata__: expected one such key, got two");
  EXPECT_EQ(refusal(file_of(R"({"__metadata__":{"k":"1","k":"2"}})", 0)),
            "__metadata__: expected one key \"k\", got two");
  const std::string t = R"("t":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  EXPECT_EQ(refusal(file_of(cat("{", t, ",", t, "}"), 0)), "t: expected one such tensor, got two");
  EXPECT_EQ(refusal(file_of(R"({"":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})", 0)),
            ": expected a tensor's name, got \"\"");
}

TEST(safetensors_header, dtypes_that_linnet_has_not) {
  for (const char* name : {"F64", "BOOL", "I8", "F8_E4M3", "F8_E5M2", "I16", "U16", "U32", "U64", "f32", "F99", ""})
    EXPECT_EQ(refusal(one(name, "[1]", "[0,4]", 4)),
              cat("t: dtype: expected F32, BF16, F16, I32, I64 or U8, got \"", name, "\""));
}

TEST(safetensors_header, shapes_and_offsets_that_disagree) {
  EXPECT_EQ(refusal(one("F32", "[1,1,1,1,1]", "[0,4]", 4)), "t: shape: expected at most 4 extents, got more");
  EXPECT_EQ(refusal(one("F32", "[4294967296,4294967296]", "[0,0]", 0)),
            "t: shape: expected a product that fits in 63 bits of bytes, got [4294967296, 4294967296]");
  EXPECT_EQ(refusal(one("F32", "[0,9223372036854775807]", "[0,0]", 0)),
            "t: shape: expected a product that fits in 63 bits of bytes, got [0, 9223372036854775807]");
  EXPECT_EQ(refusal(one("F32", "[2]", "[0,4]", 4)), "t: data_offsets: expected 8 bytes for [2] f32, got 4");
  EXPECT_EQ(refusal(one("F32", "[1]", "[0,8]", 8)), "t: data_offsets: expected 4 bytes for [1] f32, got 8");
  EXPECT_EQ(refusal(one("F32", "[1]", "[4,0]", 4)), "t: data_offsets: expected a range inside [0, 4], got [4, 0]");
  EXPECT_EQ(refusal(one("F32", "[2]", "[0,8]", 4)), "t: data_offsets: expected a range inside [0, 4], got [0, 8]");
  EXPECT_EQ(refusal(one("F32", "[1]", "[18446744073709551612,0]", 4)),
            "t: data_offsets: expected a range inside [0, 4], got [18446744073709551612, 0]");
  EXPECT_EQ(refusal(one("F32", "[1]", "[4]", 4)), "t: data_offsets: expected [begin, end], got 1 numbers");
  EXPECT_EQ(refusal(one("F32", "[1]", "[]", 4)), "t: data_offsets: expected [begin, end], got 0 numbers");
  EXPECT_EQ(refusal(one("F32", "[1]", "[0,4,4]", 4)), "t: data_offsets: expected [begin, end], got more numbers");
}

TEST(safetensors_header, data_is_covered_once_and_wholly) {
  const auto two = [](std::string_view a, std::string_view b, size_t data_bytes) {
    return file_of(cat(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)", a,
                       R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)", b, "}}"),
                   data_bytes);
  };
  EXPECT_EQ(parsed(two("[2,6]", "[0,2]", 6)).tensors.size(), 2u);
  EXPECT_EQ(refusal(two("[0,4]", "[3,5]", 6)),
            "b: data_offsets: expected begin 4, got 3, which overlaps the tensor before");
  EXPECT_EQ(refusal(two("[0,4]", "[0,2]", 4)),
            "a: data_offsets: expected begin 2, got 0, which overlaps the tensor before");
  EXPECT_EQ(refusal(two("[0,4]", "[5,7]", 7)), "b: data_offsets: expected begin 4, got 5, which leaves a gap");
  EXPECT_EQ(refusal(two("[1,5]", "[5,7]", 7)), "a: data_offsets: expected begin 0, got 1, which leaves a gap");
  EXPECT_EQ(refusal(two("[0,4]", "[4,6]", 9)), "expected 6 bytes of data as the header says, got 9");
}

TEST(safetensors_header, every_truncation_of_a_file_is_refused) {
  const std::string whole = one("BF16", "[2,3]", "[0,12]", 12);
  EXPECT_NO_THROW(parsed(whole));
  for (size_t n = 0; n < whole.size(); ++n)
    EXPECT_THROW(parsed(whole.substr(0, n)), FormatError) << n << " of " << whole.size() << " bytes";
}

TEST(safetensors_header, hostile_names_are_escaped) {
  EXPECT_THAT(refusal(file_of(R"({"a\n\u001b[2J":1})", 0)), StartsWith("a\\x0a\\x1b[2J: "));
  EXPECT_LT(refusal(file_of(cat("{\"", std::string(100000, 'n'), "\":1}"), 0)).size(), 300u);
}

}  // namespace
}  // namespace linnet::formats
