// SPDX-License-Identifier: Apache-2.0
#include "fs/session_store.h"

#include <map>
#include <optional>
#include <utility>

#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "base/units.h"
#include "cache/kv.h"

namespace imagefs {
namespace {

constexpr std::string_view kSessionPrefix = "session/";
constexpr std::string_view kNodePrefix = "session-node/";
constexpr int64_t kFormatVersion = 1;
constexpr size_t kIdBytes = 8;

std::string NodePrefixOf(const std::string& id) { return StrCat(kNodePrefix, id, "/"); }

std::string Encode(const SessionRecord& record, std::string_view boot_id) {
  JsonWriter json;
  json.BeginObject()
      .Member("version", kFormatVersion)
      .Member("boot", boot_id)
      .Member("data", record.data)
      .Member("path", record.path)
      .Member("device_major", uint64_t{record.major})
      .Member("device_minor", uint64_t{record.minor})
      .Member("chain_id", record.data ? "" : record.chain_id.ToString())
      .Member("index_sum", uint64_t{record.index_sum})
      .Member("shown_as", record.shown_as.ToString())
      .Member("minor", uint64_t{record.agreed.minor})
      .Member("max_readahead", uint64_t{record.agreed.max_readahead})
      .Member("flags", uint64_t{record.agreed.flags})
      .Member("flags2", uint64_t{record.agreed.flags2})
      .EndObject();
  return json.Take();
}

absl::StatusOr<uint32_t> NumberOf(const Json& json, std::string_view key) {
  const int64_t value = json.IntOr(key, -1);
  if (value < 0 || value > UINT32_MAX) {
    return absl::DataLossError(StrCat("session record without ", key));
  }
  return static_cast<uint32_t>(value);
}

absl::StatusOr<SessionRecord> Decode(const std::string& id, std::string_view text,
                                     std::string_view boot_id) {
  IMAGEFS_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  if (json.IntOr("version", 0) != kFormatVersion) {
    return absl::DataLossError("session record of an unknown version");
  }
  if (json.StringOr("boot") != boot_id) return absl::NotFoundError("it is from another boot");
  SessionRecord record;
  record.id = id;
  record.data = json["data"].boolean().value_or(false);
  record.path = json.StringOr("path");
  if (!record.data) {
    IMAGEFS_ASSIGN_OR_RETURN(record.chain_id, Digest::Parse(json.StringOr("chain_id")));
  }
  IMAGEFS_ASSIGN_OR_RETURN(record.major, NumberOf(json, "device_major"));
  IMAGEFS_ASSIGN_OR_RETURN(record.minor, NumberOf(json, "device_minor"));
  IMAGEFS_ASSIGN_OR_RETURN(record.index_sum, NumberOf(json, "index_sum"));
  IMAGEFS_ASSIGN_OR_RETURN(record.shown_as, ShownAs::Parse(json.StringOr("shown_as")));
  FuseAgreement& agreed = record.agreed;
  IMAGEFS_ASSIGN_OR_RETURN(agreed.minor, NumberOf(json, "minor"));
  IMAGEFS_ASSIGN_OR_RETURN(agreed.max_readahead, NumberOf(json, "max_readahead"));
  IMAGEFS_ASSIGN_OR_RETURN(agreed.flags, NumberOf(json, "flags"));
  IMAGEFS_ASSIGN_OR_RETURN(agreed.flags2, NumberOf(json, "flags2"));
  return record;
}

void LogIfFailed(std::string_view what, const absl::Status& status) {
  if (!status.ok()) LogWarning(what, " error=", status.message());
}

}  // namespace

// Added has written its record (without fsync) when it returns. Gone is asynchronous, because its
// caller must not block.
class SessionStore::Journal : public DataFiles::Journal,
                              public std::enable_shared_from_this<Journal> {
 public:
  Journal(KeyValueStore& kv, std::weak_ptr<Executor> executor, std::shared_ptr<Kept> kept,
          std::string id)
      : kv_(kv),
        executor_(std::move(executor)),
        kept_(std::move(kept)),
        id_(std::move(id)),
        prefix_(NodePrefixOf(id_)) {}

  void Added(uint64_t node, const Layer& layer, const Digest& chain_id) override {
    if (!kept_->Contains(id_)) return;
    JsonWriter json;
    json.BeginObject()
        .Member("layer", layer.id.ToString())
        .Member("chain_id", chain_id.ToString())
        .EndObject();
    WriteBatch batch;
    batch.Put(StrCat(prefix_, node), json.Take());
    absl::MutexLock write_lock(&write_mu_);
    {
      absl::MutexLock lock(&mu_);
      gone_.erase(node);
    }
    LogIfFailed("session_node_not_kept", kv_.Write(batch, /*sync=*/false));
  }
  void Gone(uint64_t node) override {
    {
      absl::MutexLock lock(&mu_);
      gone_.insert(node);
    }
    const std::shared_ptr<Executor> executor = executor_.lock();
    if (executor == nullptr) return;
    executor->Submit([self = shared_from_this(), node] { self->Delete(node); });
  }

 private:
  void Delete(uint64_t node) {
    absl::MutexLock write_lock(&write_mu_);
    {
      absl::MutexLock lock(&mu_);
      if (gone_.erase(node) == 0) return;  // added again
    }
    WriteBatch batch;
    batch.Delete(StrCat(prefix_, node));
    LogIfFailed("session_node_not_forgotten", kv_.Write(batch, /*sync=*/false));
  }

  KeyValueStore& kv_;
  const std::weak_ptr<Executor> executor_;
  const std::shared_ptr<Kept> kept_;
  const std::string id_, prefix_;
  absl::Mutex write_mu_ ABSL_ACQUIRED_BEFORE(mu_);  // held during writes
  absl::Mutex mu_;
  absl::flat_hash_set<uint64_t> gone_ ABSL_GUARDED_BY(mu_);
};

SessionStore::SessionStore(KeyValueStore& kv, DescriptorKeeper* keeper, std::string boot_id)
    : kv_(kv),
      keeper_(keeper),
      boot_id_(std::move(boot_id)),
      forgetting_(std::make_shared<Executor>(ThreadRole::kSessions, 1)) {}

// Kept things of other kinds have other names.
bool SessionStore::IsId(std::string_view name) {
  return name.size() == 2 * kIdBytes && name.find_first_not_of("0123456789abcdef") == name.npos;
}

std::string SessionStore::NewId() { return RandomHex(kIdBytes); }

std::vector<SessionStore::Inherited> SessionStore::Inherit() {
  std::vector<Inherited> out;
  std::map<std::string, Fd> devices;
  if (keeper_ != nullptr) {
    for (KeptDescriptor& kept : keeper_->Inherit()) {
      auto& place = IsId(kept.name) ? devices : others_;
      place[kept.name] = std::move(kept.fd);
    }
  }
  auto keys = kv_.KeysWithPrefix(kSessionPrefix);
  if (!keys.ok()) LogWarning("sessions_not_read error=", keys.status().message());
  for (const std::string& key : keys.ok() ? *keys : std::vector<std::string>()) {
    const std::string id = key.substr(kSessionPrefix.size());
    const auto device = devices.find(id);
    if (device == devices.end()) {
      Erase(id);
      continue;
    }
    absl::StatusOr<SessionRecord> record = ReadRecord(id);
    if (!record.ok()) {
      LogWarning("session_unreadable id=", id, " cause=", record.status().message());
      continue;  // its descriptor is dropped below
    }
    {
      absl::MutexLock lock(&kept_->mu);
      kept_->ids.insert(id);
    }
    out.push_back({*std::move(record), std::move(device->second), ReadNodes(id)});
    devices.erase(device);
  }
  for (auto& [id, fd] : devices) {
    LogWarning("session_dropped id=", Printable(id), " cause=it has no record");
    fd.Reset();
    keeper_->Drop(id);
    Erase(id);
  }
  return out;
}

Fd SessionStore::TakeOther(const std::string& name) {
  auto node = others_.extract(name);
  return node ? std::move(node.mapped()) : Fd();
}

bool SessionStore::any() const {
  absl::MutexLock lock(&kept_->mu);
  return !kept_->ids.empty();
}

absl::StatusOr<SessionRecord> SessionStore::ReadRecord(const std::string& id) const {
  IMAGEFS_ASSIGN_OR_RETURN(const std::optional<std::string> text,
                           kv_.Get(StrCat(kSessionPrefix, id)));
  if (!text.has_value()) return absl::NotFoundError("the record is damaged");
  return Decode(id, *text, boot_id_);
}

std::vector<SessionStore::Node> SessionStore::ReadNodes(const std::string& id) const {
  std::vector<Node> out;
  const std::string prefix = NodePrefixOf(id);
  const auto read = [&](std::string_view key, std::string_view value) {
    const auto number = ParseDecimal(key.substr(prefix.size()));
    const auto json = Json::Parse(value);
    const auto layer = Digest::Parse(json.ok() ? json->StringOr("layer") : "");
    const auto chain = Digest::Parse(json.ok() ? json->StringOr("chain_id") : "");
    if (number.has_value() && layer.ok() && chain.ok()) out.push_back({*number, *layer, *chain});
    return true;
  };
  LogIfFailed("session_nodes_not_read", kv_.ForEachWithPrefix(prefix, read));
  return out;
}

void SessionStore::Keep(const SessionRecord& record, const Fd& device) {
  if (keeper_ == nullptr) return;
  WriteBatch batch;
  batch.Put(StrCat(kSessionPrefix, record.id), Encode(record, boot_id_));
  absl::Status status = kv_.Write(batch, /*sync=*/false);
  if (status.ok()) status = keeper_->Keep(record.id, device);
  if (!status.ok()) {
    LogWarning("session_not_kept path=", Printable(record.path), " error=", status.message());
    return Erase(record.id);
  }
  absl::MutexLock lock(&kept_->mu);
  kept_->ids.insert(record.id);
}

void SessionStore::Forget(const std::string& id) {
  absl::MutexLock lock(&kept_->mu);
  if (kept_->ids.erase(id) == 0) return;
  forgetting_->Submit([this, id] { Drop(id); });
}

void SessionStore::ForgetAll() {
  absl::flat_hash_set<std::string> all;
  {
    absl::MutexLock lock(&kept_->mu);
    all.swap(kept_->ids);
  }
  for (const std::string& id : all) Drop(id);
}

void SessionStore::Drop(const std::string& id) {
  Erase(id);
  keeper_->Drop(id);
}

void SessionStore::Erase(const std::string& id) {
  WriteBatch batch;
  batch.Delete(StrCat(kSessionPrefix, id));
  const auto nodes = kv_.KeysWithPrefix(NodePrefixOf(id));
  for (const std::string& key : nodes.ok() ? *nodes : std::vector<std::string>()) {
    batch.Delete(key);
  }
  LogIfFailed("session_not_forgotten", kv_.Write(batch, /*sync=*/false));
}

std::shared_ptr<DataFiles::Journal> SessionStore::JournalOf(const std::string& id) {
  if (keeper_ == nullptr) return nullptr;
  return std::make_shared<Journal>(kv_, forgetting_, kept_, id);
}

}  // namespace imagefs
