// SPDX-License-Identifier: Apache-2.0
#include "fs/tree_diff.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>
#include <vector>

#include "base/fd.h"
#include "base/text.h"
#include "tests/fakes/fs/test_chain.h"

namespace imagefs {
namespace {

class TreeDiffTest : public ::testing::Test {
 protected:
  TreeDiffTest() : directory_(StrCat(::testing::TempDir(), "/diff-", RandomHex(8))) {
    EXPECT_TRUE(MakeDirs(directory_ + "/a").ok());
    EXPECT_TRUE(MakeDirs(directory_ + "/b").ok());
  }
  ~TreeDiffTest() override { (void)RemoveTree(directory_); }

  // One line per difference: "C /path mode owner", with "?" where bytes are to be compared.
  std::vector<std::string> Differences(TreeDiff::Options options = {}) const {
    TreeDiff diff(before_.Build(directory_ + "/a"), after_.Build(directory_ + "/b"), options);
    std::vector<std::string> lines;
    while (true) {
      const auto found = diff.Next();
      EXPECT_TRUE(found.ok()) << found.status();
      if (!found.ok() || !found->has_value()) return lines;
      const TreeDiff::Difference& one = **found;
      std::string line = StrCat(!one.before ? "A " : !one.after ? "D " : "C ", one.path);
      for (const std::string_view what : one.what) StrAppend(&line, " ", what);
      if (one.compare_content) line += " ?";
      lines.push_back(line);
    }
  }

  const std::string directory_;
  TestChain before_, after_;
};

TEST_F(TreeDiffTest, TreesThatAreEqual) {
  for (TestChain* chain : {&before_, &after_}) {
    chain->Dir("d");
    chain->Symlink("d/l", "x");
    chain->File("d/empty", "");
  }
  EXPECT_EQ(Differences(), (std::vector<std::string>{}));
}

TEST_F(TreeDiffTest, PathsOfOneTreeOnly) {
  before_.Dir("gone");
  before_.File("gone/x", "");
  before_.File("gone.txt", "");
  before_.Dir("kind");
  before_.File("kind/below", "");
  after_.File("kind", "");
  after_.Dir("new");
  after_.File("new/x", "");
  after_.File("aaa", "");
  EXPECT_EQ(Differences(),
            (std::vector<std::string>{"A /aaa", "D /gone", "D /gone/x", "D /gone.txt",
                                      "C /kind type", "D /kind/below", "A /new", "A /new/x"}));
}

TEST_F(TreeDiffTest, Attributes) {
  for (TestChain* chain : {&before_, &after_}) {
    chain->File("f", "");
    chain->Symlink("l", chain == &before_ ? "a" : "b");
    chain->Node("null", S_IFCHR | 0666, 1, chain == &before_ ? 3 : 5);
    chain->File("s", chain == &before_ ? "1" : "22");
    chain->File("t", "");
  }
  after_.inode("f").mode = S_IFREG | 0600;
  after_.inode("f").uid = 5;
  after_.inode("t").mtime_nanoseconds = 5;
  after_.Xattrs("f", {{"user.a", "b"}});
  const std::vector<std::string> always = {"C /f mode owner xattrs", "C /l target",
                                           "C /null device", "C /s size"};
  EXPECT_EQ(Differences(), always);
  std::vector<std::string> with_times = always;
  with_times.push_back("C /t mtime");
  EXPECT_EQ(Differences({.times = true}), with_times);
}

TEST_F(TreeDiffTest, PrivilegesOfLayersThatAreNotProven) {
  before_.Node("null", S_IFCHR | 0666, 1, 3);
  after_.File("null", "", 0);
  for (TestChain* chain : {&before_, &after_}) chain->File("f", "");
  before_.Xattrs("f", {{"security.capability", "x"}, {"user.a", "b"}});
  after_.Xattrs("f", {{"user.a", "b"}});
  EXPECT_EQ(Differences(), (std::vector<std::string>{"C /f xattrs", "C /null type"}));
  EXPECT_EQ(Differences({.privileges = false}), (std::vector<std::string>{}));
}

TEST_F(TreeDiffTest, BytesAreComparedUnlessTheyAreTheSameOfOneLayer) {
  before_.File("e", "1");
  before_.File("f", "same size");
  after_.File("f", "same size");
  after_.File("e", "1");
  for (TestChain* chain : {&before_, &after_}) chain->Sparse("hole", 10'000, {});
  EXPECT_EQ(Differences(), (std::vector<std::string>{"C /e ?", "C /f ?"})) << "other places";
  const ChainRef chain = before_.Build(directory_ + "/a");
  TreeDiff diff(chain, chain, {});
  const auto found = diff.Next();
  ASSERT_TRUE(found.ok());
  EXPECT_FALSE(found->has_value());
}

}  // namespace
}  // namespace imagefs
