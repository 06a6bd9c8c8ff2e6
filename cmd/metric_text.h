// SPDX-License-Identifier: Apache-2.0
// Metrics as Prometheus' text format, which prometheus-cpp writes.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/histogram.h"

namespace imagefs {

enum class MetricType { kCounter, kGauge, kHistogram };

struct MetricSample {
  std::vector<std::pair<std::string_view, std::string>> labels;
  double value = 0;
  std::optional<Histogram::Reading> histogram;  // set for the type kHistogram
};

// One metric with the samples of all of its labels.
struct MetricSamples {
  std::string_view name, help;
  MetricType type = MetricType::kCounter;
  std::vector<MetricSample> samples;
};

inline constexpr char kMetricTextType[] = "text/plain; version=0.0.4; charset=utf-8";
// A metric without samples is announced, too.
std::string MetricText(const std::vector<MetricSamples>& metrics);

}  // namespace imagefs
