// SPDX-License-Identifier: Apache-2.0
#include "cache/downloads.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr uint64_t kSize = 3 << 12;

class DownloadsTest : public ::testing::Test {
 protected:
  DownloadsTest() { std::filesystem::create_directories(directory_); }
  ~DownloadsTest() override { std::filesystem::remove_all(directory_); }
  std::shared_ptr<DownloadFile> Open(Downloads& downloads) {
    absl::StatusOr<std::shared_ptr<DownloadFile>> file = downloads.Open("name", kSize);
    EXPECT_TRUE(file.ok()) << file.status();
    return *std::move(file);
  }
  size_t Files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(directory_), {}));
  }

  const std::string directory_ = StrCat(::testing::TempDir(), "/downloads-", RandomHex(8));
  Downloads downloads_{directory_, "11111111-2222"};
};

TEST_F(DownloadsTest, CallersOfOneNameShareAFile) {
  const auto first = Open(downloads_);
  EXPECT_EQ(Open(downloads_), first);
  EXPECT_EQ(Files(), 1u);
}

TEST_F(DownloadsTest, WhatCameIsKeptForTheNextOnRequest) {
  ASSERT_TRUE(Open(downloads_)->Write(0, std::string(2 << 12, 'x')).ok());
  downloads_.End("name", /*keep_file=*/true);
  const std::vector<ByteRange> missing = Open(downloads_)->Missing();
  ASSERT_EQ(missing.size(), 1u);
  EXPECT_GT(missing[0].begin, 0u);
  EXPECT_EQ(missing[0].end, kSize);
  downloads_.End("name", /*keep_file=*/false);
  EXPECT_EQ(Files(), 0u);
  EXPECT_EQ(Open(downloads_)->Missing(), (std::vector<ByteRange>{{0, kSize}}));
}

TEST_F(DownloadsTest, AnotherBootGoesOnWithNothing) {
  ASSERT_TRUE(Open(downloads_)->Write(0, "12345").ok());
  downloads_.End("name", /*keep_file=*/true);
  EXPECT_TRUE(downloads_.Strays().empty());
  Downloads later(directory_, "33333333-4444");
  EXPECT_EQ(later.Strays(), std::vector<std::string>{"name.11111111"});
  EXPECT_EQ(Open(later)->Missing(), (std::vector<ByteRange>{{0, kSize}}));
}

TEST_F(DownloadsTest, WhoseBytesTheyAreIsKnownUntilTheEnd) {
  EXPECT_EQ(downloads_.FetchOf("name").auth_scope, "");
  downloads_.NoteFetch("name", {"scope", true});
  EXPECT_EQ(downloads_.FetchOf("name").auth_scope, "scope");
  EXPECT_TRUE(downloads_.FetchOf("name").open);
  downloads_.End("name", true);
  EXPECT_EQ(downloads_.FetchOf("name").auth_scope, "");
}

}  // namespace
}  // namespace imagefs
