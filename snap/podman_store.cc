#include "snap/podman_store.h"

#include <time.h>

#include <algorithm>
#include <optional>

#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr char kHolder[] = "podman";
constexpr std::string_view kNamePrefix = "podman/";
constexpr int kRecordVersion = 1;
constexpr char kChange[] = "change";  // the key of the gate

}  // namespace

absl::StatusOr<std::unique_ptr<PodmanStore>> PodmanStore::Open(std::string directory, Deps deps) {
  auto store = std::unique_ptr<PodmanStore>(new PodmanStore(std::move(deps)));
  IMAGEFS_ASSIGN_OR_RETURN(store->files_, PodmanFiles::Open(std::move(directory)));
  IMAGEFS_RETURN_IF_ERROR(store->Load());
  return store;
}

PodmanStore::~PodmanStore() {
  Relay::TicketOf(again_).Leave();
  auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return fetching_ == 0; };
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&ended));
}

absl::StatusOr<PodmanStore::Names> PodmanStore::LoadNames() const {
  Names names;
  IMAGEFS_RETURN_IF_ERROR(deps_.store.kv().ForEachWithPrefix(
      kNamePrefix, [&](std::string_view key, std::string_view value) {
        const absl::StatusOr<Json> json = Json::Parse(value);
        const absl::StatusOr<Digest> manifest =
            json.ok() ? Digest::Parse(json->StringOr("manifest")) : json.status();
        if (!manifest.ok() || json->IntOr("version", 0) != kRecordVersion) {
          LogWarning("podman.record_unreadable key=", Printable(key));
          return true;
        }
        names[std::string(key.substr(kNamePrefix.size()))] = {json->StringOr("reference"),
                                                              *manifest, json->IntOr("added", 0)};
        return true;
      }));
  return names;
}

absl::Status PodmanStore::Load() {
  IMAGEFS_ASSIGN_OR_RETURN(Names names, LoadNames());
  std::map<Digest, Image> images;
  Trees trees;
  IMAGEFS_ASSIGN_OR_RETURN(const auto held, deps_.store.ListHeld(kHolder));
  for (const ImageStore::ImageRef& image : held) {
    const Digest& manifest = image->manifest_digest;
    if (!HasName(names, manifest)) {
      // Of a call that never came to its end.
      IMAGEFS_RETURN_IF_ERROR(deps_.store.ReleaseHeld(kHolder, manifest));
      continue;
    }
    absl::StatusOr<ChainRef> chain = deps_.store.FindChainOf(image);
    images[manifest] = {image, chain.ok() ? *chain : nullptr, 0};
    if (!chain.ok() || trees.contains(image->chain_id())) continue;
    std::optional<MountTable::Shown> shown = deps_.mounts.ShowAgain((*chain)->chain_id, *chain);
    if (shown.has_value()) trees[image->chain_id()] = {*std::move(chain), *std::move(shown)};
  }
  absl::MutexLock lock(&mu_);
  names_ = std::move(names);
  images_ = std::move(images);
  trees_ = std::move(trees);
  return absl::OkStatus();
}

void PodmanStore::Start() {
  const KeyGate::Hold hold(gate_, kChange);
  std::vector<std::pair<std::string, Name>> missing;
  std::vector<std::pair<ChainRef, std::string>> filling;
  std::vector<ImageStore::ImageRef> proven;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [name, record] : names_) {
      const auto image = images_.find(record.manifest);
      if (image == images_.end() || image->second.chain == nullptr) {
        missing.emplace_back(name, record);
      } else if (!image->second.chain->complete()) {
        filling.emplace_back(image->second.chain, record.reference);
      } else if (std::any_of(image->second.chain->layers.begin(), image->second.chain->layers.end(),
                             [](const LayerRef& layer) { return !layer->proven(); })) {
        proven.push_back(image->second.image);
      }
    }
  }
  // Their source went with the process before this one.
  for (const auto& [chain, text] : filling) {
    executor_.Submit([this, chain = chain, text = text] {
      const absl::StatusOr<Reference> reference = Reference::Parse(text);
      if (reference.ok()) {
        deps_.store.AttachSource(chain, *reference, deps_.access_of(*reference));
      }
    });
  }
  for (const auto& [name, record] : missing) FetchAgain(name, record);
  for (const ImageStore::ImageRef& image : proven) ShowProven(image);
  const absl::Status status = PublishC();
  if (!status.ok()) LogError("podman.not_published cause=", status.message());
}

// All of it is here and was proven since it was shown: containers to come get the whole tree, with
// capabilities and device nodes.
void PodmanStore::ShowProven(const ImageStore::ImageRef& image) {
  again_->Add(Bring(image, nullptr, Priority::kBackground, [this](absl::StatusOr<Brought> result) {
    if (!result.ok()) {
      LogWarning("podman.not_shown_anew cause=", result.status().message());
      return;
    }
    executor_.Submit([this, brought = *std::move(result)] {
      const KeyGate::Hold hold(gate_, kChange);
      {
        absl::MutexLock lock(&mu_);
        if (left_) return;
      }
      const absl::Status status = PublishC();
      if (!status.ok()) LogWarning("podman.not_published cause=", status.message());
    });
  }));
}

void PodmanStore::FetchAgain(const std::string& name, const Name& record) {
  absl::StatusOr<Reference> reference = Reference::Parse(record.reference);
  if (!reference.ok()) {
    LogWarning("podman.image_missing name=", name, " cause=", reference.status().message());
    return;
  }
  reference->digest = record.manifest;
  {
    absl::MutexLock lock(&mu_);
    ++fetching_;
  }
  auto end = [this, name](const absl::Status& status) {
    if (!status.ok()) {
      LogWarning("podman.image_missing name=", name, " cause=", status.message(),
                 " remedy=\"imagefs add\"");
    }
    absl::MutexLock lock(&mu_);
    --fetching_;
  };
  auto brought = [this, name, manifest = record.manifest,
                  end](absl::StatusOr<Brought> result) mutable {
    if (!result.ok()) return end(result.status());
    executor_.Submit([this, name, manifest, end, result = *std::move(result)]() mutable {
      absl::Status status;
      {
        const KeyGate::Hold hold(gate_, kChange);
        bool wanted;
        {
          absl::MutexLock lock(&mu_);
          const auto found = names_.find(name);
          wanted = !left_ && found != names_.end() && found->second.manifest == manifest;
        }
        if (wanted) status = PublishC();
      }
      result = {};
      end(status);
    });
  };
  auto resolved = [this, brought = std::move(brought),
                   end](absl::StatusOr<ImageStore::Resolved> result) mutable {
    if (!result.ok()) return end(result.status());
    again_->Add(Bring(result->image, result->source, Priority::kBackground, std::move(brought)));
  };
  executor_.Submit(
      [this, reference = *std::move(reference), end, resolved = std::move(resolved)]() mutable {
        if (again_->left()) return end(absl::CancelledError("the daemon ends"));
        ImageStore::ResolveRequest request;
        request.access = deps_.access_of(reference);
        request.reference = std::move(reference);
        request.trust = deps_.trust_of(request.reference);
        again_->Add(deps_.store.Resolve(std::move(request), std::move(resolved)));
      });
}

FlightTicket PodmanStore::Bring(ImageStore::ImageRef image, std::shared_ptr<ImageSource> source,
                                Priority priority, BroughtDone done) {
  const Digest manifest = image->manifest_digest;
  Brought brought;
  brought.image = image;
  {
    absl::MutexLock lock(&mu_);
    Image& entry = images_[manifest];
    if (entry.image == nullptr) entry.image = image;
    ++entry.uses;
    brought.use = std::shared_ptr<const void>(
        image.get(), [this, manifest](const void*) { LeaveUse(manifest); });
  }
  auto ensured = [this, manifest, brought = std::move(brought),
                  done = std::move(done)](absl::StatusOr<ChainRef> chain) mutable {
    if (!chain.ok()) return done(chain.status());
    brought.chain = *std::move(chain);
    {
      absl::MutexLock lock(&mu_);
      images_[manifest].chain = brought.chain;
      images_[manifest].image = WithLayers(*brought.image, *brought.chain);
    }
    done(std::move(brought));
  };
  const IndexTrust trust = TrustOfImage(deps_.trust_of, *image);
  return deps_.store.EnsureHeld(kHolder, std::move(image), std::move(source), trust, priority,
                                std::move(ensured));
}

void PodmanStore::LeaveUse(const Digest& manifest) {
  {
    absl::MutexLock lock(&mu_);
    if (--images_[manifest].uses > 0 || HasName(names_, manifest)) return;
  }
  // Not on the thread of a flight: it writes.
  executor_.Submit([this] {
    const KeyGate::Hold hold(gate_, kChange);
    ReleaseC();
  });
}

bool PodmanStore::HasName(const Names& names, const Digest& manifest) {
  return std::any_of(names.begin(), names.end(),
                     [&](const auto& entry) { return entry.second.manifest == manifest; });
}

// Writes the record of a name, or removes it.
absl::Status PodmanStore::PutNameC(const std::string& name, const Name* record) {
  const std::string key = StrCat(kNamePrefix, name);
  WriteBatch batch;
  if (record == nullptr) {
    batch.Delete(key);
  } else {
    JsonWriter json;
    json.BeginObject()
        .Member("version", int64_t{kRecordVersion})
        .Member("reference", record->reference)
        .Member("manifest", record->manifest.ToString())
        .Member("added", record->added_unix)
        .EndObject();
    batch.Put(key, json.Take());
  }
  IMAGEFS_RETURN_IF_ERROR(deps_.store.kv().Write(batch, /*sync=*/true));
  absl::MutexLock lock(&mu_);
  if (record == nullptr) {
    names_.erase(name);
  } else {
    names_[name] = *record;
  }
  return absl::OkStatus();
}

// A tree that was shown while its bytes came is shown anew once they are here: it needs no process
// then.
absl::Status PodmanStore::ShowC(const Digest& claimed, const ChainRef& chain,
                                std::vector<std::string>* old_leases) {
  {
    absl::MutexLock lock(&mu_);
    const auto found = trees_.find(claimed);
    if (found != trees_.end() && found->second.chain == chain &&
        !(found->second.shown.filling && chain->complete())) {
      return absl::OkStatus();
    }
  }
  IMAGEFS_ASSIGN_OR_RETURN(MountTable::Shown shown, deps_.mounts.Show(chain));
  absl::MutexLock lock(&mu_);
  Tree& tree = trees_[claimed];
  if (!tree.shown.lease.empty()) old_leases->push_back(std::move(tree.shown.lease));
  tree = {chain, std::move(shown)};
  return absl::OkStatus();
}

std::vector<PodmanImage> PodmanStore::ImagesToPublish(bool leaving) const {
  std::map<std::string, PodmanImage> by_id;
  absl::ReaderMutexLock lock(&mu_);
  for (const auto& [name, record] : names_) {
    const auto found = images_.find(record.manifest);
    if (found == images_.end() || found->second.chain == nullptr) continue;
    const Image& held = found->second;
    const auto tree = trees_.find(held.image->chain_id());
    if (tree == trees_.end() || (leaving && tree->second.shown.needs_process())) continue;
    PodmanImage& image = by_id[PodmanImageId(*held.image)];
    image.names.push_back(name);
    const auto same = [&manifest = record.manifest](const auto& one) {
      return one->manifest_digest == manifest;
    };
    if (std::none_of(image.manifests.begin(), image.manifests.end(), same)) {
      image.manifests.push_back(held.image);
    }
    image.added_unix = std::max(image.added_unix, record.added_unix);
    image.layer_bytes.clear();
    for (const LayerRef& layer : held.chain->layers) {
      image.layer_bytes.push_back(layer->data_bytes);
    }
  }
  std::vector<PodmanImage> out;
  for (auto& [id, image] : by_id) out.push_back(std::move(image));
  return out;
}

absl::Status PodmanStore::PublishC(bool leaving) {
  std::vector<std::string> old_leases;
  std::map<Digest, ChainRef> wanted;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [name, record] : names_) {
      const auto found = images_.find(record.manifest);
      if (found == images_.end() || found->second.chain == nullptr) continue;
      const Digest& claimed = found->second.image->chain_id();
      if (leaving && !trees_.contains(claimed)) continue;
      wanted[claimed] = found->second.chain;
    }
  }
  for (const auto& [chain_id, chain] : wanted) {
    const absl::Status status = ShowC(chain_id, chain, &old_leases);
    if (!status.ok()) {
      LogWarning("podman.not_shown chain=", chain_id.Short(), " cause=", status.message());
    }
  }
  std::map<Digest, std::string> paths;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [chain_id, tree] : trees_) paths[chain_id] = tree.shown.path;
  }
  const absl::Status status = files_->Publish(ImagesToPublish(leaving), paths);
  {
    absl::MutexLock lock(&mu_);
    for (auto it = trees_.begin(); status.ok() && it != trees_.end();) {
      if (wanted.contains(it->first)) {
        ++it;
        continue;
      }
      old_leases.push_back(it->second.shown.lease);
      it = trees_.erase(it);
    }
  }
  for (const std::string& lease : old_leases) deps_.mounts.Hide(lease);
  return status;
}

bool PodmanStore::ReleaseC() {
  bool released = false;
  // Under the lock: an image that is brought from now on is held anew, after this.
  absl::MutexLock lock(&mu_);
  for (auto it = images_.begin(); it != images_.end();) {
    if (it->second.uses > 0 || HasName(names_, it->first)) {
      ++it;
      continue;
    }
    const absl::Status status = deps_.store.ReleaseHeld(kHolder, it->first);
    if (!status.ok()) {
      LogWarning("image.not_released manifest=", it->first.Short(), " cause=", status.message());
    }
    it = images_.erase(it);
    released = true;
  }
  return released;
}

PodmanStore::Entry PodmanStore::EntryLocked(const std::string& name, const Name& record) const {
  Entry entry;
  entry.name = name;
  entry.reference = record.reference;
  entry.manifest = record.manifest;
  entry.added_unix = record.added_unix;
  const auto found = images_.find(record.manifest);
  if (found == images_.end()) return entry;
  entry.image = found->second.image;
  entry.chain = found->second.chain;
  return entry;
}

absl::StatusOr<PodmanStore::Entry> PodmanStore::Add(const std::string& name,
                                                    const std::string& reference,
                                                    const Brought& brought) {
  const KeyGate::Hold hold(gate_, kChange);
  const Name record = {reference, brought.image->manifest_digest, time(nullptr)};
  std::optional<Name> before;
  {
    absl::MutexLock lock(&mu_);
    if (left_) return absl::CancelledError("the daemon ends");
    if (const auto found = names_.find(name); found != names_.end()) before = found->second;
  }
  std::vector<std::string> old_leases;
  absl::Status status = ShowC(brought.image->chain_id(), brought.chain, &old_leases);
  if (status.ok()) status = PutNameC(name, &record);
  if (status.ok()) status = PublishC();
  // The link leads to the new tree by now.
  for (const std::string& lease : old_leases) deps_.mounts.Hide(lease);
  if (!status.ok()) {
    absl::Status undone = PutNameC(name, before.has_value() ? &*before : nullptr);
    undone.Update(PublishC());
    if (!undone.ok()) LogWarning("podman.not_undone cause=", undone.message());
    return Annotate(status, StrCat("podman's store ", files_->directory()));
  }
  if (ReleaseC()) {
    executor_.Submit([this] {
      const absl::StatusOr<uint64_t> freed = deps_.store.Collect();
      if (!freed.ok()) LogWarning("podman.not_collected cause=", freed.status().message());
    });
  }
  absl::MutexLock lock(&mu_);
  return EntryLocked(name, record);
}

std::vector<std::string> PodmanStore::NamesOf(const std::vector<std::string>& words,
                                              std::string* unknown) const {
  std::vector<std::string> out;
  absl::ReaderMutexLock lock(&mu_);
  for (const std::string& word : words) {
    const size_t before = out.size();
    const absl::StatusOr<Reference> reference = Reference::Parse(word);
    const absl::StatusOr<std::string> name =
        reference.ok() ? PodmanName(*reference) : reference.status();
    if (name.ok() && names_.contains(*name)) {
      out.push_back(*name);
    } else {
      for (const auto& [other, record] : names_) {
        if (record.reference == word) out.push_back(other);
      }
    }
    if (out.size() == before && unknown->empty()) *unknown = word;
  }
  return out;
}

absl::StatusOr<uint64_t> PodmanStore::Drop(const std::vector<std::string>& words) {
  const KeyGate::Hold hold(gate_, kChange);
  std::string unknown;
  const std::vector<std::string> names = NamesOf(words, &unknown);
  if (!unknown.empty()) {
    return absl::NotFoundError(StrCat("podman was not given ", Printable(unknown),
                                      "; `imagefs add --list` lists what it was"));
  }
  for (const std::string& name : names) IMAGEFS_RETURN_IF_ERROR(PutNameC(name, nullptr));
  IMAGEFS_RETURN_IF_ERROR(Annotate(PublishC(), StrCat("podman's store ", files_->directory())));
  if (!ReleaseC()) return 0;
  return deps_.store.Collect();
}

std::vector<PodmanStore::Entry> PodmanStore::List() const {
  std::vector<Entry> out;
  absl::ReaderMutexLock lock(&mu_);
  for (const auto& [name, record] : names_) out.push_back(EntryLocked(name, record));
  return out;
}

ImageStore::ImageRef PodmanStore::Find(const std::string& name, const Platform& platform) const {
  ImageStore::ImageRef image;
  {
    absl::ReaderMutexLock lock(&mu_);
    const auto found = names_.find(name);
    if (found == names_.end()) return nullptr;
    image = EntryLocked(name, found->second).image;
  }
  if (image == nullptr) return nullptr;
  const Platform& have = image->config.platform;
  const bool fits =
      have.os == platform.os && have.architecture == platform.architecture &&
      (platform.variant.empty() || have.variant.empty() || have.variant == platform.variant);
  const bool here = deps_.store.HasLayers(*image, TrustOfImage(deps_.trust_of, *image));
  return fits && here ? image : nullptr;
}

void PodmanStore::Leave(bool hide) {
  Relay::TicketOf(again_).Leave();
  const KeyGate::Hold hold(gate_, kChange);
  {
    absl::MutexLock lock(&mu_);
    left_ = true;
  }
  absl::Status status;
  if (!hide) {
    status = PublishC(/*leaving=*/true);
  } else {
    status = files_->Publish({}, {});
    Trees trees;
    {
      absl::MutexLock lock(&mu_);
      trees.swap(trees_);
    }
    for (const auto& [chain_id, tree] : trees) deps_.mounts.Hide(tree.shown.lease);
  }
  if (!status.ok()) LogWarning("podman.not_withdrawn cause=", status.message());
}

}  // namespace imagefs
