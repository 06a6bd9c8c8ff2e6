// SPDX-License-Identifier: Apache-2.0
// Turns progress events into what a person sees on stderr: on a terminal one line a layer that is
// redrawn in place, elsewhere one plain line whenever something changes its state. Pure: no clock,
// no output. Not thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

namespace imagefs {

namespace control::v1 {
class LayerEvent;
class Progress;
}  // namespace control::v1

class ProgressRenderer {
 public:
  struct Options {
    bool terminal = false;
    int columns = 80;
    int rows = 24;
  };
  explicit ProgressRenderer(Options options) : options_(options) {}

  // The text to write for this event, "" when there is nothing new. `now` is any steady clock.
  std::string Update(const control::v1::Progress& progress, std::chrono::nanoseconds now);
  // The text that ends the drawing: what was drawn is taken away, so that the result stands alone.
  std::string Finish();

 private:
  struct Seen {
    std::string state;  // last plain line, without the layer's name
    uint64_t bytes = 0;
    std::chrono::nanoseconds at{0};
    double bytes_per_second = 0;
  };
  std::string Redraw(const control::v1::Progress& progress, std::chrono::nanoseconds now);
  std::string PlainLines(const control::v1::Progress& progress);
  std::string BarLine(const control::v1::LayerEvent& layer, std::chrono::nanoseconds now);
  void Measure(const control::v1::LayerEvent& layer, std::chrono::nanoseconds now);

  const Options options_;
  std::string phase_;
  int drawn_lines_ = 0;
  std::map<std::string, Seen> layers_;  // by blob digest
};

}  // namespace imagefs
