// SPDX-License-Identifier: Apache-2.0
#include "cmd/transfer_progress.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "base/text.h"

namespace imagefs {
namespace {

using control::v1::LayerEvent;
using control::v1::MountEvent;

// How long without a byte until the progress says so.
constexpr std::chrono::seconds kSilenceToTell(10);

// The phase in which layers are fetched. Update ends it once all are local.
constexpr std::string_view kLayersPhase = "layers";

std::string_view ActivityName(LayerProgress::Activity activity) {
  switch (activity) {
    case LayerProgress::Activity::kWaiting:
      return "waiting";
    case LayerProgress::Activity::kDownloading:
      return "downloading";
    case LayerProgress::Activity::kUnpacking:
      return "unpacking";
    case LayerProgress::Activity::kIndexing:
      return "indexing";
    case LayerProgress::Activity::kDone:
      return "done";
    case LayerProgress::Activity::kFailed:
      return "failed";
  }
  return "waiting";
}

bool IsHere(LayerState state) {
  return state == LayerState::kWritten || state == LayerState::kComplete;
}

}  // namespace

void TransferProgress::EndStepLocked(Clock::time_point now) {
  if (timing_.empty()) return;
  timings_.emplace_back(timing_,
                        std::chrono::duration_cast<std::chrono::microseconds>(now - step_begin_));
  timing_.clear();
}

void TransferProgress::BeginLocked(std::string_view phase, std::string_view timing) {
  phase_ = phase;
  if (timing_ == timing) return;
  const Clock::time_point now = Clock::now();
  EndStepLocked(now);
  timing_ = timing;
  step_begin_ = now;
}

void TransferProgress::Begin(std::string_view phase, std::string_view timing) {
  absl::MutexLock lock(&mu_);
  BeginLocked(phase, timing);
}

void TransferProgress::SetRegistry(const std::string& host) {
  absl::MutexLock lock(&mu_);
  registry_ = host;
}

void TransferProgress::Track(ImageRef image) {
  std::vector<LayerTrack> tracks;
  for (size_t i = 0; i < image->config.diff_ids.size(); ++i) {
    LayerTrack& track = tracks.emplace_back();
    track.reused = IsHere(store_.StateOf(KeyOf(*image, i)));
    if (track.reused) continue;
    const std::optional<LayerProgress> progress = store_.Progress(KeyOf(*image, i));
    track.before = progress.has_value() ? progress->downloaded_bytes
                                        : store_.ResumableBytes(image->manifest.layers[i].digest);
  }
  absl::MutexLock lock(&mu_);
  image_ = std::move(image);
  tracks_ = std::move(tracks);
}

std::optional<MountEvent> TransferProgress::Update() {
  Sample();
  MountEvent event;
  control::v1::Progress* progress = event.mutable_progress();
  FillLayers(/*readable=*/false, progress->mutable_layers());
  absl::MutexLock lock(&mu_);
  if (phase_.empty()) return std::nullopt;
  const bool all_here =
      image_ != nullptr && phase_ == kLayersPhase &&
      std::all_of(progress->layers().begin(), progress->layers().end(),
                  [](const LayerEvent& layer) { return layer.activity() == "done"; });
  if (all_here) BeginLocked("merging", "merge");
  progress->set_phase(phase_);
  if (!registry_.empty()) progress->set_trouble(sources_.TroubleOf(registry_));
  std::string text = event.SerializeAsString();
  if (text == last_) return std::nullopt;
  last_ = std::move(text);
  return event;
}

void TransferProgress::Sample() {
  ImageRef image;
  {
    absl::MutexLock lock(&mu_);
    image = image_;
  }
  if (image == nullptr) return;
  std::vector<std::optional<LayerProgress>> seen;
  for (size_t i = 0; i < image->config.diff_ids.size(); ++i) {
    seen.push_back(store_.Progress(KeyOf(*image, i)));
  }
  const Clock::time_point now = Clock::now();
  absl::MutexLock lock(&mu_);
  for (size_t i = 0; i < seen.size(); ++i) {
    LayerTrack& track = tracks_[i];
    if (!seen[i].has_value() || track.reused) continue;
    track.shared |= seen[i]->callers > 1;
    const bool moves = seen[i]->downloaded_bytes > track.downloaded;
    if (moves || track.moved == Clock::time_point()) track.moved = now;
    track.trouble = seen[i]->trouble;
    if (track.trouble.empty() && seen[i]->downloaded_bytes < seen[i]->blob_bytes &&
        now - track.moved >= kSilenceToTell) {
      track.trouble = StrCat("nothing received for ", kSilenceToTell.count(), " s");
    }
    track.downloaded = std::max(track.downloaded, seen[i]->downloaded_bytes);
    track.unpacked = std::max(track.unpacked, seen[i]->unpacked_bytes);
  }
}

void TransferProgress::FillLayers(bool readable, LayerEvents* out) const {
  ImageRef image;
  std::vector<LayerTrack> tracks;
  {
    absl::MutexLock lock(&mu_);
    image = image_;
    tracks = tracks_;
  }
  for (size_t i = 0; i < tracks.size(); ++i) {
    const Descriptor& blob = image->manifest.layers[i];
    const LayerKey key = KeyOf(*image, i);
    LayerEvent* event = out->Add();
    event->set_digest(blob.digest.ToString());
    event->set_diff_id(image->config.diff_ids[i].ToString());
    event->set_blob_bytes(blob.size);
    event->set_shared(tracks[i].shared);
    event->set_reused(tracks[i].reused);
    event->set_downloaded_bytes(tracks[i].downloaded);
    event->set_unpacked_bytes(tracks[i].unpacked);
    if (!readable) event->set_trouble(tracks[i].trouble);
    if (readable && store_.StateOf(key) == LayerState::kFilling) {
      // Lazy: readable before all its bytes are local.
      event->set_activity("filling");
      const std::optional<LayerProgress> progress = store_.Progress(key);
      const uint64_t here = progress.has_value() ? progress->downloaded_bytes : 0;
      const uint64_t before = progress.has_value() ? progress->resumed_bytes : 0;
      event->set_downloaded_bytes(here);
      event->set_fetched_bytes(here - std::min(here, std::max(before, tracks[i].before)));
      continue;
    }
    if (readable || tracks[i].reused) {
      event->set_activity("done");
      if (tracks[i].reused) continue;
      event->set_downloaded_bytes(blob.size);
      event->set_fetched_bytes(blob.size - std::min(blob.size, tracks[i].before));
      continue;
    }
    const std::optional<LayerProgress> progress = store_.Progress(key);
    if (progress.has_value()) {
      event->set_activity(std::string(ActivityName(progress->activity)));
    } else {
      event->set_activity(IsHere(store_.StateOf(key)) ? "done" : "waiting");
    }
  }
}

void TransferProgress::FillResult(control::v1::MountResult* out) {
  FillLayers(out->mutable_layers());
  absl::flat_hash_set<std::string> counted;
  uint64_t fetched = 0;
  for (const LayerEvent& layer : out->layers()) {
    if (counted.insert(layer.digest()).second) fetched += layer.fetched_bytes();
  }
  out->set_fetched_bytes(fetched);
  absl::MutexLock lock(&mu_);
  EndStepLocked(Clock::now());
  for (const auto& [step, duration] : timings_) {
    control::v1::Timing* timing = out->add_timings();
    timing->set_step(step);
    timing->set_microseconds(duration.count());
  }
}

}  // namespace imagefs
