// SPDX-License-Identifier: Apache-2.0
#include "cmd/progress.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <vector>

#include "base/text.h"
#include "base/units.h"
#include "proto/control.pb.h"

namespace imagefs {
namespace {

using control::v1::LayerEvent;
using control::v1::Progress;

constexpr int kBarCells = 20, kFewestBarCells = 6;
// Columns of a line other than the bar and the activity, and the columns reserved for the activity.
constexpr int kFixedColumns = 52, kActivityColumns = 20;
// With fewer columns a line has a percentage in place of the bar, the sizes and the speed.
constexpr int kFewestColumns = kFixedColumns + kFewestBarCells + 12;
constexpr uint64_t kMostSecondsLeft = 24 * 3600;  // what takes longer is not going to end
constexpr char kEraseToEndOfLine[] = "\x1b[K";
constexpr char kEraseBelow[] = "\x1b[J";
// Weight of the newest speed sample: smooth enough to read, quick enough to show a stall.
constexpr double kNewestSample = 0.3;

std::string ShortDigest(std::string_view digest) {
  const size_t colon = digest.find(':');
  if (colon != std::string_view::npos) digest.remove_prefix(colon + 1);
  return std::string(digest.substr(0, 12));
}

bool Finished(const LayerEvent& layer) {
  return layer.activity() == "done" || layer.activity() == "failed";
}

// Describes what is happening to the layer.
std::string Activity(const LayerEvent& layer) {
  if (layer.reused()) return "already present";
  if (!layer.trouble().empty() && !Finished(layer)) {
    return StrCat(layer.activity(), ", ", layer.trouble());
  }
  if (layer.shared() && !Finished(layer)) {
    return StrCat(layer.activity(), ", shared with another mount");
  }
  return layer.activity();
}

std::string Bar(uint64_t done, uint64_t total, int width) {
  int cells = width;
  if (total > 0 && done < total) {
    cells = static_cast<int>(static_cast<double>(done) / static_cast<double>(total) * width);
  } else if (total == 0) {
    cells = 0;
  }
  std::string bar(static_cast<size_t>(cells), '=');
  if (cells < width) bar += '>';
  bar.resize(static_cast<size_t>(width), ' ');
  return StrCat("[", bar, "]");
}

std::string Padded(std::string text, size_t width) {
  if (text.size() < width) text.insert(0, width - text.size(), ' ');
  return text;
}

std::string PhaseLine(const Progress& progress) {
  const int layers = progress.layers_size();
  if (!progress.trouble().empty()) return StrCat(progress.phase(), ": ", progress.trouble());
  if (progress.phase() == "layers") return StrCat(layers, layers == 1 ? " layer" : " layers");
  if (progress.phase() == "merging") {
    return StrCat("merging ", layers, layers == 1 ? " layer" : " layers");
  }
  return progress.phase();
}

}  // namespace

std::string ProgressRenderer::Update(const Progress& progress, std::chrono::nanoseconds now) {
  return options_.terminal ? Redraw(progress, now) : PlainLines(progress);
}

std::string ProgressRenderer::Finish() {
  if (drawn_lines_ == 0) return "";
  std::string out = StrCat("\x1b[", drawn_lines_, "A\r", kEraseBelow);
  drawn_lines_ = 0;
  return out;
}

void ProgressRenderer::Measure(Seen& seen, uint64_t bytes, std::chrono::nanoseconds now) {
  const std::chrono::duration<double> elapsed = now - seen.at;
  if (seen.at.count() != 0 && elapsed.count() <= 0) return;
  if (seen.at.count() != 0 && bytes >= seen.bytes) {
    const double sample = static_cast<double>(bytes - seen.bytes) / elapsed.count();
    seen.bytes_per_second =
        seen.bytes_per_second == 0
            ? sample
            : seen.bytes_per_second * (1 - kNewestSample) + sample * kNewestSample;
  }
  seen.at = now;
  seen.bytes = bytes;
}

// "3 layers, 44.2 MiB / 91.7 MiB, 8.1 MiB/s, 6s left": of what has to be fetched.
std::string ProgressRenderer::TotalLine(const Progress& progress, std::chrono::nanoseconds now) {
  std::string line = PhaseLine(progress);
  if (progress.phase() != "layers" || !progress.trouble().empty()) return line;
  std::set<std::string_view> counted;  // an image may have a blob several times
  uint64_t all = 0, come = 0;
  for (const LayerEvent& layer : progress.layers()) {
    if (layer.reused() || !counted.insert(layer.digest()).second) continue;
    all += layer.blob_bytes();
    come += layer.activity() == "done" ? layer.blob_bytes() : layer.downloaded_bytes();
  }
  if (all == 0) return line;
  Measure(total_, come, now);
  StrAppend(&line, ", ", FormatBytes(come), " / ", FormatBytes(all));
  const double speed = total_.bytes_per_second;
  if (come >= all || speed < 1) return line;
  const auto left = static_cast<uint64_t>(static_cast<double>(all - come) / speed) + 1;
  StrAppend(&line, ", ", FormatBytes(static_cast<uint64_t>(speed)), "/s");
  if (left <= kMostSecondsLeft) {
    StrAppend(&line, ", ", left < 120 ? StrCat(left, "s") : StrCat(left / 60, "m"), " left");
  }
  return line;
}

std::string ProgressRenderer::BarLine(const LayerEvent& layer, std::chrono::nanoseconds now) {
  Measure(layers_[layer.digest()], layer.downloaded_bytes(), now);
  const bool here = layer.reused() || layer.activity() == "done";
  const uint64_t done = here ? layer.blob_bytes() : layer.downloaded_bytes();
  if (options_.columns < kFewestColumns) {
    const uint64_t all = layer.blob_bytes();
    const uint64_t percent = all == 0 ? 100 * uint64_t{here} : done * 100 / all;
    return StrCat(ShortDigest(layer.digest()), " ", Padded(StrCat(percent, "%"), 4), " ",
                  Activity(layer));
  }
  // On a narrow terminal the bar shrinks in favor of the activity.
  const int cells = std::clamp(options_.columns - 1 - kFixedColumns - kActivityColumns,
                               kFewestBarCells, kBarCells);
  std::string line =
      StrCat(ShortDigest(layer.digest()), " ", Bar(done, layer.blob_bytes(), cells), " ",
             Padded(StrCat(FormatBytes(done), " / ", FormatBytes(layer.blob_bytes())), 21));
  const double speed = layers_[layer.digest()].bytes_per_second;
  if (layer.activity() == "downloading" && speed > 0) {
    StrAppend(&line, " ", Padded(FormatBytes(static_cast<uint64_t>(speed)), 10), "/s");
  } else {
    line.append(13, ' ');
  }
  StrAppend(&line, "  ", Activity(layer));
  return line;
}

std::string ProgressRenderer::Redraw(const Progress& progress, std::chrono::nanoseconds now) {
  // A terminal of 24 rows cannot show 100 layers: active ones come first, and the head line counts
  // the finished ones.
  const size_t room = static_cast<size_t>(std::max(options_.rows - 3, 1));
  std::vector<const LayerEvent*> shown;
  size_t done = 0;
  for (const LayerEvent& layer : progress.layers()) {
    shown.push_back(&layer);
    if (Finished(layer) || layer.reused()) ++done;
  }
  if (shown.size() > room) {
    std::stable_partition(shown.begin(), shown.end(), [](const LayerEvent* layer) {
      return !Finished(*layer) && !layer->reused() && layer->activity() != "waiting";
    });
    shown.resize(room);
  }
  std::vector<std::string> lines;
  std::string head = TotalLine(progress, now);
  if (shown.size() < static_cast<size_t>(progress.layers_size())) {
    StrAppend(&head, ", ", done, " of them present");
  }
  lines.push_back(std::move(head));
  for (const LayerEvent* layer : shown) lines.push_back(BarLine(*layer, now));

  std::string out;
  if (drawn_lines_ > 0) StrAppend(&out, "\x1b[", drawn_lines_, "A");
  for (const std::string& line : lines) {
    // A wrapped line would take two rows.
    StrAppend(&out, "\r", std::string_view(line).substr(0, std::max(options_.columns - 1, 1)),
              kEraseToEndOfLine, "\n");
  }
  if (static_cast<int>(lines.size()) < drawn_lines_) out += kEraseBelow;
  drawn_lines_ = static_cast<int>(lines.size());
  return out;
}

std::string ProgressRenderer::PlainLines(const Progress& progress) {
  std::string out;
  if (const std::string line = PhaseLine(progress); line != phase_) {
    phase_ = line;
    StrAppend(&out, line, "\n");
  }
  for (const LayerEvent& layer : progress.layers()) {
    Seen& seen = layers_[layer.digest()];
    std::string state = Activity(layer);
    if (state == seen.state) continue;
    seen.state = state;
    StrAppend(&out, "layer ", ShortDigest(layer.digest()), ": ", state, " (",
              FormatBytes(layer.blob_bytes()), ")\n");
  }
  return out;
}

}  // namespace imagefs
