// SPDX-License-Identifier: Apache-2.0
#include "fs/chain_read.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/text.h"

namespace imagefs {
namespace {

class NoFill : public LayerFill {
 public:
  void Ensure(ByteRange, ReaderId, CancelToken, Done done) override { done(ReadPin()); }
  bool complete() const override { return false; }
};

class ChainReadTest : public ::testing::Test {
 protected:
  ChainReadTest() : path_(StrCat(::testing::TempDir(), "/layer-", RandomHex(8))) {
    layer_.data = *OpenFile(path_, O_RDWR | O_CREAT);
    layer_.fill = std::make_shared<NoFill>();
    EXPECT_TRUE(PwriteFull(layer_.data.get(), std::string(1000, 'd'), 0).ok());
  }
  ~ChainReadTest() override { unlink(path_.c_str()); }

  ReadPin::Memory Part(uint64_t begin, std::string bytes) const {
    return {layer_.fill.get(), begin, std::make_shared<const std::string>(std::move(bytes))};
  }
  std::string Read(uint64_t offset, size_t size, const std::vector<ReadPin>& pins) const {
    std::string out(size, '?');
    const absl::Status status = ReadLayer(layer_, offset, absl::MakeSpan(out), pins);
    EXPECT_TRUE(status.ok()) << status;
    return out;
  }

  const std::string path_;
  Layer layer_;
};

TEST_F(ChainReadTest, ReadsTheDataFile) {
  EXPECT_EQ(Read(10, 5, {}), "ddddd");
  EXPECT_EQ(Read(10, 5, {ReadPin()}), "ddddd");
}

TEST_F(ChainReadTest, WhatIsInMemoryTakesThePlaceOfTheFile) {
  ReadPin first, second;
  first.memory = {Part(100, "abc")};
  second.memory = {Part(110, "xyz"), Part(0, "far away")};
  const std::vector<ReadPin> pins = {first, second};
  EXPECT_EQ(Read(98, 20, pins), "ddabcdddddddxyzddddd");
  EXPECT_EQ(Read(101, 1, pins), "b") << "a part of a part";
  EXPECT_EQ(Read(102, 10, pins), "cdddddddxy");
  EXPECT_EQ(Read(103, 7, pins), "ddddddd") << "between two";
  EXPECT_EQ(Read(113, 3, pins), "ddd");
}

TEST_F(ChainReadTest, MemoryOfAnotherLayerIsNotThisOnes) {
  const NoFill other;
  ReadPin pin;
  pin.memory = {Part(0, "abc")};
  pin.memory[0].layer = &other;
  EXPECT_EQ(Read(0, 5, {pin}), "ddddd");
}

TEST_F(ChainReadTest, AFileThatEndsTooEarlyIsNoZeros) {
  std::string out(100, '?');
  const absl::Status status = ReadLayer(layer_, 950, absl::MakeSpan(out), {});
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  ASSERT_EQ(ftruncate(layer_.data.get(), 0), 0);
  EXPECT_FALSE(ReadLayer(layer_, 0, absl::MakeSpan(out).subspan(0, 1), {}).ok());
}

}  // namespace
}  // namespace imagefs
