// SPDX-License-Identifier: Apache-2.0
#include "cache/image_records.h"

#include <algorithm>
#include <ctime>
#include <map>
#include <memory>
#include <optional>
#include <tuple>

#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/identity.h"

namespace imagefs {
namespace {

constexpr std::string_view kImagePrefix = "image/";
constexpr std::string_view kHeldPrefix = "held/";
constexpr std::string_view kManifestPrefix = "manifest/";
constexpr std::string_view kPinPrefix = "pin/";

std::string ImageKey(std::string_view reference, const Platform& platform) {
  return StrCat(kImagePrefix, reference, "\n", platform.ToString());
}

std::string HeldKey(std::string_view holder, const Digest& manifest) {
  return StrCat(kHeldPrefix, holder, "/", manifest.hex());
}

}  // namespace

absl::Status ImageRecords::Put(const ResolvedImage& image, const std::string& holder,
                               const std::vector<Digest>& names) {
  const std::string key = holder.empty() ? ImageKey(image.reference, image.config.platform)
                                         : HeldKey(holder, image.manifest_digest);
  absl::MutexLock lock(&mu_);
  IMAGEFS_ASSIGN_OR_RETURN(const std::optional<std::string> old, kv_.Get(key));
  ImageRow row;
  if (old.has_value()) {
    absl::StatusOr<ImageRow> parsed = ImageRow::Parse(*old);
    if (parsed.ok() && parsed->manifest == image.manifest_digest) row = *std::move(parsed);
  }
  // A part of the image says nothing about the layers above it.
  std::vector<Digest> layers = row.layers;
  layers.resize(std::max(layers.size(), names.size()));
  std::copy(names.begin(), names.end(), layers.begin());
  if (!row.manifest.empty() && layers == row.layers && DocumentsOf(row).ok()) {
    return absl::OkStatus();
  }
  row.reference = holder.empty() ? "" : image.reference;
  row.manifest = image.manifest_digest;
  row.index = image.index_digest;
  row.index_type = image.index_type;
  row.index_bytes = image.index_bytes;
  row.config = image.manifest.config.digest;
  row.content_type = image.content_type;
  if (row.created == 0) row.created = static_cast<int64_t>(time(nullptr));
  row.layers = std::move(layers);
  WriteBatch batch;
  batch.Put(key, row.ToJson());
  batch.Put(StrCat(kManifestPrefix, image.manifest_digest.hex()), image.manifest_json);
  batch.Put(StrCat(kConfigKeyPrefix, image.manifest.config.digest.hex()), image.config_json);
  return kv_.Write(batch, true);
}

absl::flat_hash_set<Digest> ImageRecords::Layers() const {
  absl::flat_hash_set<Digest> layers;
  for (const std::string_view prefix : {kImagePrefix, kHeldPrefix}) {
    const absl::Status status =
        kv_.ForEachWithPrefix(prefix, [&](std::string_view, std::string_view value) {
          const absl::StatusOr<ImageRow> row = ImageRow::Parse(value);
          if (row.ok()) layers.insert(row->layers.begin(), row->layers.end());
          return true;
        });
    if (!status.ok()) LogWarning("image.records_unreadable cause=", status.message());
  }
  return layers;
}

absl::Status ImageRecords::RenameLayers(
    absl::FunctionRef<Names()> names,
    absl::FunctionRef<void(const absl::flat_hash_set<Digest>&)> then) {
  absl::MutexLock lock(&mu_);
  const Names renamed = names();
  if (renamed.empty()) return absl::OkStatus();
  WriteBatch batch;
  const auto rename = [&](std::string_view key, std::string_view value) {
    absl::StatusOr<ImageRow> row = ImageRow::Parse(value);
    if (!row.ok()) return true;
    const std::vector<Digest> before = row->layers;
    for (const auto& [from, to] : renamed) {
      std::replace(row->layers.begin(), row->layers.end(), from, to);
    }
    if (row->layers != before) batch.Put(key, row->ToJson());
    return true;
  };
  IMAGEFS_RETURN_IF_ERROR(kv_.ForEachWithPrefix(kImagePrefix, rename));
  IMAGEFS_RETURN_IF_ERROR(kv_.ForEachWithPrefix(kHeldPrefix, rename));
  IMAGEFS_RETURN_IF_ERROR(kv_.Write(batch, true));
  then(Layers());
  return absl::OkStatus();
}

void ImageRecords::ForEach(absl::FunctionRef<bool(const ResolvedImage&)> visit) const {
  bool go_on = true;
  absl::Status status =
      kv_.ForEachWithPrefix(kImagePrefix, [&](std::string_view key, std::string_view value) {
        const std::string_view name = key.substr(kImagePrefix.size());
        const absl::StatusOr<ImageRef> image = Load(name.substr(0, name.rfind('\n')), value);
        return go_on = !image.ok() || visit(**image);
      });
  if (!go_on) return;
  status.Update(kv_.ForEachWithPrefix(kHeldPrefix, [&](std::string_view, std::string_view value) {
    const absl::StatusOr<ImageRef> image = LoadHeld(value);
    return !image.ok() || visit(**image);
  }));
  if (!status.ok()) LogWarning("image.records_unreadable cause=", status.message());
}

absl::StatusOr<ImageRecords::Documents> ImageRecords::DocumentsOf(const ImageRow& row) const {
  Documents documents;
  for (const auto& [prefix, digest, into] :
       {std::tuple(kManifestPrefix, row.manifest, &documents.manifest),
        std::tuple(kConfigKeyPrefix, row.config, &documents.config)}) {
    const std::string key = StrCat(prefix, digest.hex());
    IMAGEFS_ASSIGN_OR_RETURN(std::optional<std::string> document, kv_.Get(key));
    if (!document.has_value() || Sha256Of(*document) != digest) {
      if (document.has_value()) kv_.NoteDamaged(key, "it has another digest");
      return absl::DataLossError(StrCat(key, " is not present"));
    }
    *into = *std::move(document);
  }
  return documents;
}

absl::StatusOr<ImageRef> ImageRecords::Load(std::string_view reference,
                                            std::string_view record) const {
  IMAGEFS_ASSIGN_OR_RETURN(const ImageRow row, ImageRow::Parse(record));
  return LoadRow(reference, row);
}

absl::StatusOr<ImageRef> ImageRecords::LoadRow(std::string_view reference,
                                               const ImageRow& row) const {
  absl::StatusOr<Documents> documents = DocumentsOf(row);
  if (!documents.ok()) {
    return absl::DataLossError(StrCat("the record of ", reference, " is damaged (",
                                      ToStd(documents.status().message()),
                                      "); fetch it again with: imagefs pull ", reference));
  }
  IMAGEFS_ASSIGN_OR_RETURN(
      ResolvedImage image,
      MakeResolvedImage(std::string(reference), row.index, std::move(documents->manifest),
                        row.content_type, std::move(documents->config), Platform()));
  image.index_type = row.index_type;
  image.index_bytes = row.index_bytes;
  // Format 1 named every layer by its DiffID.
  image.layer_ids = row.has_layers ? row.layers : image.config.diff_ids;
  image.layer_ids.resize(image.config.diff_ids.size());
  return std::make_shared<const ResolvedImage>(std::move(image));
}

absl::StatusOr<ImageRef> ImageRecords::Find(const Reference& reference,
                                            const Platform& platform) const {
  const std::string text = reference.ToString();
  IMAGEFS_ASSIGN_OR_RETURN(const std::optional<std::string> exact,
                           kv_.Get(ImageKey(text, platform)));
  if (exact.has_value()) return Load(text, *exact);
  // The configuration's platform may have a variant that the query leaves open.
  std::optional<std::string> found;
  IMAGEFS_RETURN_IF_ERROR(kv_.ForEachWithPrefix(
      StrCat(kImagePrefix, text, "\n"), [&](std::string_view key, std::string_view value) {
        const std::string_view text = key.substr(key.rfind('\n') + 1);
        // An artifact has no platform.
        const bool none = text.empty() || text == "/";  // the latter by older versions
        const absl::StatusOr<Platform> have = none ? Platform() : Platform::Parse(text);
        if (have.ok() && platform.Matches(*have)) found = std::string(value);
        return !found.has_value();
      }));
  if (found.has_value()) return Load(text, *found);
  return absl::NotFoundError(StrCat(text, " (", platform.ToString(),
                                    ") is not in the store; fetch it with: imagefs pull ", text));
}

absl::StatusOr<ImageRef> ImageRecords::FindManifest(const Digest& manifest) const {
  ImageRef found;
  for (const std::string_view prefix : {kImagePrefix, kHeldPrefix}) {
    IMAGEFS_RETURN_IF_ERROR(
        kv_.ForEachWithPrefix(prefix, [&](std::string_view key, std::string_view value) {
          const absl::StatusOr<ImageRow> row = ImageRow::Parse(value);
          if (!row.ok() || row->manifest != manifest) return true;
          const std::string_view name = key.substr(prefix.size());
          const absl::StatusOr<ImageRef> image =
              Load(row->reference.empty() ? name.substr(0, name.rfind('\n'))
                                          : std::string_view(row->reference),
                   value);
          if (image.ok()) found = *image;
          return found == nullptr;
        }));
    if (found != nullptr) return found;
  }
  return absl::NotFoundError(StrCat("no record of manifest ", manifest.ToString()));
}

absl::StatusOr<std::vector<ImageRef>> ImageRecords::ListHeld(const std::string& holder) const {
  std::vector<ImageRef> images;
  IMAGEFS_RETURN_IF_ERROR(kv_.ForEachWithPrefix(
      StrCat(kHeldPrefix, holder, "/"), [&](std::string_view key, std::string_view value) {
        absl::StatusOr<ImageRef> image = LoadHeld(value);
        if (image.ok()) {
          images.push_back(*std::move(image));
        } else {
          kv_.NoteDamaged(key, ToStd(image.status().message()));
        }
        return true;
      }));
  return images;
}

absl::StatusOr<std::vector<ImageRecords::Listed>> ImageRecords::ListAllHeld() const {
  std::map<std::pair<std::string, Digest>, Listed> held;
  IMAGEFS_RETURN_IF_ERROR(
      kv_.ForEachWithPrefix(kHeldPrefix, [&](std::string_view key, std::string_view value) {
        const absl::StatusOr<ImageRow> row = ImageRow::Parse(value);
        absl::StatusOr<ImageRef> image =
            row.ok() ? LoadRow(row->reference, *row) : absl::StatusOr<ImageRef>(row.status());
        if (image.ok()) {
          held[{row->reference, row->manifest}] = {row->reference, *std::move(image), row->created};
        } else {
          kv_.NoteDamaged(key, ToStd(image.status().message()));
        }
        return true;
      }));
  std::vector<Listed> out;
  for (auto& [key, one] : held) out.push_back(std::move(one));
  return out;
}

absl::StatusOr<ImageRef> ImageRecords::LoadHeld(std::string_view record) const {
  IMAGEFS_ASSIGN_OR_RETURN(const ImageRow row, ImageRow::Parse(record));
  return LoadRow(row.reference, row);
}

absl::StatusOr<std::vector<ImageRecords::Listed>> ImageRecords::List() const {
  std::vector<std::pair<std::string, std::string>> records;
  IMAGEFS_RETURN_IF_ERROR(
      kv_.ForEachWithPrefix(kImagePrefix, [&](std::string_view key, std::string_view value) {
        records.emplace_back(key.substr(kImagePrefix.size()), value);
        return true;
      }));
  std::vector<Listed> listed;
  for (const auto& [key, value] : records) {
    std::string reference = key.substr(0, key.rfind('\n'));
    const absl::StatusOr<ImageRow> row = ImageRow::Parse(value);
    absl::StatusOr<ImageRef> image =
        row.ok() ? LoadRow(reference, *row) : absl::StatusOr<ImageRef>(row.status());
    if (!image.ok()) {
      kv_.NoteDamaged(StrCat(kImagePrefix, key), ToStd(image.status().message()));
      continue;
    }
    listed.push_back({std::move(reference), *std::move(image), row->created});
  }
  return listed;
}

absl::StatusOr<std::vector<ImageRecords::Row>> ImageRecords::Rows() const {
  std::vector<Row> rows;
  for (const bool listed : {true, false}) {
    const std::string_view prefix = listed ? kImagePrefix : kHeldPrefix;
    IMAGEFS_RETURN_IF_ERROR(
        kv_.ForEachWithPrefix(prefix, [&](std::string_view key, std::string_view value) {
          absl::StatusOr<ImageRow> row = ImageRow::Parse(value);
          if (!row.ok()) {
            kv_.NoteDamaged(key, ToStd(row.status().message()));
            return true;
          }
          const std::string_view name = key.substr(prefix.size());
          std::string reference(listed ? name.substr(0, name.rfind('\n')) : row->reference);
          if (!row->has_layers) {
            // Only the documents say which.
            const absl::StatusOr<ImageRef> image = LoadRow(reference, *row);
            if (!image.ok()) return true;
            row->layers = (*image)->layer_ids;
          }
          rows.push_back({std::move(reference), listed, row->manifest, std::move(row->layers)});
          return true;
        }));
  }
  return rows;
}

absl::Status ImageRecords::Remove(const Reference& reference) {
  const std::string text = reference.ToString();
  absl::MutexLock lock(&mu_);
  WriteBatch batch;
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> keys,
                           kv_.KeysWithPrefix(StrCat(kImagePrefix, text, "\n")));
  for (const std::string& key : keys) batch.Delete(key);
  batch.Delete(StrCat(kPinPrefix, text));
  if (keys.empty()) {
    return absl::NotFoundError(
        StrCat("no image ", text, " in the store; `imagefs images` lists those that are"));
  }
  return kv_.Write(batch, true);
}

absl::Status ImageRecords::Pin(const Reference& reference) {
  const std::string text = reference.ToString();
  absl::MutexLock lock(&mu_);
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> keys,
                           kv_.KeysWithPrefix(StrCat(kImagePrefix, text, "\n")));
  if (keys.empty()) {
    return absl::NotFoundError(
        StrCat("no image ", text, " in the store; fetch it first: imagefs pull ", text));
  }
  WriteBatch batch;
  batch.Put(StrCat(kPinPrefix, text), "{}");
  return kv_.Write(batch, true);
}

absl::Status ImageRecords::Unpin(const Reference& reference) {
  const std::string key = StrCat(kPinPrefix, reference.ToString());
  absl::MutexLock lock(&mu_);
  IMAGEFS_ASSIGN_OR_RETURN(const std::optional<std::string> pin, kv_.Get(key));
  if (!pin.has_value()) {
    return absl::NotFoundError(
        StrCat(reference.ToString(), " is not pinned; `imagefs images` shows which are"));
  }
  WriteBatch batch;
  batch.Delete(key);
  return kv_.Write(batch, true);
}

absl::StatusOr<absl::flat_hash_set<std::string>> ImageRecords::Pins() const {
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> keys, kv_.KeysWithPrefix(kPinPrefix));
  absl::flat_hash_set<std::string> pins;
  for (const std::string& key : keys) pins.insert(key.substr(kPinPrefix.size()));
  return pins;
}

absl::StatusOr<absl::flat_hash_map<Digest, int64_t>> ImageRecords::Unclaimed() const {
  absl::flat_hash_map<Digest, int64_t> unclaimed;
  IMAGEFS_RETURN_IF_ERROR(
      kv_.ForEachWithPrefix(kUnclaimedKeyPrefix, [&](std::string_view key, std::string_view value) {
        const absl::StatusOr<Digest> id =
            Digest::Parse(StrCat("sha256:", key.substr(kUnclaimedKeyPrefix.size())));
        const std::optional<uint64_t> when = ParseDecimal(value);
        if (id.ok() && when.has_value()) unclaimed[*id] = static_cast<int64_t>(*when);
        return true;
      }));
  return unclaimed;
}

absl::Status ImageRecords::Claim(const std::vector<Digest>& layers) {
  WriteBatch batch;
  bool any = false;
  for (const Digest& id : layers) {
    const std::string key = StrCat(kUnclaimedKeyPrefix, id.hex());
    IMAGEFS_ASSIGN_OR_RETURN(const std::optional<std::string> made, kv_.Get(key));
    if (!made.has_value()) continue;
    batch.Delete(key);
    any = true;
  }
  return any ? kv_.Write(batch, false) : absl::OkStatus();
}

absl::Status ImageRecords::RemoveHeld(const std::string& holder, const Digest& manifest) {
  absl::MutexLock lock(&mu_);
  WriteBatch batch;
  batch.Delete(HeldKey(holder, manifest));
  return kv_.Write(batch, true);
}

absl::StatusOr<ImageRecords::Needed> ImageRecords::Collect() {
  Needed needed;
  absl::flat_hash_set<std::string> documents;
  absl::MutexLock lock(&mu_);
  const auto keep = [&](const absl::StatusOr<ImageRef>& image, std::string_view record) {
    if (!image.ok()) {
      const absl::StatusOr<ImageRow> row = ImageRow::Parse(record);
      if (row.ok()) needed.layers.insert(row->layers.begin(), row->layers.end());
      return;
    }
    const ResolvedImage& kept = **image;
    needed.chains.insert(ChainIdentity(kept.layer_ids, kept.config.diff_ids));
    needed.layers.insert(kept.layer_ids.begin(), kept.layer_ids.end());
    needed.manifests.insert(kept.manifest_digest);
    documents.insert(StrCat(kManifestPrefix, kept.manifest_digest.hex()));
    documents.insert(StrCat(kConfigKeyPrefix, kept.manifest.config.digest.hex()));
  };
  IMAGEFS_RETURN_IF_ERROR(
      kv_.ForEachWithPrefix(kImagePrefix, [&](std::string_view key, std::string_view value) {
        keep(Load(key.substr(kImagePrefix.size(), key.rfind('\n') - kImagePrefix.size()), value),
             value);
        return true;
      }));
  IMAGEFS_RETURN_IF_ERROR(
      kv_.ForEachWithPrefix(kHeldPrefix, [&](std::string_view, std::string_view value) {
        keep(LoadHeld(value), value);
        return true;
      }));
  WriteBatch stale;
  for (std::string_view prefix : {kManifestPrefix, kConfigKeyPrefix}) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> keys, kv_.KeysWithPrefix(prefix));
    for (const std::string& key : keys) {
      if (!documents.contains(key)) stale.Delete(key);
    }
  }
  // They name nothing that anybody could request.
  for (std::string_view prefix : {kImagePrefix, kHeldPrefix}) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> keys, kv_.DamagedKeys(prefix));
    for (const std::string& key : keys) stale.Delete(key);
  }
  IMAGEFS_RETURN_IF_ERROR(kv_.Write(stale, false));
  return needed;
}

}  // namespace imagefs
