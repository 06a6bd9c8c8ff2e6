// SPDX-License-Identifier: Apache-2.0
#include "cmd/tree_writer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "base/directory.h"
#include "base/text.h"
#include "cmd/file_entries.h"

namespace imagefs {
namespace {

using control::v1::FileData;
using control::v1::FileEntry;

class TreeWriterTest : public ::testing::Test {
 protected:
  TreeWriterTest() : dir_(StrCat(::testing::TempDir(), "/tree-writer-", RandomHex(8))) {
    EXPECT_TRUE(MakeDirs(dir_ + "/dst").ok());
  }
  ~TreeWriterTest() override { (void)RemoveTree(dir_); }

  TreeWriter Writer(const std::string& name) const {
    return TreeWriter(*OpenFile(dir_ + "/dst", O_RDONLY | O_DIRECTORY), name, dir_ + "/dst");
  }
  static FileEntry Entry(const std::string& path, uint32_t mode, uint64_t size = 0) {
    FileEntry entry;
    entry.set_path(path);
    entry.set_mode(mode);
    entry.set_uid(geteuid());
    entry.set_gid(getegid());
    entry.set_size(size);
    entry.set_mtime_seconds(1'000'000'000);
    return entry;
  }
  static FileEntry Link(const std::string& path, const std::string& target) {
    FileEntry entry = Entry(path, S_IFLNK | 0777);
    entry.set_target(target);
    return entry;
  }
  static FileData Data(uint64_t offset, const std::string& bytes) {
    FileData data;
    data.set_offset(offset);
    data.set_bytes(bytes);
    return data;
  }
  std::string Content(const std::string& path) const {
    return ReadFile(dir_ + "/" + path, 1 << 20).value_or("(cannot be read)");
  }

  const std::string dir_;
};

TEST_F(TreeWriterTest, ATree) {
  TreeWriter writer = Writer("copy");
  ASSERT_TRUE(writer.Add(Entry("/x/tree", S_IFDIR | 0555)).ok());
  ASSERT_TRUE(writer.Add(Entry("/x/tree/d", S_IFDIR | 0500)).ok());
  ASSERT_TRUE(writer.Add(Entry("/x/tree/d/f", S_IFREG | 0640, 3)).ok());
  ASSERT_TRUE(writer.Write(Data(0, "abc")).ok());
  FileEntry second = Entry("/x/tree/e", S_IFREG | 0640, 3);
  second.set_hard_link_to("/x/tree/d/f");
  ASSERT_TRUE(writer.Add(second).ok());
  ASSERT_TRUE(writer.Add(Link("/x/tree/l", "/etc")).ok());
  ASSERT_TRUE(writer.Finish().ok());
  EXPECT_EQ(Content("dst/copy/d/f"), "abc");
  EXPECT_EQ(writer.files(), 5u);
  EXPECT_EQ(writer.bytes(), 3u);
  struct stat found {
  }, other{};
  ASSERT_EQ(stat((dir_ + "/dst/copy/d").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode, S_IFDIR | 0500u);
  EXPECT_EQ(found.st_mtime, 1'000'000'000);
  ASSERT_EQ(stat((dir_ + "/dst/copy/d/f").c_str(), &found), 0);
  ASSERT_EQ(stat((dir_ + "/dst/copy/e").c_str(), &other), 0);
  EXPECT_EQ(found.st_ino, other.st_ino);
  EXPECT_EQ(found.st_nlink, 2u);
  ASSERT_EQ(lstat((dir_ + "/dst/copy/l").c_str(), &found), 0);
  EXPECT_TRUE(S_ISLNK(found.st_mode));
}

TEST_F(TreeWriterTest, HolesStay) {
  TreeWriter writer = Writer("f");
  FileEntry entry = Entry("/f", S_IFREG | 0644, 1 << 20);
  entry.set_sparse(true);
  entry.add_data()->set_begin(8192);
  entry.mutable_data(0)->set_end(8196);
  ASSERT_TRUE(writer.Add(entry).ok());
  ASSERT_TRUE(writer.Write(Data(8192, "part")).ok());
  ASSERT_TRUE(writer.Finish().ok());
  struct stat found {};
  ASSERT_EQ(stat((dir_ + "/dst/f").c_str(), &found), 0);
  EXPECT_EQ(found.st_size, 1 << 20);
  EXPECT_LT(found.st_blocks * 512, 1 << 19);
  EXPECT_EQ(Content("dst/f").substr(8190, 8), std::string("\0\0part\0\0", 8));
}

TEST_F(TreeWriterTest, NamesThatLeadOut) {
  for (const char* path : {"/../out", "/a/../../out", "/a/b", "/", "relative", "/."}) {
    TreeWriter writer = Writer("");
    ASSERT_TRUE(writer.Add(Entry("/", S_IFDIR | 0755)).ok());
    EXPECT_FALSE(writer.Add(Entry(path, S_IFREG | 0644)).ok()) << path;
  }
  TreeWriter behind_a_link = Writer("");
  ASSERT_TRUE(behind_a_link.Add(Entry("/", S_IFDIR | 0755)).ok());
  ASSERT_TRUE(behind_a_link.Add(Link("/a", dir_)).ok());
  EXPECT_FALSE(behind_a_link.Add(Entry("/a/passwd", S_IFREG | 0644)).ok());
  TreeWriter over_a_link = Writer("");
  ASSERT_TRUE(over_a_link.Add(Entry("/", S_IFDIR | 0755)).ok());
  EXPECT_FALSE(over_a_link.Add(Entry("/a", S_IFDIR | 0755)).ok()) << "a link is in the way";
  TreeWriter links = Writer("");
  ASSERT_TRUE(links.Add(Entry("/", S_IFDIR | 0755)).ok());
  for (const char* target : {"/../dst", "/a/dst", "/..", "/"}) {
    FileEntry entry = Entry("/hard", S_IFREG | 0644);
    entry.set_hard_link_to(target);
    EXPECT_FALSE(links.Add(entry).ok()) << target;
  }
  EXPECT_FALSE(StatPath(dir_ + "/out").ok());
}

TEST_F(TreeWriterTest, AFileIsReplacedOnceItIsWhole) {
  ASSERT_TRUE(WriteFileDurably(dir_ + "/outside", "outside").ok());
  ASSERT_EQ(symlink("../outside", (dir_ + "/dst/f").c_str()), 0);
  {
    TreeWriter writer = Writer("f");
    ASSERT_TRUE(writer.Add(Entry("/f", S_IFREG | 0644, 6)).ok());
    ASSERT_TRUE(writer.Write(Data(0, "new")).ok());
    EXPECT_EQ(writer.Finish().code(), absl::StatusCode::kDataLoss) << "bytes are missing";
  }
  EXPECT_EQ(Content("dst/f"), "outside");
  TreeWriter writer = Writer("f");
  ASSERT_TRUE(writer.Add(Entry("/f", S_IFREG | 0644, 3)).ok());
  EXPECT_FALSE(writer.Write(Data(1, "ew")).ok()) << "bytes that are not the next ones";
  ASSERT_TRUE(writer.Write(Data(0, "new")).ok());
  EXPECT_FALSE(writer.Write(Data(3, "more")).ok());
  ASSERT_TRUE(writer.Finish().ok());
  EXPECT_EQ(Content("dst/f"), "new");
  EXPECT_EQ(Content("outside"), "outside");
  EXPECT_EQ(ListDir(dir_ + "/dst")->size(), 1u) << "nothing is left";
}

TEST(FileEntriesTest, ImagePaths) {
  const auto split = [](std::string_view text) {
    const absl::StatusOr<ImagePath> path = SplitImagePath(text);
    return path.ok() ? StrCat(path->reference, " ", path->path) : "";
  };
  EXPECT_EQ(split("alpine:/etc/hosts"), "alpine /etc/hosts");
  EXPECT_EQ(split("localhost:5000/a/b:tag:/etc"), "localhost:5000/a/b:tag /etc");
  EXPECT_EQ(split("a@sha256:0123:/"), "a@sha256:0123 /");
  EXPECT_EQ(split("docker://host/name:1:/x:/y"), "docker://host/name:1 /x:/y");
  EXPECT_EQ(split("oci:/srv/layout:tag:/x"), "oci:/srv/layout:tag /x");
  EXPECT_EQ(split("oci-archive:/a.tar:/x"), "oci-archive:/a.tar /x");
  EXPECT_EQ(split("alpine:etc"), "");
  EXPECT_EQ(split("alpine"), "");
  EXPECT_EQ(split(":/x"), "");
  EXPECT_EQ(split("oci:/srv/layout"), "");
}

TEST(FileEntriesTest, NamesOfCopies) {
  EXPECT_EQ(NameOfCopy("/etc/hosts"), "hosts");
  EXPECT_EQ(NameOfCopy("/etc/"), "etc");
  EXPECT_EQ(NameOfCopy("/etc/."), "");
  EXPECT_EQ(NameOfCopy("/etc/.."), "");
  EXPECT_EQ(NameOfCopy("/"), "");
}

}  // namespace
}  // namespace imagefs
