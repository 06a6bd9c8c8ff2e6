// SPDX-License-Identifier: Apache-2.0
#include "cache/sidecar_finder.h"

#include <utility>

#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/text.h"
#include "image/index_bundle.h"
#include "image/index_tag.h"
#include "image/soci.h"

namespace imagefs {
namespace {

// How long an answer about a manifest is reused.
constexpr absl::Duration kKeepAnswers = absl::Seconds(10);

// Returns the manifest if it is an imagefs index of `subject`.
absl::StatusOr<Manifest> ParseArtifact(const ImageSource::FetchedManifest& fetched,
                                       const Digest& subject) {
  IMAGEFS_ASSIGN_OR_RETURN(ManifestOrIndex parsed,
                           ParseManifest(fetched.bytes, fetched.content_type));
  if (!parsed.manifest.has_value() || parsed.manifest->artifact_type != kIndexArtifactType ||
      !parsed.manifest->subject.has_value() || parsed.manifest->subject->digest != subject) {
    return absl::DataLossError("not an imagefs index of that image");
  }
  return *std::move(parsed.manifest);
}

}  // namespace

// The queries about one manifest in one repository.
struct SidecarFinder::Lookup {
  explicit Lookup(SidecarFinder& owner) : finder(owner) {
    finder.mu_.AssertHeld();
    ++finder.alive_;
  }
  ~Lookup() {
    absl::MutexLock lock(&finder.mu_);
    --finder.alive_;
  }

  SidecarFinder& finder;
  Digest manifest;
  std::shared_ptr<ImageSource> source;
  Moment asked;
  absl::Mutex mu;
  bool tag_over ABSL_GUARDED_BY(mu) = false;
  bool referrers_over ABSL_GUARDED_BY(mu) = false;
  std::optional<Digest> artifact ABSL_GUARDED_BY(mu), soci ABSL_GUARDED_BY(mu);
  std::shared_ptr<const Sidecar> answer ABSL_GUARDED_BY(mu);
  std::vector<Done> waiting ABSL_GUARDED_BY(mu);
};

void SidecarFinder::Stop() { stop_.Cancel(); }

SidecarFinder::~SidecarFinder() {
  Stop();
  {
    absl::flat_hash_map<std::string, std::shared_ptr<Lookup>> lookups;
    absl::MutexLock lock(&mu_);
    lookups.swap(lookups_by_key_);
  }
  absl::MutexLock lock(&mu_);
  auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return alive_ == 0; };
  mu_.Await(absl::Condition(&none));
}

std::shared_ptr<SidecarFinder::Lookup> SidecarFinder::LookupOf(
    const Digest& manifest, const std::shared_ptr<ImageSource>& source, bool& leads) {
  const std::string key = StrCat(manifest.hex(), " ", source->auth_scope());
  std::vector<std::shared_ptr<Lookup>> old;  // destroyed without the lock
  absl::MutexLock lock(&mu_);
  const Moment now = Moment::Now();
  for (auto it = lookups_by_key_.begin(); it != lookups_by_key_.end();) {
    if (now - it->second->asked <= kKeepAnswers) {
      ++it;
      continue;
    }
    old.push_back(std::move(it->second));
    lookups_by_key_.erase(it++);
  }
  std::shared_ptr<Lookup>& slot = lookups_by_key_[key];
  leads = slot == nullptr;
  if (leads) {
    slot = std::make_shared<Lookup>(*this);
    slot->manifest = manifest;
    slot->source = source;
    slot->asked = now;
  }
  return slot;
}

void SidecarFinder::Find(const Digest& manifest, const std::shared_ptr<ImageSource>& source,
                         Done done) {
  bool leads = false;
  const std::shared_ptr<Lookup> lookup = LookupOf(manifest, source, leads);
  std::shared_ptr<const Sidecar> answer;
  {
    absl::MutexLock lock(&lookup->mu);
    answer = lookup->answer;
    if (answer == nullptr && done) lookup->waiting.push_back(std::move(done));
  }
  if (answer != nullptr) return done ? done(answer) : void();
  if (leads) Begin(lookup);
}

// Queries the tag, which is the answer itself, and the list of referrers, which takes another
// request, concurrently.
void SidecarFinder::Begin(const std::shared_ptr<Lookup>& lookup) {
  lookups_++;
  lookup->source->GetManifest(
      IndexTagOf(lookup->manifest), stop_.token(),
      [this, lookup](absl::StatusOr<ImageSource::FetchedManifest> fetched) {
        absl::StatusOr<Manifest> index = fetched.ok() ? ParseArtifact(*fetched, lookup->manifest)
                                                      : absl::StatusOr<Manifest>(fetched.status());
        if (index.ok()) {
          return Finish(lookup, std::make_shared<Sidecar>(Sidecar{
                                    lookup->source, *std::move(index), fetched->digest, {}}));
        }
        {
          absl::MutexLock lock(&lookup->mu);
          lookup->tag_over = true;
          if (!lookup->referrers_over) return;
        }
        QueryReferrers(lookup);
      });
  lookup->source->GetReferrers(lookup->manifest, "", stop_.token(),
                               [this, lookup](absl::StatusOr<std::vector<Descriptor>> referrers) {
                                 OnReferrers(lookup, std::move(referrers));
                               });
}

void SidecarFinder::OnReferrers(const std::shared_ptr<Lookup>& lookup,
                                absl::StatusOr<std::vector<Descriptor>> referrers) {
  {
    absl::MutexLock lock(&lookup->mu);
    lookup->referrers_over = true;
    if (referrers.ok()) {
      for (const Descriptor& one : *referrers) {
        // The one added last.
        if (one.artifact_type == kIndexArtifactType) lookup->artifact = one.digest;
        for (const std::string_view type : kSociIndexTypes) {
          if (one.artifact_type == type) lookup->soci = one.digest;
        }
      }
    }
    if (!lookup->tag_over || lookup->answer != nullptr) return;
  }
  QueryReferrers(lookup);
}

// Both queries were answered and the tag does not exist.
void SidecarFinder::QueryReferrers(const std::shared_ptr<Lookup>& lookup) {
  std::optional<Digest> artifact, soci;
  {
    absl::MutexLock lock(&lookup->mu);
    artifact = lookup->artifact;
    soci = lookup->soci;
  }
  if (!artifact.has_value()) {
    return Finish(lookup,
                  std::make_shared<Sidecar>(Sidecar{lookup->source, std::nullopt, {}, soci}));
  }
  lookup->source->GetManifest(
      artifact->ToString(), stop_.token(),
      [this, lookup, soci](absl::StatusOr<ImageSource::FetchedManifest> fetched) {
        absl::StatusOr<Manifest> index = fetched.ok() ? ParseArtifact(*fetched, lookup->manifest)
                                                      : absl::StatusOr<Manifest>(fetched.status());
        auto sidecar = std::make_shared<Sidecar>(Sidecar{lookup->source, std::nullopt, {}, soci});
        if (index.ok()) sidecar->artifact = fetched->digest;
        if (index.ok()) sidecar->index = *std::move(index);
        Finish(lookup, std::move(sidecar));
      });
}

void SidecarFinder::Finish(const std::shared_ptr<Lookup>& lookup,
                           std::shared_ptr<const Sidecar> sidecar) {
  std::vector<Done> waiting;
  {
    absl::MutexLock lock(&lookup->mu);
    if (lookup->answer != nullptr) return;
    lookup->answer = sidecar;
    waiting.swap(lookup->waiting);
  }
  for (Done& done : waiting) done(sidecar);
}

}  // namespace imagefs
