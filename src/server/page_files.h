// The chat page: the files of src/server/page, as they lie in the program. Generated table: cmake/embed_page.cmake.
#pragma once

#include <span>
#include <string_view>

namespace linnet::server {

struct PageFile {
  std::string_view path;  // of the URL: "/" is index.html, the others "/page/NAME"
  std::string_view content_type;
  std::string_view bytes;
  std::string_view etag;  // with its quotes: changes whenever the bytes do
};

std::span<const PageFile> page_files();

// Content-Security-Policy of every file: the page talks to its own server and to nothing else, and runs no inline script or style,
// and no text can become HTML.
inline constexpr std::string_view kPageSecurityPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

}  // namespace linnet::server
