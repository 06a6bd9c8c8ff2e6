// SPDX-License-Identifier: Apache-2.0
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
  IMAGEFS_ASSIGN_OR_RETURN(Names names, store->LoadNames());
  ImageUses::OwnerOptions owner{.holder = kHolder, .trust_of = store->deps_.trust_of};
  for (const auto& [name, record] : names) {
    owner.wanted.push_back({name, record.manifest, record.reference});
  }
  owner.recovered = [self = store.get()] { self->Recovered(); };
  {
    absl::MutexLock lock(&store->mu_);
    store->names_ = std::move(names);
  }
  IMAGEFS_ASSIGN_OR_RETURN(store->images_, store->deps_.uses.AddOwner(std::move(owner)));
  return store;
}

PodmanStore::~PodmanStore() {
  // Calls finish on the executor and use the images.
  if (images_ != nullptr) images_->Stop();
  executor_.reset();
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

void PodmanStore::Recovered() {
  const KeyGate::Hold hold(gate_, kChange);
  for (const Entry& entry : List()) {
    // An image whose layers have been proven since it was mounted is mounted again, so that new
    // containers get the whole tree, with capabilities and device nodes.
    const bool proven =
        entry.chain != nullptr && entry.chain->complete() &&
        std::any_of(entry.chain->layers.begin(), entry.chain->layers.end(),
                    [](const LayerRef& layer) { return !layer->proven() && !layer->by_pass; });
    if (entry.chain == nullptr || proven) FetchAgain(entry);
  }
  const absl::Status status = PublishGateLocked();
  if (!status.ok()) LogError("podman.not_published cause=", status.message());
}

void PodmanStore::FetchAgain(const Entry& entry) {
  absl::StatusOr<Reference> reference = Reference::Parse(entry.reference);
  auto warn = [name = entry.name](const absl::Status& status) {
    LogWarning("podman.image_missing name=", name, " cause=", status.message(),
               " remedy=imagefs add");
  };
  if (!reference.ok()) return warn(reference.status());
  auto fetched = [this, name = entry.name, manifest = entry.manifest,
                  warn](absl::StatusOr<ImageUses::Use> use) {
    if (!use.ok()) return warn(use.status());
    executor_->Submit([this, name, manifest, warn, use = *std::move(use)] {
      const KeyGate::Hold hold(gate_, kChange);
      {
        absl::MutexLock lock(&mu_);
        const auto found = names_.find(name);
        if (left_ || found == names_.end() || found->second.manifest != manifest) return;
      }
      const absl::Status status = PublishGateLocked();
      if (!status.ok()) warn(status);
    });
  };
  images_->Acquire({.reference = *std::move(reference),
                    .manifest = entry.manifest,
                    .priority = Priority::kBackground},
                   std::move(fetched));
}

// Writes or removes the record of a name.
absl::Status PodmanStore::PutNameGateLocked(const std::string& name, const Name* record) {
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

std::vector<PodmanImage> PodmanStore::ImagesToPublish(bool leaving) const {
  std::map<std::string, PodmanImage> by_id;
  absl::ReaderMutexLock lock(&mu_);
  for (const auto& [name, record] : names_) {
    const ImageUses::Use held = images_->Find(record.manifest);
    if (held.chain == nullptr) continue;
    const auto tree = trees_.find(held.image->chain_id());
    if (tree == trees_.end() || (leaving && tree->second->needs_process())) continue;
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

absl::Status PodmanStore::PublishGateLocked(bool leaving) {
  Trees old;  // released once the links lead to the new ones
  std::map<Digest, ImageUses::Use> wanted;
  {
    absl::MutexLock lock(&mu_);
    old = trees_;
    for (const auto& [name, record] : names_) {
      ImageUses::Use held = images_->Find(record.manifest);
      if (held.chain == nullptr) continue;
      const Digest claimed = held.image->chain_id();
      if (!leaving || trees_.contains(claimed)) wanted[claimed] = std::move(held);
    }
  }
  for (const auto& [claimed, held] : wanted) {
    absl::StatusOr<ImageUses::Tree> tree = images_->MountTree(held);
    if (!tree.ok()) {
      LogWarning("podman.not_shown chain=", claimed.Short(), " cause=", tree.status().message());
      continue;
    }
    absl::MutexLock lock(&mu_);
    trees_[claimed] = *std::move(tree);
  }
  std::map<Digest, std::string> paths;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [claimed, tree] : trees_) paths[claimed] = tree->path;
  }
  IMAGEFS_RETURN_IF_ERROR(files_->Publish(ImagesToPublish(leaving), paths));
  absl::MutexLock lock(&mu_);
  std::erase_if(trees_, [&](const auto& tree) { return !wanted.contains(tree.first); });
  return absl::OkStatus();
}

PodmanStore::Entry PodmanStore::EntryLocked(const std::string& name, const Name& record) const {
  ImageUses::Use held = images_->Find(record.manifest);
  return {name,
          record.reference,
          record.manifest,
          std::move(held.image),
          std::move(held.chain),
          record.added_unix};
}

absl::StatusOr<PodmanStore::Entry> PodmanStore::Add(const std::string& name,
                                                    const std::string& reference,
                                                    const ImageUses::Use& fetched) {
  const KeyGate::Hold hold(gate_, kChange);
  Name record = {reference, fetched.image->manifest_digest, time(nullptr)};
  std::optional<Name> before;
  {
    absl::MutexLock lock(&mu_);
    if (left_) return absl::CancelledError("the daemon ends");
    if (const auto found = names_.find(name); found != names_.end()) before = found->second;
  }
  // The same again changes nothing that podman would have to read.
  if (before.has_value() && before->reference == reference && before->manifest == record.manifest) {
    record.added_unix = before->added_unix;
  }
  // Mounted before publishing, because PublishGateLocked ignores trees that cannot be mounted.
  absl::StatusOr<ImageUses::Tree> tree = images_->MountTree(fetched);
  absl::Status status = tree.status();
  if (status.ok()) status = PutNameGateLocked(name, &record);
  if (status.ok()) status = PublishGateLocked();
  if (!status.ok()) {
    absl::Status undone = PutNameGateLocked(name, before.has_value() ? &*before : nullptr);
    undone.Update(PublishGateLocked());
    if (!undone.ok()) LogWarning("podman.not_undone cause=", undone.message());
    return Annotate(status, StrCat("podman's store ", files_->directory()));
  }
  // Podman now knows the new image, so the previous one of that name can be released.
  images_->Keep(name, record.manifest);
  executor_->Submit([this] {
    const absl::StatusOr<uint64_t> freed = images_->Collect();
    if (!freed.ok()) LogWarning("podman.not_collected cause=", freed.status().message());
  });
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
  for (const std::string& name : names) IMAGEFS_RETURN_IF_ERROR(PutNameGateLocked(name, nullptr));
  IMAGEFS_RETURN_IF_ERROR(
      Annotate(PublishGateLocked(), StrCat("podman's store ", files_->directory())));
  for (const std::string& name : names) images_->Drop(name);
  return images_->Collect();
}

std::vector<PodmanStore::Entry> PodmanStore::List() const {
  std::vector<Entry> out;
  absl::ReaderMutexLock lock(&mu_);
  for (const auto& [name, record] : names_) out.push_back(EntryLocked(name, record));
  return out;
}

ImageRef PodmanStore::Find(const std::string& name, const Platform& platform) const {
  ImageRef image;
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
  images_->Stop();
  const KeyGate::Hold hold(gate_, kChange);
  {
    absl::MutexLock lock(&mu_);
    left_ = true;
  }
  absl::Status status;
  if (!hide) {
    status = PublishGateLocked(/*leaving=*/true);
  } else {
    status = files_->Publish({}, {});
    Trees trees;  // destroyed after the lock is released
    {
      absl::MutexLock lock(&mu_);
      trees.swap(trees_);
    }
    images_->ReleaseKept();
  }
  if (!status.ok()) LogWarning("podman.not_withdrawn cause=", status.message());
}

}  // namespace imagefs
