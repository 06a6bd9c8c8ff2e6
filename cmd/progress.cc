// SPDX-License-Identifier: Apache-2.0
#include "cmd/progress.h"

#include <algorithm>
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

void ProgressRenderer::Measure(const LayerEvent& layer, std::chrono::nanoseconds now) {
  Seen& seen = layers_[layer.digest()];
  const std::chrono::duration<double> elapsed = now - seen.at;
  if (seen.at.count() != 0 && elapsed.count() <= 0) return;
  if (seen.at.count() != 0 && layer.downloaded_bytes() >= seen.bytes) {
    const double sample =
        static_cast<double>(layer.downloaded_bytes() - seen.bytes) / elapsed.count();
    seen.bytes_per_second =
        seen.bytes_per_second == 0
            ? sample
            : seen.bytes_per_second * (1 - kNewestSample) + sample * kNewestSample;
  }
  seen.at = now;
  seen.bytes = layer.downloaded_bytes();
}

std::string ProgressRenderer::BarLine(const LayerEvent& layer, std::chrono::nanoseconds now) {
  Measure(layer, now);
  const bool here = layer.reused() || layer.activity() == "done";
  const uint64_t done = here ? layer.blob_bytes() : layer.downloaded_bytes();
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
  std::string head = PhaseLine(progress);
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
