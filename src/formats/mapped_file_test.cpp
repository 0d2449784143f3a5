// Mapped and text files: contents, hints, and every kind of thing that is not a readable regular file.
#include "formats/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "core/errors.h"
#include "formats/file_test_support.h"

namespace linnet::formats {
namespace {

using testing::EndsWith;

std::string text_of_bytes(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Another user, where the tests run as root: root may read everything.
class AsNobody {
 public:
  AsNobody() { become(65534); }
  ~AsNobody() { become(0); }

 private:
  static void become(uid_t user) {
    if (getuid() != 0) return;
    EXPECT_EQ(seteuid(user), 0);
  }
};

TEST(mapped_file, holds_the_bytes) {
  const ScratchFolder folder;
  MappedFile file(folder.write("a", std::string("x\0y", 3)));
  EXPECT_EQ(text_of_bytes(file.bytes()), std::string("x\0y", 3));
  const MappedFile moved = std::move(file);
  EXPECT_EQ(moved.bytes().size(), 3u);
  EXPECT_EQ(moved.path(), folder / "a");
  EXPECT_TRUE(MappedFile(folder.write("empty", "")).bytes().empty());
  EXPECT_TRUE(MappedFile().bytes().empty());
}

TEST(mapped_file, released_pages_read_the_same_again) {
  const ScratchFolder folder;
  std::string bytes(3 * 4096 + 17, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31 >> 3);
  const MappedFile file(folder.write("a", bytes));
  for (const auto& [at, n] :
       {std::pair<size_t, size_t>{0, bytes.size()}, {5, 4096}, {4096, 8192}, {12288, 17}, {7, 0}}) {
    file.prefetch(file.bytes().subspan(at, n));
    file.release(file.bytes().subspan(at, n));
    EXPECT_EQ(text_of_bytes(file.bytes()), bytes);
  }
  // Memory that is not the file's is left alone: releasing an anonymous page would clear it.
  std::vector<char> other(1 << 16, 'o');
  file.release(std::as_bytes(std::span(other)));
  EXPECT_EQ(std::count(other.begin(), other.end(), 'o'), 1 << 16);
}

TEST(mapped_file, refuses_what_is_not_a_readable_file) {
  const ScratchFolder folder;
  const auto message = [&](std::string_view name) { return error_of<IoError>([&] { MappedFile(folder / name); }); };
  const std::string prefix = folder.path().string() + "/";
  folder.write("file", "x");
  mkfifo((folder / "fifo").c_str(), 0600);
  std::filesystem::create_symlink("loop", folder / "loop");
  std::filesystem::create_directory(folder / "sub");
  EXPECT_EQ(message("absent"), prefix + "absent: cannot open: No such file or directory");
  EXPECT_EQ(message("file/x"), prefix + "file/x: cannot open: Not a directory");
  EXPECT_EQ(message("sub"), prefix + "sub: expected a regular file, got a folder");
  EXPECT_EQ(message("fifo"), prefix + "fifo: expected a regular file, got a FIFO");
  EXPECT_THAT(message("loop"), EndsWith("loop: cannot open: Too many levels of symbolic links"));
  EXPECT_EQ(error_of<IoError>([] { MappedFile("/dev/null"); }), "/dev/null: expected a regular file, got a device");
  std::filesystem::permissions(folder / "file", std::filesystem::perms::none);
  const AsNobody nobody;
  EXPECT_EQ(message("file"), prefix + "file: cannot open: Permission denied");
}

TEST(read_text_file, reads_up_to_the_limit) {
  const ScratchFolder folder;
  const auto path = folder.write("a", "0123456789");
  EXPECT_EQ(read_text_file(path, 10), "0123456789");
  EXPECT_EQ(error_of<FormatError>([&] { read_text_file(path, 9); }),
            path.string() + ": expected at most 9 B, got 10 B");
  EXPECT_EQ(read_text_file(folder.write("empty", ""), 0), "");
  EXPECT_THROW(read_text_file(folder.path(), 9), IoError);
}

}  // namespace
}  // namespace linnet::formats
