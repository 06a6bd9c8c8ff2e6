// SPDX-License-Identifier: Apache-2.0
// The contract of DescriptorKeeper (fs/descriptor_keeper.h), as tests that every implementation
// must pass. A harness provides an empty one:
//
//   struct Harness {
//     DescriptorKeeper& keeper();
//     void NextDaemon();  // keeper() then belongs to the next process
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(Name, DescriptorKeeperContractTest, Harness);
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <string>
#include <vector>

#include "base/text.h"
#include "fs/descriptor_keeper.h"

namespace imagefs {

template <typename Harness>
class DescriptorKeeperContractTest : public ::testing::Test {
 protected:
  using Inodes = std::map<std::string, ino_t>;

  static Fd File() { return Fd(memfd_create("kept", MFD_CLOEXEC)); }
  static ino_t InodeOf(const Fd& fd) {
    struct stat st;
    return fstat(fd.get(), &st) == 0 ? st.st_ino : 0;
  }
  // What the next daemon inherits, by name.
  Inodes Inherited() {
    harness_.NextDaemon();
    Inodes out;
    for (const KeptDescriptor& kept : harness_.keeper().Inherit()) {
      EXPECT_NE(fcntl(kept.fd.get(), F_GETFD) & FD_CLOEXEC, 0);
      EXPECT_TRUE(out.emplace(kept.name, InodeOf(kept.fd)).second) << "twice: " << kept.name;
    }
    return out;
  }

  Harness harness_;
};
TYPED_TEST_SUITE_P(DescriptorKeeperContractTest);

TYPED_TEST_P(DescriptorKeeperContractTest, EachDaemonHasWhatWasKept) {
  using Inodes = std::map<std::string, ino_t>;
  EXPECT_TRUE(this->harness_.keeper().Inherit().empty());
  const Fd a = this->File(), b = this->File();
  ASSERT_TRUE(this->harness_.keeper().Keep("a", a).ok());
  ASSERT_TRUE(this->harness_.keeper().Keep("b", b).ok());
  const Inodes both = {{"a", this->InodeOf(a)}, {"b", this->InodeOf(b)}};
  EXPECT_EQ(this->Inherited(), both);
  EXPECT_EQ(this->Inherited(), both) << "it stays kept";
}

TYPED_TEST_P(DescriptorKeeperContractTest, ItIsTheOpenFileAndNotTheNumber) {
  ino_t inode = 0;
  {
    const Fd file = this->File();
    inode = this->InodeOf(file);
    ASSERT_TRUE(this->harness_.keeper().Keep("a", file).ok());
    ASSERT_EQ(lseek(file.get(), 4711, SEEK_SET), 4711);
  }
  this->harness_.NextDaemon();
  const std::vector<KeptDescriptor> kept = this->harness_.keeper().Inherit();
  ASSERT_EQ(kept.size(), 1U);
  EXPECT_EQ(this->InodeOf(kept[0].fd), inode);
  EXPECT_EQ(lseek(kept[0].fd.get(), 0, SEEK_CUR), 4711);
}

TYPED_TEST_P(DescriptorKeeperContractTest, ANameIsKeptOnce) {
  using Inodes = std::map<std::string, ino_t>;
  const Fd before = this->File(), after = this->File();
  ASSERT_TRUE(this->harness_.keeper().Keep("a", before).ok());
  ASSERT_TRUE(this->harness_.keeper().Keep("a", after).ok());
  EXPECT_EQ(this->Inherited(), (Inodes{{"a", this->InodeOf(after)}}));
}

TYPED_TEST_P(DescriptorKeeperContractTest, DropsOneAndWhatIsNotThere) {
  using Inodes = std::map<std::string, ino_t>;
  this->harness_.keeper().Drop("never");
  const Fd a = this->File(), b = this->File();
  ASSERT_TRUE(this->harness_.keeper().Keep("a", a).ok());
  ASSERT_TRUE(this->harness_.keeper().Keep("b", b).ok());
  this->harness_.keeper().Drop("a");
  this->harness_.keeper().Drop("a");
  EXPECT_EQ(this->Inherited(), (Inodes{{"b", this->InodeOf(b)}}));
  this->harness_.keeper().Drop("b");
  EXPECT_TRUE(this->Inherited().empty());
  ASSERT_TRUE(this->harness_.keeper().Keep("a", a).ok());
  EXPECT_EQ(this->Inherited(), (Inodes{{"a", this->InodeOf(a)}}));
}

TYPED_TEST_P(DescriptorKeeperContractTest, NamesUpToTheLongest) {
  using Inodes = std::map<std::string, ino_t>;
  const std::string stem(DescriptorKeeper::kMaxName - 1, 'x');
  const Fd a = this->File(), b = this->File();
  ASSERT_TRUE(this->harness_.keeper().Keep(stem + "-", a).ok());
  ASSERT_TRUE(this->harness_.keeper().Keep(stem + "9", b).ok());
  EXPECT_EQ(this->Inherited(),
            (Inodes{{stem + "-", this->InodeOf(a)}, {stem + "9", this->InodeOf(b)}}));
}

TYPED_TEST_P(DescriptorKeeperContractTest, WhatIsNoDescriptorIsAnError) {
  EXPECT_FALSE(this->harness_.keeper().Keep("a", Fd()).ok());
  EXPECT_TRUE(this->Inherited().empty());
}

TYPED_TEST_P(DescriptorKeeperContractTest, WhoLeavesTakesNothingAlong) {
  using Inodes = std::map<std::string, ino_t>;
  this->harness_.keeper().Leave();
  const Fd a = this->File();
  ASSERT_TRUE(this->harness_.keeper().Keep("a", a).ok());
  this->harness_.keeper().Leave();
  EXPECT_EQ(this->Inherited(), (Inodes{{"a", this->InodeOf(a)}}));
}

REGISTER_TYPED_TEST_SUITE_P(DescriptorKeeperContractTest, EachDaemonHasWhatWasKept,
                            ItIsTheOpenFileAndNotTheNumber, ANameIsKeptOnce,
                            DropsOneAndWhatIsNotThere, NamesUpToTheLongest,
                            WhatIsNoDescriptorIsAnError, WhoLeavesTakesNothingAlong);

}  // namespace imagefs
