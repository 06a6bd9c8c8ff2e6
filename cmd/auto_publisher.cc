// SPDX-License-Identifier: Apache-2.0
#include "cmd/auto_publisher.h"

#include <algorithm>

#include "base/failure.h"
#include "base/log.h"
#include "base/text.h"
#include "cache/index_trust.h"

namespace imagefs {
namespace {

constexpr size_t kMaxSettled = 4096;
constexpr size_t kMaxTroubles = 1024;

std::string NameOf(const Reference& to) { return StrCat(to.host, "/", to.repository); }

// An image without one is lazy: there is an index, or none is needed.
bool HasWholeLayer(const Chain& chain) {
  return std::any_of(chain.layers.begin(), chain.layers.end(),
                     [](const LayerRef& layer) { return layer->by_pass || layer->complete(); });
}

}  // namespace

void AutoPublisher::Start(Deps deps) {
  deps_.emplace(std::move(deps));
  executor_ = std::make_unique<Executor>(ThreadRole::kCredentials, 1);
  absl::MutexLock lock(&mu_);
  started_ = true;
}

void AutoPublisher::Stop() {
  Timer timer;
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    waiting_.clear();
    timer = std::move(timer_);
  }
  timer.Stop();
  stop_.Cancel();
  {
    auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !running_; };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&ended));
  }
  executor_.reset();
}

void AutoPublisher::OnReadable(const ImageRef& image, const Chain& chain) {
  if (!image->artifact_type.empty() || !HasWholeLayer(chain)) return;
  Job job;
  job.image = image;
  Add(image->manifest_digest, std::move(job));
}

void AutoPublisher::OnProfiled(const Digest& manifest) {
  Job job;
  job.profiled = true;
  Add(manifest, std::move(job));
}

void AutoPublisher::Add(const Digest& manifest, Job job) {
  job.since = job.due = Moment::Now();
  absl::MutexLock lock(&mu_);
  if (!started_ || stopping_) return;
  if (IsSettledLocked(manifest, job)) return;
  const auto known = waiting_.find(manifest);
  if (known != waiting_.end()) {
    // Its bytes may have come. A pause after a failure is in `troubles_`.
    known->second.due = job.due;
    known->second.profiled |= job.profiled;
    if (known->second.image == nullptr) known->second.image = std::move(job.image);
  } else if (waiting_.size() < kMaxWaiting) {
    waiting_.emplace(manifest, std::move(job));
  } else {
    ++failed_;
    LogInfo("index.publish_given_up manifest=", manifest.Short(), " cause=too many images wait");
  }
  StartNextLocked();
}

void AutoPublisher::StartNextLocked() {
  if (running_ || stopping_ || waiting_.empty()) return;
  const auto first = std::min_element(
      waiting_.begin(), waiting_.end(),
      [](const auto& one, const auto& other) { return one.second.due < other.second.due; });
  const absl::Duration pause = first->second.due - Moment::Now();
  if (pause > absl::ZeroDuration()) {
    timer_ = deps_->publications.After(pause, [this] {
      absl::MutexLock lock(&mu_);
      StartNextLocked();
    });
    return;
  }
  if (IsSettledLocked(first->first, first->second)) {  // since it was added
    waiting_.erase(first);
    return StartNextLocked();
  }
  running_ = true;
  executor_->Submit([this, manifest = first->first, job = std::move(first->second)]() mutable {
    Begin(manifest, std::move(job));
  });
  waiting_.erase(first);
}

bool AutoPublisher::Listed(const Reference& image) const {
  return !LazyPolicy(IndexTrust::None(), options_.images).For(image).empty();
}

bool AutoPublisher::IsSettledLocked(const Digest& manifest, const Job& job) const {
  const auto it = settled_.find(manifest);
  return it != settled_.end() && (it->second || !job.profiled);
}

void AutoPublisher::SettleLocked(const Digest& manifest, bool with_profile) {
  if (settled_.size() >= kMaxSettled) settled_.clear();
  settled_[manifest] |= with_profile;
}

void AutoPublisher::Begin(const Digest& manifest, Job job) {
  if (job.image == nullptr) {
    const absl::StatusOr<ImageRef> found = deps_->store.FindManifest(manifest);
    if (!found.ok()) return EndJob(manifest, nullptr);
    job.image = *found;
  }
  const absl::StatusOr<Reference> from = Reference::Parse(job.image->reference);
  if (!from.ok() || from->transport != Reference::Transport::kRegistry || !Listed(*from)) {
    return EndJob(manifest, nullptr);
  }
  const Moment now = Moment::Now();
  // What is missing is not fetched for this.
  if (job.profiled && !deps_->store.HasLayers(*job.image, IndexTrust::None())) {
    if (now - job.since > kPatience) return EndJob(manifest, nullptr);
    job.due = now + std::min(options_.look * (1 << std::min(job.looks++, 10)), kLongestLook);
    return EndJob(manifest, &job);
  }
  const std::optional<Trouble> trouble = FindTrouble(options_.to.value_or(*from));
  if (trouble.has_value()) {
    job.due = trouble->until;
    return EndJob(manifest, trouble->left_out ? nullptr : &job);
  }
  Publish(manifest, std::move(job), *from);
}

void AutoPublisher::Publish(const Digest& manifest, Job job, const Reference& from) {
  const Reference to = options_.to.value_or(from);
  PublishRequest request;
  request.image = job.image;
  request.to = to;
  SourceFactory::Access access = deps_->access_of(from);
  request.access = options_.to.has_value() ? deps_->access_of(to) : access;
  request.with_profile = deps_->store.profiles().Get(manifest).ok();
  request.only_if_absent = true;
  request.spread = options_.spread;
  absl::StatusOr<std::shared_ptr<ImageSource>> source = deps_->sources.Open(from, access);
  if (!source.ok()) return OnFailure(manifest, std::move(job), to, source.status());
  request.source = *std::move(source);
  const bool with_profile = request.with_profile;
  deps_->publications.Start(std::move(request), stop_.token(),
                            [this, manifest, job = std::move(job), to,
                             with_profile](const absl::StatusOr<PublishResult>& published) mutable {
                              OnPublished(manifest, std::move(job), to, with_profile, published);
                            });
}

void AutoPublisher::OnPublished(const Digest& manifest, Job job, const Reference& to,
                                bool with_profile, const absl::StatusOr<PublishResult>& published) {
  if (!published.ok()) return OnFailure(manifest, std::move(job), to, published.status());
  if (published->absent) {
    LogInfo("index.published reference=", job.image->reference, " to=", published->repository,
            " artifact=", published->artifact, " profile=", with_profile ? "yes" : "no",
            " hot_pack_bytes=", published->hot_pack_bytes);
  } else {
    LogInfo("index.already_published reference=", job.image->reference);
  }
  {
    absl::MutexLock lock(&mu_);
    ++(published->absent ? pushed_ : found_);
    SettleLocked(manifest, with_profile);
    troubles_.erase(to.host);
  }
  EndJob(manifest, nullptr);
}

void AutoPublisher::OnFailure(const Digest& manifest, Job job, const Reference& to,
                              const absl::Status& status) {
  const std::string& reference = job.image->reference;
  if (absl::IsCancelled(status)) {
    LogInfo("index.publish_given_up reference=", reference, " cause=", status.message());
    return EndJob(manifest, nullptr);
  }
  const FailureKind kind = KindOf(status);
  const bool network = kind == FailureKind::kNetwork;
  Job* again = nullptr;
  bool first = true;
  {
    absl::MutexLock lock(&mu_);
    if (network || kind == FailureKind::kDenied) {
      Trouble& trouble = TroubleLocked(network ? to.host : NameOf(to));
      if (trouble.until < Moment::Now() && trouble.left_out) trouble = {};
      first = ++trouble.failures == 1;
      absl::Duration pause = kLeftOut;
      trouble.left_out = !network || trouble.failures >= kAttempts;
      if (!trouble.left_out) {
        pause = options_.pause;
        for (int i = 1; i < trouble.failures; ++i) pause *= kSlower;
        again = &job;
      }
      job.due = trouble.until = Moment::Now() + pause;
    } else {
      SettleLocked(manifest, /*with_profile=*/true);
    }
    if (again == nullptr) ++failed_;
  }
  if (first) {
    LogWarning("index.publish_failed reference=", reference, " to=", NameOf(to),
               " again=", again != nullptr ? "yes" : "no", " cause=", status.message());
  } else if (again == nullptr) {
    LogInfo("index.publish_given_up reference=", reference, " cause=", status.message());
  }
  EndJob(manifest, again);
}

std::optional<AutoPublisher::Trouble> AutoPublisher::FindTrouble(const Reference& to) const {
  absl::MutexLock lock(&mu_);
  for (const std::string& name : {to.host, NameOf(to)}) {
    const auto it = troubles_.find(name);
    if (it != troubles_.end() && it->second.until > Moment::Now()) return it->second;
  }
  return std::nullopt;
}

AutoPublisher::Trouble& AutoPublisher::TroubleLocked(const std::string& name) {
  if (troubles_.size() >= kMaxTroubles) {
    std::erase_if(troubles_, [&](const auto& one) { return one.first != name; });
  }
  return troubles_[name];
}

void AutoPublisher::EndJob(const Digest& manifest, Job* again) {
  absl::MutexLock lock(&mu_);
  running_ = false;
  if (stopping_) return;
  if (again != nullptr) {
    // Unless an event has added it in the meantime.
    const auto [it, added] = waiting_.emplace(manifest, std::move(*again));
    if (!added) it->second.profiled |= again->profiled;
  }
  StartNextLocked();
}

bool AutoPublisher::busy() const {
  const Moment now = Moment::Now();
  absl::MutexLock lock(&mu_);
  return running_ || std::any_of(waiting_.begin(), waiting_.end(),
                                 [&](const auto& one) { return one.second.due <= now; });
}

std::vector<std::pair<std::string, uint64_t>> AutoPublisher::Counters() const {
  absl::MutexLock lock(&mu_);
  return {{"publications_pushed", pushed_},
          {"publications_found", found_},
          {"publications_failed", failed_},
          {"publications_waiting", waiting_.size()}};
}

}  // namespace imagefs
