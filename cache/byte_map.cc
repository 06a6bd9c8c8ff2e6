// SPDX-License-Identifier: Apache-2.0
#include "cache/byte_map.h"

#include <dirent.h>

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/text.h"

namespace imagefs {
namespace {

// Limits of the search for names: entries and runs of bytes in a layer, and the length of a path.
constexpr size_t kMostSteps = 4 << 20;
constexpr size_t kMostPathBytes = 4096;

void Extend(ByteMap::Run& run, const ByteMap::Run& next) {
  run.blob.end = std::max(run.blob.end, next.blob.end);
  for (size_t i = 0; i < kByteStates; ++i) run.bytes[i] += next.bytes[i];
}

// Collects the largest files of each run.
class NameFinder {
 public:
  NameFinder(const SpanTableReader& table, const ErofsImage& index, ByteMap& map)
      : table_(table), index_(index), map_(map), best_(map.runs.size()) {}

  void Run() {
    std::vector<std::pair<Nid, std::string>> directories = {{index_.root(), ""}};
    seen_.insert(index_.root());
    while (!directories.empty() && steps_ < kMostSteps) {
      const auto [directory, path] = std::move(directories.back());
      directories.pop_back();
      // What was visited before an error counts.
      (void)index_.ReadDir(directory, 0, [&](const ErofsImage::DirentView& entry) {
        if (++steps_ > kMostSteps) return false;
        if (entry.name == "." || entry.name == "..") return true;
        if (path.size() + entry.name.size() > kMostPathBytes) return true;
        if (entry.type != DT_DIR && entry.type != DT_REG) return true;
        if (!seen_.insert(entry.nid).second) return true;  // another name of it
        if (entry.type == DT_DIR) {
          directories.emplace_back(entry.nid, StrCat(path, entry.name, "/"));
        } else {
          AddFile(entry.nid, path, entry.name);
        }
        return true;
      });
    }
  }

  // Every run gets its largest file before any gets its second.
  void Finish(size_t most_bytes) {
    absl::flat_hash_map<std::string, uint32_t> numbers;
    size_t bytes = 0;
    for (size_t rank = 0; rank < ByteMap::kNamesOfRun; ++rank) {
      for (size_t i = 0; i < best_.size(); ++i) {
        if (rank >= best_[i].size()) continue;
        const std::string& name = best_[i][rank].second;
        const auto found = numbers.find(name);
        if (found == numbers.end() && bytes + name.size() > most_bytes) return;
        const auto next = static_cast<uint32_t>(map_.names.size());
        const uint32_t number = found != numbers.end() ? found->second : next;
        if (number == next) {
          bytes += name.size();
          numbers.emplace(name, next);
          map_.names.push_back(name);
        }
        map_.runs[i].names.push_back(number);
      }
    }
  }

 private:
  using Best = std::vector<std::pair<uint64_t, std::string>>;  // bytes and path, largest first

  void AddFile(Nid nid, std::string_view path, std::string_view name) {
    const absl::StatusOr<ErofsImage::Stat> stat = index_.GetStat(nid);
    if (!stat.ok()) return;
    absl::flat_hash_map<size_t, uint64_t> bytes;  // by run
    for (uint64_t at = 0; at < stat->size && ++steps_ < kMostSteps;) {
      const absl::StatusOr<Extent> extent = index_.Map(nid, at);
      if (!extent.ok() || extent->length == 0) break;
      at += extent->length;
      if (extent->device == 0) continue;
      const ByteRange data = {extent->data_offset, extent->data_offset + extent->length};
      const auto [first, last] = table_.SpansOf(data);
      for (size_t i = first; i < last && ++steps_ < kMostSteps; ++i) {
        const SpanEntry span = table_.span(i);
        const uint64_t here =
            std::min(data.end, span.data_end()) - std::max(data.begin, span.data_begin);
        if (const size_t run = RunOf(span.blob_end() - 1); run < best_.size()) bytes[run] += here;
      }
    }
    for (const auto& [run, count] : bytes) {
      ++map_.runs[run].files;
      Best& best = best_[run];
      if (best.size() == ByteMap::kNamesOfRun && best.back().first >= count) continue;
      if (best.size() == ByteMap::kNamesOfRun) best.pop_back();
      const auto after = std::find_if(
          best.begin(), best.end(), [count = count](const auto& one) { return one.first < count; });
      best.emplace(after, count, StrCat(path, name));
    }
  }

  size_t RunOf(uint64_t blob_offset) const {
    const auto after = std::upper_bound(
        map_.runs.begin(), map_.runs.end(), blob_offset,
        [](uint64_t offset, const ByteMap::Run& run) { return offset < run.blob.begin; });
    return after == map_.runs.begin() ? map_.runs.size()
                                      : static_cast<size_t>(after - map_.runs.begin()) - 1;
  }

  const SpanTableReader& table_;
  const ErofsImage& index_;
  ByteMap& map_;
  std::vector<Best> best_;  // by run
  absl::flat_hash_set<Nid> seen_;
  size_t steps_ = 0;
};

}  // namespace

ByteMap MakeByteMap(const SpanTableReader& table, const std::vector<ByteState>& states,
                    size_t most_runs) {
  std::vector<uint32_t> order(std::min(states.size(), table.span_count()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&table](uint32_t a, uint32_t b) {
    return table.span(a).blob_begin < table.span(b).blob_begin;
  });
  ByteMap map;
  for (const uint32_t i : order) {
    const SpanEntry span = table.span(i);
    ByteMap::Run next;
    next.blob = {span.blob_begin, span.blob_end()};
    next.bytes[static_cast<size_t>(states[i])] = span.blob_bytes;
    // Spans that are decoded from the same bytes are one run. Neighbours may share a byte.
    const uint64_t end = map.runs.empty() ? 0 : map.runs.back().blob.end;
    next.blob.begin = std::max(next.blob.begin, end);
    if (next.blob.empty()) {
      Extend(map.runs.back(), next);
    } else {
      map.runs.push_back(std::move(next));
    }
  }
  if (map.runs.size() <= most_runs) return map;
  // One run for each of `most_runs` equal parts of the blob in which a run begins.
  const uint64_t part = (table.blob_size() + most_runs - 1) / most_runs;
  std::vector<ByteMap::Run> merged;
  for (ByteMap::Run& run : map.runs) {
    if (!merged.empty() && merged.back().blob.begin / part == run.blob.begin / part) {
      Extend(merged.back(), run);
    } else {
      merged.push_back(std::move(run));
    }
  }
  map.runs = std::move(merged);
  return map;
}

void AddNames(const SpanTableReader& table, const ErofsImage& index, size_t most_name_bytes,
              ByteMap& map) {
  NameFinder finder(table, index, map);
  finder.Run();
  finder.Finish(most_name_bytes);
}

}  // namespace imagefs
