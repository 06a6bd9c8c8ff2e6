// SPDX-License-Identifier: Apache-2.0
// What the daemon tells Prometheus. Every part counts for itself; a scrape collects the counts.
// Nothing is read from the network or the database, and no directory of the store is searched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cache/image_store.h"
#include "cmd/call_metrics.h"
#include "cmd/metric_text.h"
#include "fetch/source.h"
#include "fs/fuse_loop.h"
#include "fs/mount_table.h"

namespace imagefs {

struct MetricParts {
  std::string version;
  const ImageStore& store;
  const SourceFactory& sources;
  const MountTable& mounts;
  const FuseLoop& fuse;
  const CallMetrics& calls;
  std::vector<std::pair<std::string, uint64_t>> counters;  // of the other parts
  size_t warnings = 0;                                     // that `imagefs status` shows
};
// All metrics, in the order of the table, also those without samples.
std::vector<MetricSamples> CollectMetrics(const MetricParts& parts);

// The table of docs/metrics.md; a test holds the document to it.
std::string MetricTable();

}  // namespace imagefs
