// SPDX-License-Identifier: Apache-2.0
#include "base/kept_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

namespace imagefs {
namespace {

constexpr size_t kMost = 1000;

std::string ReadBack(const KeptMemory& memory) { return std::string(memory.Read().view()); }

TEST(KeptMemoryTest, AnotherProcessFindsWhatWasWrittenLast) {
  auto memory = KeptMemory::Create("test", kMost);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(ReadBack(**memory), "");
  for (const char* value : {"one", "a longer value", "", "two"}) {
    (*memory)->Write(value);
    EXPECT_EQ(ReadBack(**memory), value);
    const auto adopted = KeptMemory::Adopt(Fd(dup((*memory)->fd().get())), kMost);
    ASSERT_TRUE(adopted.ok()) << adopted.status();
    EXPECT_EQ(ReadBack(**adopted), value);
  }
  (*memory)->Write(std::string(kMost, 'x'));
  EXPECT_EQ(ReadBack(**memory), std::string(kMost, 'x'));
}

TEST(KeptMemoryTest, WhatIsReplacedIsWiped) {
  auto memory = KeptMemory::Create("test", kMost);
  ASSERT_TRUE(memory.ok()) << memory.status();
  (*memory)->Write("a very secret password");
  (*memory)->Write("x");
  std::string bytes(2 * (16 + kMost), '\0');
  ASSERT_EQ(pread((*memory)->fd().get(), bytes.data(), bytes.size(), 0),
            static_cast<ssize_t>(bytes.size()));
  EXPECT_EQ(bytes.find("secret"), std::string::npos);
  (*memory)->Write("another secret");
  (*memory)->Write("");
  ASSERT_EQ(pread((*memory)->fd().get(), bytes.data(), bytes.size(), 0),
            static_cast<ssize_t>(bytes.size()));
  EXPECT_EQ(bytes.find("secret"), std::string::npos);
}

// A process that ends within Write leaves a slot that is not whole.
TEST(KeptMemoryTest, AnInterruptedWriteLeavesTheOldValue) {
  auto memory = KeptMemory::Create("test", kMost);
  ASSERT_TRUE(memory.ok()) << memory.status();
  (*memory)->Write("old");
  std::string bytes(2 * (16 + kMost), '\0');
  ASSERT_GT(pread((*memory)->fd().get(), bytes.data(), bytes.size(), 0), 0);
  const size_t old_slot = bytes.find("old") < 16 + kMost ? 0 : 16 + kMost;
  const size_t other = old_slot == 0 ? 16 + kMost : 0;
  ASSERT_EQ(pwrite((*memory)->fd().get(), "half", 4, static_cast<off_t>(other + 16)), 4);
  EXPECT_EQ(ReadBack(**memory), "old");
  (*memory)->Write("new");
  EXPECT_EQ(ReadBack(**memory), "new");
}

TEST(KeptMemoryTest, OtherDescriptorsAreRefused) {
  EXPECT_FALSE(KeptMemory::Adopt(Fd(open("/dev/null", O_RDWR)), kMost).ok());
  EXPECT_FALSE(KeptMemory::Adopt(Fd(memfd_create("test", 0)), kMost).ok());
  EXPECT_FALSE(KeptMemory::Adopt(Fd(), kMost).ok());
  auto memory = KeptMemory::Create("test", kMost);
  ASSERT_TRUE(memory.ok());
  EXPECT_FALSE(KeptMemory::Adopt(Fd(dup((*memory)->fd().get())), kMost + 1).ok());
}

}  // namespace
}  // namespace imagefs
