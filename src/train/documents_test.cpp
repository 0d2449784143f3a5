// Documents from files: separators, templates, folders of code, and everything that is refused or skipped.
#include "train/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/errors.h"
#include "formats/file_test_support.h"
#include "train/document_template.h"

namespace linnet::train {
namespace {

namespace fs = std::filesystem;
using formats::error_of;
using formats::ScratchFolder;
using testing::ElementsAre;
using testing::HasSubstr;

struct Read {
  std::vector<std::string> documents;
  DocumentCounts counts;
  int64_t progress = 0;
};

Read read(const SourceConfig& source) {
  Read out;
  const SourceFiles files = files_of(source);
  out.counts = for_each_document(
      source, files, [&](std::string_view text) { out.documents.emplace_back(text); },
      [&](int64_t bytes) {
        EXPECT_GE(bytes, out.progress);
        out.progress = bytes;
      });
  EXPECT_EQ(out.progress, files.bytes);
  EXPECT_EQ(out.counts.documents, std::ssize(out.documents));
  return out;
}

SourceConfig text_source(const fs::path& path, const std::string& separator = "") {
  return {.name = "t", .paths = {path}, .separator = separator};
}

TEST(documents, a_file_is_a_document) {
  const ScratchFolder folder;
  SourceConfig source = text_source(folder.write("a", " one\ntwo"));
  source.paths.push_back(folder.write("b", "\xe6\x98\xa5\n"));
  source.paths.push_back(folder.write("c", " \n"));
  const Read got = read(source);
  EXPECT_THAT(got.documents, ElementsAre(" one\ntwo", "\xe6\x98\xa5\n"));
  EXPECT_EQ(got.counts.files, 3);
  EXPECT_EQ(got.counts.bytes, 12);
  EXPECT_EQ(got.counts.empty, 1);
}

TEST(documents, separator_lines_end_documents) {
  const ScratchFolder folder;
  const auto documents = [&](const std::string& text) {
    return read(text_source(folder.write("a", text), "%%")).documents;
  };
  EXPECT_THAT(documents("a\nb\n%%\nc\n%%\n"), ElementsAre("a\nb\n", "c\n"));
  EXPECT_THAT(documents("a\n%%\nb"), ElementsAre("a\n", "b"));
  EXPECT_THAT(documents("a\n%%"), ElementsAre("a\n"));
  EXPECT_THAT(documents("a\n%%\r\nb\n"), ElementsAre("a\n", "b\n"));
  EXPECT_THAT(documents("%% a\n %%\na%%\n%%%\n"), ElementsAre("%% a\n %%\na%%\n%%%\n"));
  const Read got = read(text_source(folder.write("b", "%%\n\n%%\na\n%%\n"), "%%"));
  EXPECT_THAT(got.documents, ElementsAre("a\n"));
  EXPECT_EQ(got.counts.empty, 2);
}

TEST(documents, text_must_be_text) {
  const ScratchFolder folder;
  const auto error = [&](const std::string& text, const std::string& separator) {
    return error_of<FormatError>([&] { read(text_source(folder.write("bad", text), separator)); });
  };
  EXPECT_THAT(error(std::string("ab\0c", 4), ""), HasSubstr("bad: byte 2: expected text in UTF-8, got a zero byte"));
  EXPECT_THAT(error("ab\n%%\nc\xffz", "%%"), HasSubstr("bad: byte 7: expected text in UTF-8, got \"\\xffz\""));
  EXPECT_THAT(error("", ""), HasSubstr("expected at least one document, got none: 1 files, 1 empty"));
  EXPECT_THAT(error("%%\n", "%%"), HasSubstr("got none: 1 files, 1 empty"));
  EXPECT_THAT(error_of<FormatError>([&] { read(text_source(folder.path())); }),
              HasSubstr("expected a file, got a folder"));
  EXPECT_THAT(error_of<IoError>([&] { read(text_source(folder / "none")); }), HasSubstr("none"));
}

TEST(documents, lines_of_json_through_a_template) {
  const ScratchFolder folder;
  SourceConfig source{.name = "j", .kind = SourceKind::jsonl, .document_template = "{title}, {year}\n{{{text}}}"};
  source.paths = {folder.write("a.jsonl",
                               "{\"title\":\"A\",\"year\":1611,\"text\":\"x\\ny\",\"more\":[1]}\n\n"
                               "{\"title\":\"\",\"year\":-1,\"text\":\"z\"}")};
  EXPECT_THAT(read(source).documents, ElementsAre("A, 1611\n{x\ny}", ", -1\n{z}"));

  const auto error = [&](const std::string& lines) {
    folder.write("a.jsonl", lines);
    return error_of<FormatError>([&] { read(source); });
  };
  EXPECT_THAT(error("{\"title\":\"A\",\"year\":1,\"text\":\"x\"}\n{\"title\":\"A\",\"year\":1}\n"),
              HasSubstr("a.jsonl: line 2: text: expected string"));
  EXPECT_THAT(error("{\"title\":\"A\",\"year\":true,\"text\":\"x\"}"),
              HasSubstr("line 1: year: expected string, got true"));
  EXPECT_THAT(error("[1]"), HasSubstr("line 1: expected a JSON object"));
  EXPECT_THAT(error("{\"title\":\"A\xff\"}"), HasSubstr("line 1"));
}

TEST(document_template, defects) {
  EXPECT_EQ(DocumentTemplate::defect_of("{a}{b}"), "");
  EXPECT_THAT(DocumentTemplate::defect_of("text"), HasSubstr("at least one {field}"));
  EXPECT_THAT(DocumentTemplate::defect_of("{{a}}"), HasSubstr("at least one {field}"));
  EXPECT_THAT(DocumentTemplate::defect_of("x{a"), HasSubstr("byte 1: a { without its }"));
  EXPECT_THAT(DocumentTemplate::defect_of("{a{b}}"), HasSubstr("byte 0: a { without its }"));
  EXPECT_THAT(DocumentTemplate::defect_of("{a}}"), HasSubstr("byte 3: a } without its {"));
  EXPECT_THAT(DocumentTemplate::defect_of("{}"), HasSubstr("a field's name"));
  EXPECT_THAT(error_of<InvalidArgument>([] { DocumentTemplate("{"); }), HasSubstr("template: {:"));
}

TEST(documents, folders_of_code) {
  const ScratchFolder folder;
  fs::create_directories(folder / "b/c");
  folder.write("b/z.go", "package z\n");
  folder.write("b/c/y.go", "package y\n");
  folder.write("a.go", "package a\n");
  folder.write("a.c", "int a;\n");
  folder.write("b/empty.go", "\n");
  folder.write("b/zero.go", std::string("a\0b", 3));
  folder.write("b/latin1.go", "// caf\xe9\n");
  folder.write("b/large.go", std::string(101, 'x'));
  fs::create_symlink(folder / "a.go", folder / "link.go");
  SourceConfig source{.name = "c", .kind = SourceKind::code, .paths = {folder.path()}, .extensions = {".go"}};
  source.max_file_bytes = 100;
  const Read got = read(source);
  EXPECT_THAT(got.documents, ElementsAre("package a\n", "package y\n", "package z\n"));
  EXPECT_EQ(got.counts.files, 7);
  EXPECT_EQ(got.counts.empty, 1);
  EXPECT_EQ(got.counts.binary_files, 2);
  EXPECT_EQ(got.counts.large_files, 1);
  source.extensions = {".go", ".c"};
  EXPECT_EQ(read(source).documents.size(), 4u);
  source.extensions = {".rs"};
  EXPECT_THAT(error_of<FormatError>([&] { read(source); }), HasSubstr("expected files of the source \"c\", got none"));
}

TEST(data_config, reads_every_field) {
  const ScratchFolder folder;
  const auto file = folder.write("c.json", R"({"held_out": 0.25, "begin_token": "[BOS]", "end_token": null, "sources": [
    {"name": "a", "text": ["x", "y"], "separator": "%%", "licence": "MIT", "weight": 3},
    {"name": "b", "jsonl": "z", "template": "{t}"},
    {"name": "c", "code": "d", "extensions": [".go"], "max_file_bytes": 9}]})");
  const DataConfig config = read_data_config(file);
  EXPECT_EQ(config.held_out, 0.25);
  EXPECT_EQ(config.begin_token, "[BOS]");
  EXPECT_EQ(config.end_token, "");
  ASSERT_EQ(config.sources.size(), 3u);
  EXPECT_THAT(config.sources[0].paths, ElementsAre("x", "y"));
  EXPECT_EQ(config.sources[0].separator, "%%");
  EXPECT_EQ(config.sources[0].licence, "MIT");
  EXPECT_EQ(config.sources[0].weight, 3);
  EXPECT_EQ(config.sources[1].kind, SourceKind::jsonl);
  EXPECT_EQ(config.sources[1].document_template, "{t}");
  EXPECT_EQ(config.sources[2].kind, SourceKind::code);
  EXPECT_THAT(config.sources[2].extensions, ElementsAre(".go"));
  EXPECT_EQ(config.sources[2].max_file_bytes, 9);
  EXPECT_EQ(read_data_config(folder.write("d.json", R"({"sources": [{"name": "a", "text": "x"}]})")).end_token,
            "[EOS]");
}

TEST(data_config, refuses_what_it_does_not_know) {
  const ScratchFolder folder;
  const auto error = [&](const std::string& source, const std::string& more = "") {
    const auto file = folder.write("c.json", "{\"sources\": [" + source + "]" + more + "}");
    return error_of<FormatError>([&] { read_data_config(file); });
  };
  const std::string good = R"({"name": "a", "text": "x"})";
  EXPECT_THAT(error(good, R"(, "heldout": 1)"), HasSubstr("c.json: heldout: unknown key"));
  EXPECT_THAT(error(R"({"name": "a", "text": "x", "template": "{t}"})"), HasSubstr("sources[0].template: unknown key"));
  EXPECT_THAT(error(good, R"(, "held_out": 1.5)"), HasSubstr("held_out: expected number in [0, 1]"));
  EXPECT_THAT(error(""), HasSubstr("sources: expected at least one"));
  EXPECT_THAT(error(good + "," + good), HasSubstr("sources[1]: expected another name for each source, got \"a\""));
  EXPECT_THAT(error(R"({"name": "../a", "text": "x"})"), HasSubstr("sources[0]: expected a name of letters"));
  EXPECT_THAT(error(R"({"name": "a"})"), HasSubstr("one of the keys text, jsonl and code, got 0"));
  EXPECT_THAT(error(R"({"name": "a", "text": "x", "code": "y"})"), HasSubstr("got 2"));
  EXPECT_THAT(error(R"({"name": "a", "text": []})"), HasSubstr("at least one path"));
  EXPECT_THAT(error(R"({"name": "a", "jsonl": "x"})"), HasSubstr("sources[0].template"));
  EXPECT_THAT(error(R"({"name": "a", "jsonl": "x", "template": "{t"})"), HasSubstr("a { without its }"));
  EXPECT_THAT(error(R"({"name": "a", "text": "x", "separator": "a\nb"})"), HasSubstr("a separator of one line"));
  EXPECT_THAT(error(R"({"name": "a", "code": "x", "extensions": ["go"]})"), HasSubstr("an extension as \".go\""));
  EXPECT_THAT(error(R"({"name": "a", "text": "x", "weight": 0})"), HasSubstr("weight: expected integer in [1, 1000]"));
}

TEST(data_config, examples_are_good) {
  int n = 0;
  for (const auto& entry : fs::directory_iterator(LINNET_SOURCE_DIR "/examples/data")) {
    EXPECT_FALSE(read_data_config(entry.path()).sources.empty());
    ++n;
  }
  EXPECT_GE(n, 2);
}

}  // namespace
}  // namespace linnet::train
