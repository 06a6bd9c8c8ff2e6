// SPDX-License-Identifier: Apache-2.0
// Formats the daemon's replies as text for people or as JSON for programs. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "cmd/table.h"

namespace imagefs {

class DoctorReport;

namespace control::v1 {
class CheckReply;
class DiskUsageReply;
class InspectReply;
class ListAddedReply;
class ListImagesReply;
class ListMountsReply;
class MountResult;
class MountStatusReply;
class ProfileReply;
class PruneReply;
class RemoveReply;
class StatusReply;
class UnmountReply;
}  // namespace control::v1

// Replaces characters that would start another line or control a terminal.
std::string OneLine(std::string_view text);

// {"error": {"code": the word of its kind (base/failure.h), "message", "cause", "remedy", "exit"}}.
// The message is "CAUSE; REMEDY", or the cause alone with the remedy "".
std::string ErrorJson(const absl::Status& status);
// With the version of all that is printed as JSON (docs/json.md).
std::string VersionJson(std::string_view version);
std::string CheckedJson(const std::string& file);  // a valid configuration
std::string StopJson(int64_t pid);                 // the stopped daemon; 0 = none was running

// `elapsed_microseconds`: as measured by the command.
std::string MountText(const control::v1::MountResult& result, int64_t elapsed_microseconds);
std::string MountJson(const control::v1::MountResult& result);

std::string UnmountJson(const control::v1::UnmountReply& reply);

// The headings of the tables that a caller can choose columns of.
const std::vector<std::string>& MountColumns();
const std::vector<std::string>& ImageColumns();

// `own_namespace`: the mount namespace of this process.
std::string MountsText(const control::v1::ListMountsReply& reply, int64_t now_unix,
                       const TableStyle& style = {}, uint64_t own_namespace = 0);
std::string MountsJson(const control::v1::ListMountsReply& reply);

// Of one image of export-store or import, and of all that were done until `status`.
std::string ExportedText(const control::v1::MountResult& result, const std::string& directory);
std::string ImportedText(const control::v1::MountResult& result, const std::string& directory);
std::string SharedStoreJson(const std::vector<control::v1::MountResult>& results,
                            const std::string& directory, bool exported,
                            const absl::Status& status);
std::string LogLevelJson(const std::string& level);
std::string ImagesText(const control::v1::ListImagesReply& reply, int64_t now_unix,
                       const TableStyle& style = {});
std::string ImagesJson(const control::v1::ListImagesReply& reply);

std::string InspectText(const control::v1::InspectReply& reply);
std::string InspectJson(const control::v1::InspectReply& reply);

std::string RpullJson(const control::v1::InspectReply& about, const std::string& name,
                      const std::string& name_space, const std::string& snapshotter);

std::string AddedText(const control::v1::MountResult& result);
std::string AddedListText(const control::v1::ListAddedReply& reply, int64_t now_unix);
// With a member `error` if `status` is one.
std::string AddedListJson(const control::v1::ListAddedReply& reply,
                          const absl::Status& status = absl::OkStatus());

std::string DiskUsageText(const control::v1::DiskUsageReply& reply);
std::string DiskUsageJson(const control::v1::DiskUsageReply& reply);

std::string PruneText(const control::v1::PruneReply& reply, bool dry_run);
std::string PruneJson(const control::v1::PruneReply& reply, bool dry_run);

// Without its notes.
std::string RemoveText(const control::v1::RemoveReply& reply);
std::string RemoveJson(const control::v1::RemoveReply& reply);

std::string IndexText(const control::v1::MountResult& result);
std::string IndexJson(const control::v1::MountResult& result);

std::string MountStatusText(const control::v1::MountStatusReply& reply);
// With the picture, if the reply has one.
std::string MountStatusJson(const control::v1::MountStatusReply& reply, bool pretty = true);

std::string ProfileText(const control::v1::ProfileReply& reply);
// The reply without the content of the profile.
std::string ProfileJson(const control::v1::ProfileReply& reply);

std::string CheckText(const control::v1::CheckReply& reply);
std::string CheckJson(const control::v1::CheckReply& reply);
std::string StatusText(const control::v1::StatusReply& reply);
std::string StatusJson(const control::v1::StatusReply& reply);

std::string DoctorText(const DoctorReport& report);
std::string DoctorJson(const DoctorReport& report);

}  // namespace imagefs
