// SPDX-License-Identifier: Apache-2.0
#include "cmd/metrics.h"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>

#include "base/text.h"
#include "cmd/mount_status.h"
#include "cmd/process_stats.h"

namespace imagefs {
namespace {

constexpr MetricType kCounter = MetricType::kCounter, kGauge = MetricType::kGauge,
                     kHistogram = MetricType::kHistogram;

struct Info {
  std::string_view name;
  MetricType type;
  std::string_view labels;  // names, separated by ", "
  std::string_view help;
};

constexpr Info kMetrics[] = {
    {"imagefs_build_info", kGauge, "version", "1, with the version of the daemon"},
    {"imagefs_warnings", kGauge, "", "Warnings that `imagefs status` shows"},
    // Commands.
    {"imagefs_command_duration_seconds", kHistogram, "command, mode, result",
     "Commands that clients asked for, until they ended: mount, pull, index, add, export, import; "
     "mode: of a mount that was made; result: ok, failed, cancelled"},
    {"imagefs_command_step_duration_seconds", kHistogram, "command, step",
     "Steps of the commands that succeeded: resolve, layers, merge (if it is quick, it is part of "
     "layers), mount, sync"},
    // Mounts.
    {"imagefs_mounts", kGauge, "mode, state",
     "Mounts of the command; state: mounted, filling (bytes are missing), damaged (reads fail), "
     "not_mounted (recorded only)"},
    {"imagefs_fuse_sessions", kGauge, "", "FUSE sessions that the daemon serves"},
    {"imagefs_fuse_requests_total", kCounter, "operation",
     "Requests of the kernel: lookup, getattr, read, readdir, xattr, other"},
    {"imagefs_fuse_read_bytes_total", kCounter, "", "Bytes that FUSE gave to readers"},
    {"imagefs_fuse_errors_total", kCounter, "",
     "Requests of the kernel that were answered with EIO"},
    // Readers of lazy layers.
    {"imagefs_read_wait_seconds", kHistogram, "cause",
     "Reads that had to wait for bytes; cause: fetch (nobody had requested some of them), "
     "in_flight (all were on their way or being decoded), recheck (an earlier process left them, "
     "and they were verified again)"},
    {"imagefs_read_failures_total", kCounter, "cause", "Reads that failed; cause: deadline, other"},
    {"imagefs_decode_seconds", kHistogram, "", "Decoding and verifying one span of a lazy layer"},
    // Registries.
    {"imagefs_requests_total", kCounter, "endpoint, kind, result",
     "HTTP requests; endpoint: host and port, or others (beyond 32 of them); kind: manifest, blob, "
     "referrers, token, other; result: ok, refused (4xx), server_error (5xx), failed (no complete "
     "answer, or it could not be used), cancelled (also: it gave way to another request)"},
    {"imagefs_request_latency_seconds", kHistogram, "endpoint, kind",
     "HTTP requests, from when they were sent until the headers of the answer came"},
    {"imagefs_received_bytes_total", kCounter, "endpoint, kind", "Bytes of the answers' bodies"},
    {"imagefs_connections_total", kCounter, "", "Connections made to registries and storage"},
    {"imagefs_request_retries_total", kCounter, "", "Requests that were sent again"},
    {"imagefs_request_resumes_total", kCounter, "", "Of these: those that continued a transfer"},
    {"imagefs_redirects_total", kCounter, "", "Redirects that were followed"},
    {"imagefs_failovers_total", kCounter, "", "Requests that went on at another endpoint"},
    {"imagefs_endpoints_in_trouble", kGauge, "",
     "Endpoints that failed lately or delivered wrong bytes: `imagefs status` names them"},
    // Bytes of layers.
    {"imagefs_blob_fetched_bytes_total", kCounter, "", "Fetched for layers as a whole"},
    {"imagefs_tar_written_bytes_total", kCounter, "", "Decompressed from them and written"},
    {"imagefs_fill_fetched_bytes_total", kCounter, "", "Fetched for lazy layers"},
    {"imagefs_fill_requests_total", kCounter, "", "Requests for parts of lazy layers"},
    {"imagefs_fill_hedges_total", kCounter, "", "Of these: second ones, because one was silent"},
    {"imagefs_fill_spans_total", kCounter, "", "Spans that came and were right"},
    {"imagefs_fill_spans_prefetched_total", kCounter, "",
     "Spans that were requested before a reader needed them"},
    {"imagefs_fill_spans_wrong_total", kCounter, "", "Spans with wrong bytes, fetched again"},
    {"imagefs_hot_packs_total", kCounter, "", "Hot packs that were asked for"},
    {"imagefs_hot_pack_bytes_total", kCounter, "", "Bytes of pages that came with them"},
    {"imagefs_hot_pack_reads_total", kCounter, "outcome",
     "Reads of such pages; outcome: served, late (their spans were asked for)"},
    {"imagefs_hot_pack_wrong_spans_total", kCounter, "",
     "Spans that are not as a hot pack said: its index is not used any more"},
    {"imagefs_fill_memory_bytes", kGauge, "", "Spans that are kept in memory: the disk is full"},
    {"imagefs_fill_evicted_bytes_total", kCounter, "",
     "Bytes of lazy layers in use that were given back to make room"},
    // Layers and trees.
    {"imagefs_layers", kGauge, "state", "Layers of the store; state: filling, written, complete"},
    {"imagefs_layer_data_bytes", kGauge, "state", "Sizes of their data files when complete"},
    {"imagefs_layer_index_bytes", kGauge, "", "Sizes of their indexes"},
    {"imagefs_layers_built_total", kCounter, "", "Layers fetched and unpacked as a whole"},
    {"imagefs_layers_parallel_total", kCounter, "",
     "Of these: those that were decompressed by the spans of an index, on all processors"},
    {"imagefs_layers_reused_total", kCounter, "", "Layers that were needed and already local"},
    {"imagefs_layers_lazy_total", kCounter, "", "Layers that became readable before their bytes"},
    {"imagefs_layers_filled_total", kCounter, "", "Of these: those that became complete"},
    {"imagefs_layers_failed_total", kCounter, "",
     "Lazy layers that turned out not to be what their image names"},
    {"imagefs_layers_damaged_total", kCounter, "", "Layers that were found damaged on the disk"},
    {"imagefs_layers_refetched_total", kCounter, "", "Layers fetched again, because of damage"},
    {"imagefs_layers_dropped_total", kCounter, "",
     "Layers dropped at the start: a crash of the machine interrupted them"},
    {"imagefs_layers_evicted_total", kCounter, "", "Layers whose data was given back"},
    {"imagefs_chains_merged_total", kCounter, "", "Trees that were merged"},
    {"imagefs_chains_reused_total", kCounter, "", "Trees that were needed and already local"},
    {"imagefs_chains_repaired_total", kCounter, "", "Trees that were merged again: damaged"},
    {"imagefs_index_lookups_total", kCounter, "", "Searches for the indexes of an image"},
    {"imagefs_indexes_found_total", kCounter, "", "Indexes of layers that were found and right"},
    {"imagefs_index_publications_total", kCounter, "result",
     "Indexes to be published by `index.publish`: pushed, found (somebody had), failed"},
    {"imagefs_index_publications_waiting", kGauge, "", "Images whose index waits for that"},
    {"imagefs_span_tables_built_total", kCounter, "", "Span tables made of complete layers"},
    {"imagefs_span_tables_failed_total", kCounter, "", "Span tables that could not be made"},
    {"imagefs_possession_asked_total", kCounter, "",
     "Questions to a registry whether somebody may have a layer that is local"},
    {"imagefs_fallbacks_total", kCounter, "cause",
     "The slower way was taken: index_absent, index_refused (wrong, or nobody trusted vouches for "
     "it), index_useless (it does not fit its layer): a layer was not lazy, or not unpacked on all "
     "processors; table_useless (that of an index does not fit its layer): it was unpacked twice; "
     "kernel_unavailable, kernel_failed: FUSE shows a tree to root; disk_full: a span was given to "
     "a reader from memory; parent, credentials, registry, image, other (why imagefs did not take "
     "a layer): "
     "containerd unpacked it"},
    // The store.
    {"imagefs_store_used_bytes", kGauge, "",
     "What counts against the limit: the last measurement, and what was written since"},
    {"imagefs_store_limit_bytes", kGauge, "", "`store.limit`; 0: none"},
    {"imagefs_store_high_bytes", kGauge, "", "`store.high`: above it, space is given back"},
    {"imagefs_store_reserve_bytes", kGauge, "", "`store.reserve`: free space left to others"},
    {"imagefs_store_filesystem_bytes", kGauge, "", "Size of the store's file system"},
    {"imagefs_store_filesystem_free_bytes", kGauge, "", "Its free space"},
    {"imagefs_store_writes_refused_total", kCounter, "", "Writes refused by a limit"},
    {"imagefs_store_records_waiting", kGauge, "", "Records that the disk did not take yet"},
    {"imagefs_store_records_damaged", kGauge, "", "Records that cannot be read"},
    // Work.
    {"imagefs_flights", kGauge, "flight", "Flights that are running"},
    {"imagefs_flight_callers", kGauge, "flight", "Callers that wait for them"},
    {"imagefs_flight_leaders_total", kCounter, "flight", "Flights started by a new caller"},
    {"imagefs_flight_joins_total", kCounter, "flight", "Callers that joined a running flight"},
    {"imagefs_flight_handovers_total", kCounter, "flight",
     "Flights that continued with another caller's credentials"},
    {"imagefs_flight_cancelled_total", kCounter, "flight", "Flights whose last caller left"},
    {"imagefs_flight_failed_total", kCounter, "flight", "Flights that ended with an error"},
    {"imagefs_tasks_queued", kGauge, "queue", "Tasks that wait for a thread: control, fill"},
    // Runtimes.
    {"imagefs_snapshots", kGauge, "", "containerd's snapshots"},
    {"imagefs_snapshot_layers_lazy_total", kCounter, "",
     "Layers that containerd did not have to unpack"},
    {"imagefs_content_blobs_total", kCounter, "result",
     "Blobs for containerd's content store: written, failed"},
    {"imagefs_content_blobs_missing", kGauge, "", "Blobs that it still lacks"},
    {"imagefs_podman_images", kGauge, "", "Images that `imagefs add` named"},
    {"imagefs_podman_layers_total", kCounter, "result",
     "Layers that podman looked for: found, absent"},
    {"imagefs_credentials_remembered", kGauge, "", "References with a credential of a runtime"},
    {"imagefs_credential_plugin_runs_total", kCounter, "", "Runs of the kubelet's plugins"},
    {"imagefs_credential_renewals_total", kCounter, "result",
     "Searches for a credential in place of a refused one: ok, failed"},
    // The process.
    {"process_cpu_seconds_total", kCounter, "", "Processor time, user and system"},
    {"process_resident_memory_bytes", kGauge, "", "Resident memory"},
    {"process_virtual_memory_bytes", kGauge, "", "Virtual memory"},
    {"process_open_fds", kGauge, "", "Open file descriptors"},
    {"process_max_fds", kGauge, "", "Their limit"},
    {"process_threads", kGauge, "", "Threads"},
    {"process_start_time_seconds", kGauge, "", "When the process started, in Unix time"},
};

// A name that is not in the table does not compile.
consteval size_t IdOf(std::string_view name) {
  for (size_t i = 0; i < std::size(kMetrics); ++i) {
    if (kMetrics[i].name == name) return i;
  }
  throw "no such metric";
}

// The metrics that are counters of `imagefs status`, with the value of their label if they have
// one.
struct Mapped {
  std::string_view counter;
  size_t metric;
  std::string_view label = "";
};
constexpr Mapped kMapped[] = {
    {"fill_requests", IdOf("imagefs_fill_requests_total")},
    {"fill_hedges", IdOf("imagefs_fill_hedges_total")},
    {"fill_bytes_fetched", IdOf("imagefs_fill_fetched_bytes_total")},
    {"fill_spans", IdOf("imagefs_fill_spans_total")},
    {"fill_spans_prefetched", IdOf("imagefs_fill_spans_prefetched_total")},
    {"fill_spans_wrong", IdOf("imagefs_fill_spans_wrong_total")},
    {"hot_packs", IdOf("imagefs_hot_packs_total")},
    {"hot_pack_bytes", IdOf("imagefs_hot_pack_bytes_total")},
    {"hot_pack_reads", IdOf("imagefs_hot_pack_reads_total"), "served"},
    {"hot_pack_reads_late", IdOf("imagefs_hot_pack_reads_total"), "late"},
    {"hot_pack_wrong_spans", IdOf("imagefs_hot_pack_wrong_spans_total")},
    {"fill_reads_expired", IdOf("imagefs_read_failures_total"), "deadline"},
    {"fill_evicted_bytes", IdOf("imagefs_fill_evicted_bytes_total")},
    {"fill_memory_bytes", IdOf("imagefs_fill_memory_bytes")},
    {"fill_memory_spans", IdOf("imagefs_fallbacks_total"), "disk_full"},
    {"fill_tasks_queued", IdOf("imagefs_tasks_queued"), "fill"},
    {"control_tasks_queued", IdOf("imagefs_tasks_queued"), "control"},
    {"blob_bytes_fetched", IdOf("imagefs_blob_fetched_bytes_total")},
    {"tar_bytes_written", IdOf("imagefs_tar_written_bytes_total")},
    {"layers_built", IdOf("imagefs_layers_built_total")},
    {"layers_parallel", IdOf("imagefs_layers_parallel_total")},
    {"layers_reused", IdOf("imagefs_layers_reused_total")},
    {"layers_lazy", IdOf("imagefs_layers_lazy_total")},
    {"layers_filled", IdOf("imagefs_layers_filled_total")},
    {"layers_failed", IdOf("imagefs_layers_failed_total")},
    {"layers_damaged", IdOf("imagefs_layers_damaged_total")},
    {"layers_refetched", IdOf("imagefs_layers_refetched_total")},
    {"layers_dropped", IdOf("imagefs_layers_dropped_total")},
    {"layers_evicted", IdOf("imagefs_layers_evicted_total")},
    {"chains_merged", IdOf("imagefs_chains_merged_total")},
    {"chains_reused", IdOf("imagefs_chains_reused_total")},
    {"chains_repaired", IdOf("imagefs_chains_repaired_total")},
    {"index_lookups", IdOf("imagefs_index_lookups_total")},
    {"indexes_found", IdOf("imagefs_indexes_found_total")},
    {"indexes_absent", IdOf("imagefs_fallbacks_total"), "index_absent"},
    {"indexes_refused", IdOf("imagefs_fallbacks_total"), "index_refused"},
    {"indexes_useless", IdOf("imagefs_fallbacks_total"), "index_useless"},
    {"layers_table_useless", IdOf("imagefs_fallbacks_total"), "table_useless"},
    {"span_tables_built", IdOf("imagefs_span_tables_built_total")},
    {"span_tables_failed", IdOf("imagefs_span_tables_failed_total")},
    {"possession_asked", IdOf("imagefs_possession_asked_total")},
    {"store_writes_refused", IdOf("imagefs_store_writes_refused_total")},
    {"store_writes_waiting", IdOf("imagefs_store_records_waiting")},
    {"store_records_damaged", IdOf("imagefs_store_records_damaged")},
    {"snapshots", IdOf("imagefs_snapshots")},
    {"snapshot_layers_lazy", IdOf("imagefs_snapshot_layers_lazy_total")},
    {"snapshot_layers_unpacked_parent", IdOf("imagefs_fallbacks_total"), "parent"},
    {"snapshot_layers_unpacked_credentials", IdOf("imagefs_fallbacks_total"), "credentials"},
    {"snapshot_layers_unpacked_registry", IdOf("imagefs_fallbacks_total"), "registry"},
    {"snapshot_layers_unpacked_image", IdOf("imagefs_fallbacks_total"), "image"},
    {"snapshot_layers_unpacked_other", IdOf("imagefs_fallbacks_total"), "other"},
    {"content_blobs_written", IdOf("imagefs_content_blobs_total"), "written"},
    {"content_blobs_failed", IdOf("imagefs_content_blobs_total"), "failed"},
    {"content_blobs_missing", IdOf("imagefs_content_blobs_missing")},
    {"publications_pushed", IdOf("imagefs_index_publications_total"), "pushed"},
    {"publications_found", IdOf("imagefs_index_publications_total"), "found"},
    {"publications_failed", IdOf("imagefs_index_publications_total"), "failed"},
    {"publications_waiting", IdOf("imagefs_index_publications_waiting")},
    {"podman_images", IdOf("imagefs_podman_images")},
    {"podman_layers_found", IdOf("imagefs_podman_layers_total"), "found"},
    {"podman_layers_absent", IdOf("imagefs_podman_layers_total"), "absent"},
    {"credentials_remembered", IdOf("imagefs_credentials_remembered")},
    {"credential_plugin_runs", IdOf("imagefs_credential_plugin_runs_total")},
    {"credentials_renewed", IdOf("imagefs_credential_renewals_total"), "ok"},
};

using Counters = std::vector<std::pair<std::string, uint64_t>>;
using Labels = std::vector<std::pair<std::string_view, std::string>>;

class Collector {
 public:
  Collector() {
    for (const Info& info : kMetrics) all_.push_back({info.name, info.help, info.type, {}});
  }
  void Add(size_t metric, double value, Labels labels = {}) {
    all_[metric].samples.push_back({std::move(labels), value, std::nullopt});
  }
  void Add(size_t metric, uint64_t value, Labels labels = {}) {
    Add(metric, static_cast<double>(value), std::move(labels));
  }
  void Add(size_t metric, Histogram::Reading reading, Labels labels) {
    all_[metric].samples.push_back({std::move(labels), 0, std::move(reading)});
  }
  void AddMapped(const Counters& counters);
  std::vector<MetricSamples> Take() { return std::move(all_); }

 private:
  std::vector<MetricSamples> all_;
};

uint64_t ValueOf(const Counters& counters, std::string_view name) {
  for (const auto& [other, value] : counters) {
    if (other == name) return value;
  }
  return 0;
}

void Collector::AddMapped(const Counters& counters) {
  for (const auto& [name, value] : counters) {
    const auto* const mapped =
        std::find_if(std::begin(kMapped), std::end(kMapped),
                     [&counter = name](const Mapped& one) { return one.counter == counter; });
    if (mapped == std::end(kMapped)) continue;
    Labels labels;
    if (!mapped->label.empty()) {
      labels.emplace_back(kMetrics[mapped->metric].labels, std::string(mapped->label));
    }
    Add(mapped->metric, value, std::move(labels));
  }
}

void AddStore(const ImageStore& store, Collector& out) {
  const Counters counters = store.Counters();
  out.AddMapped(counters);
  const uint64_t expired = ValueOf(counters, "fill_reads_expired");
  const uint64_t failed = ValueOf(counters, "fill_reads_failed");
  out.Add(IdOf("imagefs_read_failures_total"), failed - std::min(failed, expired),
          {{"cause", "other"}});
  for (HistogramReport& report : store.Histograms()) {
    const size_t metric = report.name == "decode" ? IdOf("imagefs_decode_seconds")
                                                  : IdOf("imagefs_read_wait_seconds");
    out.Add(metric, std::move(report.reading), std::move(report.labels));
  }
  struct Sum {
    uint64_t layers = 0, bytes = 0;
  };
  std::map<LayerState, Sum> states = {
      {LayerState::kFilling, {}}, {LayerState::kWritten, {}}, {LayerState::kComplete, {}}};
  uint64_t index_bytes = 0;
  for (const LayerInfo& layer : store.ListLayers()) {
    ++states[layer.state].layers;
    states[layer.state].bytes += layer.data_bytes;
    index_bytes += layer.index_bytes;
  }
  for (const auto& [state, sum] : states) {
    const Labels labels = {{"state", std::string(LayerStateName(state))}};
    out.Add(IdOf("imagefs_layers"), sum.layers, labels);
    out.Add(IdOf("imagefs_layer_data_bytes"), sum.bytes, labels);
  }
  out.Add(IdOf("imagefs_layer_index_bytes"), index_bytes);
  const absl::StatusOr<StoreSpace::Reading> space = store.Space();
  if (!space.ok()) return;  // no sample says that it is not known
  out.Add(IdOf("imagefs_store_used_bytes"), space->used);
  out.Add(IdOf("imagefs_store_limit_bytes"), space->limit);
  out.Add(IdOf("imagefs_store_high_bytes"), space->high);
  out.Add(IdOf("imagefs_store_reserve_bytes"), space->reserve);
  out.Add(IdOf("imagefs_store_filesystem_bytes"), space->total);
  out.Add(IdOf("imagefs_store_filesystem_free_bytes"), space->free);
}

void AddFlight(const std::string& name, const FlightCounters& counters, Collector& out) {
  const Labels labels = {{"flight", name}};
  out.Add(IdOf("imagefs_flights"), counters.active, labels);
  out.Add(IdOf("imagefs_flight_callers"), counters.waiting, labels);
  out.Add(IdOf("imagefs_flight_leaders_total"), counters.leaders, labels);
  out.Add(IdOf("imagefs_flight_joins_total"), counters.joins, labels);
  out.Add(IdOf("imagefs_flight_handovers_total"), counters.handovers, labels);
  out.Add(IdOf("imagefs_flight_cancelled_total"), counters.cancelled, labels);
  out.Add(IdOf("imagefs_flight_failed_total"), counters.failed, labels);
}

void AddSources(const SourceFactory& sources, Collector& out) {
  const SourceFactory::Counters counters = sources.counters();
  AddFlight("token", counters.tokens, out);
  out.Add(IdOf("imagefs_connections_total"), counters.http.connections);
  out.Add(IdOf("imagefs_request_retries_total"), counters.retries);
  out.Add(IdOf("imagefs_request_resumes_total"), counters.resumes);
  out.Add(IdOf("imagefs_redirects_total"), counters.redirects);
  out.Add(IdOf("imagefs_failovers_total"), counters.failovers);
  out.Add(IdOf("imagefs_endpoints_in_trouble"), sources.endpoints_in_trouble().size());
  for (EndpointTraffic::Row& row : sources.traffic()) {
    const Labels labels = {{"endpoint", row.endpoint},
                           {"kind", std::string(RequestKindName(row.kind))}};
    for (size_t i = 0; i < row.results.size(); ++i) {
      Labels with_result = labels;
      with_result.emplace_back("result", std::string(EndpointTraffic::ResultName(i)));
      out.Add(IdOf("imagefs_requests_total"), row.results[i], std::move(with_result));
    }
    out.Add(IdOf("imagefs_received_bytes_total"), row.bytes, labels);
    out.Add(IdOf("imagefs_request_latency_seconds"), std::move(row.answered), labels);
  }
}

void AddMounts(const MountTable& mounts, Collector& out) {
  std::map<std::pair<std::string, std::string>, uint64_t> counts;
  for (const std::string_view mode : {kKernelMode, kFuseMode}) {
    for (const char* const state : {"mounted", "filling", "damaged", "not_mounted"}) {
      counts[{std::string(mode), state}] = 0;
    }
  }
  for (const MountState& mount : mounts.List()) {
    control::v1::Mount shown;
    FillState(mount, &shown);
    const std::string state = mount.mounted() ? shown.state() : "not_mounted";
    ++counts[{mount.record.mode, state}];
  }
  for (const auto& [key, count] : counts) {
    out.Add(IdOf("imagefs_mounts"), count, {{"mode", key.first}, {"state", key.second}});
  }
  const MountTable::Counters fallbacks = mounts.counters();
  out.Add(IdOf("imagefs_fallbacks_total"), fallbacks.kernel_unavailable,
          {{"cause", "kernel_unavailable"}});
  out.Add(IdOf("imagefs_fallbacks_total"), fallbacks.kernel_failed, {{"cause", "kernel_failed"}});
}

void AddFuse(const FuseCounters& fuse, Collector& out) {
  out.Add(IdOf("imagefs_fuse_sessions"), fuse.sessions);
  uint64_t named = 0;
  for (const auto& [operation, count] : {std::pair<const char*, uint64_t>{"lookup", fuse.lookups},
                                         {"getattr", fuse.getattrs},
                                         {"read", fuse.reads},
                                         {"readdir", fuse.readdirs},
                                         {"xattr", fuse.xattr_requests}}) {
    named += count;
    out.Add(IdOf("imagefs_fuse_requests_total"), count, {{"operation", operation}});
  }
  // The counters are read one after another while workers go on.
  out.Add(IdOf("imagefs_fuse_requests_total"), fuse.requests - std::min(fuse.requests, named),
          {{"operation", "other"}});
  out.Add(IdOf("imagefs_fuse_read_bytes_total"), fuse.read_bytes);
  out.Add(IdOf("imagefs_fuse_errors_total"), fuse.errors);
}

void AddProcess(Collector& out) {
  const ProcessStats stats = ReadProcessStats();
  out.Add(IdOf("process_cpu_seconds_total"), stats.cpu_seconds);
  out.Add(IdOf("process_resident_memory_bytes"), stats.resident_bytes);
  out.Add(IdOf("process_virtual_memory_bytes"), stats.virtual_bytes);
  out.Add(IdOf("process_open_fds"), stats.open_fds);
  out.Add(IdOf("process_max_fds"), stats.max_fds);
  out.Add(IdOf("process_threads"), stats.threads);
  out.Add(IdOf("process_start_time_seconds"), stats.start_unix_seconds);
}

}  // namespace

std::vector<MetricSamples> CollectMetrics(const MetricParts& parts) {
  Collector out;
  out.Add(IdOf("imagefs_build_info"), 1.0, {{"version", parts.version}});
  out.Add(IdOf("imagefs_warnings"), parts.warnings);
  std::vector<HistogramReport> calls;
  parts.calls.AppendHistograms(calls);
  for (HistogramReport& report : calls) {
    const size_t metric = report.name == "step" ? IdOf("imagefs_command_step_duration_seconds")
                                                : IdOf("imagefs_command_duration_seconds");
    out.Add(metric, std::move(report.reading), std::move(report.labels));
  }
  AddMounts(parts.mounts, out);
  AddFuse(parts.fuse.counters(), out);
  AddStore(parts.store, out);
  for (const FlightReport& report : parts.store.Flights()) {
    AddFlight(report.name, report.counters, out);
  }
  AddSources(parts.sources, out);
  out.AddMapped(parts.counters);
  const uint64_t renewals = ValueOf(parts.counters, "credential_renewals");
  const uint64_t renewed = ValueOf(parts.counters, "credentials_renewed");
  out.Add(IdOf("imagefs_credential_renewals_total"), renewals - std::min(renewals, renewed),
          {{"result", "failed"}});
  AddProcess(out);
  return out.Take();
}

std::string MetricTable() {
  std::string out = "| metric | type | labels | meaning |\n|---|---|---|---|\n";
  for (const Info& info : kMetrics) {
    const std::string_view type = info.type == kCounter ? "counter"
                                  : info.type == kGauge ? "gauge"
                                                        : "histogram";
    StrAppend(&out, "| `", info.name, "` | ", type, " | ", info.labels, " | ", info.help, " |\n");
  }
  return out;
}

}  // namespace imagefs
