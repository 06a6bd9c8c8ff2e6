// SPDX-License-Identifier: Apache-2.0
#include "cmd/space_calls.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/directory.h"
#include "base/failure.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/calls.h"

namespace imagefs {

using namespace control::v1;  // NOLINT: the messages of every method below

namespace {

void FillShared(const SharedStores::Listed& shared, Image* image) {
  FillImage(*shared.image, image);
  image->set_created_unix(shared.created);
  image->set_shared(shared.root);
}

}  // namespace

absl::Status ListSharedImages(const std::string& directory, ListImagesReply* reply) {
  IMAGEFS_RETURN_IF_ERROR(CheckPath(directory, "DIR"));
  IMAGEFS_RETURN_IF_ERROR(CheckSharedStore(directory));
  for (const SharedStores::Listed& shared : SharedStores({directory}).List()) {
    FillShared(shared, reply->add_images());
  }
  return absl::OkStatus();
}

absl::Status SpaceCalls::ListImages(bool all, ListImagesReply* reply) const {
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<ImageRecord> records, store.ListImages(all));
  const std::vector<imagefs::ImageUser> users = Users();
  for (const ImageRecord& record : records) {
    Image* image = reply->add_images();
    image->set_reference(record.reference);
    image->set_platform(record.platform.ToString());
    image->set_artifact_type(record.artifact_type);
    image->set_manifest_digest(record.manifest_digest.ToString());
    image->set_chain_id(record.chain_id.ToString());
    image->set_compressed_bytes(record.compressed_bytes);
    image->set_unpacked_bytes(record.unpacked_bytes);
    image->set_layers(static_cast<uint32_t>(record.layers));
    image->set_created_unix(record.created_unix);
    image->set_disk_bytes(record.disk_bytes);
    image->set_state(std::string(LayerStateName(record.state)));
    image->set_pinned(record.pinned);
    image->set_listed(record.listed);
    FillUsers(users, record.manifest_digest, image);
  }
  for (const SharedStores::Listed& shared : store.ListShared()) {
    const bool here = std::any_of(records.begin(), records.end(), [&](const ImageRecord& record) {
      return record.reference == shared.image->reference &&
             record.platform == shared.image->config.platform;
    });
    if (!here) FillShared(shared, reply->add_images());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ImageRecord>> SpaceCalls::RecordsOf(const Reference& reference) const {
  IMAGEFS_ASSIGN_OR_RETURN(std::vector<ImageRecord> records, store.ListImages(/*also_held=*/false));
  std::erase_if(records, [text = reference.ToString()](const ImageRecord& record) {
    return record.reference != text;
  });
  return records;
}

absl::Status SpaceCalls::UnmountImages(const std::vector<Digest>& manifests) const {
  for (const MountState& mount : mounts.List()) {
    if (std::find(manifests.begin(), manifests.end(), mount.record.manifest_digest) ==
        manifests.end()) {
      continue;
    }
    const absl::Status status = mounts.Unmount(mount.record.directory, /*lazy=*/true);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
  }
  return absl::OkStatus();
}

absl::Status SpaceCalls::RemoveOne(const Reference& reference, bool force,
                                   RemoveReply* reply) const {
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<ImageRecord> records, RecordsOf(reference));
  if (force && records.empty()) return absl::OkStatus();
  std::vector<Digest> manifests;
  for (const ImageRecord& record : records) {
    if (record.pinned && !force) {
      return WithKind(
          absl::FailedPreconditionError(
              StrCat(record.reference, " is pinned; unpin it first, or remove it with --force")),
          FailureKind::kBusy);
    }
    manifests.push_back(record.manifest_digest);
  }
  if (force) IMAGEFS_RETURN_IF_ERROR(UnmountImages(manifests));
  IMAGEFS_ASSIGN_OR_RETURN(const uint64_t freed, store.Remove(reference));
  reply->set_freed_bytes(reply->freed_bytes() + freed);
  const std::vector<imagefs::ImageUser> users = Users();
  for (const Digest& manifest : manifests) {
    const std::string words = UsersInWords(users, manifest);
    if (words.empty()) continue;
    reply->add_notes(StrCat(reference.ToString(),
                            " is no longer listed, but its layers stay until ", words,
                            words.find(" and ") == words.npos ? " ends" : " end"));
  }
  if (freed == 0 && reply->notes().empty()) {
    reply->add_notes(
        StrCat(reference.ToString(), ": other images need the same layers, or it had none here"));
  }
  return absl::OkStatus();
}

absl::Status SpaceCalls::Remove(const RemoveRequest& request, RemoveReply* reply) const {
  for (const std::string& text : request.references()) {
    IMAGEFS_ASSIGN_OR_RETURN(const Reference reference, Reference::Parse(text));
    IMAGEFS_RETURN_IF_ERROR(RemoveOne(reference, request.force(), reply));
  }
  return absl::OkStatus();
}

absl::Status SpaceCalls::Evict(const RemoveRequest& request, RemoveReply* reply) const {
  for (const std::string& text : request.references()) {
    IMAGEFS_ASSIGN_OR_RETURN(const Reference reference, Reference::Parse(text));
    IMAGEFS_ASSIGN_OR_RETURN(const uint64_t freed, store.Evict(reference));
    reply->set_freed_bytes(reply->freed_bytes() + freed);
    if (freed > 0) continue;
    const std::vector<imagefs::ImageUser> users = Users();
    std::string words;
    IMAGEFS_ASSIGN_OR_RETURN(const std::vector<ImageRecord> records, RecordsOf(reference));
    for (const ImageRecord& record : records) {
      if (words.empty()) words = UsersInWords(users, record.manifest_digest);
    }
    reply->add_notes(words.empty()
                         ? StrCat(reference.ToString(), " has no bytes here that could be freed")
                         : StrCat(reference.ToString(), " is in use by ", words));
  }
  return absl::OkStatus();
}

absl::Status SpaceCalls::Drop(const DropRequest& request, RemoveReply* reply) const {
  if (podman == nullptr) return NoPodman();
  std::vector<std::pair<std::string, Digest>> dropped;
  for (const PodmanStore::Entry& entry : podman->List()) {
    for (const std::string& word : request.names()) {
      if (word == entry.name || word == entry.reference) {
        dropped.emplace_back(entry.reference, entry.manifest);
      }
    }
  }
  IMAGEFS_ASSIGN_OR_RETURN(const uint64_t freed,
                           podman->Drop({request.names().begin(), request.names().end()}));
  reply->set_freed_bytes(freed);
  const std::vector<imagefs::ImageUser> users = Users();
  for (const auto& [name, manifest] : dropped) {
    const std::string words = UsersInWords(users, manifest);
    if (!words.empty()) {
      reply->add_notes(StrCat(name, ": its layers stay, since they are in use by ", words));
      continue;
    }
    IMAGEFS_ASSIGN_OR_RETURN(const std::vector<ImageRecord> records, store.ListImages(false));
    for (const ImageRecord& record : records) {
      if (record.manifest_digest != manifest) continue;
      reply->add_notes(StrCat(name, ": its layers stay, since the image is also listed as ",
                              record.reference, "; `imagefs rm` removes it"));
      break;
    }
  }
  return absl::OkStatus();
}

absl::Status SpaceCalls::Pin(const PinRequest& request) const {
  for (const std::string& text : request.references()) {
    IMAGEFS_ASSIGN_OR_RETURN(const Reference reference, Reference::Parse(text));
    IMAGEFS_RETURN_IF_ERROR(request.unpin() ? store.Unpin(reference) : store.Pin(reference));
  }
  return absl::OkStatus();
}

absl::Status SpaceCalls::DiskUsage(DiskUsageReply* reply) const {
  IMAGEFS_ASSIGN_OR_RETURN(const StoreUsage usage, store.Usage());
  for (const StoreUsage::Kind& kind : usage.kinds) {
    DiskUsageReply::Kind* out = reply->add_kinds();
    out->set_name(std::string(kind.name));
    out->set_count(kind.count);
    out->set_in_use(kind.in_use);
    out->set_disk_bytes(kind.disk);
    out->set_reclaimable_bytes(kind.reclaimable);
  }
  reply->set_profiles(usage.profiles);
  reply->set_profile_bytes(usage.profile_bytes);
  reply->set_used_bytes(usage.used);
  reply->set_limit_bytes(usage.limit);
  reply->set_high_bytes(usage.high);
  reply->set_low_bytes(usage.low);
  reply->set_file_system_bytes(usage.total);
  reply->set_free_bytes(usage.free);
  reply->set_reserve_bytes(usage.reserve);
  reply->set_fill_min_free_bytes(usage.background_min_free);
  return absl::OkStatus();
}

absl::Status SpaceCalls::Prune(const control::v1::PruneRequest& request, PruneReply* reply) const {
  imagefs::PruneRequest prune;
  prune.all = request.all();
  prune.dry_run = request.dry_run();
  prune.older = absl::Seconds(request.older_seconds());
  IMAGEFS_ASSIGN_OR_RETURN(const PruneResult result, store.Prune(prune));
  reply->set_freed_bytes(result.bytes());
  reply->set_partial_downloads(result.partials);
  reply->set_partial_download_bytes(result.partial_bytes);
  reply->set_layers(result.layers);
  reply->set_layer_bytes(result.layer_bytes);
  for (const std::string& image : result.images) reply->add_images(image);
  return absl::OkStatus();
}

}  // namespace imagefs
