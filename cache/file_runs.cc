// SPDX-License-Identifier: Apache-2.0
#include "cache/file_runs.h"

#include <dirent.h>

#include <algorithm>

#include "absl/container/flat_hash_set.h"

namespace imagefs {
namespace {

constexpr uint64_t kBlock = 512;
// Limits of the search: entries and runs, and blocks that an entry can name.
constexpr size_t kMostSteps = 4 << 20;
constexpr uint64_t kMostBytes = kBlock * UINT32_MAX;

}  // namespace

FileRuns FileRuns::Of(const ErofsImage& index) {
  FileRuns out;
  size_t steps = 0;
  auto add = [&](Nid nid) {
    const absl::StatusOr<ErofsImage::Stat> stat = index.GetStat(nid);
    if (!stat.ok() || stat->size < kLeastBytes) return;
    for (uint64_t at = 0; at < stat->size && ++steps < kMostSteps;) {
      const absl::StatusOr<Extent> run = index.Map(nid, at);
      if (!run.ok() || run->length == 0) return;
      at += run->length;
      if (run->device == 0 || run->length < kLeastBytes) continue;
      if (run->data_offset > kMostBytes || run->length > kMostBytes - run->data_offset) continue;
      out.runs_.push_back(
          {static_cast<uint32_t>(run->data_offset / kBlock),
           static_cast<uint32_t>((run->data_offset + run->length + kBlock - 1) / kBlock)});
    }
  };
  std::vector<Nid> directories = {index.root()};
  absl::flat_hash_set<Nid> seen = {index.root()};
  while (!directories.empty() && steps < kMostSteps) {
    const Nid directory = directories.back();
    directories.pop_back();
    // What was visited before an error counts.
    (void)index.ReadDir(directory, 0, [&](const ErofsImage::DirentView& entry) {
      if (++steps > kMostSteps) return false;
      if (entry.name == "." || entry.name == "..") return true;
      if (entry.type == DT_REG) add(entry.nid);
      if (entry.type == DT_DIR && seen.insert(entry.nid).second) directories.push_back(entry.nid);
      return true;
    });
  }
  std::sort(out.runs_.begin(), out.runs_.end(),
            [](const Run& a, const Run& b) { return a.begin < b.begin; });
  // Of runs that overlap (hard links, a hostile index) the first one counts.
  uint32_t end = 0;
  std::erase_if(out.runs_, [&end](const Run& run) {
    if (run.begin < end) return true;
    end = run.end;
    return false;
  });
  out.runs_.shrink_to_fit();
  return out;
}

std::optional<ByteRange> FileRuns::At(ByteRange read) const {
  auto after = std::partition_point(runs_.begin(), runs_.end(),
                                    [&](const Run& run) { return run.end * kBlock <= read.begin; });
  for (; after != runs_.end() && after->begin * kBlock < read.end; ++after) {
    const ByteRange run = {after->begin * kBlock, after->end * kBlock};
    const uint64_t common = std::min(run.end, read.end) - std::max(run.begin, read.begin);
    if (2 * common >= read.size()) return run;
  }
  return std::nullopt;
}

}  // namespace imagefs
