// SPDX-License-Identifier: Apache-2.0
// Renders progress events for a person on stderr: on a terminal one line per layer, redrawn in
// place; elsewhere one plain line per change of state. Pure: no clock, no output. Not thread-safe.
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
  // The terminal has this size now.
  void Resize(int columns, int rows) {
    options_.columns = columns;
    options_.rows = rows;
  }

  // Returns the text to write for this event, or "" if nothing is new. `now` is any steady clock.
  std::string Update(const control::v1::Progress& progress, std::chrono::nanoseconds now);
  // Returns the text that erases the drawing, so that only the result remains.
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
  std::string TotalLine(const control::v1::Progress& progress, std::chrono::nanoseconds now);
  static void Measure(Seen& seen, uint64_t bytes, std::chrono::nanoseconds now);

  Options options_;
  std::string phase_;
  int drawn_lines_ = 0;
  std::map<std::string, Seen> layers_;  // by blob digest
  Seen total_;
};

}  // namespace imagefs
