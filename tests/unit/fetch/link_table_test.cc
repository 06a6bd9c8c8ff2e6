// SPDX-License-Identifier: Apache-2.0
#include "fetch/link_table.h"

#include <gtest/gtest.h>

#include "base/text.h"

namespace imagefs {
namespace {

using std::chrono::minutes;

class LinkTableTest : public testing::Test {
 protected:
  void Worked(const std::string& key, const std::string& url) {
    links_.Worked("registry", key, {url, ""}, now_);
  }
  void Failed(const std::string& key, const std::string& url) {
    links_.Failed("registry", key, url, now_);
  }
  std::string Find(const std::string& key) {
    const auto link = links_.Find(key, now_);
    return link ? link->url : "";
  }

  LinkTable links_;
  LinkTable::Clock::time_point now_{minutes(100)};
};

TEST_F(LinkTableTest, ALinkHasAnAge) {
  Worked("a", "u");
  EXPECT_EQ(Find("a"), "u");
  EXPECT_EQ(Find("b"), "");
  now_ += LinkTable::kMaxAge - minutes(1);
  Worked("a", "u");  // using it does not extend its life
  EXPECT_EQ(Find("a"), "u");
  now_ += minutes(1);
  EXPECT_EQ(Find("a"), "");
}

TEST_F(LinkTableTest, WhoFindsItDeadForgetsNoNewerOne) {
  Worked("a", "old");
  Failed("a", "old");
  EXPECT_EQ(Find("a"), "");
  Worked("a", "new");
  Failed("a", "old");
  EXPECT_EQ(Find("a"), "new");
}

TEST_F(LinkTableTest, LinksForOneRequestAreSoonNotKept) {
  for (int i = 0; i < LinkTable::kSingleUses; ++i) {
    Worked("a", StrCat("u", i));
    EXPECT_EQ(Find("a"), StrCat("u", i));
    Failed("a", StrCat("u", i));
    Failed("a", StrCat("u", i));  // the result of a concurrent request counts once
  }
  Worked("a", "next");
  EXPECT_EQ(Find("a"), "");
  links_.Worked("another registry", "b", {"u", ""}, now_);
  EXPECT_EQ(Find("b"), "u");
  now_ += LinkTable::kSingleUseHold;
  Worked("a", "next");
  EXPECT_EQ(Find("a"), "next");
}

TEST_F(LinkTableTest, LinksThatExpireInUseAreKept) {
  for (int i = 0; i < 4 * LinkTable::kSingleUses; ++i) {
    Worked("a", StrCat("u", i));
    if (i % 2 == 0) Worked("a", StrCat("u", i));
    Failed("a", StrCat("u", i));
  }
  Worked("a", "u");
  EXPECT_EQ(Find("a"), "u");
}

TEST_F(LinkTableTest, Bounded) {
  for (int i = 0; i < 10'000; ++i) Worked(StrCat("key", i), "u");
  EXPECT_EQ(Find("key9999"), "u");
}

}  // namespace
}  // namespace imagefs
