// SPDX-License-Identifier: Apache-2.0
#include "cmd/id_maps.h"

#include <fcntl.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "base/fd.h"
#include "base/status.h"
#include "base/subprocess.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr uint64_t kMaxFileBytes = 4 << 20;
constexpr size_t kMaxRanges = 300;  // the kernel takes 340 lines

// Returns the status of the program that writes the map, or of why it cannot run.
absl::Status RunMapper(const char* program, pid_t pid, const std::vector<IdRange>& maps) {
  ProgramCall call;
  call.argv = {program, StrCat(pid)};
  for (const IdRange& range : maps) {
    for (const uint64_t number : {range.inside, range.outside, range.count}) {
      call.argv.push_back(StrCat(number));
    }
  }
  call.answers_on_errors = true;
  const absl::StatusOr<ProgramResult> result = RunProgram(call);
  if (absl::IsNotFound(result.status())) {
    return absl::NotFoundError(StrCat(program, " is not installed (package uidmap)"));
  }
  IMAGEFS_RETURN_IF_ERROR(Annotate(result.status(), program));
  if (result->succeeded()) return absl::OkStatus();
  return absl::FailedPreconditionError(StrCat(program, ": ", result->Complaint()));
}

absl::Status WriteProcFile(pid_t pid, const char* name, const std::string& text) {
  const std::string path = StrCat("/proc/", pid, "/", name);
  IMAGEFS_ASSIGN_OR_RETURN(const Fd file, OpenFile(path, O_WRONLY));
  return Annotate(WriteFull(file.get(), text), path);
}

// Only the caller's own ids, which needs no program.
absl::Status MapOwn(pid_t pid) {
  IMAGEFS_RETURN_IF_ERROR(WriteProcFile(pid, "setgroups", "deny"));
  IMAGEFS_RETURN_IF_ERROR(WriteProcFile(pid, "uid_map", StrCat("0 ", geteuid(), " 1\n")));
  return WriteProcFile(pid, "gid_map", StrCat("0 ", getegid(), " 1\n"));
}

}  // namespace

std::vector<IdRange> MapsOf(std::string_view text, std::string_view name, uid_t user,
                            uint64_t own) {
  std::vector<IdRange> out = {{0, own, 1}};
  uint64_t inside = 1;
  for (const std::string_view line : Split(text, '\n')) {
    const std::vector<std::string_view> fields = Split(line, ':');
    if (fields.size() != 3 || out.size() > kMaxRanges) continue;
    if (fields[0] != StrCat(user) && (name.empty() || fields[0] != name)) continue;
    const std::optional<uint64_t> first = ParseDecimal(fields[1]), count = ParseDecimal(fields[2]);
    constexpr uint64_t kIds = uint64_t{1} << 32;
    if (!first || !count || *count == 0 || *first >= kIds || *count >= kIds - *first) continue;
    const uint64_t fits = std::min(*count, kIds - 1 - inside);
    if (fits == 0) continue;
    out.push_back({inside, *first, fits});
    inside += fits;
  }
  return out;
}

absl::StatusOr<std::string> MapIds(pid_t pid) {
  const passwd* const entry = getpwuid(geteuid());
  const std::string name = entry == nullptr ? "" : entry->pw_name;
  const auto maps_of = [&](const char* path, uint64_t own) {
    const absl::StatusOr<std::string> text = ReadFile(path, kMaxFileBytes);
    return MapsOf(text.ok() ? *text : "", name, geteuid(), own);
  };
  const std::vector<IdRange> users = maps_of("/etc/subuid", geteuid());
  const std::vector<IdRange> groups = maps_of("/etc/subgid", getegid());
  if (users.size() < 2 || groups.size() < 2) {
    IMAGEFS_RETURN_IF_ERROR(MapOwn(pid));
    return "/etc/subuid and /etc/subgid have no ids for this user";
  }
  // Both or none: a namespace with users of the image but not its groups helps nobody.
  absl::Status status = RunMapper("newgidmap", pid, groups);
  if (status.ok()) {
    IMAGEFS_RETURN_IF_ERROR(RunMapper("newuidmap", pid, users));
    return "";
  }
  IMAGEFS_RETURN_IF_ERROR(MapOwn(pid));
  return std::string(status.message());
}

}  // namespace imagefs
