// SPDX-License-Identifier: Apache-2.0
#include "base/machine_user.h"

#include "gtest/gtest.h"

namespace imagefs {
namespace {

constexpr char kWhole[] = "         0          0 4294967295\n";

TEST(MachineUserTest, OnlyTheWholeMapMakesZeroRoot) {
  EXPECT_TRUE(MachineUserOf(0, kWhole).root);
  EXPECT_FALSE(MachineUserOf(1000, kWhole).root);
  EXPECT_EQ(MachineUserOf(1000, kWhole).uid, 1000u);
}

TEST(MachineUserTest, RootOfANamespaceIsItsMaker) {
  const MachineUser user = MachineUserOf(0, "         0       1000          1\n");
  EXPECT_FALSE(user.root);
  EXPECT_FALSE(user.root_of_users);
  EXPECT_EQ(user.uid, 1000u);
}

TEST(MachineUserTest, EvenIfRootMadeTheNamespace) {
  const MachineUser user = MachineUserOf(0, "         0          0          1\n");
  EXPECT_FALSE(user.root);
  EXPECT_EQ(user.uid, 0u);
}

TEST(MachineUserTest, RangesOfSubordinateNumbers) {
  constexpr char kPodman[] =
      "         0       1000          1\n"
      "         1     100000      65536\n";
  EXPECT_EQ(MachineUserOf(0, kPodman).uid, 1000u);
  EXPECT_EQ(MachineUserOf(33, kPodman).uid, 100032u);
  EXPECT_FALSE(MachineUserOf(0, kPodman).root);
  EXPECT_TRUE(MachineUserOf(0, kPodman).root_of_users);
  EXPECT_FALSE(MachineUserOf(33, kPodman).root_of_users);
  EXPECT_EQ(MachineUserOf(70000, kPodman).uid, 70000u);  // not mapped
}

TEST(MachineUserTest, WithoutAMapItIsTheMachine) {
  EXPECT_TRUE(MachineUserOf(0, "").root);
  EXPECT_FALSE(MachineUserOf(7, "").root);
}

}  // namespace
}  // namespace imagefs
