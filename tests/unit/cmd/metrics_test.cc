// SPDX-License-Identifier: Apache-2.0
#include "cmd/metrics.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/text.h"
#include "cmd/call_metrics.h"
#include "cmd/metric_text.h"
#include "cmd/process_stats.h"
#include "fs/fuse_loop.h"
#include "tests/fakes/fs/fake_store.h"

namespace imagefs {
namespace {

constexpr std::array<double, 2> kBounds = {0.5, 2};

TEST(MetricTextTest, IsPrometheusText) {
  Histogram times(kBounds);
  times.Observe(0.25);
  times.Observe(1);
  times.Observe(8);
  std::vector<MetricSamples> metrics = {
      {"a_total", "Counts \"a\"", MetricType::kCounter, {{{{"kind", "x\"\\\n"}}, 3, std::nullopt}}},
      {"b", "Says b", MetricType::kGauge, {{{}, 1.5, std::nullopt}}},
      {"c_seconds", "Times c", MetricType::kHistogram, {{{}, 0, times.Read()}}},
      {"d_total", "Nothing yet", MetricType::kCounter, {}}};
  EXPECT_EQ(MetricText(metrics),
            "# HELP a_total Counts \"a\"\n"
            "# TYPE a_total counter\n"
            "a_total{kind=\"x\\\"\\\\\\n\"} 3\n"
            "# HELP b Says b\n"
            "# TYPE b gauge\n"
            "b 1.5\n"
            "# HELP c_seconds Times c\n"
            "# TYPE c_seconds histogram\n"
            "c_seconds_count 3\n"
            "c_seconds_sum 9.25\n"
            "c_seconds_bucket{le=\"0.5\"} 1\n"
            "c_seconds_bucket{le=\"2\"} 2\n"
            "c_seconds_bucket{le=\"+Inf\"} 3\n"
            "# HELP d_total Nothing yet\n"
            "# TYPE d_total counter\n");
}

TEST(CallMetricsTest, CountsByCommandModeAndResult) {
  CallMetrics calls;
  using std::chrono::milliseconds;
  calls.Ended(
      {"mount", "fuse", absl::OkStatus(), milliseconds(20), {{"resolve", milliseconds(5)}}});
  calls.Ended(
      {"mount", "fuse", absl::OkStatus(), milliseconds(30), {{"resolve", milliseconds(6)}}});
  calls.Ended({"mount", "", absl::NotFoundError("x"), milliseconds(1), {}});
  calls.Ended({"pull", "", absl::CancelledError("x"), milliseconds(1), {}});
  std::vector<HistogramReport> out;
  calls.AppendHistograms(out);
  std::string text;
  for (const HistogramReport& report : out) {
    StrAppend(&text, report.name);
    for (const auto& [name, value] : report.labels) StrAppend(&text, " ", name, "=", value);
    StrAppend(&text, " ", report.reading.count(), "\n");
  }
  EXPECT_EQ(text,
            "command command=mount mode= result=failed 1\n"
            "command command=mount mode=fuse result=ok 2\n"
            "command command=pull mode= result=cancelled 1\n"
            "step command=mount step=resolve 2\n");
}

TEST(ProcessStatsTest, AreThoseOfThisProcess) {
  const ProcessStats before = ReadProcessStats();
  EXPECT_GT(before.resident_bytes, uint64_t{1} << 20);
  EXPECT_GT(before.virtual_bytes, before.resident_bytes);
  EXPECT_GE(before.threads, 1U);
  EXPECT_GT(before.max_fds, before.open_fds);
  EXPECT_GT(before.start_unix_seconds, 1e9);
  EXPECT_LE(before.start_unix_seconds, static_cast<double>(time(nullptr)) + 2);
  const absl::StatusOr<Fd> fd = OpenFile("/dev/null", 0);
  ASSERT_TRUE(fd.ok());
  EXPECT_EQ(ReadProcessStats().open_fds, before.open_fds + 1);
}

class MetricsTest : public testing::Test {
 protected:
  std::string Collect(std::vector<std::pair<std::string, uint64_t>> counters = {}) {
    return MetricText(
        CollectMetrics({"1.2", store_, sources_, mounts_, *fuse_, calls_, std::move(counters), 2}));
  }
  static bool Has(const std::string& text, std::string_view line) {
    return text.find(StrCat("\n", line, "\n")) != std::string::npos;
  }

  FakeImageStore store_{1};
  FakeSources sources_;
  FakeMountTable mounts_;
  std::unique_ptr<FuseLoop> fuse_ = *FuseLoop::Create({.workers = 1});
  CallMetrics calls_;
};

TEST_F(MetricsTest, CollectsFromEveryPart) {
  calls_.Ended({"pull", "", absl::OkStatus(), std::chrono::milliseconds(20), {}});
  const std::string text = Collect({{"snapshots", 7},
                                    {"snapshot_layers_unpacked_registry", 3},
                                    {"credential_renewals", 5},
                                    {"credentials_renewed", 4},
                                    {"not a metric", 1}});
  for (const char* line : {
           "imagefs_build_info{version=\"1.2\"} 1",
           "imagefs_warnings 2",
           "imagefs_command_duration_seconds_count{command=\"pull\",mode=\"\",result=\"ok\"} 1",
           "imagefs_mounts{mode=\"fuse\",state=\"mounted\"} 0",
           "imagefs_fuse_sessions 0",
           "imagefs_snapshots 7",
           "imagefs_fallbacks_total{cause=\"registry\"} 3",
           "imagefs_fallbacks_total{cause=\"kernel_unavailable\"} 0",
           "imagefs_credential_renewals_total{result=\"ok\"} 4",
           "imagefs_credential_renewals_total{result=\"failed\"} 1",
           "# TYPE process_open_fds gauge",
       }) {
    EXPECT_TRUE(Has(text, line)) << line << "\n" << text;
  }
  EXPECT_EQ(text.find("not a metric"), std::string::npos);
}

TEST_F(MetricsTest, EveryMetricIsAnnouncedOnce) {
  const std::string text = Collect();
  std::string_view table_name;
  const std::string table = MetricTable();
  for (const std::string_view row : Split(table, '\n')) {
    if (!row.starts_with("| `")) continue;
    table_name = row.substr(3, row.find('`', 3) - 3);
    const std::string line = StrCat("# TYPE ", table_name, " ");
    const size_t at = text.find(line);
    EXPECT_NE(at, std::string::npos) << table_name;
    EXPECT_EQ(text.find(line, at + 1), std::string::npos) << table_name;
  }
}

TEST_F(MetricsTest, TheDocumentHasTheTable) {
  const absl::StatusOr<std::string> page =
      ReadFile(StrCat(IMAGEFS_SOURCE_DIR, "/docs/metrics.md"), 1 << 20);
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_NE(page->find(MetricTable()), std::string::npos) << "docs/metrics.md needs this table:\n"
                                                          << MetricTable();
}

}  // namespace
}  // namespace imagefs
