// SPDX-License-Identifier: Apache-2.0
#include "cache/space_keeper.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include "base/directory.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/units.h"
#include "cache/identity.h"
#include "cache/profile.h"
#include "image/reference.h"

namespace imagefs {
namespace {

constexpr absl::Duration kExhaustedPause = absl::Seconds(1);
constexpr absl::Duration kOverPause = absl::Minutes(1);    // before the end of a state is logged
constexpr absl::Duration kFreedPause = absl::Seconds(30);  // between lines about space given back

// Returns whether the bytes of an image can be fetched again, as far as this machine can tell.
bool HasSource(const std::string& text) {
  const absl::StatusOr<Reference> reference = Reference::Parse(text);
  if (!reference.ok()) return false;
  return reference->transport == Reference::Transport::kRegistry ||
         access(reference->path.c_str(), R_OK) == 0;
}

// Bytes of the files of one directory; an unreadable one is reported and counts as empty.
DiskUsage UsageOf(const std::string& directory) {
  const absl::StatusOr<DiskUsage> usage = DiskUsageOf(directory);
  if (!usage.ok()) LogWarning("store.not_measured cause=", usage.status().message());
  return usage.value_or(DiskUsage());
}

StoreUsage::Kind KindOf(std::string_view name, const DiskUsage& files) {
  StoreUsage::Kind kind{name};
  kind.count = files.files;
  kind.disk = files.bytes;
  return kind;
}

}  // namespace

absl::StatusOr<SpaceKeeper::Wanted> SpaceKeeper::FindWanted(
    const std::vector<std::string>& except) const {
  Wanted wanted;
  IMAGEFS_ASSIGN_OR_RETURN(const absl::flat_hash_set<std::string> pins, deps_.records.Pins());
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<ImageRecords::Row> images, deps_.records.Rows());
  absl::flat_hash_set<Digest> sourceless, refetched, held;
  absl::flat_hash_map<Digest, Digest> first;  // the first image that names a layer
  for (const ImageRecords::Row& image : images) {
    if (!image.listed) {
      held.insert(image.layer_ids.begin(), image.layer_ids.end());
      continue;
    }
    if (std::find(except.begin(), except.end(), image.reference) != except.end()) continue;
    const bool source = HasSource(image.reference);
    const bool pinned = pins.contains(image.reference);
    for (const Digest& id : image.layer_ids) {
      if (id.empty()) continue;
      wanted.listed.insert(id);
      const auto [it, is_first] = first.emplace(id, image.manifest);
      if (!is_first && it->second != image.manifest) wanted.shared.insert(id);
      (source ? refetched : sourceless).insert(id);
      if (pinned) wanted.kept.insert(id);
    }
  }
  for (const Digest& id : sourceless) {
    if (!refetched.contains(id)) wanted.kept.insert(id);
  }
  for (const Digest& id : held) {
    if (!wanted.listed.contains(id)) wanted.held.insert(id);
  }
  return wanted;
}

SpaceKeeper::Folders SpaceKeeper::MeasureFolders() const {
  Folders folders;
  folders.chains = UsageOf(options_.root + "/chains");
  folders.blobs = UsageOf(options_.root + "/blobs");
  folders.database = UsageOf(options_.root + "/db");
  // What is being made counts from its first byte.
  for (const std::string& name : ListDirOrWarn(options_.root + "/layers")) {
    if (!name.starts_with("tmp-")) continue;
    folders.unfinished += UsageOf(StrCat(options_.root, "/layers/", name)).bytes;
  }
  return folders;
}

uint64_t SpaceKeeper::UsedBytes(const std::vector<LayerUse>& layers, const Folders& folders) {
  uint64_t used = folders.chains.bytes + folders.blobs.bytes + folders.database.bytes;
  for (const LayerUse& layer : layers) used += layer.bytes();
  return used + folders.unfinished;
}

uint64_t SpaceKeeper::RemovePartials(absl::Duration older, uint64_t enough, bool dry_run,
                                     uint64_t& count) {
  std::vector<Downloads::Partial> partials = deps_.layers.downloads().Partials();
  std::sort(partials.begin(), partials.end(),
            [](const auto& a, const auto& b) { return a.written < b.written; });
  const int64_t before = time(nullptr) - absl::ToInt64Seconds(older);
  uint64_t freed = 0;
  for (const Downloads::Partial& partial : partials) {
    if (freed >= enough || partial.written > before) break;
    const uint64_t bytes =
        dry_run ? partial.bytes : deps_.layers.downloads().RemovePartial(partial);
    if (bytes > 0) ++count;
    freed += bytes;
    if (!dry_run && bytes > 0) {
      LogInfo("blob.removed name=", partial.name.substr(0, 12), " bytes=", bytes);
    }
  }
  return freed;
}

uint64_t SpaceKeeper::EvictUnused(std::vector<LayerUse> layers, const Wanted& wanted,
                                  uint64_t enough) {
  std::sort(layers.begin(), layers.end(),
            [](const auto& a, const auto& b) { return a.used < b.used; });
  uint64_t freed = 0;
  for (const LayerUse& layer : layers) {
    if (freed >= enough) break;
    if (layer.in_use || wanted.kept.contains(layer.id) || wanted.held.contains(layer.id)) continue;
    if (layer.in_parts) {
      const absl::StatusOr<uint64_t> bytes = deps_.layers.Evict(layer.id);
      // Somebody may have opened it meanwhile.
      if (bytes.ok()) freed += *bytes;
    } else if (wanted.listed.contains(layer.id)) {
      freed += deps_.layers.RemoveUnused(layer.id);
    }
  }
  return freed;
}

void SpaceKeeper::KeepWithin(bool pressed, bool all_held) {
  absl::MutexLock lock(&mu_);
  if (pressed && Moment::Now() - exhausted_ < kExhaustedPause) return;
  uint64_t count = 0;
  RemovePartials(options_.keep_partial, UINT64_MAX, /*dry_run=*/false, count);
  absl::StatusOr<StoreSpace::Reading> now = deps_.space.Read();
  if (!now.ok()) {
    LogWarning("store.not_measured cause=", now.status().message());
    return;
  }
  bool exhausted = false;
  // Without a limit, a disk that others have filled costs nobody the local images.
  if (now->limit > 0) {
    now->used = UsedBytes(deps_.layers.Uses(), MeasureFolders());
    deps_.space.SetMeasured(now->used, false);
    if (const uint64_t excess = now->Excess(); excess > 0) {
      const uint64_t freed = GiveBack(excess, all_held);
      now->used = UsedBytes(deps_.layers.Uses(), MeasureFolders());
      if (auto after = deps_.space.Read(); after.ok()) now->free = after->free;
      exhausted = all_held && freed < excess && now->Excess() > 0;
      deps_.space.SetMeasured(now->used, exhausted);
      if (exhausted) exhausted_ = Moment::Now();
    }
  }
  const bool spare = now->Spare(deps_.space.spare());
  deps_.space.SetSpare(spare);
  Note(*now, spare, exhausted);
}

uint64_t SpaceKeeper::GiveBack(uint64_t excess, bool all_held) {
  uint64_t count = 0;
  uint64_t freed = RemovePartials(absl::ZeroDuration(), excess, /*dry_run=*/false, count);
  // Looking through the records takes longer than all the rest, and finds nothing if every layer is
  // in use.
  const std::vector<LayerUse> layers = deps_.layers.Uses();
  const bool any_unused = all_held && std::any_of(layers.begin(), layers.end(),
                                                  [](const LayerUse& one) { return !one.in_use; });
  if (freed < excess && any_unused) {
    const absl::StatusOr<uint64_t> collected = deps_.collect();
    if (!collected.ok()) LogWarning("store.not_collected cause=", collected.status().message());
    freed += collected.value_or(0);
  }
  if (freed < excess && any_unused) {
    if (const absl::StatusOr<Wanted> wanted = FindWanted(); wanted.ok()) {
      freed += EvictUnused(layers, *wanted, excess - freed);
    } else {
      LogWarning("store.not_evicted cause=", wanted.status().message());
    }
  }
  if (freed < excess) freed += deps_.layers.EvictParts(excess - freed);
  freed_ += freed;
  ++rounds_;
  return freed;
}

bool SpaceKeeper::Told::Update(bool now, Moment when, bool* ended) {
  *ended = false;
  if (now) {
    over_since = Moment::InfiniteFuture();
    return !std::exchange(begun, true);
  }
  if (!begun) return false;
  over_since = std::min(over_since, when);
  if (when - over_since < kOverPause) return false;
  begun = false;
  *ended = true;
  return true;
}

// One line when a state begins and one when it has ended, whatever happens between.
void SpaceKeeper::Note(const StoreSpace::Reading& now, bool spare, bool exhausted) {
  const Moment when = Moment::Now();
  bool ended;
  if (short_.Update(!spare, when, &ended)) {
    if (ended) {
      LogInfo("fill.background_resumed free=", now.free, " used=", now.used);
    } else {
      LogWarning("fill.background_stopped free=", now.free, " min_free=", now.background_min_free,
                 " used=", now.used, " limit=", now.limit,
                 " remedy=imagefs df; see store.limit and fill.min_free");
    }
  }
  if (over_.Update(exhausted, when, &ended)) {
    if (ended) {
      LogInfo("store.within_limits used=", now.used, " limit=", now.limit, " free=", now.free);
    } else {
      LogWarning("store.over_limits used=", now.used, " limit=", now.limit, " free=", now.free,
                 " reserve=", now.reserve,
                 " cause=all the rest is in use, pinned, or could not be fetched again");
    }
  }
  if (freed_ > 0 && when - freed_told_ >= kFreedPause) {
    LogInfo("store.space_given_back bytes=", freed_, " rounds=", rounds_, " used=", now.used,
            " limit=", now.limit, " free=", now.free);
    freed_told_ = when;
    freed_ = rounds_ = 0;
  }
}

absl::StatusOr<std::vector<std::string>> SpaceKeeper::FindUnusedImages(
    const std::vector<LayerUse>& layers, int64_t before) const {
  IMAGEFS_ASSIGN_OR_RETURN(const absl::flat_hash_set<std::string> pins, deps_.records.Pins());
  IMAGEFS_ASSIGN_OR_RETURN(const auto listed, deps_.records.List());
  absl::flat_hash_map<Digest, int64_t> used;
  for (const LayerUse& layer : layers) used[layer.id] = layer.used;
  std::vector<std::string> unused;
  for (const ImageRecords::Listed& one : listed) {
    const ResolvedImage& image = *one.image;
    if (pins.contains(one.reference) || !HasSource(one.reference)) continue;
    if (deps_.chains.InUse(ChainIdentity(image.layer_ids, image.config.diff_ids))) continue;
    int64_t last = one.created;
    for (const Digest& id : image.layer_ids) {
      if (const auto it = used.find(id); it != used.end()) last = std::max(last, it->second);
    }
    if (last <= before) unused.push_back(one.reference);
  }
  return unused;
}

absl::StatusOr<PruneResult> SpaceKeeper::Prune(const PruneRequest& request) {
  absl::MutexLock lock(&mu_);
  PruneResult result;
  result.partial_bytes =
      RemovePartials(request.older, UINT64_MAX, request.dry_run, result.partials);
  const int64_t before = time(nullptr) - absl::ToInt64Seconds(request.older);
  const std::vector<LayerUse> layers = deps_.layers.Uses();
  IMAGEFS_ASSIGN_OR_RETURN(Wanted wanted, FindWanted());
  absl::flat_hash_set<Digest> released;  // layers of the images that go, and perhaps of others
  if (request.all) {
    IMAGEFS_ASSIGN_OR_RETURN(result.images, FindUnusedImages(layers, before));
    for (const std::string& reference : result.images) {
      if (request.dry_run) continue;
      IMAGEFS_ASSIGN_OR_RETURN(const Reference parsed, Reference::Parse(reference));
      IMAGEFS_RETURN_IF_ERROR(deps_.records.Remove(parsed));
    }
  }
  if (!result.images.empty()) {
    released = std::move(wanted.listed);
    IMAGEFS_ASSIGN_OR_RETURN(wanted, FindWanted(result.images));
  }
  for (const LayerUse& layer : layers) {
    if (layer.in_use || wanted.listed.contains(layer.id) || wanted.held.contains(layer.id) ||
        (layer.used > before && !released.contains(layer.id))) {
      continue;
    }
    const uint64_t bytes = request.dry_run ? layer.bytes() : deps_.layers.RemoveUnused(layer.id);
    if (bytes > 0) ++result.layers;
    result.layer_bytes += bytes;
  }
  if (request.dry_run) return result;
  // Trees, documents and profiles that are of no use any more.
  IMAGEFS_ASSIGN_OR_RETURN(const uint64_t rest, deps_.collect());
  result.layer_bytes += rest;
  return result;
}

absl::StatusOr<StoreUsage> SpaceKeeper::Measure() {
  IMAGEFS_ASSIGN_OR_RETURN(const Wanted wanted, FindWanted());
  const std::vector<LayerUse> layers = deps_.layers.Uses();
  StoreUsage usage;
  StoreUsage::Kind exclusive{"layers-exclusive"}, shared{"layers-shared"}, other{"layers-unlisted"},
      indexes{"indexes"}, partial{"partial"};
  for (const LayerUse& layer : layers) {
    StoreUsage::Kind& kind = wanted.shared.contains(layer.id)   ? shared
                             : wanted.listed.contains(layer.id) ? exclusive
                                                                : other;
    ++kind.count;
    ++indexes.count;
    kind.disk += layer.data_bytes;
    indexes.disk += layer.index_bytes;
    partial.disk += layer.blob_bytes;
    if (layer.blob_bytes > 0) ++partial.count;
    if (layer.in_use || wanted.held.contains(layer.id)) {
      ++kind.in_use;
      ++indexes.in_use;
      if (layer.blob_bytes > 0) ++partial.in_use;
    } else if (!wanted.kept.contains(layer.id)) {
      kind.reclaimable += layer.data_bytes;
      partial.reclaimable += layer.blob_bytes;
      if (!(wanted.listed.contains(layer.id) && layer.in_parts)) {
        indexes.reclaimable += layer.index_bytes;
      }
    }
  }
  const std::vector<Downloads::Partial> partials = deps_.layers.downloads().Partials();
  for (const Downloads::Partial& one : partials) partial.reclaimable += one.bytes;
  const Folders folders = MeasureFolders();
  partial.disk += folders.blobs.bytes;
  partial.count += folders.blobs.files;
  partial.in_use += folders.blobs.files - std::min<uint64_t>(folders.blobs.files, partials.size());
  usage.kinds = {exclusive, shared, other, indexes, KindOf("trees", folders.chains), partial};
  for (const auto& [name, path] :
       {std::pair("writable-mounts", "/upper"), std::pair("containers", "/snapshots"),
        std::pair("podman", "/podman")}) {
    usage.kinds.push_back(KindOf(name, UsageOf(options_.root + path)));
  }
  usage.kinds.push_back(KindOf("database", folders.database));
  IMAGEFS_RETURN_IF_ERROR(
      deps_.kv.ForEachWithPrefix(kProfileKeyPrefix, [&](std::string_view, std::string_view value) {
        ++usage.profiles;
        usage.profile_bytes += value.size();
        return true;
      }));
  IMAGEFS_ASSIGN_OR_RETURN(const StoreSpace::Reading reading, deps_.space.Read());
  usage.used = UsedBytes(layers, folders);
  usage.limit = reading.limit;
  usage.high = reading.high;
  usage.low = reading.low;
  usage.total = reading.total;
  usage.free = reading.free;
  usage.reserve = reading.reserve;
  usage.background_min_free = reading.background_min_free;
  return usage;
}

}  // namespace imagefs
