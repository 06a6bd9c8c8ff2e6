// SPDX-License-Identifier: Apache-2.0
#include "fs/shown_as.h"

#include "gtest/gtest.h"

namespace imagefs {
namespace {

struct stat File(mode_t mode) {
  struct stat out = {};
  out.st_mode = mode;
  out.st_uid = 33;
  out.st_gid = 34;
  return out;
}

TEST(ShownAsTest, NothingIsTheImages) {
  struct stat file = File(S_IFREG | 04755);
  ShownAs().ApplyTo(&file);
  EXPECT_EQ(file.st_mode, static_cast<mode_t>(S_IFREG | 04755));
  EXPECT_EQ(file.st_uid, 33u);
  EXPECT_FALSE(ShownAs().any());
  EXPECT_EQ(ShownAs().ToString(), "");
}

TEST(ShownAsTest, OwnerAndPermissions) {
  const ShownAs shown{1000, std::nullopt, 022, 0133};
  struct stat file = File(S_IFREG | 04755), directory = File(S_IFDIR | 01700),
              link = File(S_IFLNK | 0777);
  for (struct stat* one : {&file, &directory, &link}) {
    shown.ApplyTo(one);
    EXPECT_EQ(one->st_uid, 1000u);
    EXPECT_EQ(one->st_gid, 34u);
  }
  EXPECT_EQ(file.st_mode, static_cast<mode_t>(S_IFREG | 0644));
  EXPECT_EQ(directory.st_mode, static_cast<mode_t>(S_IFDIR | 0755));
  EXPECT_EQ(link.st_mode, static_cast<mode_t>(S_IFLNK | 0777));
}

TEST(ShownAsTest, TextIsReadBack) {
  const ShownAs shown{0, 7, 0, 0777};
  EXPECT_EQ(shown.ToString(), "uid=0,gid=7,dmask=0000,fmask=0777");
  const auto again = ShownAs::Parse(shown.ToString());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, shown);
  EXPECT_EQ(ShownAs::Parse("").value(), ShownAs());
  for (const char* bad : {"uid", "uid=", "uid=x", "uid=4294967295", "fmask=1000", "dmask=8", ","}) {
    EXPECT_TRUE(absl::IsDataLoss(ShownAs::Parse(bad).status())) << bad;
  }
}

TEST(ShownAsTest, WhatNobodyCanMeanIsRefused) {
  EXPECT_TRUE((ShownAs{0, 0, 0777, 0777}.Check().ok()));
  EXPECT_FALSE((ShownAs{UINT32_MAX, {}, {}, {}}.Check().ok()));
  EXPECT_FALSE((ShownAs{{}, UINT32_MAX, {}, {}}.Check().ok()));
  EXPECT_FALSE((ShownAs{{}, {}, 01000, {}}.Check().ok()));
  EXPECT_FALSE((ShownAs{{}, {}, {}, 04000}.Check().ok()));
}

TEST(ShownAsTest, MasksAreOctal) {
  EXPECT_EQ(ParseMask("022"), 022u);
  EXPECT_EQ(ParseMask("0777"), 0777u);
  EXPECT_EQ(ParseMask("0"), 0u);
  for (const char* bad : {"", "8", "1000", "00000", "0x2", "-1"}) {
    EXPECT_FALSE(ParseMask(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace imagefs
