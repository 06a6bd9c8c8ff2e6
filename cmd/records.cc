// SPDX-License-Identifier: Apache-2.0
#include "cmd/records.h"

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "base/units.h"
#include "cache/kv.h"

namespace imagefs {
namespace {

constexpr std::string_view kPrefix = "mount/";
constexpr int64_t kFormatVersion = 1;

// "DEVICE:INODE"; "" = unknown, as in records of older versions.
std::string EncodeId(const FileId& id) {
  return id.known() ? StrCat(id.device, ":", id.inode) : std::string();
}

absl::StatusOr<FileId> DecodeId(const std::string& text) {
  if (text.empty()) return FileId();
  const std::vector<std::string_view> parts = Split(text, ':');
  const auto device = ParseDecimal(parts[0]);
  const auto inode = parts.size() == 2 ? ParseDecimal(parts[1]) : std::nullopt;
  if (!device || !inode || *inode == 0) return absl::DataLossError("mount record with a bad inode");
  return FileId{*device, *inode};
}

// "ID:MAJOR:MINOR".
std::string EncodeKey(const MountKey& key) {
  return StrCat(key.id, ":", key.major, ":", key.minor);
}

absl::StatusOr<MountKey> DecodeKey(const std::string& text) {
  const std::vector<std::string_view> parts = Split(text, ':');
  if (parts.size() != 3) return absl::DataLossError("mount record with a bad number of a mount");
  const auto id = ParseDecimal(parts[0]), major = ParseDecimal(parts[1]);
  const auto minor = ParseDecimal(parts[2]);
  if (!id || !major || !minor || *major > UINT32_MAX || *minor > UINT32_MAX) {
    return absl::DataLossError("mount record with a bad number of a mount");
  }
  return MountKey{*id, static_cast<uint32_t>(*major), static_cast<uint32_t>(*minor)};
}

}  // namespace

std::string EncodeMountRecord(const MountRecord& record) {
  const MountOptions& options = record.options;
  JsonWriter json;
  json.BeginObject()
      .Member("version", kFormatVersion)
      .Member("directory", record.directory)
      .Member("namespace", record.name_space)
      .Member("made_in", record.made_in)
      .Member("mount_id", record.unique_id)
      .Member("by_caller", record.by_caller)
      .Member("reference", record.reference)
      .Member("manifest", record.manifest_digest.ToString())
      .Member("chain_id", record.chain_id.ToString())
      .Member("mode", record.mode)
      .Member("writable", options.writable)
      .Member("upper", record.upper)
      .Member("covered", EncodeId(record.covered))
      .Member("upper_directory", EncodeId(record.upper_ids.directory))
      .Member("upper_upper", EncodeId(record.upper_ids.upper))
      .Member("upper_work", EncodeId(record.upper_ids.work))
      .Member("keep_upper", record.keep_upper)
      .Member("nosuid", options.flags.nosuid)
      .Member("nodev", options.flags.nodev)
      .Member("noexec", options.flags.noexec)
      .Member("id_map", options.flags.id_map)
      .Member("context", options.context)
      .Member("shown_as", options.shown_as.ToString())
      .Member("allow_other", options.allow_other)
      .Member("created", record.created_unix)
      .Member("boot", record.boot_id)
      .Member("filling", record.filling)
      .Member("deadline_seconds", options.deadline_seconds)
      .Member("plain_http", options.plain_http)
      .Member("skip_tls_verify", options.skip_tls_verify)
      .Member("this_boot_only", options.this_boot_only)
      .Member("unmounted", record.unmounted)
      .Key("mounts")
      .BeginArray();
  for (const MountKey& key : record.mounts) json.String(EncodeKey(key));
  json.EndArray().EndObject();
  return json.Take();
}

absl::StatusOr<MountRecord> DecodeMountRecord(std::string_view text) {
  IMAGEFS_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  if (json.IntOr("version", 0) != kFormatVersion) {
    return absl::DataLossError("mount record of an unknown version");
  }
  MountRecord record;
  record.directory = json.StringOr("directory");
  if (!record.directory.starts_with('/')) {
    return absl::DataLossError("mount record without a directory");
  }
  record.name_space = static_cast<uint64_t>(json.IntOr("namespace", 0));
  record.made_in = static_cast<uint64_t>(json.IntOr("made_in", 0));
  record.by_caller = json["by_caller"].boolean().value_or(false);
  record.unique_id = static_cast<uint64_t>(json.IntOr("mount_id", 0));
  record.reference = json.StringOr("reference");
  IMAGEFS_ASSIGN_OR_RETURN(record.manifest_digest, Digest::Parse(json.StringOr("manifest")));
  IMAGEFS_ASSIGN_OR_RETURN(record.chain_id, Digest::Parse(json.StringOr("chain_id")));
  record.mode = json.StringOr("mode");
  MountOptions& options = record.options;
  options.writable = json["writable"].boolean().value_or(false);
  record.upper = json.StringOr("upper");
  IMAGEFS_ASSIGN_OR_RETURN(record.covered, DecodeId(json.StringOr("covered")));
  UpperIds& ids = record.upper_ids;
  IMAGEFS_ASSIGN_OR_RETURN(ids.directory, DecodeId(json.StringOr("upper_directory")));
  IMAGEFS_ASSIGN_OR_RETURN(ids.upper, DecodeId(json.StringOr("upper_upper")));
  IMAGEFS_ASSIGN_OR_RETURN(ids.work, DecodeId(json.StringOr("upper_work")));
  record.keep_upper = json["keep_upper"].boolean().value_or(false);
  options.flags.nosuid = json["nosuid"].boolean().value_or(false);
  options.flags.nodev = json["nodev"].boolean().value_or(false);
  options.flags.noexec = json["noexec"].boolean().value_or(false);
  options.flags.id_map = json.StringOr("id_map");
  options.context = json.StringOr("context");
  IMAGEFS_ASSIGN_OR_RETURN(options.shown_as, ShownAs::Parse(json.StringOr("shown_as")));
  options.allow_other = json["allow_other"].boolean().value_or(false);
  record.created_unix = json.IntOr("created", 0);
  record.boot_id = json.StringOr("boot");
  record.filling = json["filling"].boolean().value_or(false);
  options.deadline_seconds = json.IntOr("deadline_seconds", 0);
  options.plain_http = json["plain_http"].boolean().value_or(false);
  options.skip_tls_verify = json["skip_tls_verify"].boolean().value_or(false);
  options.this_boot_only = json["this_boot_only"].boolean().value_or(false);
  record.unmounted = json["unmounted"].boolean().value_or(false);
  for (const Json& key : json["mounts"].elements()) {
    IMAGEFS_ASSIGN_OR_RETURN(record.mounts.emplace_back(), DecodeKey(key.string().value_or("")));
  }
  return record;
}

absl::Status StoredMountRecords::Put(const MountRecord& record) {
  const std::string key = StrCat(kPrefix, record.place());
  WriteBatch batch;
  batch.Put(key, EncodeMountRecord(record));
  const absl::Status status = kv_.Write(batch, /*sync=*/true);
  if (!absl::IsResourceExhausted(status) && !absl::IsFailedPrecondition(status)) return status;
  // The disk is full or read-only. A mount that already has a record is recovered nevertheless: the
  // old record is on disk, and the new one is written when there is room.
  IMAGEFS_ASSIGN_OR_RETURN(const std::optional<std::string> before, kv_.Get(key));
  if (!before.has_value()) return status;
  LogWarning("mount_record_not_on_disk directory=", Printable(record.directory),
             " cause=", status.message());
  return kv_.Write(batch, /*sync=*/false);
}

absl::Status StoredMountRecords::Delete(const std::string& place) {
  WriteBatch batch;
  batch.Delete(StrCat(kPrefix, place));
  return kv_.Write(batch, /*sync=*/true);
}

absl::StatusOr<MountRecords::Stored> StoredMountRecords::List() {
  Stored out;
  IMAGEFS_RETURN_IF_ERROR(
      kv_.ForEachWithPrefix(kPrefix, [&](std::string_view key, std::string_view value) {
        absl::StatusOr<MountRecord> record = DecodeMountRecord(value);
        if (record.ok()) {
          out.records.push_back(*std::move(record));
        } else {
          LogWarning("mount_record_unreadable key=", Printable(key),
                     " cause=", record.status().message());
        }
        return true;
      }));
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<std::string> damaged, kv_.DamagedKeys(kPrefix));
  for (const std::string& key : damaged) {
    std::string directory = key.substr(kPrefix.size());
    if (directory.starts_with('/')) out.damaged.push_back(std::move(directory));
  }
  return out;
}

}  // namespace imagefs
