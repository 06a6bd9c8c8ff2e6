#include "snap/lazy_images.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/identity.h"

namespace imagefs {
namespace {

constexpr char kHolder[] = "snapshots";
// Longer than a pull takes from one layer to the next, shorter than people wait before they try
// again.
constexpr absl::Duration kFailureMemory = absl::Seconds(10);
constexpr size_t kMaxFailures = 1000;
constexpr absl::Duration kAbandonedFor = absl::Minutes(10);

std::string LabelOr(const SnapshotLabels& labels, const char* key) {
  const auto found = labels.find(key);
  return found == labels.end() ? std::string() : found->second;
}

// The same image as far as its layer `level`.
ImageStore::ImageRef Truncate(const ImageStore::ImageRef& image, uint32_t level) {
  if (level + 1 == image->chain_ids.size()) return image;
  auto part = std::make_shared<ResolvedImage>(*image);
  part->manifest.layers.resize(level + 1);
  part->config.diff_ids.resize(level + 1);
  part->chain_ids.resize(level + 1);
  part->layer_ids.resize(std::min<size_t>(part->layer_ids.size(), level + 1));
  return part;
}

}  // namespace

absl::StatusOr<std::optional<LayerLabels>> ParseLayerLabels(const SnapshotLabels& labels) {
  LayerLabels out;
  out.chain_id = LabelOr(labels, kRefLabel);
  std::string reference = LabelOr(labels, "containerd.io/snapshot/cri.image-ref");
  const std::string manifest = LabelOr(labels, "containerd.io/snapshot/cri.manifest-digest");
  if (reference.empty()) {
    reference = LabelOr(labels, "containerd.io/snapshot/remote/stargz.reference");
  }
  if (out.chain_id.empty() || reference.empty()) return std::optional<LayerLabels>();
  IMAGEFS_ASSIGN_OR_RETURN(out.reference, Reference::Parse(reference));
  if (out.reference.transport != Reference::Transport::kRegistry) {
    return absl::InvalidArgumentError(
        StrCat("label names ", Printable(reference), ", which is no image of a registry"));
  }
  if (!manifest.empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(out.manifest, Digest::Parse(manifest));
    // The digest in the reference is that of an index, where there is one: the platform's manifest
    // is what the layers belong to.
    out.reference.digest = out.manifest;
  }
  return std::optional<LayerLabels>(std::move(out));
}

LazyImages::Use LazyImages::Take(const ImageStore::ImageRef& image) {
  const Digest manifest = image->manifest_digest;
  absl::MutexLock lock(&mu_);
  Entry& entry = images_[manifest];
  if (entry.image == nullptr) entry.image = image;
  ++entry.uses;
  return Use(entry.image.get(), [this, manifest](const void*) { Leave(manifest); });
}

void LazyImages::Leave(const Digest& manifest) {
  {
    absl::MutexLock lock(&mu_);
    Entry& entry = images_[manifest];
    if (--entry.uses > 0 || entry.snapshots > 0) return;
  }
  // Not on the thread of a flight: it writes.
  deps_.executor.Submit([this, manifest] {
    absl::MutexLock lock(&mu_);
    if (DropLocked(manifest)) abandoned_ = Moment::Now();
  });
}

bool LazyImages::DropLocked(const Digest& manifest) {
  const auto found = images_.find(manifest);
  if (found == images_.end() || found->second.uses > 0 || found->second.snapshots > 0) return false;
  images_.erase(found);
  // Under the lock: a use that comes now holds the image anew, after this.
  const absl::Status status = deps_.store.ReleaseHeld(kHolder, manifest);
  if (!status.ok()) {
    LogWarning("image.not_released manifest=", manifest.Short(), " cause=", status.message());
  }
  return true;
}

void LazyImages::Retain(const Digest& manifest) {
  absl::MutexLock lock(&mu_);
  ++images_[manifest].snapshots;
}

bool LazyImages::Release(const Digest& manifest) {
  absl::MutexLock lock(&mu_);
  const auto found = images_.find(manifest);
  if (found == images_.end() || found->second.snapshots == 0) return false;
  --found->second.snapshots;
  return DropLocked(manifest);
}

bool LazyImages::TakeAbandoned(Moment now) {
  absl::MutexLock lock(&mu_);
  if (now < abandoned_ + kAbandonedFor) return false;
  abandoned_ = Moment::InfiniteFuture();
  return true;
}

ImageStore::ImageRef LazyImages::Find(const Digest& manifest) const {
  absl::MutexLock lock(&mu_);
  const auto found = images_.find(manifest);
  return found == images_.end() ? nullptr : found->second.image;
}

ChainRef LazyImages::HeldChain(const Digest& manifest) const {
  absl::MutexLock lock(&mu_);
  const auto found = images_.find(manifest);
  return found == images_.end() ? nullptr : found->second.chain;
}

std::optional<Digest> LazyImages::TreeOf(const SnapshotRecord& record) const {
  const ImageStore::ImageRef image = Find(record.manifest);
  const ChainRef chain = HeldChain(record.manifest);
  if (image != nullptr && chain != nullptr && record.level + 1 == image->chain_ids.size()) {
    return chain->chain_id;
  }
  if (image == nullptr || record.level >= image->layer_ids.size()) return std::nullopt;
  const ImageStore::ImageRef part = Truncate(image, record.level);
  return ChainIdentity(part->layer_ids, part->config.diff_ids);
}

LayerRef LazyImages::FindLayer(const SnapshotRecord& record) const {
  const ChainRef chain = HeldChain(record.manifest);
  return chain == nullptr || record.level >= chain->layers.size() ? nullptr
                                                                  : chain->layers[record.level];
}

absl::Status LazyImages::RecentFailure(const std::string& key) {
  absl::MutexLock lock(&mu_);
  const auto found = failures_.find(key);
  if (found == failures_.end()) return absl::OkStatus();
  if (Moment::Now() - found->second.when < kFailureMemory) return found->second.status;
  failures_.erase(found);
  return absl::OkStatus();
}

void LazyImages::RememberFailure(const std::string& key, const absl::Status& status) {
  if (absl::IsCancelled(status)) return;
  absl::MutexLock lock(&mu_);
  if (failures_.size() >= kMaxFailures) failures_.clear();
  failures_[key] = {status, Moment::Now()};
}

void LazyImages::Resolve(const std::shared_ptr<Relay>& relay, const Reference& reference,
                         bool impatient, absl::AnyInvocable<void(absl::StatusOr<Asked>)> done) {
  deps_.executor.Submit([this, relay, reference, impatient, done = std::move(done)]() mutable {
    if (relay->left()) return done(absl::CancelledError("the caller went away"));
    ImageStore::ResolveRequest request;
    request.reference = reference;
    // A manifest that was named by its digest is the one that is wanted.
    if (!reference.digest.has_value()) request.platform = Platform::Host();
    request.access = deps_.access_of(reference);
    request.policy = PullPolicy::kProve;
    request.trust = deps_.trust_of(reference);
    std::string key = StrCat(reference.ToString(), " ", request.access.credential.Fingerprint());
    if (impatient) {
      if (absl::Status failure = RecentFailure(key); !failure.ok()) return done(failure);
    }
    auto resolved = [this, key, impatient,
                     done = std::move(done)](absl::StatusOr<ImageStore::Resolved> result) mutable {
      if (result.ok()) return done(Asked{*std::move(result), std::move(key)});
      if (impatient) RememberFailure(key, result.status());
      done(result.status());
    };
    relay->Add(deps_.store.Resolve(std::move(request), std::move(resolved)));
  });
}

void LazyImages::EnsureImage(const std::shared_ptr<Relay>& relay, ImageStore::ImageRef image,
                             std::shared_ptr<ImageSource> source, ChainDone done) {
  auto keep = [this, image, done = std::move(done)](absl::StatusOr<ChainRef> chain) mutable {
    if (chain.ok()) {
      absl::MutexLock lock(&mu_);
      const auto found = images_.find(image->manifest_digest);
      // Not of a part of the image.
      if (found != images_.end() && found->second.image->chain_id() == image->chain_id()) {
        found->second.chain = *chain;
        found->second.image = WithLayers(*image, **chain);
      }
    }
    done(std::move(chain));
  };
  const IndexTrust trust = TrustOfImage(deps_.trust_of, *image);
  relay->Add(deps_.store.EnsureHeld(kHolder, std::move(image), std::move(source), trust,
                                    Priority::kForeground, std::move(keep)));
}

FlightTicket LazyImages::Ensure(const LayerLabels& labels, const std::string& parent_ref,
                                absl::AnyInvocable<void(absl::StatusOr<Layer>)> done) {
  auto relay = std::make_shared<Relay>();
  auto found = [this, relay, labels, parent_ref,
                done = std::move(done)](absl::StatusOr<Asked> asked) mutable {
    if (!asked.ok()) return done(asked.status());
    const ImageStore::Resolved& resolved = asked->resolved;
    const std::vector<Digest>& chain_ids = resolved.image->chain_ids;
    const auto at = std::find_if(chain_ids.begin(), chain_ids.end(), [&](const Digest& id) {
      return id.ToString() == labels.chain_id;
    });
    if (at == chain_ids.end()) {
      return done(absl::NotFoundError(
          StrCat(resolved.image->reference, " has no layer ", Printable(labels.chain_id))));
    }
    const std::string below = at == chain_ids.begin() ? std::string() : (at - 1)->ToString();
    if (below != parent_ref) {
      return done(absl::NotFoundError(StrCat("the parent is ", Printable(parent_ref), ", but ",
                                             labels.chain_id, " of ", resolved.image->reference,
                                             " lies on ", below.empty() ? "nothing" : below)));
    }
    Layer layer;
    layer.image = resolved.image;
    layer.level = static_cast<uint32_t>(at - chain_ids.begin());
    layer.use = Take(resolved.image);
    EnsureImage(relay, resolved.image, resolved.source,
                [this, layer = std::move(layer), key = asked->key,
                 done = std::move(done)](const absl::StatusOr<ChainRef>& chain) mutable {
                  if (chain.ok()) return done(std::move(layer));
                  RememberFailure(key, chain.status());
                  done(chain.status());
                });
  };
  Resolve(relay, labels.reference, /*impatient=*/true, std::move(found));
  return Relay::TicketOf(relay);
}

FlightTicket LazyImages::EnsureTree(const SnapshotRecord& record, ChainDone done) {
  auto relay = std::make_shared<Relay>();
  EnsureLevel(relay, record, std::move(done));
  return Relay::TicketOf(relay);
}

void LazyImages::EnsureLevel(const std::shared_ptr<Relay>& relay, const SnapshotRecord& record,
                             ChainDone done) {
  const ImageStore::ImageRef image = Find(record.manifest);
  if (image != nullptr && record.level < image->chain_ids.size()) {
    ImageStore::ImageRef part = Truncate(image, record.level);
    const bool here = deps_.store.HasLayers(*part, TrustOfImage(deps_.trust_of, *part));
    if (here) return EnsureImage(relay, std::move(part), nullptr, std::move(done));
  }
  // A crash of the machine took layers that were not on disk yet, or the records are gone: what
  // the snapshot was made of is fetched again.
  absl::StatusOr<Reference> reference = Reference::Parse(record.reference);
  if (!reference.ok()) return done(reference.status());
  reference->digest = record.manifest;
  LogInfo("snapshot.layers_missing reference=", reference->ToString());
  Resolve(relay, *reference, /*impatient=*/false,
          [this, relay, level = record.level,
           done = std::move(done)](absl::StatusOr<Asked> asked) mutable {
            if (!asked.ok()) return done(asked.status());
            const ImageStore::Resolved& resolved = asked->resolved;
            if (level >= resolved.image->chain_ids.size()) {
              return done(absl::DataLossError("the image has fewer layers than its snapshot"));
            }
            {
              absl::MutexLock lock(&mu_);
              Entry& entry = images_[resolved.image->manifest_digest];
              if (entry.image == nullptr) entry.image = resolved.image;
            }
            EnsureImage(relay, Truncate(resolved.image, level), resolved.source, std::move(done));
          });
}

absl::Status LazyImages::Recover(const std::vector<SnapshotRecord>& records) {
  for (const SnapshotRecord& record : records) {
    if (record.lazy()) Retain(record.manifest);
  }
  IMAGEFS_ASSIGN_OR_RETURN(const auto held, deps_.store.ListHeld(kHolder));
  for (const ImageStore::ImageRef& image : held) {
    const Digest& manifest = image->manifest_digest;
    absl::StatusOr<ChainRef> chain = deps_.store.FindChainOf(image);
    absl::MutexLock lock(&mu_);
    const auto found = images_.find(manifest);
    if (found == images_.end()) {
      images_[manifest].image = image;
      DropLocked(manifest);
      continue;
    }
    found->second.image = image;
    if (chain.ok()) found->second.chain = *std::move(chain);
  }
  absl::flat_hash_set<std::pair<Digest, std::string>> attached;
  for (const SnapshotRecord& record : records) {
    if (!record.lazy() || !attached.emplace(record.manifest, record.reference).second) continue;
    const ChainRef chain = HeldChain(record.manifest);
    if (chain == nullptr || chain->complete()) continue;
    absl::StatusOr<Reference> reference = Reference::Parse(record.reference);
    if (!reference.ok()) continue;
    deps_.executor.Submit([this, chain, reference = *std::move(reference)] {
      deps_.store.AttachSource(chain, reference, deps_.access_of(reference));
    });
  }
  return absl::OkStatus();
}

}  // namespace imagefs
