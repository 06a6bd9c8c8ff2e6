// SPDX-License-Identifier: Apache-2.0
#include "cmd/transfer_progress.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/fakes/fs/fake_store.h"

namespace imagefs {
namespace {

using control::v1::MountResult;

std::vector<std::string> StepsOf(const MountResult& result) {
  std::vector<std::string> out;
  for (const control::v1::Timing& timing : result.timings()) out.push_back(timing.step());
  return out;
}

class TransferProgressTest : public testing::Test {
 protected:
  ImageRef Image() { return *store_.FindImage(Reference(), Platform()); }

  FakeImageStore store_{2};
  FakeSources sources_;
  TransferProgress progress_{store_, sources_};
};

TEST_F(TransferProgressTest, TellsWhatIsNew) {
  EXPECT_FALSE(progress_.Update().has_value()) << "nothing has begun";
  progress_.Begin("resolving", "resolve");
  const auto first = progress_.Update();
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->progress().phase(), "resolving");
  EXPECT_EQ(first->progress().layers_size(), 0);
  EXPECT_FALSE(progress_.Update().has_value()) << "it was told";
  progress_.Begin("layers", "layers");
  progress_.Track(Image());
  const auto second = progress_.Update();
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->progress().phase(), "layers");
  ASSERT_EQ(second->progress().layers_size(), 2);
  EXPECT_EQ(second->progress().layers(0).activity(), "waiting");
  store_.SetState(0, LayerState::kWritten);
  const auto third = progress_.Update();
  ASSERT_TRUE(third.has_value());
  EXPECT_EQ(third->progress().layers(0).activity(), "done");
  EXPECT_FALSE(third->progress().layers(0).reused()) << "it came while it was waited for";
}

TEST_F(TransferProgressTest, MergingIsWhatIsLeftWhenAllLayersAreHere) {
  progress_.Begin("resolving", "resolve");
  progress_.Begin("layers", "layers");
  store_.SetState(0, LayerState::kComplete);
  progress_.Track(Image());
  EXPECT_EQ(progress_.Update()->progress().phase(), "layers");
  store_.SetState(1, LayerState::kWritten);
  EXPECT_EQ(progress_.Update()->progress().phase(), "merging");
  progress_.Begin("mounting", "mount");
  EXPECT_EQ(progress_.Update()->progress().phase(), "mounting");
  MountResult result;
  progress_.FillResult(&result);
  EXPECT_EQ(StepsOf(result), (std::vector<std::string>{"resolve", "layers", "merge", "mount"}));
  ASSERT_EQ(result.layers_size(), 2);
  EXPECT_TRUE(result.layers(0).reused());
  EXPECT_EQ(result.fetched_bytes(), result.layers(1).blob_bytes());
}

TEST_F(TransferProgressTest, StepsOfOneNameAreTimedAsOne) {
  progress_.Begin("mounting", "mount");
  progress_.Begin("attaching", "mount");
  EXPECT_EQ(progress_.Update()->progress().phase(), "attaching");
  MountResult result;
  progress_.FillResult(&result);
  EXPECT_EQ(StepsOf(result), std::vector<std::string>{"mount"});
}

TEST_F(TransferProgressTest, ALayerThatFillsIsNotDoneInTheEnd) {
  progress_.Begin("layers", "layers");
  progress_.Track(Image());
  store_.SetState(0, LayerState::kFilling);
  TransferProgress::LayerEvents layers;
  progress_.FillLayers(&layers);
  ASSERT_EQ(layers.size(), 2);
  EXPECT_EQ(layers[0].activity(), "filling");
  EXPECT_EQ(layers[0].downloaded_bytes(), 0u) << "nobody fetches it";
  EXPECT_EQ(layers[1].activity(), "done");
}

}  // namespace
}  // namespace imagefs
