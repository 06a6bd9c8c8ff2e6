// SPDX-License-Identifier: Apache-2.0
#include "cache/source_health.h"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/source.h"

namespace imagefs {
namespace {

constexpr int kFewestForCertain = 3;  // failures
// Keeps a link that loses every third request from logging state changes all the time.
constexpr int kFewestToTell = 3;
constexpr size_t kMaxWaits = 4096;

// Between half and all of the pause, so that requests that failed together do not retry together.
double Jitter() {
  thread_local std::minstd_rand random(std::random_device{}());
  return std::uniform_real_distribution<double>(0.5, 1.0)(random);
}

std::string Whole(absl::Duration time) {
  return StrCat(std::max<int64_t>(0, absl::ToInt64Seconds(time)), " s");
}

// For logs: the registry without the identity.
std::string_view RegistryOf(const SourceHealth::Place& place) {
  return std::string_view(place.source).substr(0, place.source.find(' '));
}

}  // namespace

// An error about one blob says nothing about the others.
bool SourceHealth::OfSource(const absl::Status& why) {
  return IsRetriable(why) || IsCredentialFailure(why) || absl::IsResourceExhausted(why);
}

std::string SourceHealth::BlobKey(const Place& place) {
  return StrCat(place.source, " ", place.blob.hex());
}

Moment SourceHealth::MayBeginLocked(const std::string& key, Priority priority) const {
  const auto it = troubles_.find(key);
  if (it == troubles_.end() || it->second.answers) return Moment::InfinitePast();
  const Trouble& trouble = it->second;
  absl::Duration most = limits_.most[static_cast<size_t>(priority)];
  if (trouble.certain) most = std::max(most, limits_.most_certain);
  const absl::Duration pause = limits_.first[static_cast<size_t>(priority)] *
                               (int64_t{1} << std::min(trouble.failures - 1, 20));
  absl::Duration asked = std::min(trouble.asked, std::max(most, absl::Minutes(1)));
  // A reader cannot wait for a day.
  if (priority == Priority::kOnDemand && asked > limits_.most_asked) asked = absl::ZeroDuration();
  const absl::Duration wait = std::max(std::min(pause, most) * trouble.jitter, asked);
  return trouble.finding_out ? trouble.begun + std::max(wait, limits_.least_silence)
                             : trouble.last + wait;
}

Moment SourceHealth::MayBegin(const Place& place, Priority priority) const {
  if (in_trouble_.load(std::memory_order_acquire) == 0) return Moment::InfinitePast();
  absl::ReaderMutexLock lock(&mu_);
  return std::max(MayBeginLocked(place.source, priority), MayBeginLocked(BlobKey(place), priority));
}

bool SourceHealth::Begin(const Place& place, Priority priority, Moment now) {
  if (in_trouble_.load(std::memory_order_acquire) == 0) return true;
  absl::MutexLock lock(&mu_);
  const std::string keys[] = {place.source, BlobKey(place)};
  for (const std::string& key : keys) {
    if (now < MayBeginLocked(key, priority)) return false;
  }
  for (const std::string& key : keys) {
    const auto it = troubles_.find(key);
    if (it == troubles_.end()) continue;
    it->second.finding_out = true;
    it->second.begun = now;
  }
  return true;
}

bool SourceHealth::Answered(const Place& place, absl::Duration took) {
  bool opened = false;
  absl::MutexLock lock(&mu_);
  if (waits_.size() >= kMaxWaits) waits_.clear();
  absl::Duration& usual = waits_.try_emplace(place.source, took).first->second;
  usual = std::max(took, (3 * usual + took) / 4);
  if (troubles_.empty()) return false;
  for (const std::string& key : {place.source, BlobKey(place)}) {
    const auto it = troubles_.find(key);
    if (it == troubles_.end()) continue;
    it->second.finding_out = false;
    opened |= !std::exchange(it->second.answers, true);
  }
  return opened;
}

void SourceHealth::Succeeded(const Place& place) {
  if (in_trouble_.load(std::memory_order_acquire) == 0) return;
  std::vector<Trouble> over;
  {
    absl::MutexLock lock(&mu_);
    for (const std::string& key : {place.source, BlobKey(place)}) {
      if (auto node = troubles_.extract(key)) over.push_back(std::move(node.mapped()));
    }
    in_trouble_.store(troubles_.size(), std::memory_order_release);
  }
  for (const Trouble& trouble : over) {
    if (trouble.failures < kFewestToTell) continue;
    LogInfo("source_well registry=", RegistryOf(place), " blob=", place.blob.Short(),
            " failures=", trouble.failures, " after=", Whole(Moment::Now() - trouble.first));
  }
}

int SourceHealth::Failed(const Place& place, const absl::Status& why, Moment began, Moment now,
                         bool progress) {
  bool is_new, certain = false, tell = false;
  int failures;
  {
    absl::MutexLock lock(&mu_);
    const auto [it, inserted] =
        troubles_.try_emplace(OfSource(why) ? place.source : BlobKey(place));
    is_new = inserted;
    Trouble& trouble = it->second;
    in_trouble_.store(troubles_.size(), std::memory_order_release);
    // This does not probe the other of the two, if there is one.
    for (const std::string& key : {place.source, BlobKey(place)}) {
      const auto other = troubles_.find(key);
      if (other != troubles_.end()) other->second.finding_out = false;
    }
    const bool same_kind = !is_new && why.code() == trouble.why.code() && !IsRetriable(why);
    if (!same_kind) trouble.kind_since = now;
    trouble.why = why;
    trouble.answers = false;
    if (is_new) trouble.first = now;
    if (is_new || began >= trouble.last) {
      trouble.failures = progress ? 1 : trouble.failures + 1;
      tell = trouble.failures == kFewestToTell;
      trouble.last = now;
      trouble.jitter = Jitter();
      trouble.asked = absl::FromChrono(RetryAfterOf(why).value_or(std::chrono::seconds(0)));
    }
    failures = trouble.failures;
    const bool was = trouble.certain;
    trouble.certain = same_kind && trouble.failures >= kFewestForCertain &&
                      now - trouble.kind_since >= limits_.certain_after;
    certain = trouble.certain && !was;
  }
  if (tell || certain) {
    LogWarning(certain ? "source_refuses" : "source_failing", " registry=", RegistryOf(place),
               " blob=", place.blob.Short(), " cause=", why.message());
  }
  return failures;
}

void SourceHealth::Ended(const Place& place) {
  if (in_trouble_.load(std::memory_order_acquire) == 0) return;
  absl::MutexLock lock(&mu_);
  for (const std::string& key : {place.source, BlobKey(place)}) {
    const auto it = troubles_.find(key);
    if (it != troubles_.end()) it->second.finding_out = false;
  }
}

absl::Duration SourceHealth::Silence(const Place& place) const {
  absl::ReaderMutexLock lock(&mu_);
  const auto it = waits_.find(place.source);
  const absl::Duration usual = it == waits_.end() ? absl::ZeroDuration() : it->second;
  return std::clamp(kWaitFactor * usual, limits_.least_silence, limits_.most_silence);
}

std::optional<absl::Status> SourceHealth::Certain(const Place& place) const {
  if (in_trouble_.load(std::memory_order_acquire) == 0) return std::nullopt;
  absl::ReaderMutexLock lock(&mu_);
  for (const std::string& key : {place.source, BlobKey(place)}) {
    const auto it = troubles_.find(key);
    if (it != troubles_.end() && it->second.certain) return it->second.why;
  }
  return std::nullopt;
}

std::string SourceHealth::Describe(const Place& place, Moment now) const {
  if (in_trouble_.load(std::memory_order_acquire) == 0) return "";
  absl::ReaderMutexLock lock(&mu_);
  for (const std::string& key : {place.source, BlobKey(place)}) {
    const auto it = troubles_.find(key);
    if (it == troubles_.end()) continue;
    const Trouble& trouble = it->second;
    const Moment next = MayBeginLocked(key, Priority::kBackground);
    std::string when = trouble.finding_out ? "it is being asked"
                       : next <= now       ? "it is asked again"
                                           : StrCat("it is asked again within ", Whole(next - now));
    return StrCat(trouble.why.message(), "; ", trouble.certain ? "certain" : "failing", " for ",
                  Whole(now - trouble.first), ", ", trouble.failures,
                  trouble.failures == 1 ? " time; " : " times; ", when);
  }
  return "";
}

}  // namespace imagefs
