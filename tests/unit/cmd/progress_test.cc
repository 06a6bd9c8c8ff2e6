// SPDX-License-Identifier: Apache-2.0
#include "cmd/progress.h"

#include <algorithm>
#include <vector>

#include "base/text.h"
#include "gtest/gtest.h"
#include "proto/control.pb.h"

namespace imagefs {
namespace {

using control::v1::LayerEvent;
using control::v1::Progress;
using std::chrono::milliseconds;

constexpr uint64_t kMiB = 1 << 20;

LayerEvent Layer(char name, std::string activity, uint64_t downloaded = 0) {
  LayerEvent layer;
  layer.set_digest(StrCat("sha256:", std::string(64, name)));
  layer.set_activity(activity);
  layer.set_blob_bytes(10 * kMiB);
  layer.set_downloaded_bytes(downloaded);
  return layer;
}

Progress Frame(std::string phase, std::vector<LayerEvent> layers) {
  Progress progress;
  progress.set_phase(phase);
  for (const LayerEvent& layer : layers) *progress.add_layers() = layer;
  return progress;
}

size_t Lines(const std::string& text) {
  return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
}

bool Has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

TEST(PlainProgressTest, WhatIsWrongIsSaidOnce) {
  ProgressRenderer renderer({});
  LayerEvent stalled = Layer('a', "downloading", 5);
  stalled.set_trouble("registry.example sends nothing");
  renderer.Update(Frame("layers", {Layer('a', "downloading", 5)}), milliseconds(1));
  EXPECT_EQ(renderer.Update(Frame("layers", {stalled}), milliseconds(2)),
            "layer aaaaaaaaaaaa: downloading, registry.example sends nothing (10.0 MiB)\n");
  EXPECT_EQ(renderer.Update(Frame("layers", {stalled}), milliseconds(3)), "");
  EXPECT_EQ(renderer.Update(Frame("layers", {Layer('a', "downloading", 6)}), milliseconds(4)),
            "layer aaaaaaaaaaaa: downloading (10.0 MiB)\n");
}

TEST(PlainProgressTest, OneLineForEachChangeOfState) {
  ProgressRenderer renderer({});
  EXPECT_EQ(renderer.Update(Frame("resolving", {}), milliseconds(1)), "resolving\n");
  EXPECT_EQ(renderer.Update(Frame("resolving", {}), milliseconds(2)), "");
  EXPECT_EQ(renderer.Update(Frame("layers", {Layer('a', "waiting"), Layer('b', "downloading")}),
                            milliseconds(3)),
            "2 layers\n"
            "layer aaaaaaaaaaaa: waiting (10.0 MiB)\n"
            "layer bbbbbbbbbbbb: downloading (10.0 MiB)\n");
  // More bytes alone are no news.
  EXPECT_EQ(renderer.Update(Frame("layers", {Layer('a', "waiting"), Layer('b', "downloading", 5)}),
                            milliseconds(4)),
            "");
  EXPECT_EQ(renderer.Update(Frame("layers", {Layer('a', "waiting"), Layer('b', "unpacking", 5)}),
                            milliseconds(5)),
            "layer bbbbbbbbbbbb: unpacking (10.0 MiB)\n");
  EXPECT_EQ(renderer.Finish(), "");
}

TEST(PlainProgressTest, SaysWhatIsSharedAndWhatWasHere) {
  ProgressRenderer renderer({});
  LayerEvent shared = Layer('a', "downloading");
  shared.set_shared(true);
  LayerEvent reused = Layer('b', "done");
  reused.set_reused(true);
  const std::string text = renderer.Update(Frame("layers", {shared, reused}), milliseconds(1));
  EXPECT_TRUE(Has(text, "aaaaaaaaaaaa: downloading, shared with another mount")) << text;
  EXPECT_TRUE(Has(text, "bbbbbbbbbbbb: already present")) << text;
}

TEST(PlainProgressTest, NeverHasEscapes) {
  ProgressRenderer renderer({});
  std::string all;
  for (const char* activity : {"waiting", "downloading", "unpacking", "indexing", "done"}) {
    all += renderer.Update(Frame("layers", {Layer('a', activity)}), milliseconds(1));
  }
  all += renderer.Finish();
  EXPECT_FALSE(Has(all, "\x1b"));
  EXPECT_FALSE(Has(all, "\r"));
}

TEST(TerminalProgressTest, RedrawsItsLinesInPlace) {
  ProgressRenderer renderer({.terminal = true, .columns = 120, .rows = 24});
  const std::string first = renderer.Update(
      Frame("layers", {Layer('a', "downloading"), Layer('b', "waiting")}), milliseconds(100));
  EXPECT_EQ(Lines(first), 3u);
  EXPECT_FALSE(Has(first, "\x1b[3A"));
  const std::string second =
      renderer.Update(Frame("layers", {Layer('a', "downloading", 5 * kMiB), Layer('b', "waiting")}),
                      milliseconds(600));
  EXPECT_EQ(Lines(second), 3u);
  EXPECT_EQ(second.rfind("\x1b[3A", 0), 0u);
  EXPECT_TRUE(Has(second, "[==========>         ]")) << second;
  EXPECT_TRUE(Has(second, "5.0 MiB / 10.0 MiB")) << second;
  EXPECT_TRUE(Has(second, "10.0 MiB/s")) << second;  // 5 MiB in half a second
  EXPECT_EQ(renderer.Finish(), "\x1b[3A\r\x1b[J");
  EXPECT_EQ(renderer.Finish(), "");
}

TEST(TerminalProgressTest, ErasesWhatIsLeftOfALongerFrame) {
  ProgressRenderer renderer({.terminal = true});
  renderer.Update(Frame("layers", {Layer('a', "done"), Layer('b', "done")}), milliseconds(1));
  const std::string text = renderer.Update(Frame("mounting", {}), milliseconds(2));
  EXPECT_EQ(Lines(text), 1u);
  EXPECT_TRUE(Has(text, "\x1b[J"));
}

TEST(TerminalProgressTest, LinesFitTheTerminal) {
  ProgressRenderer renderer({.terminal = true, .columns = 40, .rows = 10});
  std::vector<LayerEvent> layers;
  for (char c = 'a'; c <= 'z'; ++c) layers.push_back(Layer(c, c == 'y' ? "downloading" : "done"));
  const std::string text = renderer.Update(Frame("layers", layers), milliseconds(1));
  EXPECT_EQ(Lines(text), 8u);  // the head and seven layers
  EXPECT_TRUE(Has(text, "26 layers, 250.0 MiB / 260.0 MiB")) << text;
  EXPECT_TRUE(Has(text, "yyyyyyyyyyyy   0% downloading"))
      << "the layer that moves is shown: " << text;
  for (std::string_view line : Split(text, '\n')) {
    EXPECT_LE(line.size(), 39u + std::string_view("\r\x1b[K").size());
  }
}

TEST(TerminalProgressTest, TheTotalHasSpeedAndTheTimeLeft) {
  ProgressRenderer renderer({.terminal = true, .columns = 120});
  LayerEvent reused = Layer('c', "done");
  reused.set_reused(true);
  // The same blob twice is fetched once.
  const auto frame = [&](uint64_t come) {
    const LayerEvent layer = Layer('a', "downloading", come);
    return Frame("layers", {layer, Layer('b', "waiting"), layer, reused});
  };
  EXPECT_TRUE(Has(renderer.Update(frame(0), milliseconds(1000)), "4 layers, 0 B / 20.0 MiB\x1b"));
  const std::string text = renderer.Update(frame(5 * kMiB), milliseconds(2000));
  EXPECT_TRUE(Has(text, "4 layers, 5.0 MiB / 20.0 MiB, 5.0 MiB/s, 4s left")) << text;
  EXPECT_FALSE(Has(renderer.Update(Frame("mounting", {}), milliseconds(2100)), "left"));
}

TEST(TerminalProgressTest, ATerminalThatIsResized) {
  ProgressRenderer renderer({.terminal = true, .columns = 120});
  EXPECT_TRUE(Has(
      renderer.Update(Frame("layers", {Layer('a', "unpacking", 5 * kMiB)}), milliseconds(1)), "["));
  renderer.Resize(30, 10);
  const std::string text =
      renderer.Update(Frame("layers", {Layer('a', "unpacking", 5 * kMiB)}), milliseconds(2));
  EXPECT_TRUE(Has(text, "aaaaaaaaaaaa  50% unpacking")) << text;
}

TEST(TerminalProgressTest, OnEightyColumnsTheActivityIsReadable) {
  ProgressRenderer renderer({.terminal = true, .columns = 80});
  for (const char* activity : {"waiting", "downloading", "unpacking", "indexing"}) {
    const std::string text =
        renderer.Update(Frame("layers", {Layer('a', activity, 1000)}), milliseconds(1));
    EXPECT_TRUE(Has(text, activity)) << text;
  }
}

TEST(TerminalProgressTest, AFullBarOnlyWhenAllIsHere) {
  ProgressRenderer renderer({.terminal = true, .columns = 120});
  EXPECT_FALSE(Has(
      renderer.Update(Frame("layers", {Layer('a', "downloading", 10 * kMiB - 1)}), milliseconds(1)),
      "[====================]"));
  EXPECT_TRUE(Has(renderer.Update(Frame("layers", {Layer('a', "done")}), milliseconds(2)),
                  "[====================]"));
}

TEST(TerminalProgressTest, AnEmptyLayerIsNoDivisionByZero) {
  ProgressRenderer renderer({.terminal = true});
  LayerEvent layer = Layer('a', "downloading");
  layer.set_blob_bytes(0);
  EXPECT_TRUE(Has(renderer.Update(Frame("layers", {layer}), milliseconds(1)), "aaaaaaaaaaaa"));
}

}  // namespace
}  // namespace imagefs
