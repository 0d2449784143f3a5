// The page as it lies in the program: byte for byte the files of src/server/page, nothing from elsewhere, nothing inline.
#include "server/page_files.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

namespace linnet::server {
namespace {

namespace fs = std::filesystem;
const fs::path kFolder = fs::path(LINNET_SOURCE_DIR) / "src/server/page";

std::string contents(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(page_files, are_the_files_of_the_folder) {
  std::set<std::string> expected, etags;
  for (const auto& entry : fs::directory_iterator(kFolder)) {
    const std::string name = entry.path().filename();
    expected.insert(name == "index.html" ? "/" : "/page/" + name);
  }
  for (const PageFile& file : page_files()) {
    const std::string path(file.path);
    EXPECT_EQ(expected.erase(path), 1u) << path;
    EXPECT_EQ(file.bytes, contents(kFolder / (path == "/" ? "index.html" : path.substr(6)))) << path;
    EXPECT_TRUE(std::regex_match(std::string(file.etag), std::regex("\"[0-9a-f]{16}\""))) << file.etag;
    EXPECT_TRUE(etags.insert(std::string(file.etag)).second) << path;
  }
  EXPECT_TRUE(expected.empty()) << *expected.begin();
}

TEST(page_files, content_types) {
  for (const PageFile& file : page_files()) {
    const bool html = file.path == "/", script = file.path.ends_with(".js"), style = file.path.ends_with(".css");
    const char* type = html     ? "text/html; charset=utf-8"
                       : script ? "text/javascript; charset=utf-8"
                       : style  ? "text/css; charset=utf-8"
                                : "image/svg+xml";
    EXPECT_EQ(file.content_type, type) << file.path;
  }
}

// What the policy forbids, a browser would only say on its console.
TEST(page_files, fit_the_security_policy) {
  const std::regex elsewhere("https?://(?!www\\.w3\\.org/)"),
      inline_code("<script(?![^>]* src=)|<style| style=| on\\w+=\"");
  for (const PageFile& file : page_files()) {
    const std::string text(file.bytes);
    EXPECT_FALSE(std::regex_search(text, elsewhere)) << file.path;
    EXPECT_FALSE(file.path == "/" && std::regex_search(text, inline_code)) << file.path;
    for (const char* dangerous : {"innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write"})
      EXPECT_EQ(text.find(dangerous), std::string::npos) << file.path << ": " << dangerous;
  }
  for (const std::string directive : {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"})
    EXPECT_NE(kPageSecurityPolicy.find(directive), std::string_view::npos) << directive;
  EXPECT_EQ(kPageSecurityPolicy.find("unsafe"), std::string_view::npos);
}

}  // namespace
}  // namespace linnet::server
