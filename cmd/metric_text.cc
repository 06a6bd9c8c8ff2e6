// SPDX-License-Identifier: Apache-2.0
#include "cmd/metric_text.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <limits>

namespace imagefs {
namespace {

prometheus::MetricType TypeOf(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return prometheus::MetricType::Counter;
    case MetricType::kGauge:
      return prometheus::MetricType::Gauge;
    case MetricType::kHistogram:
      return prometheus::MetricType::Histogram;
  }
  return prometheus::MetricType::Untyped;
}

prometheus::ClientMetric::Histogram HistogramOf(const Histogram::Reading& reading) {
  prometheus::ClientMetric::Histogram out;
  out.sample_count = reading.count();
  out.sample_sum = reading.sum;
  uint64_t cumulative = 0;
  for (size_t i = 0; i < reading.counts.size(); ++i) {
    cumulative += reading.counts[i];
    const double bound =
        i < reading.bounds.size() ? reading.bounds[i] : std::numeric_limits<double>::infinity();
    out.bucket.push_back({cumulative, bound});
  }
  return out;
}

prometheus::ClientMetric SampleOf(const MetricSample& sample, MetricType type) {
  prometheus::ClientMetric out;
  for (const auto& [name, value] : sample.labels) out.label.push_back({std::string(name), value});
  if (type == MetricType::kCounter) out.counter.value = sample.value;
  if (type == MetricType::kGauge) out.gauge.value = sample.value;
  if (sample.histogram.has_value()) out.histogram = HistogramOf(*sample.histogram);
  return out;
}

}  // namespace

std::string MetricText(const std::vector<MetricSamples>& metrics) {
  std::vector<prometheus::MetricFamily> families;
  for (const MetricSamples& metric : metrics) {
    prometheus::MetricFamily& family = families.emplace_back();
    family.name = metric.name;
    family.help = metric.help;
    family.type = TypeOf(metric.type);
    for (const MetricSample& sample : metric.samples) {
      family.metric.push_back(SampleOf(sample, metric.type));
    }
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace imagefs
