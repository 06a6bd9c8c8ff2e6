// SPDX-License-Identifier: Apache-2.0
#include "cache/store_check.h"

#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "cache/identity.h"
#include "cache/profile.h"
#include "cache/resolve_job.h"

namespace imagefs {
namespace {

constexpr absl::Duration kLookPause = absl::Milliseconds(200);
constexpr std::string_view kImagePrefix = "image/";
constexpr std::string_view kHeldPrefix = "held/";
constexpr std::string_view kManifestPrefix = "manifest/";

// Records that only the daemon reads, and that are recreated if missing.
constexpr std::string_view kRecreatablePrefixes[] = {
    "layer/", "chain/", kProfileKeyPrefix, kManifestPrefix, kConfigKeyPrefix, kHeldPrefix};

std::string ReferenceOf(std::string_view image_key) {
  const std::string_view name = image_key.substr(kImagePrefix.size());
  return std::string(name.substr(0, name.rfind('\n')));
}

std::string NotDone(std::string_view what, const absl::Status& why) {
  return StrCat("not ", what, ": ", why.message());
}

}  // namespace

absl::StatusOr<CheckReport> StoreCheck::Run() {
  IMAGEFS_RETURN_IF_ERROR(CheckImages());
  IMAGEFS_RETURN_IF_ERROR(Choose());
  IMAGEFS_RETURN_IF_ERROR(CheckLayers());
  if (request_.repair) IMAGEFS_RETURN_IF_ERROR(FetchLayers());
  if (all() || !chains_.empty()) {
    for (CheckFinding& tree :
         store_.chains.Check(all() ? decltype(chains_)() : chains_, request_.repair)) {
      report_.findings.push_back(std::move(tree));
    }
  }
  if (all()) {
    // Records of layers that are right were just written.
    IMAGEFS_RETURN_IF_ERROR(CheckRecords());
    CheckStrays();
  }
  return std::move(report_);
}

bool StoreCheck::Wanted(std::string_view reference) const {
  return all() || std::any_of(request_.references.begin(), request_.references.end(),
                              [&](const Reference& one) { return one.ToString() == reference; });
}

CheckFinding& StoreCheck::Found(std::string_view kind, std::string_view name,
                                std::string_view problem) {
  CheckFinding& found = report_.findings.emplace_back();
  found.kind = std::string(kind);
  found.name = Printable(name);
  found.problem = Printable(problem);
  return found;
}

absl::Status StoreCheck::Await(absl::FunctionRef<FlightTicket(CancelToken, Done)> start) {
  struct State {
    absl::Mutex mu;
    TimedCondition ended;
    std::optional<absl::Status> result ABSL_GUARDED_BY(mu);
  };
  // The callback may run after this wait has ended.
  const auto state = std::make_shared<State>();
  CancelSource cancel;
  const FlightTicket ticket = start(cancel.token(), [state](absl::Status status) {
    absl::MutexLock lock(&state->mu);
    if (!state->result.has_value()) state->result = std::move(status);
    state->ended.SignalAll();
  });
  MayBlock("waiting for a fetch");
  while (true) {
    {
      absl::MutexLock lock(&state->mu);
      const Moment look = Moment::Now() + kLookPause;
      while (!state->result.has_value() && state->ended.WaitUntil(&state->mu, look)) {
      }
      if (state->result.has_value()) return *state->result;
    }
    if (pace_(0)) continue;
    cancel.Cancel();
    ticket.Leave();
    return absl::CancelledError("the check was cancelled");
  }
}

absl::Status StoreCheck::CheckImages() {
  std::vector<std::pair<std::string, std::string>> records;
  for (const std::string_view prefix : {kImagePrefix, kHeldPrefix}) {
    IMAGEFS_RETURN_IF_ERROR(
        store_.kv.ForEachWithPrefix(prefix, [&](std::string_view key, std::string_view value) {
          records.emplace_back(key, value);
          return true;
        }));
  }
  for (const auto& [key, value] : records) {
    const bool held = std::string_view(key).starts_with(kHeldPrefix);
    const absl::StatusOr<ImageRow> row = ImageRow::Parse(value);
    const std::string reference = !held ? ReferenceOf(key) : row.ok() ? row->reference : "";
    if (held ? !all() : !Wanted(reference)) continue;
    IMAGEFS_RETURN_IF_ERROR(CheckImage(key, reference, value));
  }
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> damaged,
                           store_.kv.DamagedKeys(kImagePrefix));
  for (const std::string& key : damaged) {
    if (Wanted(ReferenceOf(key))) IMAGEFS_RETURN_IF_ERROR(CheckImage(key, ReferenceOf(key), ""));
  }
  return absl::OkStatus();
}

absl::Status StoreCheck::CheckImage(const std::string& key, const std::string& reference,
                                    const std::string& value) {
  const absl::StatusOr<ImageRow> row = ImageRow::Parse(value);
  if (!row.ok()) {
    CheckFinding& found =
        Found("image", reference.empty() ? key : reference, "its record cannot be read");
    if (!request_.repair) return absl::OkStatus();
    WriteBatch batch;
    batch.Delete(key);
    const absl::Status forgotten = store_.kv.Write(batch, true);
    found.action = !forgotten.ok()     ? NotDone("forgotten", forgotten)
                   : reference.empty() ? "forgotten; its holder requests it again"
                                       : StrCat("forgotten; fetch it again with: imagefs pull ",
                                                Printable(reference));
    return absl::OkStatus();
  }
  const absl::Status here = store_.documents(*row);
  if (here.ok()) return absl::OkStatus();
  CheckFinding& found = Found("image", reference, ToStd(here.message()));
  if (!request_.repair) return absl::OkStatus();
  const absl::Status fetched = FetchDocuments(reference, *row);
  if (absl::IsCancelled(fetched)) return fetched;
  found.action = fetched.ok() ? "fetched again" : NotDone("fetched", fetched);
  return absl::OkStatus();
}

// By digest: a tag may refer to another image by now.
absl::Status StoreCheck::FetchDocuments(const std::string& reference, const ImageRow& row) {
  IMAGEFS_ASSIGN_OR_RETURN(const Reference parsed, Reference::Parse(reference));
  IMAGEFS_ASSIGN_OR_RETURN(const std::shared_ptr<ImageSource> source, store_.open(parsed));
  // They outlive this call if it is cancelled.
  auto manifest = std::make_shared<ImageSource::FetchedManifest>();
  auto config = std::make_shared<std::string>();
  IMAGEFS_RETURN_IF_ERROR(Await([&](CancelToken cancel, Done done) {
    source->GetManifest(row.manifest.ToString(), cancel,
                        [manifest, done = std::move(done)](auto fetched) mutable {
                          if (fetched.ok()) *manifest = *std::move(fetched);
                          done(fetched.status());
                        });
    return FlightTicket();
  }));
  if (manifest->digest != row.manifest) return absl::DataLossError("it has another digest");
  IMAGEFS_ASSIGN_OR_RETURN(const ManifestOrIndex documents,
                           ParseManifest(manifest->bytes, manifest->content_type));
  if (!documents.manifest.has_value() || documents.manifest->config.digest != row.config) {
    return absl::DataLossError("its manifest names another configuration than the record");
  }
  IMAGEFS_RETURN_IF_ERROR(Await([&](CancelToken cancel, Done done) {
    source->GetSmallBlob(documents.manifest->config, kMaxConfigBytes, cancel,
                         [config, done = std::move(done)](auto fetched) mutable {
                           if (fetched.ok()) *config = *std::move(fetched);
                           done(fetched.status());
                         });
    return FlightTicket();
  }));
  WriteBatch batch;
  batch.Put(StrCat(kManifestPrefix, row.manifest.hex()), manifest->bytes);
  batch.Put(StrCat(kConfigKeyPrefix, row.config.hex()), *config);
  return store_.kv.Write(batch, true);
}

absl::Status StoreCheck::Choose() {
  absl::flat_hash_set<std::string> known;
  absl::flat_hash_set<Digest> here;
  for (const LayerInfo& layer : store_.layers.List()) here.insert(layer.id);
  store_.images([&](const ResolvedImage& image) {
    if (!Wanted(image.reference)) return true;
    known.insert(image.reference);
    chains_.insert(ChainIdentity(image.layer_ids, image.config.diff_ids));
    for (size_t i = 0; i < image.layer_ids.size(); ++i) {
      const Digest& id = image.layer_ids[i];
      if (!layers_.insert(id).second || id.empty()) continue;
      if (here.contains(id) || here.contains(image.config.diff_ids[i])) continue;
      absent_.push_back({id, image.config.diff_ids[i], 0, "absent", "", ""});
    }
    return true;
  });
  for (const Reference& reference : request_.references) {
    const bool damaged =
        std::any_of(report_.findings.begin(), report_.findings.end(),
                    [&](const CheckFinding& found) { return found.name == reference.ToString(); });
    if (known.contains(reference.ToString()) || damaged) continue;
    return absl::NotFoundError(StrCat("no image ", reference.ToString(),
                                      " in the store; `imagefs images` lists those that are"));
  }
  return absl::OkStatus();
}

absl::Status StoreCheck::CheckLayers() {
  for (const LayerInfo& layer : store_.layers.List()) {
    if (!all() && !layers_.contains(layer.id)) continue;
    CheckedLayer& out = report_.layers.emplace_back();
    out = {layer.id, layer.diff_id, layer.data_bytes, "right", "", ""};
    const absl::Status checked = CheckLayer(out);
    if (absl::IsNotFound(checked)) {
      report_.layers.pop_back();
      continue;
    }
    IMAGEFS_RETURN_IF_ERROR(checked);
  }
  for (CheckedLayer& absent : absent_) report_.layers.push_back(std::move(absent));
  return absl::OkStatus();
}

// Returns whether an image was recorded with it.
bool StoreCheck::IsNamed(const Digest& id) const {
  bool named = false;
  store_.images([&](const ResolvedImage& image) {
    named = std::count(image.layer_ids.begin(), image.layer_ids.end(), id) > 0;
    return !named;
  });
  return named;
}

// Returns kNotFound if it was collected meanwhile because nothing needs it any more.
absl::Status StoreCheck::CheckLayer(CheckedLayer& layer) {
  const bool filled = store_.layers.StateOfName(layer.id) == LayerState::kFilling;
  const absl::Status status = store_.layers.Scrub(layer.id, pace_);
  if (absl::IsCancelled(status)) return status;
  if (absl::IsNotFound(status) && !IsNamed(layer.id)) return status;
  if (status.ok()) {
    if (filled) layer.state = "filling";
    if (!filled) CheckSpanTable(layer);
    return absl::OkStatus();
  }
  layer.reason = std::string(status.message());
  const LayerState state = store_.layers.StateOfName(layer.id);
  layer.state = state == LayerState::kAbsent ? "lost" : "repaired";
  if (state == LayerState::kAbsent) return absl::OkStatus();
  if (filled) layer.action = "wrong parts are fetched again when they are read";
  if (state != LayerState::kFilling) layer.action = "made again";
  return absl::OkStatus();
}

// A missing table only prevents repair or eviction in parts.
void StoreCheck::CheckSpanTable(const CheckedLayer& layer) {
  const std::string path = StrCat(store_.root, "/layers/", layer.id.hex(), "/access");
  if (::access(path.c_str(), F_OK) != 0) return;
  const absl::Status status = SpanTableReader::Open(path).status();
  if (status.ok()) return;
  CheckFinding& found = Found("span table", layer.id.ToString(), ToStd(status.message()));
  if (!request_.repair) return;
  found.action = unlink(path.c_str()) == 0 ? "removed; the layer is whole without it"
                                           : NotDone("removed", ErrnoStatus(errno, path));
}

absl::Status StoreCheck::FetchLayers() {
  for (CheckedLayer& layer : report_.layers) {
    if (layer.state == "right" || layer.state == "filling" || !layer.action.empty()) continue;
    const absl::Status status = Await([&](CancelToken, Done done) {
      return store_.repairer.Fetch(layer.id, layer.diff_id, std::move(done));
    });
    if (absl::IsCancelled(status)) return status;
    layer.action = status.ok() ? "fetched" : NotDone("fetched", status);
  }
  return absl::OkStatus();
}

absl::Status StoreCheck::CheckRecords() {
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> damaged, store_.kv.DamagedKeys(""));
  for (const std::string& key : damaged) {
    if (std::string_view(key).starts_with(kImagePrefix)) continue;  // already reported
    CheckFinding& found = Found("record", key, "its checksum is wrong");
    const bool of_no_use = std::any_of(
        std::begin(kRecreatablePrefixes), std::end(kRecreatablePrefixes),
        [&](std::string_view prefix) { return std::string_view(key).starts_with(prefix); });
    if (!request_.repair) continue;
    if (!of_no_use) {
      // Directories with user data may depend on it.
      found.action = "kept: it refers to a directory (docs/formats/store.md, Damage)";
      continue;
    }
    WriteBatch batch;
    batch.Delete(key);
    const absl::Status removed = store_.kv.Write(batch, true);
    found.action = removed.ok() ? "removed" : NotDone("removed", removed);
  }
  return absl::OkStatus();
}

void StoreCheck::CheckStrays() {
  std::vector<std::string> strays = store_.layers.Strays();
  for (std::string& name : store_.chains.Strays()) strays.push_back(std::move(name));
  for (const std::string& name : strays) {
    CheckFinding& found = Found("file", name, "no record names it");
    if (!request_.repair) continue;
    const absl::Status removed = RemoveTree(StrCat(store_.root, "/", name));
    found.action = removed.ok() ? "removed" : NotDone("removed", removed);
  }
}

}  // namespace imagefs
