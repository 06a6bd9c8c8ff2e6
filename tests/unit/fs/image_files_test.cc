// SPDX-License-Identifier: Apache-2.0
#include "fs/image_files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/text.h"
#include "fs/chain_read.h"
#include "tests/fakes/fs/fake_fill.h"
#include "tests/fakes/fs/test_chain.h"

namespace imagefs {
namespace {

class ImageFilesTest : public ::testing::Test {
 protected:
  ImageFilesTest() : directory_(StrCat(::testing::TempDir(), "/files-", RandomHex(8))) {
    EXPECT_TRUE(MakeDirs(directory_).ok());
  }
  ~ImageFilesTest() override { (void)RemoveTree(directory_); }

  void Build() { chain_ = made_.Build(directory_); }
  const ErofsImage& image() const { return *chain_->index; }
  std::string Find(std::string_view path, bool follow = true) const {
    const absl::StatusOr<FoundFile> found = FindFile(image(), path, follow);
    return found.ok() ? found->path : std::string(found.status().message());
  }
  absl::StatusCode CodeOf(std::string_view path) const {
    return FindFile(image(), path, true).status().code();
  }
  std::vector<std::string> Walk(std::string_view path, uint32_t depth = UINT32_MAX) const {
    std::vector<std::string> paths;
    FileWalk walk(image(), *FindFile(image(), path, true), depth);
    while (true) {
      const absl::StatusOr<std::optional<FileWalk::Entry>> entry = walk.Next();
      EXPECT_TRUE(entry.ok()) << entry.status();
      if (!entry.ok() || !entry->has_value()) return paths;
      paths.push_back((*entry)->path);
    }
  }

  const std::string directory_;
  TestChain made_{2};
  ChainRef chain_;
};

TEST_F(ImageFilesTest, PathsAreFoundAsInARootDirectoryOfTheirOwn) {
  made_.Dir("usr");
  made_.Dir("usr/bin");
  made_.File("usr/bin/sh", "x");
  made_.Symlink("bin", "usr/bin");
  made_.Symlink("absolute", "/usr/bin/sh");
  made_.Symlink("usr/up", "../../../../usr");
  made_.Symlink("out", "../../../../../etc/passwd");
  Build();
  EXPECT_EQ(Find("/"), "/");
  EXPECT_EQ(Find("//usr///bin/./sh"), "/usr/bin/sh");
  EXPECT_EQ(Find("/bin/sh"), "/usr/bin/sh");
  EXPECT_EQ(Find("/absolute"), "/usr/bin/sh");
  EXPECT_EQ(Find("/absolute", false), "/absolute");
  EXPECT_EQ(Find("/usr/up/bin/sh"), "/usr/bin/sh");
  EXPECT_EQ(Find("/../../usr/../usr/bin/.."), "/usr");
  EXPECT_EQ(Find("/bin", false), "/bin");
  EXPECT_EQ(Find("/bin/", false), "/usr/bin");
  EXPECT_EQ(Find("/bin/.", false), "/usr/bin");
  EXPECT_EQ(Find("/out"), "/out: /etc: no such file") << "never the host's";
  EXPECT_EQ(CodeOf("/out"), absl::StatusCode::kNotFound);
}

TEST_F(ImageFilesTest, LoopsEnd) {
  made_.Symlink("a", "b");
  made_.Symlink("b", "a");
  made_.Symlink("self", "self/x");
  for (int i = 1; i <= 41; ++i) made_.Symlink(StrCat("l", i), StrCat("l", i - 1));
  made_.File("l0", "");
  Build();
  for (const char* path : {"/a", "/self", "/l41"}) {
    EXPECT_EQ(CodeOf(path), absl::StatusCode::kFailedPrecondition) << path;
    EXPECT_NE(Find(path).find("too many levels"), std::string::npos) << path;
  }
  EXPECT_EQ(Find("/l40"), "/l0");
}

TEST_F(ImageFilesTest, AnAbsentFileHasNeighbours) {
  made_.Dir("usr");
  made_.Dir("usr/bin");
  for (const char* name : {"python", "python3", "perl", "zsh"}) {
    made_.File(StrCat("usr/bin/", name), "");
  }
  Build();
  EXPECT_EQ(Find("/usr/bin/pyton"),
            "/usr/bin/pyton: no such file; the nearest names are python, python3");
  EXPECT_EQ(Find("/usr/bin/zshh"), "/usr/bin/zshh: no such file; the nearest name is zsh");
  EXPECT_EQ(Find("/usr/bin/entirely-else"), "/usr/bin/entirely-else: no such file");
  EXPECT_EQ(Find("/urs/bin/sh"), "/urs/bin/sh: /urs: no such file; the nearest name is usr");
  EXPECT_EQ(Find("/usr/bin/perl/x"), "/usr/bin/perl/x: /usr/bin/perl: not a directory");
  EXPECT_EQ(Find("/usr/bin/perl/"), "/usr/bin/perl/: /usr/bin/perl: not a directory");
  EXPECT_EQ(CodeOf("usr"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(""), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(std::string_view("/usr\0/bin", 9)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(StrCat("/", std::string(300, 'n'))), absl::StatusCode::kNotFound);
}

TEST_F(ImageFilesTest, TheWalkIsInOrder) {
  made_.Dir("b");
  made_.File("b/-", "");
  made_.File("b/\xff", "");
  made_.Dir("b/dir");
  made_.File("b/dir/x", "");
  made_.File("a", "");
  made_.File("b.txt", "");
  Build();
  EXPECT_EQ(Walk("/"), (std::vector<std::string>{"/", "/a", "/b", "/b/-", "/b/dir", "/b/dir/x",
                                                 "/b/\xff", "/b.txt"}));
  EXPECT_EQ(Walk("/b", 1), (std::vector<std::string>{"/b", "/b/-", "/b/dir", "/b/\xff"}));
  EXPECT_EQ(Walk("/b", 0), (std::vector<std::string>{"/b"}));
  EXPECT_EQ(Walk("/a"), (std::vector<std::string>{"/a"}));
}

TEST_F(ImageFilesTest, DirectoriesOfAnySize) {
  std::vector<std::string> expected = {"/"};
  for (int i = 0; i < 3000; ++i) {
    made_.File(StrCat("name-", i), "");
    expected.push_back(StrCat("/name-", i));
  }
  std::string deep;
  for (int i = 0; i < 500; ++i) {
    StrAppend(&deep, deep.empty() ? "" : "/", "zdeep");
    made_.Dir(deep);
    expected.push_back(StrCat("/", deep));
  }
  std::sort(expected.begin(), expected.end());
  Build();
  EXPECT_EQ(Walk("/"), expected);
}

TEST_F(ImageFilesTest, HolesAreFound) {
  made_.Sparse("holes", 1 << 20, {{4096, std::string(4096, 'a')}, {65'536, "end"}});
  made_.Sparse("hole", 12'345, {});
  made_.File("full", std::string(10'000, 'f'));
  Build();
  const auto ranges = [&](std::string_view path) {
    const FoundFile file = *FindFile(image(), path, true);
    return *DataRanges(image(), *image().GetStat(file.nid));
  };
  EXPECT_EQ(ranges("/holes"), (std::vector<ByteRange>{{4096, 8192}, {65'536, 69'632}}));
  EXPECT_EQ(ranges("/hole"), (std::vector<ByteRange>{}));
  EXPECT_EQ(ranges("/full"), (std::vector<ByteRange>{{0, 10'000}}));
}

TEST_F(ImageFilesTest, MarkersOfOverlayfsAreNoAttributes) {
  made_.Dir("d");
  made_.Xattrs("d", {{"trusted.overlay.opaque", "y"}, {"user.b", "2"}, {"user.a", "1"}});
  Build();
  const FoundFile file = *FindFile(image(), "/d", true);
  EXPECT_EQ(*FileXattrs(*chain_, file.nid), (std::vector<Xattr>{{"user.a", "1"}, {"user.b", "2"}}));
}

TEST_F(ImageFilesTest, PartsThatAreMissingAreWaitedForTogether) {
  made_.File("one", std::string(1000, '1'), 0644, 1);
  made_.File("two", std::string(1000, '2'), 0644, 2);
  Build();
  const auto first = FakeFill::Empty(chain_->layers[0]);
  const auto second = FakeFill::Empty(chain_->layers[1]);
  first->Hold();
  const std::vector<std::pair<LayerRef, ByteRange>> parts = {{chain_->layers[0], {0, 512}},
                                                             {chain_->layers[1], {0, 512}}};
  int calls = 0;
  absl::Status status;
  size_t pins = 0;
  const auto done = [&](absl::StatusOr<std::vector<ReadPin>> got) {
    ++calls;
    status = got.status();
    if (got.ok()) pins = got->size();
  };
  EnsureParts(parts, 0, CancelToken(), done);
  EXPECT_EQ(calls, 0) << "one of them is still on its way";
  first->Release();
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(pins, 2u);

  EnsureParts({}, 0, CancelToken(), done);
  EXPECT_EQ(calls, 2) << "nothing to wait for";

  CancelSource cancel;
  const auto again = FakeFill::Empty(chain_->layers[0]);
  again->Hold();
  EnsureParts(parts, 0, cancel.token(), done);
  EXPECT_EQ(calls, 2);
  cancel.Cancel();
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace imagefs
