// SPDX-License-Identifier: Apache-2.0
#include "fs/mount_visibility.h"

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace imagefs {
namespace {

const std::vector<std::string> kBoth = {"/run/imagefs/chains", "/run/imagefs/mapped"};

// The machine: /run is shared in group 3, and a volume of each container comes from it.
constexpr char kMachine[] =
    "20 1 8:1 / / rw shared:1 - ext4 /dev/root rw\n"
    "21 20 0:20 / /run rw shared:3 - tmpfs tmpfs rw\n";
constexpr char kContainer[] =
    "120 110 0:90 / / rw master:1 - overlay overlay rw\n"
    "121 120 0:20 /imagefs /run/imagefs rw - tmpfs tmpfs rw\n";

MountTables TablesOf(const std::string& own, const std::string& first, bool is_first = false) {
  return {ParseMountInfo(own), ParseMountInfo(first), is_first};
}
std::vector<std::pair<std::string, bool>> Hidden(const MountTables& tables) {
  std::vector<std::pair<std::string, bool>> out;  // whether it is shared at all
  for (const HiddenMounts& hidden : HiddenIn(tables, kBoth)) {
    out.emplace_back(hidden.directory, hidden.cause.find("but not") != std::string::npos);
  }
  return out;
}

TEST(MountVisibilityTest, OnTheMachineItselfEverythingIsVisible) {
  // Also a private mount, which the daemon makes for itself.
  const std::string own = std::string(kMachine) +
                          "22 21 0:20 /imagefs/chains /run/imagefs/chains rw - tmpfs tmpfs rw\n";
  const MountTables tables = TablesOf(own, kMachine);
  EXPECT_FALSE(InOtherNamespace(tables));
  EXPECT_TRUE(Hidden(tables).empty());
}

TEST(MountVisibilityTest, WhatIsNotKnownIsNotWarnedOf) {
  EXPECT_FALSE(InOtherNamespace(TablesOf(kContainer, "")));
  EXPECT_FALSE(InOtherNamespace(TablesOf("", kMachine)));
  EXPECT_TRUE(Hidden(TablesOf(kContainer, "")).empty());
}

TEST(MountVisibilityTest, AVolumeThatIsNotSharedHidesBoth) {
  const MountTables tables = TablesOf(kContainer, kMachine);
  EXPECT_TRUE(InOtherNamespace(tables));
  EXPECT_EQ(Hidden(tables),
            (std::vector<std::pair<std::string, bool>>{{kBoth[0], false}, {kBoth[1], false}}));
}

TEST(MountVisibilityTest, ASlaveDoesNotGiveItsMountsAway) {
  const MountTables tables =
      TablesOf("121 120 0:20 /imagefs /run/imagefs rw master:3 - tmpfs tmpfs rw\n", kMachine);
  EXPECT_EQ(Hidden(tables).size(), 2u);
}

// The state directory as one shared volume: the daemon makes a private mount in it.
TEST(MountVisibilityTest, ThePrivateMountInASharedVolumeIsHidden) {
  const MountTables tables = TablesOf(
      "121 120 0:20 /imagefs /run/imagefs rw shared:3 - tmpfs tmpfs rw\n"
      "122 121 0:20 /imagefs/chains /run/imagefs/chains rw - tmpfs tmpfs rw\n",
      kMachine);
  EXPECT_EQ(Hidden(tables), (std::vector<std::pair<std::string, bool>>{{kBoth[0], false}}));
}

TEST(MountVisibilityTest, AVolumeForEachIsVisible) {
  const std::string own =
      std::string(kContainer) +
      "122 121 0:20 /imagefs/chains /run/imagefs/chains rw shared:3 - tmpfs tmpfs rw\n"
      "123 121 0:20 /imagefs/mapped /run/imagefs/mapped rw shared:3 - tmpfs tmpfs rw\n";
  EXPECT_TRUE(Hidden(TablesOf(own, kMachine)).empty());
  // Where the container has processes of its own, its first one is the daemon.
  EXPECT_TRUE(Hidden(TablesOf(own, own, /*is_first=*/true)).empty());
}

// unshare -m, then mount --make-rshared: a group of its own.
TEST(MountVisibilityTest, SharedWithNobodyIsHidden) {
  const std::string own =
      "120 110 8:1 / / rw shared:70 - ext4 /dev/root rw\n"
      "121 120 0:20 / /run rw shared:71 - tmpfs tmpfs rw\n";
  EXPECT_EQ(Hidden(TablesOf(own, kMachine)),
            (std::vector<std::pair<std::string, bool>>{{kBoth[0], true}, {kBoth[1], true}}));
}

TEST(MountVisibilityTest, AFirstProcessWithoutSharedMountsIsHidden) {
  EXPECT_EQ(Hidden(TablesOf(kContainer, kContainer, /*is_first=*/true)).size(), 2u);
}

TEST(MountVisibilityTest, TheExplanationHasDirectoryCauseAndRemedy) {
  const std::string text = HiddenIn(TablesOf(kContainer, kMachine), kBoth).at(0).Explain();
  EXPECT_TRUE(text.starts_with("/run/imagefs/chains: ")) << text;
  EXPECT_NE(text.find("is not shared"), std::string::npos) << text;
  EXPECT_NE(text.find("mountPropagation: Bidirectional"), std::string::npos) << text;
}

}  // namespace
}  // namespace imagefs
