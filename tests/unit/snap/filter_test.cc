// SPDX-License-Identifier: Apache-2.0
#include "snap/filter.h"

#include <gtest/gtest.h>

namespace imagefs {
namespace {

SnapshotInfo Sample() {
  SnapshotInfo info;
  info.name = "k8s.io/7/extract-1 sha256:ab";
  info.parent = "imagefs/1";
  info.kind = SnapshotKind::kCommitted;
  info.labels = {{kRefLabel, "sha256:cd"}, {"plain", "x,y"}, {"a.b", "dotted"}};
  return info;
}

bool Matches(const std::vector<std::string>& filters, const SnapshotInfo& info = Sample()) {
  const auto filter = SnapshotFilter::Parse(filters);
  EXPECT_TRUE(filter.ok()) << filter.status();
  return filter.ok() && filter->Match(info);
}

TEST(SnapshotFilterTest, NoneLetsEverythingPass) {
  EXPECT_TRUE(Matches({}));
  EXPECT_TRUE(Matches({"name==nobody", ""}));
}

TEST(SnapshotFilterTest, WhatContainerdAsksAfterALazyPrepare) {
  EXPECT_TRUE(Matches({R"(labels."containerd.io/snapshot.ref"==sha256:cd,parent=="imagefs/1")"}));
  EXPECT_FALSE(Matches({R"(labels."containerd.io/snapshot.ref"==sha256:cd,parent=="")"}));
  EXPECT_FALSE(Matches({R"(labels."containerd.io/snapshot.ref"==sha256:ce,parent=="imagefs/1")"}));
  SnapshotInfo bottom = Sample();
  bottom.parent.clear();
  EXPECT_TRUE(Matches({R"(labels."containerd.io/snapshot.ref"==sha256:cd,parent=="")"}, bottom));
}

TEST(SnapshotFilterTest, FieldsAndOperators) {
  EXPECT_TRUE(Matches({R"(name=="k8s.io/7/extract-1 sha256:ab")"}));
  EXPECT_TRUE(Matches({"kind==committed"}));
  EXPECT_FALSE(Matches({"kind!=committed"}));
  EXPECT_TRUE(Matches({"parent != other , kind == committed"}));
  EXPECT_TRUE(Matches({R"(labels.plain=="x,y")"}));
  EXPECT_FALSE(Matches({"labels.plain==x,kind"}));
  EXPECT_TRUE(Matches({"labels.a.b==dotted"}));
  EXPECT_TRUE(Matches({R"(labels."a"."b")"}));
  EXPECT_FALSE(Matches({"labels.none"}));
  EXPECT_TRUE(Matches({"labels.none!=x"})) << "what is not there differs from everything";
  EXPECT_FALSE(Matches({"nonsense"}));
  EXPECT_FALSE(Matches({"name.more==x"}));
}

TEST(SnapshotFilterTest, SeveralAreAlternatives) {
  EXPECT_TRUE(Matches({"kind==active", "kind==committed"}));
  EXPECT_FALSE(Matches({"kind==active", "kind==view"}));
}

TEST(SnapshotFilterTest, RegularExpressions) {
  EXPECT_TRUE(Matches({"name~=^k8s\\.io/[0-9]+/"}));
  EXPECT_TRUE(Matches({"name~=/extract-\\d+ sha/"}));
  EXPECT_TRUE(Matches({"name~=|io/7|"}));
  EXPECT_TRUE(Matches({R"(kind~="^(active|committed)$")"}));
  EXPECT_FALSE(Matches({"kind~=^act"}));
  EXPECT_TRUE(Matches({"name~=/k8s.io\\/7/"}));
}

TEST(SnapshotFilterTest, QuotedAsInGo) {
  SnapshotInfo info;
  info.name = "a\"b\\c\n\xC3\xA9\xF0\x9F\x98\x80\x01";
  EXPECT_TRUE(Matches({R"(name=="a\"b\\c\n\u00e9\U0001F600\001")"}, info));
  info.name = "\xFF";
  EXPECT_TRUE(Matches({R"(name=="\xff")"}, info));
}

TEST(SnapshotFilterTest, RefusesWhatCannotBeRead) {
  for (const char* bad :
       {",", "name==", "name==a,", "==a", "name=a", "name==\"a", "name==\"\\q\"", "name==\"\\x4\"",
        "name==\"\\ud800\"", "name==\"\\U00110000\"", "name==\"\\777\"", "name~=/a", "name~=(",
        "name==a b", "1name", "labels.", "name~=", "name~=(((a{1,1000}){1,1000}){1,1000})"}) {
    const auto filter = SnapshotFilter::Parse({bad});
    EXPECT_EQ(filter.status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_FALSE(SnapshotFilter::Parse({std::string(100 << 10, 'a')}).ok());
  EXPECT_FALSE(SnapshotFilter::Parse(std::vector<std::string>(1000, "name")).ok());
}

}  // namespace
}  // namespace imagefs
