# cmake -D OUT=FILE -P embed_page.cmake FILES...: writes the table that src/server/page_files.h declares.
# Extension -> content type.
set(type.html "text/html; charset=utf-8")
set(type.css "text/css; charset=utf-8")
set(type.js "text/javascript; charset=utf-8")
set(type.svg "image/svg+xml")

set(table "")
set(arrays "")
set(index 0)
set(found FALSE)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
  set(argument "${CMAKE_ARGV${i}}")
  if(argument STREQUAL "--")
    set(found TRUE)
    continue()
  elseif(NOT found)
    continue()
  endif()
  get_filename_component(name "${argument}" NAME)
  get_filename_component(extension "${argument}" LAST_EXT)
  string(SUBSTRING "${extension}" 1 -1 extension)
  if(NOT DEFINED type.${extension})
    message(FATAL_ERROR "${argument}: no content type is known for .${extension}")
  endif()
  set(type "${type.${extension}}")
  file(READ "${argument}" bytes HEX)
  file(SHA256 "${argument}" hash)
  string(SUBSTRING "${hash}" 0 16 hash)
  string(LENGTH "${bytes}" size)
  math(EXPR size "${size} / 2")
  string(REGEX REPLACE "(................................)" "\\1\n" bytes "${bytes}")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "'\\\\x\\1'," bytes "${bytes}")
  set(path "/page/${name}")
  if(name STREQUAL "index.html")
    set(path "/")
  endif()
  string(APPEND arrays "constexpr char kFile${index}[] = {\n${bytes}};\n")
  string(APPEND table "    {\"${path}\", \"${type}\", {kFile${index}, ${size}}, \"\\\"${hash}\\\"\"},\n")
  math(EXPR index "${index} + 1")
endforeach()

file(WRITE "${OUT}" "// Made by cmake/embed_page.cmake from src/server/page.
#include \"server/page_files.h\"

namespace linnet::server {
namespace {

${arrays}
constexpr PageFile kFiles[] = {
${table}};

}  // namespace

std::span<const PageFile> page_files() { return kFiles; }

}  // namespace linnet::server
")
