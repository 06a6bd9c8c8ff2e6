// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse_ops.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "absl/synchronization/notification.h"
#include "base/log.h"
#include "base/text.h"
#include "fs/fuse_loop.h"
#include "gtest/gtest.h"
#include "tests/fakes/fs/fake_fill.h"
#include "tests/fakes/fs/fake_kernel.h"
#include "tests/fakes/fs/test_chain.h"

namespace imagefs {
namespace {

constexpr uint64_t kForever = 1'000'000'000;
constexpr uint32_t kPage = 4096;

class FuseOpsTest : public ::testing::Test {
 protected:
  FuseOpsTest() {
    SetLogLevel(LogLevel::kOff);
    std::string path = ::testing::TempDir() + "/fuse_ops_XXXXXX";
    EXPECT_NE(mkdtemp(path.data()), nullptr);
    directory_ = path;
  }
  ~FuseOpsTest() override {
    session_.reset();
    loop_.reset();
    RemoveTree(directory_).IgnoreError();
  }

  // Serves the tree and performs the handshake.
  void Serve(const TestChain& tree, bool overlay_form = false,
             std::function<void()> on_unmounted = nullptr) {
    chain_ = tree.Build(directory_, overlay_form);
    ASSERT_NE(chain_, nullptr);
    if (filling_) fill_ = FakeFill::Empty(chain_->layers[0]);
    auto loop = FuseLoop::Create({});
    ASSERT_TRUE(loop.ok()) << loop.status();
    loop_ = *std::move(loop);
    auto session =
        loop_->Serve(chain_, kernel_.TakeDevice(), {overlay_form}, std::move(on_unmounted));
    ASSERT_TRUE(session.ok()) << session.status();
    session_ = *std::move(session);
    init_ = kernel_.Init();
    ASSERT_EQ(init_.error, 0);
  }

  // The first layer is not local yet.
  std::shared_ptr<FakeFill> ServeFilling(const TestChain& tree) {
    filling_ = true;
    Serve(tree);
    return fill_;
  }

  fuse_entry_out Entry(uint64_t parent, std::string_view name) {
    const FakeKernel::Reply reply = kernel_.Lookup(parent, name);
    EXPECT_EQ(reply.error, 0) << name;
    return reply.As<fuse_entry_out>();
  }
  uint64_t NodeOf(std::string_view path) {
    uint64_t node = FUSE_ROOT_ID;
    for (std::string_view name : Split(path, '/')) node = Entry(node, name).nodeid;
    return node;
  }

  std::string directory_;
  FakeKernel kernel_;
  ChainRef chain_;
  bool filling_ = false;
  std::shared_ptr<FakeFill> fill_;
  std::unique_ptr<FuseLoop> loop_;
  std::unique_ptr<FuseSession> session_;
  FakeKernel::Reply init_;
};

TEST_F(FuseOpsTest, InitAsksForEveryCache) {
  Serve(TestChain());
  const auto out = init_.As<fuse_init_out>();
  for (uint32_t wanted :
       {FUSE_ASYNC_READ, FUSE_EXPORT_SUPPORT, FUSE_DO_READDIRPLUS, FUSE_READDIRPLUS_AUTO,
        FUSE_PARALLEL_DIROPS, FUSE_CACHE_SYMLINKS, FUSE_MAX_PAGES}) {
    EXPECT_NE(out.flags & wanted, 0u) << wanted;
  }
  EXPECT_EQ(out.flags & (FUSE_AUTO_INVAL_DATA | FUSE_WRITEBACK_CACHE | FUSE_POSIX_LOCKS), 0u);
  EXPECT_EQ(out.max_pages, kFuseReplyBytes / kPage);
  EXPECT_EQ(out.max_readahead, kFuseReadAheadBytes);
}

TEST_F(FuseOpsTest, LookupAnswersTheAttributesForEver) {
  TestChain tree;
  tree.Dir("usr");
  tree.File("usr/file", std::string(1000, 'x'), 04755);
  Inode& inode = tree.inode("usr/file");
  inode.uid = 70000;
  inode.gid = 4000000000;
  inode.mtime_seconds = -5;
  inode.mtime_nanoseconds = 123456789;
  tree.HardLink("usr/second", "usr/file");
  Serve(tree);
  const fuse_entry_out entry = Entry(NodeOf("usr"), "file");
  EXPECT_GT(entry.nodeid, uint64_t{FUSE_ROOT_ID});
  EXPECT_GE(entry.entry_valid, kForever);
  EXPECT_GE(entry.attr_valid, kForever);
  EXPECT_EQ(entry.attr.ino, entry.nodeid);
  EXPECT_EQ(entry.attr.mode, uint32_t{S_IFREG | 04755});
  EXPECT_EQ(entry.attr.uid, 70000u);
  EXPECT_EQ(entry.attr.gid, 4000000000u);
  EXPECT_EQ(entry.attr.size, 1000u);
  EXPECT_EQ(entry.attr.blocks, 2u);
  EXPECT_EQ(entry.attr.blksize, kPage);
  EXPECT_EQ(entry.attr.nlink, 2u);
  EXPECT_EQ(static_cast<int64_t>(entry.attr.mtime), -5);
  EXPECT_EQ(entry.attr.mtimensec, 123456789u);
  EXPECT_EQ(entry.attr.ctime, entry.attr.mtime);
  EXPECT_EQ(entry.attr.atime, entry.attr.mtime);
  EXPECT_EQ(Entry(NodeOf("usr"), "second").nodeid, entry.nodeid);
  const auto attributes = kernel_.GetAttr(entry.nodeid).As<fuse_attr_out>();
  EXPECT_GE(attributes.attr_valid, kForever);
  EXPECT_EQ(BytesOf(attributes.attr), BytesOf(entry.attr));
}

TEST_F(FuseOpsTest, DevicesAndSpecialFiles) {
  TestChain tree;
  tree.Node("null", S_IFCHR | 0666, 1, 3);
  tree.Node("disk", S_IFBLK | 0660, 259, 70000);
  tree.Node("pipe", S_IFIFO | 0600, 0, 0);
  Serve(tree);
  const fuse_attr null = Entry(FUSE_ROOT_ID, "null").attr;
  EXPECT_EQ(null.mode, uint32_t{S_IFCHR | 0666});
  EXPECT_EQ(null.rdev, makedev(1, 3));
  const fuse_attr disk = Entry(FUSE_ROOT_ID, "disk").attr;
  EXPECT_EQ(disk.rdev, makedev(259, 70000));
  EXPECT_EQ(Entry(FUSE_ROOT_ID, "pipe").attr.mode, uint32_t{S_IFIFO | 0600});
}

TEST_F(FuseOpsTest, AbsentNamesAreCachedForEver) {
  TestChain tree;
  tree.File("there", "x");
  Serve(tree);
  for (const std::string& name :
       {std::string("absent"), std::string("there2"), std::string(), std::string(255, 'n')}) {
    const auto entry = Entry(FUSE_ROOT_ID, name);
    EXPECT_EQ(entry.nodeid, 0u);
    EXPECT_GE(entry.entry_valid, kForever);
  }
  EXPECT_EQ(kernel_.Lookup(FUSE_ROOT_ID, std::string(256, 'n')).error, ENAMETOOLONG);
  EXPECT_EQ(kernel_.Lookup(NodeOf("there"), "below").error, ENOTDIR);
}

TEST_F(FuseOpsTest, DotsLeadBackToTheRoot) {
  TestChain tree;
  tree.Dir("a");
  tree.Dir("a/b");
  tree.File("a/f", "x");
  Serve(tree);
  EXPECT_EQ(Entry(NodeOf("a"), "..").nodeid, uint64_t{FUSE_ROOT_ID});
  EXPECT_EQ(Entry(NodeOf("a/b"), "..").nodeid, NodeOf("a"));
  EXPECT_EQ(Entry(NodeOf("a"), ".").nodeid, NodeOf("a"));
  EXPECT_EQ(Entry(NodeOf("a/f"), ".").nodeid, NodeOf("a/f"));
  EXPECT_EQ(Entry(FUSE_ROOT_ID, ".").nodeid, uint64_t{FUSE_ROOT_ID});
  EXPECT_EQ(kernel_.GetAttr(FUSE_ROOT_ID).As<fuse_attr_out>().attr.mode, uint32_t{S_IFDIR | 0755});
}

TEST_F(FuseOpsTest, DirectoriesAreReadInPieces) {
  TestChain tree;
  tree.Dir("big");
  std::set<std::string> expected = {".", ".."};
  for (int i = 0; i < 500; ++i) {
    const std::string name = StrCat("file-with-a-name-", i);
    tree.File("big/" + name, "x");
    expected.insert(name);
  }
  tree.Symlink("big/link", "target");
  expected.insert("link");
  Serve(tree);
  const uint64_t node = NodeOf("big");
  for (const bool plus : {false, true}) {
    for (const uint32_t size : {512u, kPage, 1u << 20}) {
      std::set<std::string> names;
      for (const auto& entry : kernel_.ReadWholeDir(node, size, plus)) {
        EXPECT_TRUE(names.insert(entry.name).second) << entry.name << " came twice";
        EXPECT_EQ(entry.type, uint32_t{entry.name == "link"   ? DT_LNK
                                       : entry.name[0] == '.' ? DT_DIR
                                                              : DT_REG});
      }
      EXPECT_EQ(names, expected) << "plus=" << plus << " size=" << size;
    }
  }
}

TEST_F(FuseOpsTest, ReaddirplusEqualsLookup) {
  TestChain tree;
  tree.Dir("d");
  tree.File("d/f", "content");
  tree.Node("d/n", S_IFCHR | 0600, 5, 1);
  tree.Symlink("d/s", "f");
  tree.Dir("d/d");
  Serve(tree);
  const uint64_t node = NodeOf("d");
  size_t seen = 0;
  for (const auto& entry : kernel_.ReadWholeDir(node, kPage, true)) {
    if (entry.name == "." || entry.name == "..") {
      EXPECT_EQ(entry.attributes.nodeid, 0u);
      continue;
    }
    EXPECT_EQ(BytesOf(entry.attributes), BytesOf(Entry(node, entry.name))) << entry.name;
    EXPECT_EQ(entry.ino, entry.attributes.attr.ino);
    ++seen;
  }
  EXPECT_EQ(seen, 4u);
}

TEST_F(FuseOpsTest, ReadsAcrossLayersAndHoles) {
  TestChain tree(2);
  const std::string first = PatternBytes(10'000, 1);
  const std::string part = PatternBytes(2048, 2);
  const std::string tail = PatternBytes(700, 3);
  tree.File("plain", first, 0644, 2);
  tree.File("empty", "");
  tree.Sparse("sparse", 1'000'000, {{4096, part, 1}, {500'224, tail, 2}});
  Serve(tree);
  std::string sparse(1'000'000, '\0');
  sparse.replace(4096, part.size(), part);
  sparse.replace(500'224, tail.size(), tail);

  const uint64_t plain = NodeOf("plain");
  EXPECT_EQ(kernel_.ReadFile(plain, 0, 131072).body, first);
  EXPECT_EQ(kernel_.ReadFile(plain, 513, 1000).body, first.substr(513, 1000));
  EXPECT_EQ(kernel_.ReadFile(plain, 9'999, 4096).body, first.substr(9'999));
  for (const uint64_t behind : {uint64_t{10'000}, uint64_t{1} << 40, uint64_t{INT64_MAX}}) {
    const auto reply = kernel_.ReadFile(plain, behind, 4096);
    EXPECT_EQ(reply.error, 0);
    EXPECT_EQ(reply.body, "");
  }
  EXPECT_EQ(kernel_.ReadFile(plain, uint64_t{1} << 63, 4096).error, EINVAL);
  EXPECT_EQ(kernel_.ReadFile(NodeOf("empty"), 0, 4096).body, "");
  const uint64_t node = NodeOf("sparse");
  for (const auto& [offset, size] : {std::pair<uint64_t, uint32_t>{0, 131072},
                                     {4000, 3000},
                                     {500'000, 65536},
                                     {999'000, 65536},
                                     {4096, 1}}) {
    EXPECT_EQ(kernel_.ReadFile(node, offset, size).body, sparse.substr(offset, size)) << offset;
  }
  EXPECT_EQ(kernel_.ReadFile(FUSE_ROOT_ID, 0, 100).error, EISDIR);
  EXPECT_EQ(loop_->counters().errors, 0u);
}

TEST_F(FuseOpsTest, MissingBytesAreAnErrorAndNeverZeros) {
  TestChain tree;
  tree.File("first", PatternBytes(512, 1));
  tree.File("second", PatternBytes(4096, 2));
  Serve(tree);
  ASSERT_EQ(truncate((directory_ + "/layers/1/data").c_str(), 2048), 0);
  EXPECT_EQ(kernel_.ReadFile(NodeOf("first"), 0, 4096).body, PatternBytes(512, 1));
  const auto reply = kernel_.ReadFile(NodeOf("second"), 0, 4096);
  EXPECT_EQ(reply.error, EIO);
  EXPECT_EQ(reply.body, "");
  EXPECT_EQ(loop_->counters().errors, 1u);
}

TEST_F(FuseOpsTest, AnInterruptedReadGivesUpWhatItWaitsFor) {
  TestChain tree;
  const std::string bytes = PatternBytes(20'000, 3);
  tree.File("file", bytes);
  const std::shared_ptr<FakeFill> fill = ServeFilling(tree);
  const uint64_t node = NodeOf("file");
  fill->Hold();
  fuse_read_in in = {};
  in.size = 4096;
  const uint64_t first = kernel_.Send(FUSE_READ, node, BytesOf(in));
  in.offset = 8192;
  const uint64_t second = kernel_.Send(FUSE_READ, node, BytesOf(in));
  fill->AwaitHeld(2);
  fuse_interrupt_in interrupt = {};
  interrupt.unique = first;
  kernel_.Send(FUSE_INTERRUPT, 0, BytesOf(interrupt));
  const FakeKernel::Reply given_up = kernel_.Receive();
  EXPECT_EQ(given_up.unique, first);
  EXPECT_EQ(given_up.error, EINTR);
  // The other read is not affected, and one interrupted before it began does not start.
  fill->Release();
  const FakeKernel::Reply answered = kernel_.Receive();
  EXPECT_EQ(answered.unique, second);
  EXPECT_EQ(answered.body, bytes.substr(8192, 4096));
  EXPECT_EQ(fill->calls(), 2u);
}

TEST_F(FuseOpsTest, ASessionThatEndsDoesNotTakeItsWaitingReadsWithIt) {
  TestChain tree;
  tree.File("file", PatternBytes(20'000, 3));
  const std::shared_ptr<FakeFill> fill = ServeFilling(tree);
  const uint64_t node = NodeOf("file");
  fill->Hold();
  fuse_read_in in = {};
  in.size = 4096;
  kernel_.Send(FUSE_READ, node, BytesOf(in));
  fill->AwaitHeld(1);
  kernel_.Close();
  session_.reset();
  fill->Release();  // the answer reaches nobody
}

TEST_F(FuseOpsTest, SymbolicLinks) {
  TestChain tree;
  const std::string longest(2000, 'l');
  tree.Symlink("short", "../else/where");
  tree.Symlink("long", longest);
  tree.File("file", "x");
  Serve(tree);
  EXPECT_EQ(kernel_.Call(FUSE_READLINK, NodeOf("short")).body, "../else/where");
  EXPECT_EQ(kernel_.Call(FUSE_READLINK, NodeOf("long")).body, longest);
  EXPECT_EQ(Entry(FUSE_ROOT_ID, "short").attr.size, 13u);
  EXPECT_EQ(kernel_.Call(FUSE_READLINK, NodeOf("file")).error, EINVAL);
}

TEST_F(FuseOpsTest, Xattrs) {
  TestChain tree;
  tree.File("file", "x");
  tree.File("none", "x");
  const std::string capability("\x01\x00\x00\x02\x00\x20\x00\x00", 8);
  tree.Xattrs("file", {{"security.capability", capability},
                       {"user.empty", ""},
                       {"trusted.overlay.redirect", "x"},
                       {"trusted.imagefs.implied", "y"}});
  Serve(tree);
  const uint64_t node = NodeOf("file");
  EXPECT_EQ(kernel_.GetXattr(node, "security.capability", 100).body, capability);
  EXPECT_EQ(kernel_.GetXattr(node, "security.capability", 8).body, capability);
  EXPECT_EQ(kernel_.GetXattr(node, "security.capability", 7).error, ERANGE);
  EXPECT_EQ(kernel_.GetXattr(node, "security.capability", 0).As<fuse_getxattr_out>().size, 8u);
  const auto empty = kernel_.GetXattr(node, "user.empty", 10);
  EXPECT_EQ(empty.error, 0);
  EXPECT_EQ(empty.body, "");
  for (const char* name : {"user.absent", "trusted.overlay.redirect", "trusted.imagefs.implied"}) {
    EXPECT_EQ(kernel_.GetXattr(node, name, 100).error, ENODATA) << name;
  }
  const std::string names("security.capability\0user.empty\0", 31);
  EXPECT_EQ(kernel_.ListXattr(node, 100).body, names);
  EXPECT_EQ(kernel_.ListXattr(node, 0).As<fuse_getxattr_out>().size, names.size());
  EXPECT_EQ(kernel_.ListXattr(node, 30).error, ERANGE);
  const auto none = kernel_.ListXattr(NodeOf("none"), 100);
  EXPECT_EQ(none.error, 0);
  EXPECT_EQ(none.body, "");
  EXPECT_EQ(kernel_.GetXattr(NodeOf("none"), "user.absent", 100).error, ENODATA);
}

TEST_F(FuseOpsTest, AclsAreCheckedByTheKernelWhereThereAreSome) {
  TestChain tree;
  tree.File("file", "x");
  tree.Xattrs("file", {{"system.posix_acl_access", "acl"}});
  Serve(tree);
  EXPECT_NE(init_.As<fuse_init_out>().flags & FUSE_POSIX_ACL, 0u);
  EXPECT_EQ(kernel_.GetXattr(NodeOf("file"), "system.posix_acl_access", 100).body, "acl");
}

TEST_F(FuseOpsTest, WithoutAclsNobodyAsksForThem) {
  TestChain tree;
  tree.File("file", "x");
  tree.Xattrs("file", {{"user.name", "value"}});
  Serve(tree);
  EXPECT_EQ(init_.As<fuse_init_out>().flags & FUSE_POSIX_ACL, 0u);
}

TEST_F(FuseOpsTest, TrustedNamesAreForThoseWhoMaySeeThem) {
  TestChain tree;
  tree.File("file", "x");
  tree.Xattrs("file", {{"trusted.name", "value"}, {"user.name", "value"}});
  Serve(tree);
  // The requests of this kernel do not come from a process that can be inspected.
  EXPECT_EQ(kernel_.ListXattr(NodeOf("file"), 100).body, std::string("user.name\0", 10));
}

TEST_F(FuseOpsTest, OverlayFormShowsItsMarkers) {
  TestChain tree;
  tree.Dir("opaque");
  tree.inode("opaque").opaque = true;
  tree.Node("gone", S_IFCHR, 0, 0);
  Serve(tree, true);
  const uint64_t node = NodeOf("opaque");
  EXPECT_EQ(kernel_.GetXattr(node, "trusted.overlay.opaque", 100).body, "y");
  EXPECT_EQ(kernel_.ListXattr(node, 100).body, std::string("trusted.overlay.opaque\0", 23));
  EXPECT_EQ(Entry(FUSE_ROOT_ID, "gone").attr.rdev, 0u);
}

TEST_F(FuseOpsTest, NoXattrsInTheImageMeansNoFurtherQuestions) {
  TestChain tree;
  tree.File("file", "x");
  Serve(tree);
  EXPECT_EQ(kernel_.GetXattr(NodeOf("file"), "security.capability", 100).error, ENOSYS);
  EXPECT_EQ(kernel_.ListXattr(NodeOf("file"), 100).error, 0);
  EXPECT_EQ(kernel_.ListXattr(NodeOf("file"), 0).As<fuse_getxattr_out>().size, 0u);
}

// The kernel's next request may be answered by another thread before the one that answered INIT
// goes on.
TEST_F(FuseOpsTest, OnlyTheAnswerToInitIsAmended) {
  TestChain tree;
  tree.File("file", "x");
  chain_ = tree.Build(directory_, false);
  ASSERT_NE(chain_, nullptr);
  for (int i = 0; i < 500; ++i) {
    FakeKernel kernel;
    loop_ = *FuseLoop::Create({});
    auto session = loop_->Serve(chain_, kernel.TakeDevice(), {}, nullptr);
    ASSERT_TRUE(session.ok()) << session.status();
    ASSERT_EQ(kernel.Init().error, 0);
    ASSERT_EQ(kernel.Call(FUSE_STATFS, FUSE_ROOT_ID).As<fuse_statfs_out>().st.bfree, 0U) << i;
    session->reset();
    loop_.reset();
  }
}

TEST_F(FuseOpsTest, StatFsAndWhatIsRefused) {
  TestChain tree(2);
  tree.File("file", std::string(8000, 'x'));
  tree.File("other", std::string(512, 'x'), 0644, 2);
  Serve(tree);
  const auto out = kernel_.Call(FUSE_STATFS, FUSE_ROOT_ID).As<fuse_statfs_out>().st;
  EXPECT_EQ(out.files, 3u);
  EXPECT_EQ(out.blocks, 3u);
  EXPECT_EQ(out.bfree, 0u);
  EXPECT_EQ(out.namelen, 255u);
  const uint64_t node = NodeOf("file");
  for (uint32_t opcode : {FUSE_OPEN, FUSE_OPENDIR, FUSE_FLUSH, FUSE_ACCESS, FUSE_LSEEK}) {
    EXPECT_EQ(kernel_.Call(opcode, node, std::string(128, '\0')).error, ENOSYS) << opcode;
  }
  for (uint32_t opcode :
       {FUSE_SETATTR, FUSE_MKNOD, FUSE_MKDIR, FUSE_UNLINK, FUSE_RMDIR, FUSE_SYMLINK, FUSE_RENAME,
        FUSE_LINK, FUSE_WRITE, FUSE_CREATE, FUSE_SETXATTR, FUSE_REMOVEXATTR, FUSE_FALLOCATE}) {
    EXPECT_EQ(kernel_.Call(opcode, FUSE_ROOT_ID, std::string(128, '\0')).error, EROFS) << opcode;
  }
}

TEST_F(FuseOpsTest, MalformedRequestsDoNoHarm) {
  TestChain tree;
  tree.File("file", "content");
  Serve(tree);
  kernel_.SendRaw("short");
  fuse_in_header header = {};
  header.opcode = FUSE_GETATTR;
  header.nodeid = FUSE_ROOT_ID;
  header.len = 4000;  // more than was sent
  kernel_.SendRaw(BytesOf(header));
  header.len = 39;  // less than a header
  kernel_.SendRaw(BytesOf(header));
  // Unterminated names, missing arguments, unknown operations, unknown nodes.
  EXPECT_EQ(kernel_.Call(FUSE_LOOKUP, FUSE_ROOT_ID, "file").error, 0);
  EXPECT_EQ(kernel_.Call(FUSE_LOOKUP, FUSE_ROOT_ID).As<fuse_entry_out>().nodeid, 0u);
  EXPECT_EQ(kernel_.Call(FUSE_READ, NodeOf("file")).body, "");
  EXPECT_EQ(kernel_.Call(FUSE_RENAME, FUSE_ROOT_ID).error, EROFS);
  EXPECT_EQ(kernel_.Call(3999, FUSE_ROOT_ID).error, ENOSYS);
  EXPECT_EQ(kernel_.Call(FUSE_INIT, 0, std::string(64, '\0')).error, EIO);
  for (uint64_t node : {uint64_t{0}, uint64_t{2'000'000}, UINT64_MAX}) {
    EXPECT_NE(kernel_.GetAttr(node).error, 0) << node;
    EXPECT_NE(kernel_.Lookup(node, "x").error, 0) << node;
    EXPECT_NE(kernel_.ReadFile(node, 0, 10).error, 0) << node;
  }
  fuse_read_in read = {};
  read.offset = UINT64_MAX;
  read.size = UINT32_MAX;
  kernel_.Call(FUSE_READDIR, FUSE_ROOT_ID, BytesOf(read));
  read.offset = 0;
  read.size = 3;  // too small for an entry; must not look like the end of the directory
  EXPECT_EQ(kernel_.Call(FUSE_READDIR, FUSE_ROOT_ID, BytesOf(read)).error, EINVAL);
  EXPECT_EQ(kernel_.ReadFile(NodeOf("file"), 0, UINT32_MAX).body, "content");
}

TEST_F(FuseOpsTest, ForgettingNeedsNoAnswer) {
  TestChain tree;
  tree.File("file", "content");
  Serve(tree);
  fuse_forget_in forget = {};
  forget.nlookup = 1;
  kernel_.Send(FUSE_FORGET, NodeOf("file"), BytesOf(forget));
  fuse_batch_forget_in batch = {};
  batch.count = UINT32_MAX;  // more than the message contains
  kernel_.Send(FUSE_BATCH_FORGET, 0, BytesOf(batch));
  EXPECT_EQ(kernel_.ReadFile(NodeOf("file"), 0, 100).body, "content");
}

TEST_F(FuseOpsTest, EveryRequestIsAnsweredOnce) {
  TestChain tree;
  const std::string content = PatternBytes(100'000, 7);
  tree.File("file", content);
  Serve(tree);
  const uint64_t node = NodeOf("file");
  for (int round = 0; round < 20; ++round) {
    std::set<uint64_t> open;
    for (int i = 0; i < 50; ++i) {
      fuse_read_in in = {};
      in.offset = 1000 * i;
      in.size = 1000;
      open.insert(kernel_.Send(FUSE_READ, node, BytesOf(in)));
    }
    const uint64_t first = *open.begin();
    while (!open.empty()) {
      const auto reply = kernel_.Receive();
      ASSERT_EQ(open.erase(reply.unique), 1u);
      ASSERT_EQ(reply.body, content.substr((reply.unique - first) / 2 * 1000, 1000));
    }
  }
  EXPECT_EQ(loop_->counters().reads, 1000u);
  EXPECT_EQ(loop_->counters().read_bytes, 1'000'000u);
}

TEST_F(FuseOpsTest, TheEndOfTheSessionIsToldOnce) {
  TestChain tree;
  std::atomic<int> told{0};
  absl::Notification done;
  // The owner may drop the session from within the notification.
  Serve(tree, false, [&] {
    ++told;
    session_.reset();
    done.Notify();
  });
  kernel_.Close();
  done.WaitForNotification();
  loop_.reset();
  EXPECT_EQ(told, 1);
  EXPECT_EQ(chain_.use_count(), 1);
}

TEST_F(FuseOpsTest, ADroppedSessionIsSilent) {
  std::atomic<int> told{0};
  Serve(TestChain(), false, [&] { ++told; });
  session_.reset();
  kernel_.Close();
  loop_.reset();
  EXPECT_EQ(told, 0);
  EXPECT_EQ(chain_.use_count(), 1);
}

TEST_F(FuseOpsTest, SessionsMayOutliveTheLoop) {
  Serve(TestChain());
  loop_.reset();
  session_.reset();
  EXPECT_EQ(chain_.use_count(), 1);
}

TEST_F(FuseOpsTest, ManySessionsShareTheWorkers) {
  TestChain tree;
  tree.File("file", "content");
  Serve(tree);
  std::vector<std::unique_ptr<FakeKernel>> kernels;
  std::vector<std::unique_ptr<FuseSession>> sessions;
  for (int i = 0; i < 100; ++i) {
    kernels.push_back(std::make_unique<FakeKernel>());
    auto session = loop_->Serve(chain_, kernels.back()->TakeDevice(), {}, nullptr);
    ASSERT_TRUE(session.ok()) << session.status();
    sessions.push_back(*std::move(session));
    ASSERT_EQ(kernels.back()->Init().error, 0);
  }
  for (auto& kernel : kernels) {
    const uint64_t node = kernel->Lookup(FUSE_ROOT_ID, "file").As<fuse_entry_out>().nodeid;
    EXPECT_EQ(kernel->ReadFile(node, 0, 100).body, "content");
  }
}

}  // namespace
}  // namespace imagefs
