// SPDX-License-Identifier: Apache-2.0
#include "base/similar.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace imagefs {
namespace {

const std::vector<std::string> kNames = {"mount", "umount", "ls", "images", "rm"};

TEST(MostSimilarTest, ToleratesTwoMistakes) {
  EXPECT_EQ(MostSimilar("mout", kNames), "mount");
  EXPECT_EQ(MostSimilar("muont", kNames), "mount");
  EXPECT_EQ(MostSimilar("image", kNames), "images");
  EXPECT_EQ(MostSimilar("unmount", kNames), "umount");
  EXPECT_EQ(MostSimilar("mount", kNames), "mount");
}

TEST(MostSimilarTest, DoesNotGuess) {
  EXPECT_EQ(MostSimilar("frobnicate", kNames), "");
  EXPECT_EQ(MostSimilar("xy", kNames), "");
  EXPECT_EQ(MostSimilar("", kNames), "");
  EXPECT_EQ(MostSimilar("mount", {}), "");
  EXPECT_EQ(MostSimilar(std::string(100000, 'm'), kNames), "");
}

TEST(MostSimilarTest, TakesTheFirstOfEquals) {
  const std::vector<std::string> names = {"abcdx", "abcdy"};
  EXPECT_EQ(MostSimilar("abcdz", names), "abcdx");
}

}  // namespace
}  // namespace imagefs
