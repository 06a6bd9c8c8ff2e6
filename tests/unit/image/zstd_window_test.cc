// SPDX-License-Identifier: Apache-2.0
#include "image/zstd_window.h"

#include <gtest/gtest.h>

#include <string>

#include "base/text.h"

namespace imagefs {
namespace {

// Returns "window memory" of a frame whose header is the magic number and `rest`; any shorter
// prefix must be undecided.
std::string Demand(const std::string& rest) {
  const std::string head = "\x28\xb5\x2f\xfd" + rest;
  for (size_t size = 0; size < head.size(); ++size) {
    if (ZstdDemandOf(std::string_view(head).substr(0, size)).has_value()) return "too early";
  }
  const std::optional<ZstdDemand> demand = ZstdDemandOf(head);
  if (!demand.has_value()) return "not yet";
  EXPECT_LE(head.size(), kMaxZstdHeadBytes);
  EXPECT_EQ(ZstdDemandOf(head + "behind")->memory, demand->memory);
  return StrCat(demand->window, " ", demand->memory);
}

std::string Bytes(std::initializer_list<int> values) {
  std::string out;
  for (int value : values) out += static_cast<char>(value);
  return out;
}

TEST(ZstdWindowTest, WindowsAndContents) {
  EXPECT_EQ(Demand(Bytes({0x00, 0x00})), "1024 1024");
  EXPECT_EQ(Demand(Bytes({0x00, 0x98})), "536870912 536870912");
  EXPECT_EQ(Demand(Bytes({0x00, 0x9f})), "1006632960 1006632960");  // 15/8 of 512 MiB
  EXPECT_EQ(Demand(Bytes({0x04, 0x98})), "536870912 536870912");    // with a checksum
  // Content smaller than the window: a size field of 2 bytes (plus 256), 4, 8.
  EXPECT_EQ(Demand(Bytes({0x40, 0x98, 0x10, 0x00})), "536870912 272");
  EXPECT_EQ(Demand(Bytes({0x80, 0x98, 0x00, 0x00, 0x01, 0x00})), "536870912 65536");
  EXPECT_EQ(Demand(Bytes({0xc0, 0x00, 0, 0, 0, 0, 1, 0, 0, 0})), "1024 1024");
  // With a dictionary id.
  EXPECT_EQ(Demand(Bytes({0x43, 0x98, 1, 2, 3, 4, 0x10, 0x00})), "536870912 272");
  // Single segment: the window is the content.
  EXPECT_EQ(Demand(Bytes({0x20, 0x05})), "1024 5");
  EXPECT_EQ(Demand(Bytes({0xa0, 0, 0, 0, 0x20})), "536870912 536870912");
  EXPECT_EQ(Demand(Bytes({0xe3, 1, 2, 3, 4, 0, 0, 0, 0, 1, 0, 0, 0})), "4294967296 4294967296");
}

TEST(ZstdWindowTest, OtherBeginningsNeedNone) {
  EXPECT_EQ(ZstdDemandOf("\x50\x2a\x4d\x18")->window, 0u);  // a skippable frame
  EXPECT_EQ(ZstdDemandOf("none")->memory, 0u);
  EXPECT_FALSE(ZstdDemandOf("non").has_value());
  EXPECT_FALSE(ZstdDemandOf("").has_value());
}

}  // namespace
}  // namespace imagefs
