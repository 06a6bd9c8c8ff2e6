// SPDX-License-Identifier: Apache-2.0
#include "cmd/mount_status.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"
#include "base/timeline.h"
#include "cmd/calls.h"

namespace imagefs {
namespace {

using control::v1::MountStatusReply;

// Of a mounted layer's transfer: what comes in the foreground was asked for by the profile.
std::string_view TransferPriority(Priority priority) {
  return priority == Priority::kForeground ? "profile" : PriorityName(priority);
}

void AddReport(const FillReport& report, MountStatusReply::Layer* out) {
  if (report.state != "complete") out->set_state(report.state);
  out->set_reason(report.reason);
  out->set_blob_bytes(report.blob_bytes);
  out->set_blob_bytes_present(report.blob_bytes_present);
  out->set_blob_bytes_fetched(report.blob_bytes_fetched);
  out->set_blob_bytes_needed(report.blob_bytes_needed);
  out->set_data_bytes_present(report.data_bytes_present);
  out->set_hot_bytes(report.hot_bytes);
  out->set_waiting(report.waiting);
  for (const FillReport::Transfer& transfer : report.in_flight) {
    MountStatusReply::Transfer* one = out->add_in_flight();
    one->set_begin(transfer.blob.begin);
    one->set_end(transfer.blob.end);
    one->set_priority(std::string(TransferPriority(transfer.priority)));
  }
}

void FillMap(ImagePicture::Layer& layer, MountStatusReply::Layer* out) {
  out->set_map_bytes(layer.blob_bytes);
  for (const ByteMap::Run& run : layer.map.runs) {
    MountStatusReply::Run* one = out->add_runs();
    one->set_begin(run.blob.begin);
    one->set_end(run.blob.end);
    for (const uint64_t bytes : run.bytes) one->add_bytes(bytes);
    one->set_files(run.files);
    for (const uint32_t name : run.names) one->add_names(name);
  }
  for (std::string& name : layer.map.names) out->add_names(std::move(name));
}

// An event and the number of its layer, from 1; 0 = it is a step of the whole start.
struct Shown {
  TimelineEvent event;
  uint32_t layer = 0;
};

// Microseconds after `origin`; -1: an infinite moment, which has not come.
int64_t Offset(Moment moment, Moment origin) {
  if (moment == Moment::InfiniteFuture() || moment == Moment::InfinitePast()) return -1;
  return std::max<int64_t>(absl::ToInt64Microseconds(moment - origin), 0);
}

void FillEvents(ImagePicture& picture, MountStatusReply* reply) {
  std::vector<Shown> all;
  uint64_t dropped = picture.start.dropped;
  for (TimelineEvent& event : picture.start.events) all.push_back({std::move(event), 0});
  for (size_t i = 0; i < picture.layers.size(); ++i) {
    if (!picture.layers[i].has_value()) continue;
    Timeline::Reading& events = picture.layers[i]->events;
    dropped += events.dropped;
    for (TimelineEvent& event : events.events) {
      all.push_back({std::move(event), static_cast<uint32_t>(i + 1)});
    }
  }
  if (all.empty()) return reply->set_events_dropped(dropped);
  const auto earlier = [](const Shown& a, const Shown& b) { return a.event.began < b.event.began; };
  std::stable_sort(all.begin(), all.end(), earlier);
  // A layer may have been filling before this image was started.
  const auto first =
      std::find_if(all.begin(), all.end(), [](const Shown& one) { return one.layer == 0; });
  if (first != all.end()) {
    dropped += static_cast<uint64_t>(first - all.begin());
    all.erase(all.begin(), first);
  }
  if (all.size() > kMostEventsShown) {
    dropped += all.size() - kMostEventsShown;
    all.resize(kMostEventsShown);
  }
  const Moment origin = all.front().event.began, now = Moment::Now();
  reply->set_events_dropped(dropped);
  reply->set_events_began_unix_ms(absl::ToUnixMillis(absl::Now() - (now - origin)));
  reply->set_now_us(Offset(now, origin));
  for (const Shown& shown : all) {
    const TimelineEvent& event = shown.event;
    MountStatusReply::Event* out = reply->add_events();
    out->set_step(std::string(StepName(event.step)));
    out->set_layer(shown.layer);
    out->set_began_us(Offset(event.began, origin));
    out->set_answered_us(Offset(event.answered, origin));
    out->set_ended_us(Offset(event.ended, origin));
    out->set_begin(event.bytes.begin);
    out->set_end(event.bytes.end);
    if (event.step == TimelineEvent::Step::kRange) {
      out->set_priority(std::string(TransferPriority(event.priority)));
    }
    out->set_failed(event.failed);
    out->set_hedge(event.hedge);
    out->set_detail(Printable(event.detail));
  }
}

}  // namespace

void FillState(const MountState& mount, control::v1::Mount* out) {
  FillMount(mount.record, out);
  if (!mount.mounted()) {
    out->set_state("not mounted");
    out->set_reason(mount.not_mounted);
    return;
  }
  out->set_needs_daemon(mount.needs_daemon());
  if (mount.chain == nullptr || mount.chain->complete()) return;
  LayerFill::Progress sum;
  for (const LayerRef& layer : mount.chain->layers) {
    if (layer->fill == nullptr) continue;
    const LayerFill::Progress progress = layer->fill->progress();
    sum.present += progress.present;
    sum.total += progress.total;
    sum.failure.Update(progress.failure);
  }
  if (!sum.failure.ok()) {
    out->set_state("damaged");
    out->set_reason(std::string(sum.failure.message()));
    return;
  }
  out->set_state("filling");
  if (sum.total > 0) out->set_filled_percent(static_cast<uint32_t>(sum.present * 100 / sum.total));
}

void FillLayers(const ImageStore& store, control::v1::StatusReply* reply) {
  for (const LayerInfo& info : store.ListLayers()) {
    control::v1::StatusReply::Layer* layer = reply->add_layers();
    layer->set_diff_id(info.diff_id.ToString());
    layer->set_state(std::string(LayerStateName(info.state)));
    layer->set_data_bytes(info.data_bytes);
    layer->set_index_bytes(info.index_bytes);
    layer->set_source(std::string(info.source));
  }
}

absl::Status FillMountStatus(ImageStore& store, const MountTable& mounts,
                             const std::string& directory, uint64_t name_space, bool picture,
                             MountStatusReply* reply) {
  for (const MountState& mount : mounts.List()) {
    if (mount.record.directory != directory || mount.record.name_space != name_space) continue;
    FillState(mount, reply->mutable_mount());
    if (!mount.mounted()) return absl::OkStatus();
    ChainRef chain = mount.chain;
    if (chain == nullptr) {
      IMAGEFS_ASSIGN_OR_RETURN(chain, store.FindChain(mount.record.chain_id));
    }
    const std::vector<std::optional<FillReport>> reports = store.FillReports(chain);
    const absl::StatusOr<ImageRef> image = store.FindManifest(mount.record.manifest_digest);
    ImagePicture shown;
    if (picture) shown = store.Picture(chain, mount.record.manifest_digest);
    for (size_t i = 0; i < chain->layers.size(); ++i) {
      const Layer& layer = *chain->layers[i];
      MountStatusReply::Layer* out = reply->add_layers();
      out->set_diff_id(layer.diff_id.ToString());
      out->set_state(std::string(LayerStateName(store.StateOfName(layer.id))));
      const bool proven = layer.proven() || layer.complete();
      out->set_source(std::string(proven ? kProvenSource : IndexSourceName(layer.source)));
      out->set_data_bytes(layer.data_bytes);
      out->set_data_bytes_present(layer.data_bytes);
      if (image.ok() && i < (*image)->manifest.layers.size()) {
        out->set_digest((*image)->manifest.layers[i].digest.ToString());
        out->set_blob_bytes((*image)->manifest.layers[i].size);
        out->set_blob_bytes_present(out->blob_bytes());
      }
      if (i < reports.size() && reports[i].has_value()) AddReport(*reports[i], out);
      const absl::Status failure =
          layer.fill == nullptr ? absl::OkStatus() : layer.fill->progress().failure;
      if (!failure.ok()) {
        out->set_state("damaged");
        out->set_reason(std::string(failure.message()));
      }
      if (i < shown.layers.size() && shown.layers[i].has_value()) FillMap(*shown.layers[i], out);
    }
    FillEvents(shown, reply);
    return absl::OkStatus();
  }
  return absl::NotFoundError(
      StrCat(directory, ": no imagefs mount in this mount namespace; imagefs ls lists them"));
}

}  // namespace imagefs
