// SPDX-License-Identifier: Apache-2.0
#include "image/layer_builder.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/fakes/image/tar_writer.h"

namespace imagefs {
namespace {

absl::StatusOr<LayerBuilder::Result> Build(const std::string& bytes) {
  LayerBuilder builder;
  bool given = false;
  const absl::Status status = ReadTar(
      [&]() -> absl::StatusOr<std::string_view> {
        return std::exchange(given, true) ? std::string_view() : std::string_view(bytes);
      },
      [&](TarEntry& entry) { return builder.Add(entry); });
  if (!status.ok()) return status;
  return std::move(builder).Finish(bytes.size());
}

// "/a/b" -> inode, for everything but the root.
std::map<std::string, InodeId> Paths(const Tree& tree) {
  std::map<std::string, InodeId> paths;
  std::vector<std::pair<std::string, InodeId>> todo = {{"", Tree::kRoot}};
  while (!todo.empty()) {
    const auto [path, directory] = todo.back();
    todo.pop_back();
    for (DirentId id : tree.SortedChildren(directory)) {
      const Dirent& dirent = tree.dirent(id);
      const std::string child = path + "/" + std::string(dirent.name);
      paths[child] = dirent.inode;
      if (S_ISDIR(tree.inode(dirent.inode).mode)) todo.emplace_back(child, dirent.inode);
    }
  }
  return paths;
}

// One word per entry: its path and a sign for its kind: "/" directory, "!" opaque directory, "?"
// implied directory, "-" whiteout, "=n" file of n bytes, "@" symbolic link, "*" anything else.
std::string Show(const TarWriter& tar) {
  const auto result = Build(tar.bytes());
  if (!result.ok()) return "error";
  std::string out;
  for (const auto& [path, id] : Paths(result->tree)) {
    const Inode& inode = result->tree.inode(id);
    out += (out.empty() ? "" : " ") + path;
    if (S_ISDIR(inode.mode)) {
      out += "/";
      if (inode.opaque) out += "!";
      if (inode.implied) out += "?";
    } else if (S_ISCHR(inode.mode) && inode.rdev_major == 0 && inode.rdev_minor == 0) {
      out += "-";
    } else if (S_ISREG(inode.mode)) {
      out += "=" + std::to_string(inode.size);
    } else {
      out += S_ISLNK(inode.mode) ? "@" : "*";
    }
  }
  return out;
}

std::string ErrorOf(const TarWriter& tar) {
  const auto result = Build(tar.bytes());
  if (result.ok()) return "no error";
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(result.status().message());
}

bool Contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST(LayerBuilderTest, EmptyLayer) {
  const auto result = Build(std::string(1024, '\0'));
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(Paths(result->tree).empty());
  EXPECT_TRUE(result->tree.inode(Tree::kRoot).implied);
  EXPECT_EQ(result->data_size, 1024u);
  EXPECT_TRUE(result->moves.empty());
}

TEST(LayerBuilderTest, Whiteouts) {
  EXPECT_EQ(Show(TarWriter().File("d/.wh.x", "")), "/d/? /d/x-");
  // The layer's own entry wins in either order.
  EXPECT_EQ(Show(TarWriter().File(".wh.x", "").File("x", "ab")), "/x=2");
  EXPECT_EQ(Show(TarWriter().File("x", "ab").File(".wh.x", "")), "/x=2");
  // A directory over a whiteout hides the contents of lower layers.
  EXPECT_EQ(Show(TarWriter().File(".wh.d", "").Dir("d").File("d/x", "")), "/d/! /d/x=0");
  EXPECT_EQ(Show(TarWriter().Dir("d").File("d/x", "").File(".wh.d", "")), "/d/! /d/x=0");
  EXPECT_EQ(Show(TarWriter().File(".wh.d", "").File("d/x", "")), "/d/!? /d/x=0");
  // So does one over a file, which replaced everything below its name.
  EXPECT_EQ(Show(TarWriter().File(".wh.d", "").File("d", "").Dir("d")), "/d/!");
  EXPECT_EQ(Show(TarWriter().File("d", "").File(".wh.d", "").Dir("d")), "/d/!");
  EXPECT_EQ(Show(TarWriter().Dir("d").File("d", "").Dir("d").File("d/x", "")), "/d/! /d/x=0");
  EXPECT_EQ(Show(TarWriter().File(".wh.x", "").File(".wh.x", "")), "/x-");
  EXPECT_EQ(Show(TarWriter().File("f", "abc").File(".wh.h", "").HardLink("h", "f")), "/f=3 /h=3");
}

TEST(LayerBuilderTest, Opaque) {
  EXPECT_EQ(Show(TarWriter().Dir("d").File("d/a", "").File("d/.wh..wh..opq", "")), "/d/! /d/a=0");
  EXPECT_EQ(Show(TarWriter().File("d/.wh..wh..opq", "").File("d/a", "")), "/d/!? /d/a=0");
  EXPECT_EQ(Show(TarWriter().File("d/.wh..wh..opq", "").Dir("d")), "/d/!");
  const auto root = Build(TarWriter().File(".wh..wh..opq", "").bytes());
  ASSERT_TRUE(root.ok());
  EXPECT_TRUE(root->tree.inode(Tree::kRoot).opaque);
}

TEST(LayerBuilderTest, AufsBookKeepingIsNotShown) {
  EXPECT_EQ(Show(TarWriter()
                     .Dir(".wh..wh.plnk")
                     .File(".wh..wh.plnk/1.2", "")
                     .File(".wh..wh.aufs", "")
                     .File("d/.wh..wh.orph/x", "")
                     .File("a", "")),
            "/a=0 /d/?");
}

TEST(LayerBuilderTest, HardLinksMayNameWhatAufsKeptAside) {
  const std::string plink = ".wh..wh.plnk/12.34";
  TarWriter tar;
  tar.Dir(".wh..wh.plnk").File(plink, "data", 0755);
  tar.HardLink("a", plink).HardLink("d/b", "/" + plink).HardLink("c", "./" + plink);
  const auto result = Build(tar.End().bytes());
  ASSERT_TRUE(result.ok()) << result.status();
  auto paths = Paths(result->tree);
  ASSERT_EQ(paths.size(), 4u);
  EXPECT_EQ(paths.at("/a"), paths.at("/d/b"));
  EXPECT_EQ(paths.at("/a"), paths.at("/c"));
  const Inode& inode = result->tree.inode(paths.at("/a"));
  EXPECT_EQ(inode.nlink, 3u);
  EXPECT_EQ(inode.size, 4u);
  EXPECT_EQ(inode.mode, static_cast<uint32_t>(S_IFREG | 0644));  // from the links' own entries

  EXPECT_EQ(Show(TarWriter().Symlink(plink, "t").HardLink("s", plink)), "/s@");
  EXPECT_EQ(Show(TarWriter().File("a", "1").HardLink(plink, "a").HardLink("b", plink)),
            "/a=1 /b=1");
  // A target that comes later, is replaced, or is removed with its directory.
  EXPECT_EQ(Show(TarWriter().HardLink("a", plink).File(plink, "1")), "error");
  EXPECT_EQ(Show(TarWriter().File(plink, "1").File(plink, "12").HardLink("a", plink)), "/a=2");
  EXPECT_EQ(Show(TarWriter().File(plink, "1").HardLink("a", plink).File(".wh..wh.plnk", "")),
            "/a=1");
}

TEST(LayerBuilderTest, AufsOfSparseFiles) {
  TarWriter tar;
  tar.OldGnuSparse(".wh..wh.plnk/1", 100'000, {{50'000, 6}}, "second");
  tar.HardLink("a", ".wh..wh.plnk/1").OldGnuSparse(".wh..wh.plnk/2", 9000, {{8000, 1}}, "x");
  const auto result = Build(tar.End().bytes());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->moves.size(), 1u);  // the other one has no name
}

TEST(LayerBuilderTest, AGlobalHeaderTakesThePlaceOfItsName) {
  const TarWriter::Records comment = {{"comment", "c"}};
  const auto global = [&](std::string_view path) {
    return TarWriter::Records{{"path", std::string(path)}};
  };
  EXPECT_EQ(Show(TarWriter().File("f", "").Pax(global("f"), 'g').File("g", "")), "/g=0");
  EXPECT_EQ(Show(TarWriter().File("d/f", "").Pax(global("d"), 'g')), "");
  EXPECT_EQ(Show(TarWriter().Pax(global(".wh.f"), 'g')), "/f-");
  EXPECT_EQ(Show(TarWriter().Pax(global("d/.wh..wh..opq"), 'g')), "/d/!?");
  EXPECT_EQ(Show(TarWriter().Pax(global("/tmp/GlobalHead.1"), 'g')), "/tmp/?");
  EXPECT_EQ(Show(TarWriter().Pax(comment, 'g').File("a", "")), "/PaxHeaders/? /a=0");
}

TEST(LayerBuilderTest, ImpossibleWhiteouts) {
  for (const char* name : {".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh..."}) {
    EXPECT_TRUE(Contains(ErrorOf(TarWriter().File(name, "")), name)) << name;
  }
}

TEST(LayerBuilderTest, PathsAreCleaned) {
  EXPECT_EQ(Show(TarWriter()
                     .Dir("./")
                     .File("./a", "")
                     .File("/b", "")
                     .File("d//./c", "")
                     .File("d/x/../e", "")
                     .File("f/", "")),
            "/a=0 /b=0 /d/? /d/c=0 /d/e=0 /f=0");
  EXPECT_EQ(Show(TarWriter()
                     .File("/../a", "")
                     .File("/d/../../../b", "")
                     .File("/../../d/./c", "")
                     .Dir("/..")
                     .Symlink("//../s", "../../out")
                     .HardLink("h", "/x/../../b")),
            "/a=0 /b=0 /d/? /d/c=0 /h=0 /s@");
  EXPECT_EQ(Show(TarWriter().File("/../.wh.w", "")), "/w-");
  for (const char* name : {"../x", "a/../../x", "./../x", ".."}) {
    EXPECT_TRUE(Contains(ErrorOf(TarWriter().File(name, "")), "root")) << name;
  }
}

TEST(LayerBuilderTest, TheRootEntryIsIgnored) {
  for (const char* name : {".", "./", "/", ""}) {
    const auto result = Build(TarWriter().Dir(name, 0700).bytes());
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_TRUE(result->tree.inode(Tree::kRoot).implied);
    EXPECT_EQ(result->tree.inode(Tree::kRoot).mode & 07777, 0755u);
  }
}

TEST(LayerBuilderTest, MissingParentsAreImplied) {
  const auto result = Build(TarWriter().File("a/b/f", "").Dir("a/b", 0700).bytes());
  ASSERT_TRUE(result.ok());
  auto paths = Paths(result->tree);
  const Inode& a = result->tree.inode(paths.at("/a"));
  EXPECT_TRUE(a.implied);
  EXPECT_EQ(a.mode, static_cast<uint32_t>(S_IFDIR | 0755));
  EXPECT_EQ(a.mtime_seconds, 0);
  const Inode& b = result->tree.inode(paths.at("/a/b"));
  EXPECT_FALSE(b.implied);
  EXPECT_EQ(b.mode & 07777, 0700u);
  EXPECT_TRUE(paths.contains("/a/b/f"));
}

TEST(LayerBuilderTest, SymbolicLinksOfTheLayerAreFollowedInsideTheRoot) {
  EXPECT_EQ(Show(TarWriter().Dir("usr/lib").Symlink("lib", "usr/lib").File("lib/x", "")),
            "/lib@ /usr/? /usr/lib/ /usr/lib/x=0");
  EXPECT_EQ(Show(TarWriter().Dir("d").Symlink("d/up", "../../../etc").File("d/up/x", "")),
            "/d/ /d/up@ /etc/? /etc/x=0");
  EXPECT_EQ(Show(TarWriter().Symlink("abs", "/v").File("abs/x", "")), "/abs@ /v/? /v/x=0");
  // The last component is not followed: the entry replaces the link.
  EXPECT_EQ(Show(TarWriter().Dir("d").Symlink("s", "d").File("s", "a")), "/d/ /s=1");
  EXPECT_TRUE(Contains(ErrorOf(TarWriter().Symlink("a", "b").Symlink("b", "a").File("a/x", "")),
                       "symbolic links"));
  EXPECT_EQ(Show(TarWriter().File("f", "").File("f/x", "")), "error");
}

TEST(LayerBuilderTest, TheLastDuplicateWins) {
  EXPECT_EQ(Show(TarWriter().File("f", "a").File("f", "abc")), "/f=3");
  EXPECT_EQ(Show(TarWriter().File("f", "a").Dir("f").File("f/x", "")), "/f/! /f/x=0");
  EXPECT_EQ(Show(TarWriter().Dir("d").File("d/x", "").File("d", "ab")), "/d=2");
  EXPECT_EQ(Show(TarWriter().Dir("d").File("d/x", "").Dir("d", 0700)), "/d/ /d/x=0");
  const auto result = Build(TarWriter().Dir("d").Dir("d", 0700).bytes());
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->tree.inode(Paths(result->tree).at("/d")).mode & 07777, 0700u);
}

TEST(LayerBuilderTest, HardLinks) {
  const auto result = Build(TarWriter()
                                .File("a", "1")
                                .HardLink("b", "./a")
                                .HardLink("c", "/b")
                                .Symlink("s", "a")
                                .HardLink("t", "s")
                                .File("a", "22")
                                .HardLink("d", "a")
                                .bytes());
  ASSERT_TRUE(result.ok()) << result.status();
  auto paths = Paths(result->tree);
  EXPECT_EQ(paths.at("/b"), paths.at("/c"));
  EXPECT_EQ(result->tree.inode(paths.at("/b")).nlink, 2u);
  EXPECT_EQ(result->tree.inode(paths.at("/b")).size, 1u);
  EXPECT_EQ(paths.at("/a"), paths.at("/d"));
  EXPECT_EQ(result->tree.inode(paths.at("/a")).size, 2u);
  EXPECT_EQ(paths.at("/s"), paths.at("/t"));
  // Through a symbolic link of the layer, and onto its own name.
  EXPECT_EQ(Show(TarWriter().File("d/f", "x").Symlink("l", "d").HardLink("h", "l/f")),
            "/d/? /d/f=1 /h=1 /l@");
  EXPECT_EQ(Show(TarWriter().File("f", "x").HardLink("f", "f")), "/f=1");
}

TEST(LayerBuilderTest, TheLastHardLinkEntryGivesTheAttributes) {
  TarWriter tar;
  tar.Add({.name = "f", .mode = 0640, .uid = 3, .gid = 4, .mtime = 5}, "abc");
  tar.Add({.name = "g", .type = '1', .mode = 0600, .uid = 6, .mtime = 7, .link = "f"});
  tar.Pax({{"mtime", "-0.25"}});
  tar.Add({.name = "h", .type = '1', .mode = 0124751, .uid = 8, .gid = 9, .link = "g"});
  tar.Add({.name = "s", .type = '2', .mode = 0777, .uid = 1, .mtime = 1, .link = "f"});
  tar.Add({.name = "t", .type = '1', .mode = 0600, .uid = 2, .mtime = 3, .link = "s"});
  tar.Add({.name = "dev", .type = '3', .mode = 0600, .major = 1, .minor = 3});
  tar.Add({.name = "dev2", .type = '1', .mode = 0666, .gid = 5, .mtime = 4, .link = "dev"});
  // Onto its own name, and one whose target is replaced later.
  tar.Add({.name = "self", .mode = 0644}, "");
  tar.Add({.name = "self", .type = '1', .mode = 0400, .link = "self"});
  tar.Add({.name = "old", .mode = 0644}, "");
  tar.Add({.name = "kept", .type = '1', .mode = 0400, .link = "old"});
  tar.Add({.name = "old", .mode = 0640}, "new").End();
  const auto result = Build(tar.bytes());
  ASSERT_TRUE(result.ok()) << result.status();
  auto paths = Paths(result->tree);
  const auto show = [&](const std::string& path) {
    const Inode& inode = result->tree.inode(paths.at(path));
    std::ostringstream out;
    out << std::oct << inode.mode << std::dec << " " << inode.uid << ":" << inode.gid << " "
        << inode.mtime_seconds << "." << inode.mtime_nanoseconds << " " << inode.nlink;
    return out.str();
  };
  EXPECT_EQ(paths.at("/f"), paths.at("/h"));
  EXPECT_EQ(show("/f"), "104751 8:9 -1.750000000 3") << "the type is that of the file";
  EXPECT_EQ(show("/s"), "120777 2:0 3.0 2") << "chmod would follow the symbolic link";
  EXPECT_EQ(show("/dev"), "20666 0:5 4.0 2");
  EXPECT_EQ(result->tree.inode(paths.at("/dev")).rdev_minor, 3u);
  EXPECT_EQ(show("/self"), "100400 0:0 0.0 1");
  EXPECT_EQ(show("/kept"), "100400 0:0 0.0 1");
  EXPECT_EQ(show("/old"), "100640 0:0 0.0 1");
}

TEST(LayerBuilderTest, HardLinkEntriesAddXattrs) {
  const std::string capability = "SCHILY.xattr.security.capability";
  TarWriter tar;
  tar.Pax({{"SCHILY.xattr.user.a", "1"}, {"SCHILY.xattr.user.b", "2"}}).File("f", "");
  tar.Pax({{"SCHILY.xattr.user.b", "3"},
           {"SCHILY.xattr.user.c", "4"},
           {"SCHILY.xattr.trusted.overlay.opaque", "y"}});
  tar.HardLink("f2", "f").Pax({{"SCHILY.xattr.trusted.d", "5"}}).HardLink("f3", "f2");
  tar.Symlink("s", "f").Pax({{"SCHILY.xattr.user.a", "1"}}).HardLink("s2", "s");
  // A capability survives only an entry with the same owner.
  tar.Pax({{capability, "x"}}).File("same", "").HardLink("same2", "same");
  for (const char* name : {"owner", "group", "again", "there"}) {
    tar.Pax({{capability, "x"}, {"SCHILY.xattr.user.a", "1"}}).File(name, "");
  }
  tar.Add({.name = "owner2", .type = '1', .uid = 1, .link = "owner"});
  tar.Add({.name = "group2", .type = '1', .gid = 1, .link = "group"});
  tar.Pax({{capability, "y"}});
  tar.Add({.name = "again2", .type = '1', .uid = 1, .link = "again"});
  tar.Add({.name = "there2", .type = '1', .uid = 1, .link = "there"});
  tar.HardLink("andback", "there").End();
  const auto result = Build(tar.bytes());
  ASSERT_TRUE(result.ok()) << result.status();
  auto paths = Paths(result->tree);
  const auto show = [&](const std::string& path) {
    std::string out;
    for (const Xattr& xattr : result->tree.Xattrs(paths.at(path))) {
      out += (out.empty() ? "" : " ") + xattr.name + "=" + xattr.value;
    }
    return out;
  };
  EXPECT_EQ(show("/f"), "trusted.d=5 user.a=1 user.b=3 user.c=4");
  EXPECT_EQ(show("/s"), "");
  EXPECT_EQ(show("/same"), "security.capability=x");
  EXPECT_EQ(show("/owner"), "user.a=1");
  EXPECT_EQ(show("/group"), "user.a=1");
  EXPECT_EQ(show("/again"), "security.capability=y user.a=1");
  EXPECT_EQ(show("/there"), "user.a=1");
}

TEST(LayerBuilderTest, ImpossibleHardLinks) {
  EXPECT_TRUE(Contains(ErrorOf(TarWriter().HardLink("h", "gone")), "gone"));
  EXPECT_TRUE(Contains(ErrorOf(TarWriter().File(".wh.w", "").HardLink("h", "w")), "hard link"));
  EXPECT_TRUE(Contains(ErrorOf(TarWriter().Dir("d").HardLink("h", "d")), "directory"));
  EXPECT_TRUE(Contains(ErrorOf(TarWriter().HardLink("h", "../f")), "root"));
  EXPECT_EQ(Show(TarWriter().File("d/f", "").HardLink("d", "d/f")), "error");
}

TEST(LayerBuilderTest, Attributes) {
  TarWriter tar;
  tar.Pax({{"mtime", "-1.5"},
           {"SCHILY.xattr.user.a", "1"},
           {"SCHILY.xattr.trusted.overlay.opaque", "y"},
           {"SCHILY.xattr.trusted.imagefs.implied", "y"}});
  tar.Add({.name = "f", .mode = 06755, .uid = 3, .gid = 4}, "abc");
  tar.Add({.name = "dev", .type = '3', .mode = 0600, .major = 1, .minor = 3});
  tar.Symlink("s", "target").End();
  const auto result = Build(tar.bytes());
  ASSERT_TRUE(result.ok()) << result.status();
  const Tree& tree = result->tree;
  auto paths = Paths(tree);
  const Inode& file = tree.inode(paths.at("/f"));
  EXPECT_EQ(file.mode, static_cast<uint32_t>(S_IFREG | 06755));
  EXPECT_EQ(file.uid, 3u);
  EXPECT_EQ(file.gid, 4u);
  EXPECT_EQ(file.mtime_seconds, -2);
  EXPECT_EQ(file.mtime_nanoseconds, 500'000'000u);
  ASSERT_EQ(tree.Xattrs(paths.at("/f")).size(), 1u);
  EXPECT_EQ(tree.Xattrs(paths.at("/f"))[0], (Xattr{"user.a", "1"}));
  const auto extents = tree.Extents(paths.at("/f"));
  ASSERT_EQ(extents.size(), 1u);
  EXPECT_EQ(tar.bytes().substr(extents[0].data_offset, 3), "abc");
  EXPECT_EQ(tree.inode(paths.at("/dev")).rdev_major, 1u);
  EXPECT_EQ(tree.inode(paths.at("/dev")).rdev_minor, 3u);
  EXPECT_EQ(tree.inode(paths.at("/s")).symlink, "target");
  EXPECT_EQ(tree.inode(paths.at("/s")).size, 6u);
}

TEST(LayerBuilderTest, LongNamesAndTargets) {
  const std::string name(255, 'n');
  EXPECT_EQ(Show(TarWriter().LongName(name).File("x", "")), "/" + name + "=0");
  EXPECT_EQ(Show(TarWriter().LongName(name + "n").File("x", "")), "error");
  EXPECT_EQ(Show(TarWriter().LongName(std::string(4096, 't'), 'K').Symlink("s", "")), "error");
  EXPECT_EQ(Show(TarWriter().LongName(std::string(4095, 't'), 'K').Symlink("s", "")), "/s@");
  std::string deep;
  while (deep.size() < (64 << 10)) deep += "d/";
  EXPECT_EQ(Show(TarWriter().LongName(deep + "x").File("x", "")), "error");
}

TEST(LayerBuilderTest, DepthIsNotBounded) {
  // Each entry reaches deeper through a symbolic link to the deepest directory so far.
  TarWriter tar;
  std::string part;
  for (int i = 0; i < 1000; ++i) part += "d/";
  for (int i = 0; i < 100; ++i) {
    tar.LongName((i == 0 ? "" : "s" + std::to_string(i) + "/") + part).Dir("x");
    tar.LongName((i == 0 ? "" : "s" + std::to_string(i) + "/") + part + "f").File("x", "");
    tar.LongName((i < 1 ? "" : "s" + std::to_string(i) + "/") + part, 'K');
    tar.Symlink("s" + std::to_string(i + 1), "x");
    if (i == 30) break;  // like the kernel, a chain of more than 40 links is rejected
  }
  const auto result = Build(tar.bytes());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->tree.inode_count(), 31'000u);
}

// Applies the moves as the real caller does, and reads a file through its extents.
std::string ReadBack(const LayerBuilder::Result& result, const std::string& tar, InodeId id) {
  std::string data = tar;
  data.resize(result.data_size, '\0');
  for (const LayerBuilder::Move& move : result.moves) {
    EXPECT_GE(move.to, tar.size());
    EXPECT_LE(move.to + move.length, data.size());
    data.replace(move.to, move.length, data.substr(move.from, move.length));
  }
  std::string content(result.tree.inode(id).size, '\0');
  for (const Extent& extent : result.tree.Extents(id)) {
    EXPECT_EQ(extent.data_offset % 512, 0u);
    EXPECT_EQ(extent.file_offset % 512, 0u);
    content.replace(extent.file_offset, extent.length,
                    data.substr(extent.data_offset, extent.length));
  }
  return content;
}

TEST(LayerBuilderTest, SparseFilesReadBack) {
  const std::vector<std::vector<TarWriter::Segment>> cases = {
      {{0, 5}, {100, 7}, {600, 1}},
      {{511, 2}},
      {{4095, 2}, {12'288, 4096}, {20'000, 1}},
      {{99'999, 1}},
      {},
      {{0, 100'000}},
      {{512, 512}, {2048, 512}},
  };
  for (const auto& segments : cases) {
    std::string want(100'000, '\0'), stored;
    for (const TarWriter::Segment& segment : segments) {
      for (uint64_t i = 0; i < segment.length; ++i) {
        stored.push_back(static_cast<char>('a' + stored.size() % 26));
        want[segment.offset + i] = stored.back();
      }
    }
    TarWriter tar;
    tar.OldGnuSparse("s", want.size(), segments, stored).File("f", "plain").End();
    const auto result = Build(tar.bytes());
    ASSERT_TRUE(result.ok()) << result.status();
    auto paths = Paths(result->tree);
    EXPECT_EQ(result->data_size % 512, 0u);
    EXPECT_TRUE(ReadBack(*result, tar.bytes(), paths.at("/s")) == want);
    EXPECT_EQ(ReadBack(*result, tar.bytes(), paths.at("/f")), "plain");
  }
}

TEST(LayerBuilderTest, AHugeSparseFileStaysSmall) {
  const uint64_t size = uint64_t{1} << 40;
  TarWriter tar;
  tar.OldGnuSparse("s", size, {{0, 1}, {size - 1, 1}}, "ab").End();
  const auto result = Build(tar.bytes());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->tree.Extents(Paths(result->tree).at("/s")).size(), 2u);
  EXPECT_LT(result->data_size, uint64_t{1} << 30);
}

}  // namespace
}  // namespace imagefs
