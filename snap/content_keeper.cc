// SPDX-License-Identifier: Apache-2.0
#include "snap/content_keeper.h"

#include <algorithm>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "image/reference.h"

namespace imagefs {
namespace {

constexpr std::string_view kReferTo = "containerd.io/gc.ref.content";
constexpr std::string_view kSource = "containerd.io/distribution.source.";
constexpr int kMostDoublings = 10;

bool RefersTo(const ContentStore::Labels& manifest, const Digest& blob) {
  return std::any_of(manifest.begin(), manifest.end(), [&](const auto& label) {
    return label.first.starts_with(kReferTo) && label.second == blob.ToString();
  });
}

}  // namespace

ContentKeeper::ContentKeeper(Options options, Deps deps)
    : options_(options), deps_(std::move(deps)), content_(deps_.connect(cancel_.token())) {
  deps_.blobs.OnOffer([this] { LookSoon(); });
  {
    absl::MutexLock lock(&mu_);
    look_at_ = Moment::Now() + options_.settle;
  }
  thread_ = std::thread([this] { Loop(); });
}

ContentKeeper::~ContentKeeper() {
  deps_.blobs.OnOffer({});
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  changed_.SignalAll();
  cancel_.Cancel();
  thread_.join();
  deps_.blobs.Cancel();
  absl::MutexLock lock(&mu_);
  auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !fetching_; };
  mu_.Await(absl::Condition(&ended));
}

void ContentKeeper::LookSoon() {
  {
    absl::MutexLock lock(&mu_);
    look_at_ = std::min(look_at_, Moment::Now() + options_.settle);
  }
  changed_.SignalAll();
}

std::vector<std::pair<std::string, uint64_t>> ContentKeeper::Counters() const {
  return {{"content_blobs_written", written_.load()},
          {"content_blobs_failed", failed_.load()},
          {"content_blobs_missing", missing_.load()}};
}

// Returns false at the end.
bool ContentKeeper::Wait() {
  absl::MutexLock lock(&mu_);
  while (!stopping_) {
    const Moment until = std::max(look_at_, not_before_);
    if (Moment::Now() >= until) break;
    changed_.WaitUntil(&mu_, until);
  }
  look_at_ = Moment::Now() + options_.interval;
  return !stopping_;
}

void ContentKeeper::Loop() {
  EnterThread(ThreadRole::kContent);
  while (Wait()) Note(Turn());
}

absl::Duration ContentKeeper::PauseAfter(int failures) const {
  return std::min(options_.longest_pause,
                  options_.first_pause * (1 << std::min(failures, kMostDoublings)));
}

bool ContentKeeper::MayTry(const Digest& blob) const {
  const auto found = retries_.find(blob);
  return found == retries_.end() || Moment::Now() >= found->second.not_before;
}

void ContentKeeper::BlobFailed(const Digest& blob, const absl::Status& why) {
  ++failed_;
  Retry& retry = retries_[blob];
  const absl::Duration pause = PauseAfter(retry.failures);
  retry.not_before = Moment::Now() + pause;
  if (retry.failures++ > 0) return;
  LogWarning("content.blob_failed blob=", blob.Short(), " cause=", why.message(),
             " next_try=", absl::FormatDuration(pause));
}

void ContentKeeper::Note(const absl::Status& status) {
  if (absl::IsCancelled(status)) return;
  if (status.ok()) {
    if (std::exchange(failures_, 0) > 0) LogInfo("content.goes_on");
    return;
  }
  // Whether it answers is asked cheaply.
  const absl::Duration pause =
      absl::IsUnavailable(status) ? options_.first_pause : PauseAfter(failures_);
  if (failures_++ == 0) {
    LogWarning("content.not_written cause=", status.message(),
               " next_try=", absl::FormatDuration(pause));
  }
  absl::MutexLock lock(&mu_);
  not_before_ = Moment::Now() + pause;
}

absl::Status ContentKeeper::Turn() {
  deps_.blobs.MakeRoom();
  std::optional<absl::Status> fetched;
  bool fetching;
  {
    absl::MutexLock lock(&mu_);
    fetched = std::exchange(fetched_, std::nullopt);
    fetching = fetching_;
  }
  if (fetched.has_value() && !fetched->ok()) BlobFailed(asked_, *fetched);
  // Blobs that are offered from here on are judged by the next turn, which asks containerd then.
  const std::vector<KeptBlobs::Kept> all_kept = deps_.blobs.List();
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<ImageRef> images, deps_.images());
  std::vector<Namespace> namespaces;
  if (!images.empty() || !all_kept.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> names, content_->Namespaces());
    for (const std::string& name : names) {
      IMAGEFS_ASSIGN_OR_RETURN(Contents contents, content_->List(name));
      namespaces.push_back({name, std::move(contents)});
    }
  }
  absl::flat_hash_set<Digest> needed;
  const std::vector<Missing> missing = Compare(images, namespaces, needed);
  absl::erase_if(retries_, [&](const auto& retry) { return !needed.contains(retry.first); });
  missing_ = missing.size();
  for (const Missing& one : missing) {
    const Digest& blob = one.image->manifest.layers[one.layer].digest;
    const bool may_try = MayTry(blob);
    // Kept blobs are those of layers that were not there before, so the state is asked first.
    const LayerState state = deps_.state_of(KeyOf(*one.image, one.layer));
    absl::Status status = absl::NotFoundError("");
    if ((one.elsewhere && may_try) || deps_.blobs.Read(blob).ok()) status = Write(one);
    if (status.ok()) {
      --missing_;
      retries_.erase(blob);
      deps_.blobs.Drop(blob);
    } else if (absl::IsFailedPrecondition(status)) {
      deps_.blobs.Drop(blob);  // the file is not what it was
      BlobFailed(blob, status);
    } else if (!absl::IsNotFound(status)) {
      if (!absl::IsCancelled(status)) ++failed_;
      return status;  // the next ones would meet the same
    } else if (may_try && !fetching &&
               (state == LayerState::kWritten || state == LayerState::kComplete)) {
      status = StartFetch(one);
      fetching = status.ok();
      if (!status.ok()) BlobFailed(blob, status);
    }
  }
  if (missing.empty()) deps_.blobs.DropParts();
  for (const KeptBlobs::Kept& kept : all_kept) {
    if (Moment::Now() - kept.since <= options_.unneeded || needed.contains(kept.blob)) continue;
    if (!Awaits(namespaces, kept.blob)) deps_.blobs.Drop(kept.blob);
  }
  return absl::OkStatus();
}

// Whether a manifest refers to the blob, which its namespace lacks: the image is being pulled, and
// is recorded at the end.
bool ContentKeeper::Awaits(const std::vector<Namespace>& namespaces, const Digest& blob) {
  return std::any_of(namespaces.begin(), namespaces.end(), [&](const Namespace& one) {
    return !one.contents.contains(blob) &&
           std::any_of(one.contents.begin(), one.contents.end(),
                       [&](const auto& content) { return RefersTo(content.second, blob); });
  });
}

// `needed` gets the blobs that are missing. Those of images whose manifest no namespace has (yet)
// are not.
std::vector<ContentKeeper::Missing> ContentKeeper::Compare(
    const std::vector<ImageRef>& images, const std::vector<Namespace>& namespaces,
    absl::flat_hash_set<Digest>& needed) const {
  std::vector<Missing> out;
  absl::flat_hash_map<Digest, size_t> places;  // in `out`
  for (const ImageRef& image : images) {
    for (const Namespace& one : namespaces) {
      const auto manifest = one.contents.find(image->manifest_digest);
      if (manifest == one.contents.end()) continue;
      for (size_t i = 0; i < image->manifest.layers.size(); ++i) {
        const Digest& blob = image->manifest.layers[i].digest;
        if (one.contents.contains(blob) || !RefersTo(manifest->second, blob)) continue;
        const auto [place, added] = places.try_emplace(blob, out.size());
        if (added) {
          needed.insert(blob);
          const bool elsewhere =
              std::any_of(namespaces.begin(), namespaces.end(),
                          [&](const Namespace& other) { return other.contents.contains(blob); });
          out.push_back({image, i, {}, elsewhere});
        }
        std::vector<std::string>& names = out[place->second].namespaces;
        if (std::find(names.begin(), names.end(), one.name) == names.end()) {
          names.push_back(one.name);
        }
      }
    }
  }
  return out;
}

// Returns kNotFound if the blob must be fetched first.
absl::Status ContentKeeper::Write(const Missing& missing) {
  const Descriptor& layer = missing.image->manifest.layers[missing.layer];
  ContentStore::Blob blob{layer.digest, layer.size, {}};
  if (const auto reference = Reference::Parse(missing.image->reference); reference.ok()) {
    blob.labels[StrCat(kSource, reference->host)] = reference->repository;
  }
  const absl::StatusOr<Fd> file = deps_.blobs.Read(layer.digest);
  for (const std::string& name : missing.namespaces) {
    IMAGEFS_RETURN_IF_ERROR(content_->Write(name, blob, file.ok() ? &*file : nullptr));
    ++written_;
    LogInfo("content.written blob=", layer.digest.Short(), " bytes=", layer.size,
            " namespace=", Printable(name));
  }
  return absl::OkStatus();
}

absl::Status ContentKeeper::StartFetch(const Missing& missing) {
  const Descriptor& layer = missing.image->manifest.layers[missing.layer];
  IMAGEFS_ASSIGN_OR_RETURN(const Reference reference, Reference::Parse(missing.image->reference));
  IMAGEFS_ASSIGN_OR_RETURN(std::shared_ptr<ImageSource> source, deps_.open(reference));
  asked_ = layer.digest;
  {
    absl::MutexLock lock(&mu_);
    fetching_ = true;
  }
  deps_.blobs.Fetch(layer, std::move(source), [this](const absl::Status& status) {
    // Signal under the lock: this may be destroyed as soon as it is released.
    absl::MutexLock lock(&mu_);
    fetching_ = false;
    fetched_ = status;
    look_at_ = std::min(look_at_, Moment::Now());
    changed_.SignalAll();
  });
  return absl::OkStatus();
}

}  // namespace imagefs
