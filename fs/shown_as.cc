// SPDX-License-Identifier: Apache-2.0
#include "fs/shown_as.h"

#include "absl/strings/str_format.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr uint32_t kPermissions = 0777;

void SetPermissions(uint32_t mask, struct stat* file) {
  file->st_mode = (file->st_mode & S_IFMT) | (kPermissions & ~mask);
}

}  // namespace

std::optional<uint32_t> ParseMask(std::string_view text) {
  if (text.empty() || text.size() > 4) return std::nullopt;
  uint32_t mask = 0;
  for (const char c : text) {
    if (c < '0' || c > '7') return std::nullopt;
    mask = mask * 8 + static_cast<uint32_t>(c - '0');
  }
  return mask <= kPermissions ? std::optional(mask) : std::nullopt;
}

absl::Status ShownAs::Check() const {
  if (uid == UINT32_MAX || gid == UINT32_MAX) {
    return absl::InvalidArgumentError("uid= and gid= take the number of a user and of a group");
  }
  if (directory_mask.value_or(0) > kPermissions || file_mask.value_or(0) > kPermissions) {
    return absl::InvalidArgumentError("umask=, fmask= and dmask= take permissions up to 0777");
  }
  return absl::OkStatus();
}

void ShownAs::ApplyTo(struct stat* file) const {
  if (uid) file->st_uid = *uid;
  if (gid) file->st_gid = *gid;
  if (S_ISDIR(file->st_mode)) {
    if (directory_mask) SetPermissions(*directory_mask, file);
  } else if (file_mask && !S_ISLNK(file->st_mode)) {
    SetPermissions(*file_mask, file);
  }
}

std::vector<std::string> ShownAs::Words() const {
  std::vector<std::string> out;
  if (uid) out.push_back(StrCat("uid=", *uid));
  if (gid) out.push_back(StrCat("gid=", *gid));
  if (directory_mask) out.push_back(absl::StrFormat("dmask=%04o", *directory_mask));
  if (file_mask) out.push_back(absl::StrFormat("fmask=%04o", *file_mask));
  return out;
}

std::string ShownAs::ToString() const {
  std::string out;
  for (const std::string& word : Words()) StrAppend(&out, out.empty() ? "" : ",", word);
  return out;
}

absl::StatusOr<ShownAs> ShownAs::Parse(std::string_view text) {
  ShownAs out;
  if (text.empty()) return out;
  for (const std::string_view word : Split(text, ',')) {
    const size_t equals = word.find('=');
    const std::string_view name = word.substr(0, equals);
    const std::string_view value = equals == word.npos ? "" : word.substr(equals + 1);
    const std::optional<uint64_t> number = ParseDecimal(value);
    const bool is_id = number.has_value() && *number < UINT32_MAX;
    if (name == "uid" && is_id) {
      out.uid = static_cast<uint32_t>(*number);
    } else if (name == "gid" && is_id) {
      out.gid = static_cast<uint32_t>(*number);
    } else if (name == "dmask" && ParseMask(value)) {
      out.directory_mask = ParseMask(value);
    } else if (name == "fmask" && ParseMask(value)) {
      out.file_mask = ParseMask(value);
    } else {
      return absl::DataLossError(StrCat("unknown owner or permissions: ", Printable(word)));
    }
  }
  return out;
}

}  // namespace imagefs
